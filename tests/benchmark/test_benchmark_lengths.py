"""Forced lengths: exactly those, and the same tokens in both libraries and whatever way they are forced."""

from dataclasses import replace

import pytest
import torch
from families import FAMILIES, images, make_pair

from trocr.benchmark.candidates import Materials, our_token_makers
from trocr.benchmark.errors import BenchmarkError
from trocr.benchmark.lengths import ForcedModel, ForceLengths, new_tokens
from trocr.benchmark.lines import CHARACTERS_PER_TOKEN, load_lines, with_lengths, with_pixels
from trocr.benchmark.peers import token_peers
from trocr.benchmark.weights import TINY, image_processor_of, save_random
from trocr.generation import generate

LENGTHS = [4, 1, 9, 7, 2, 9]
GREEDY = {"num_beams": 1, "do_sample": False, "max_new_tokens": max(LENGTHS)}


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    return make_pair("learned", tmp_path_factory.mktemp("learned"))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    save_random(TINY, folder)
    return folder


@pytest.mark.parametrize("family", ["learned", "sinusoidal", "unilm", "projection"])
def test_both_libraries_write_the_same_tokens_of_the_forced_lengths(family, tmp_path):
    pair = make_pair(family, tmp_path)
    pixels = images(FAMILIES[family], len(LENGTHS))
    ends = pair.ours.generation_config.eos_token_id
    force = ForceLengths.of(LENGTHS, ends)
    theirs = pair.hf.generate(pixels, logits_processor=[force], use_cache=True, **GREEDY)
    ours = pair.ours.generate(pixels, logits_processor=[force], **GREEDY)
    assert torch.equal(ours, theirs)
    forced = ForcedModel(pair.ours, pixels, LENGTHS).generate(pixels, **GREEDY)
    assert torch.equal(forced, theirs)
    rows = new_tokens(theirs.tolist(), ends)
    assert [len(row) for row in rows] == LENGTHS
    assert len({row[:-1] for row in rows if len(row) > 4}) > 1, "the images make no difference"


def test_rows_may_be_dropped_while_lengths_are_forced(pair, monkeypatch):
    """And are: forced through the model, finished rows leave the batch, which a processor prevents."""
    pixels = images(pair.family, len(LENGTHS))
    forced = ForcedModel(pair.ours, pixels, LENGTHS)
    rows = []
    decoder = pair.ours.decoder

    class Counts:
        config = decoder.config

        @staticmethod
        def drops_rows(num_rows, num_finished):
            return num_finished > 0

        def __call__(self, **options):
            rows.append(len(options["input_ids"]))
            return decoder(**options)

    monkeypatch.setattr(forced.decoder, "_decoder", Counts())
    ids = forced.generate(pixels, **GREEDY)
    assert [len(row) for row in new_tokens(ids.tolist(), 2)] == LENGTHS
    assert rows == [sum(length > step for length in LENGTHS) for step in range(max(LENGTHS))]
    assert torch.equal(
        ids, pair.hf.generate(pixels, logits_processor=[ForceLengths.of(LENGTHS, 2)], **GREEDY)
    )


def test_images_are_known_in_any_order_and_alone(pair):
    pixels = images(pair.family, len(LENGTHS))
    forced = ForcedModel(pair.ours, pixels, LENGTHS)
    for chosen in ([5, 0, 3], [1]):
        encoded = forced.encode(pixels[chosen])
        ids = generate(forced, encoder_outputs=encoded, **GREEDY)
        assert [len(row) for row in new_tokens(ids.tolist(), 2)] == [LENGTHS[place] for place in chosen]


def test_several_end_tokens_are_all_held_back():
    force = ForceLengths.of([2, 1], [5, 7])
    scores = torch.zeros(2, 9)
    forced = force(torch.zeros(2, 1, dtype=torch.long), scores)
    assert forced[0].isneginf().nonzero().flatten().tolist() == [5, 7]
    assert forced[1].isfinite().nonzero().flatten().tolist() == [5]
    assert bool((scores == 0).all()), "the argument was changed"


def test_what_cannot_be_forced(pair):
    pixels = images(pair.family, 2)
    with pytest.raises(BenchmarkError, match="no end token"):
        ForceLengths.of([1], None)
    with pytest.raises(BenchmarkError, match=r"\[0, 3\], expected numbers from 1 on"):
        ForceLengths.of([0, 3], 2)
    with pytest.raises(BenchmarkError, match="1 lengths for 2 rows"):
        ForceLengths.of([3], 2)(torch.zeros(2, 1), torch.zeros(2, 4))
    with pytest.raises(BenchmarkError, match="a length to force is 0"):
        ForcedModel(pair.ours, pixels, [0, 1])
    with pytest.raises(BenchmarkError, match="one image has the lengths 3 and 4"):
        ForcedModel(pair.ours, pixels[[0, 0]], [3, 4])
    with pytest.raises(BenchmarkError, match="not one of those whose lengths are known"):
        ForcedModel(pair.ours, pixels[:1], [3]).encode(pixels)
    with pytest.raises(BenchmarkError, match="with a cache only"):
        ForcedModel(pair.ours, pixels, [3, 3]).generate(pixels, use_cache=False, max_new_tokens=3)


@pytest.mark.parametrize("batch", [1, 3])
def test_all_candidates_in_float32_write_the_same(tiny, made_lines, batch, tmp_path):
    lines = with_pixels(made_lines(7), image_processor_of(TINY))
    lines = [replace(line, length=length) for line, length in zip(lines, [*LENGTHS, 3], strict=True)]
    materials = Materials(folder=tiny, lines=lines, batch=batch, scratch=tmp_path)
    makers = our_token_makers() | token_peers()
    found = {}
    for name in ("transformers", "transformers-shipped", "plain", "fast", "fast continuous"):
        candidate = makers[name](materials)
        assert candidate.precision == "float32"
        found[name] = [answer for chunk in candidate.read(lines) for answer in chunk.answers]
        assert [len(answer) for answer in found[name]] == [*LENGTHS, 3], name
        assert found[name] == found["transformers"], name
    assert len(set(found["plain"])) > 3, "all rows are alike: that they agree says little"


def test_new_tokens_end_with_the_first_end_token():
    assert new_tokens([[2, 5, 2, 1], [2, 5, 6, 7]], 2) == [(5, 2), (5, 6, 7)]
    assert new_tokens([[2, 4, 9]], [7, 9]) == [(4, 9)]


def test_lengths_of_labels(made_lines):
    class Tokenizer:
        def __call__(self, text, add_special_tokens):
            assert not add_special_tokens
            self.input_ids = list(text)
            return self

    lines = [
        replace(line, text=text) for line, text in zip(made_lines(3), ("", "abcde", "x" * 99), strict=True)
    ]
    assert [line.length for line in with_lengths(lines, most=50, tokenizer=Tokenizer())] == [1, 6, 50]
    estimated = [line.length for line in with_lengths(lines, most=50)]
    assert estimated == [1, 1 + -(-5 // CHARACTERS_PER_TOKEN), 1 + -(-99 // CHARACTERS_PER_TOKEN)]
    with pytest.raises(BenchmarkError, match="can write 0 tokens"):
        with_lengths(lines, most=0)


def test_lines_of_a_source(repo):
    few = load_lines(repo / "examples", 3)
    assert len({line.name for line in few}) == 3
    assert [line.name for line in few] == [line.name for line in load_lines(repo / "examples", 3)]
    many = load_lines(repo / "examples", 20)
    assert len(many) == 20
    assert many[0].name == many[8].name
    assert len(load_lines(repo / "examples", 0)) == 8
    with pytest.raises(BenchmarkError, match="--data cannot be read"):
        load_lines(repo / "nowhere", 3)
    with pytest.raises(BenchmarkError, match="lines is -1"):
        load_lines(repo / "examples", -1)
