"""Generation: the same tokens, scores and beams as the reference for the same weights and options.

The models are taught for a moment to write several texts for each image, so that they hesitate between them
and end at different lengths. In those with twins every second token's row repeats the one before it, so that
every score occurs twice.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from families import EOS, FAMILIES, PAD, VOCAB_SIZE, Pair, images, load_hf, load_ours, make_hf
from torch import Tensor

from trocr.generation import GenerationConfig, transition_scores

SCORE_TOLERANCE = 1e-4
"""Largest absolute difference of scores, which are logits up to 20 or sums of a dozen log-probabilities."""
CACHE_TOLERANCE = 1e-5
"""Largest difference of logits with and without cache, relative to the largest logit: the project's bound."""

NUM_IMAGES = 8
NEW_TOKENS = 16
STEPS = 40
TEXTS_PER_IMAGE = 4


@dataclass(frozen=True)
class Writer:
    """A pair of models that write, and the images they were taught on."""

    pair: Pair
    pixel_values: Tensor


WRITERS = {  # family, twins
    "learned": ("learned", False),
    "learned, twins": ("learned", True),
    "sinusoidal": ("sinusoidal", False),
    "sinusoidal, twins": ("sinusoidal", True),
    "unilm": ("unilm", False),
    "non-square": ("non_square", False),
    "projection": ("projection", False),
}


def teach(model: hf.VisionEncoderDecoderModel, pixel_values: Tensor) -> None:
    """Take a few optimisation steps towards several random texts of each image."""
    random = torch.Generator().manual_seed(5)
    rows, longest = TEXTS_PER_IMAGE * NUM_IMAGES, 13
    texts = torch.randint(3, VOCAB_SIZE, (rows, longest + 1), generator=random)
    texts[::2, 0] = texts[0, 0]  # half of the texts begin alike
    ends = torch.randint(2, longest, (rows, 1), generator=random)
    places = torch.arange(longest + 1)
    labels = texts.masked_fill(places == ends, EOS).masked_fill(places > ends, -100)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(STEPS):
        loss = model(pixel_values=pixel_values.repeat(TEXTS_PER_IMAGE, 1, 1, 1), labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@torch.no_grad()
def make_twins(model: hf.VisionEncoderDecoderModel) -> None:
    """Let tokens 6, 8, 10 ... be copies of 5, 7, 9 ..."""
    for table in (model.decoder.output_projection.weight, model.decoder.model.decoder.embed_tokens.weight):
        table[6:VOCAB_SIZE:2] = table[5 : VOCAB_SIZE - 1 : 2]


def make_writer(name: str, directory: Path) -> Writer:
    family_name, twins = WRITERS[name]
    family = FAMILIES[family_name]
    model = make_hf(family, seed=1, gain=1.0)
    pixel_values = images(family, NUM_IMAGES)
    teach(model, pixel_values)
    if twins:
        make_twins(model)
    model.save_pretrained(directory)
    return Writer(Pair(family, model, load_ours(directory), directory), pixel_values)


@pytest.fixture(scope="module")
def writer_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Writer]:
    """Give a writer by name; made once."""
    made: dict[str, Writer] = {}

    def give(name: str) -> Writer:
        if name not in made:
            made[name] = make_writer(name, tmp_path_factory.mktemp("writer"))
        return made[name]

    return give


@pytest.fixture(params=list(WRITERS))
def writer(request: pytest.FixtureRequest, writer_of: Callable[[str], Writer]) -> Writer:
    return writer_of(request.param)


def some_tokens(image: int, ids: Tensor) -> list[int]:
    return [*range(3 + image % 3, 60), EOS]


def three_texts(image: int, ids: Tensor) -> list[int]:
    texts = [[7, 8, 9, EOS], [7, 10, EOS], [11, EOS]]
    so_far = ids.tolist()[1:]
    following = {
        text[len(so_far)] for text in texts if text[: len(so_far)] == so_far and len(text) > len(so_far)
    }
    return sorted(following) or [EOS]


def dislike(ids: Tensor, scores: Tensor) -> Tensor:
    return scores - 2.0 * (torch.arange(scores.shape[1], device=scores.device) % 9 == 5)


def sevens(ids: Tensor, scores: Any, **rest: Any) -> Tensor:
    return ids[:, -1] % 7 == 0


PREFIX = torch.tensor([[2, 5 + image, 9] for image in range(NUM_IMAGES)])

# these apply to greedy search and to beam search alike
COMMON: dict[str, dict[str, Any]] = {
    "plain": {},
    "uncached": {"use_cache": False},
    "one token": {"max_new_tokens": 1},
    "max_length": {"max_length": 7},
    "all positions": {"max_length": 41, "min_length": 41},
    "min_length": {"min_length": 10},
    "min_new_tokens": {"min_new_tokens": 9, "max_new_tokens": 12},
    "min_new_tokens before min_length": {"min_length": 10, "min_new_tokens": 2, "max_new_tokens": 12},
    "min is max": {"min_length": 12, "max_length": 12},
    "repetition_penalty": {"repetition_penalty": 1.7},
    "repetition_penalty below 1": {"repetition_penalty": 0.6},
    "no_repeat_ngram_size 1": {"no_repeat_ngram_size": 1},
    "no_repeat_ngram_size 2": {"no_repeat_ngram_size": 2},
    "bad_words_ids": {"bad_words_ids": [[81], [83, 33], [52, 24, 42], [EOS]]},
    "sequence_bias": {"sequence_bias": [[[81], -3.0], [[83, 33], 4.0], [[24, 82, 7], -1.0]]},
    "forced_bos_token_id": {"forced_bos_token_id": 7},
    "forced_eos_token_id": {"forced_eos_token_id": EOS, "max_length": 6},
    "forced_eos_token_id, two": {"forced_eos_token_id": [EOS, 9], "max_length": 6},
    "suppress_tokens": {"suppress_tokens": list(range(10, 50))},
    "begin_suppress_tokens": {"begin_suppress_tokens": [81, 83, 52, EOS]},
    "begin_suppress_tokens after forced": {"begin_suppress_tokens": [81, 83, EOS], "forced_bos_token_id": 5},
    "exponential_decay_length_penalty": {"exponential_decay_length_penalty": (3, 1.3)},
    "two end tokens": {"eos_token_id": [EOS, 33]},
    "three end tokens": {"eos_token_id": [EOS, 33, 15]},
    "no end token": {"eos_token_id": None},
    "no padding token": {"pad_token_id": None},
    "padding token 0": {"pad_token_id": 0},
    "prefix_allowed_tokens_fn": {"prefix_allowed_tokens_fn": some_tokens},
    "prefix_allowed_tokens_fn, three texts": {"prefix_allowed_tokens_fn": three_texts},
    "logits_processor": {"logits_processor": [dislike]},
    "stopping_criteria": {"stopping_criteria": [sevens]},
    "renormalize_logits": {"renormalize_logits": True},
    "remove_invalid_values": {"remove_invalid_values": True, "suppress_tokens": [5, 6]},
    "decoder_start_token_id": {"decoder_start_token_id": 7},
    "decoder_start_token_id of each": {"decoder_start_token_id": [3, 4, 5, 6, 7, 8, 9, 2]},
    "decoder_input_ids": {"decoder_input_ids": PREFIX},
    "decoder_input_ids without start": {"decoder_input_ids": PREFIX[:, 1:]},
    "max_time": {"max_time": 1e-9},
    "several": {
        "repetition_penalty": 1.3,
        "no_repeat_ngram_size": 2,
        "min_length": 6,
        "bad_words_ids": [[9, 9]],
    },
}

BEAMS: dict[str, dict[str, Any]] = {
    "num_beams 2": {"num_beams": 2},
    "num_beams 10, all": {"num_beams": 10, "num_return_sequences": 10},
    "num_beams 12": {"num_beams": 12},
    "notebook": {
        "num_beams": 4,
        "max_length": 10,
        "early_stopping": True,
        "no_repeat_ngram_size": 3,
        "length_penalty": 2.0,
    },
    "one token, two results": {"num_beams": 2, "max_new_tokens": 1, "num_return_sequences": 2},
    "fewer texts than beams": {
        "num_beams": 4,
        "num_return_sequences": 4,
        "prefix_allowed_tokens_fn": three_texts,
    },
    "fewer tokens than beams": {
        "num_beams": 4,
        "num_return_sequences": 4,
        "suppress_tokens": list(range(5, VOCAB_SIZE)),
    },
    "three end tokens, early": {
        "num_beams": 3,
        "num_return_sequences": 3,
        "eos_token_id": [EOS, 33, 15],
        "early_stopping": True,
    },
}
for early in (False, True, "never"):
    for penalty in (-1.0, 0.0, 0.5, 2.0):
        BEAMS[f"early_stopping {early}, length_penalty {penalty}"] = {
            "num_beams": 4,
            "num_return_sequences": 3,
            "early_stopping": early,
            "length_penalty": penalty,
        }

SAMPLING: dict[str, dict[str, Any]] = {
    "plain": {},
    "no filter": {"top_k": 0},
    "None for no filter": {"top_k": None, "top_p": None, "temperature": 1.5},
    "temperature below 1": {"temperature": 0.5},
    "temperature above 1": {"temperature": 2.0, "top_k": 0},
    "top_k": {"top_k": 5},
    "top_p": {"top_p": 0.8},
    "small top_p": {"top_p": 0.3, "top_k": 0},
    "min_p": {"min_p": 0.1},
    "typical_p": {"typical_p": 0.7},
    "epsilon_cutoff": {"epsilon_cutoff": 0.02},
    "eta_cutoff": {"eta_cutoff": 0.05},
    "num_return_sequences": {"num_return_sequences": 3},
    "several": {"repetition_penalty": 1.5, "top_k": 7, "temperature": 0.8, "renormalize_logits": True},
}
BEAM_SAMPLING: dict[str, dict[str, Any]] = {
    "plain": {},
    "temperature": {"temperature": 0.7, "top_k": 0},
    "top_k": {"top_k": 5, "num_return_sequences": 2},
    "top_k 1": {"top_k": 1},
    "top_p": {"top_p": 0.9, "early_stopping": True},
    "min_p": {"min_p": 0.05, "top_k": 0, "length_penalty": 2.0},
    "typical_p": {"typical_p": 0.7, "top_k": 0},
}

GRID = {
    **{f"greedy: {name}": options for name, options in COMMON.items()},
    **{
        f"beams: {name}": {"num_beams": 3, "num_return_sequences": 2, **options}
        for name, options in COMMON.items()
    },
    **{f"beams: {name}": options for name, options in BEAMS.items()},
    **{f"sampling: {name}": {"do_sample": True, "seed": 11, **options} for name, options in SAMPLING.items()},
    **{
        f"beam sampling: {name}": {"do_sample": True, "num_beams": 3, "seed": 12, **options}
        for name, options in BEAM_SAMPLING.items()
    },
}
WHOLE_GRID = ("learned", "learned, twins")
"""Writers that go through the whole grid; the others take every second setting of it."""
CASES = [
    (writer, name)
    for number, writer in enumerate(WRITERS)
    for name in list(GRID)[:: 1 if writer in WHOLE_GRID else 2][writer not in WHOLE_GRID and number % 2 :]
]
RECORDED = {"return_dict_in_generate": True, "output_scores": True, "output_logits": True}


def with_both(writer: Writer, options: dict[str, Any], **recorded: Any) -> tuple[Any, Any]:
    """Run the reference and ours with the same options."""
    options = {**options, **(recorded or RECORDED)}
    if "max_length" not in options:
        options.setdefault("max_new_tokens", NEW_TOKENS)
    theirs = {"use_cache": True, **options}  # the reference turns it off where the configuration says so
    seed = theirs.pop("seed", None)
    if seed is not None:
        torch.manual_seed(seed)
    expected = writer.pair.hf.generate(writer.pixel_values, **theirs)
    return expected, writer.pair.ours.generate(writer.pixel_values, **options)


def largest_difference(expected: tuple[Tensor, ...], found: tuple[Tensor, ...]) -> float:
    """Largest absolute difference of finite scores; infinite ones must be at the same places."""
    assert len(expected) == len(found)
    largest = 0.0
    for left, right in zip(expected, found, strict=True):
        assert left.shape == right.shape
        assert torch.equal(left.isinf(), right.isinf())
        difference = (left - right).masked_fill(left.isinf(), 0.0)
        difference = difference / left.masked_fill(left.isinf(), 0.0).abs().clamp(min=20.0) * 20.0
        largest = max(largest, float(difference.abs().max()))
    return largest


@pytest.mark.filterwarnings("ignore:.*:UserWarning")
@pytest.mark.parametrize(("writer_name", "name"), CASES)
def test_tokens_and_scores(writer_of, writer_name, name):
    expected, found = with_both(writer_of(writer_name), GRID[name])
    if "twins" in writer_name and "beam_indices" in expected:
        # two beams that are twins differ in the last bit according to their place in the batch
        assert first_twins(found.sequences) == first_twins(expected.sequences)
        torch.testing.assert_close(
            found.sequences_scores, expected.sequences_scores, rtol=1e-5, atol=SCORE_TOLERANCE
        )
        return
    assert found.sequences.tolist() == expected.sequences.tolist()
    assert largest_difference(expected.logits, found.logits) < SCORE_TOLERANCE
    assert largest_difference(expected.scores, found.scores) < SCORE_TOLERANCE
    if "beam_indices" in expected:
        assert found.beam_indices.tolist() == expected.beam_indices.tolist()
        torch.testing.assert_close(
            found.sequences_scores, expected.sequences_scores, rtol=1e-5, atol=SCORE_TOLERANCE
        )


def test_the_grid_is_large_enough():
    assert all(sum(writer == name for writer, _ in CASES) >= 40 for name in WRITERS)
    assert NUM_IMAGES >= 8


def first_twins(sequences: Tensor) -> list[list[int]]:
    """Rows with every token that has a twin replaced by the first of the two."""
    return torch.where(sequences >= 5, (sequences - 1) // 2 * 2 + 1, sequences).tolist()


def coarse_scores(ids: Tensor, scores: Tensor) -> Tensor:
    """Replace all scores by quarters that depend on image, length and last token: ties, and no rounding."""
    image = torch.arange(ids.shape[0]) * NUM_IMAGES // ids.shape[0]
    place = (image * 31 + ids.shape[1] * 7 + ids[:, -1] * 3)[:, None] + torch.arange(scores.shape[1])
    made = -((place * 2654435761 % 4294967296) >> 28).float() / 4.0
    made[:, EOS] += 1.0
    return made


TIES = {
    name: options
    for name, options in GRID.items()
    if name.startswith(("beams: early", "beams: num", "sampling", "beam sampling"))
    or name.partition(": ")[2]
    in ("plain", "three end tokens", "no end token", "min_length", "stopping_criteria")
}


@pytest.mark.filterwarnings("ignore:.*:UserWarning")
@pytest.mark.parametrize("name", TIES)
def test_ties(writer_of, name):
    options = {**TIES[name], "logits_processor": [coarse_scores]}
    expected, found = with_both(writer_of("learned"), options)
    assert found.sequences.tolist() == expected.sequences.tolist()
    assert all(map(torch.equal, found.scores, expected.scores))
    if "beam_indices" in expected:
        assert found.beam_indices.tolist() == expected.beam_indices.tolist()
        assert torch.equal(found.sequences_scores, expected.sequences_scores)


def test_writers_hesitate_and_end_at_different_lengths(writer):
    expected, _ = with_both(writer, {})
    rows = [row.tolist() for row in expected.sequences]
    ends = {row.index(EOS, 1) if EOS in row[1:] else None for row in rows}
    assert len(ends) >= 4, "rows of a batch end at different steps"
    assert len(set(map(tuple, rows))) >= NUM_IMAGES - 1, "images matter"
    best = torch.stack(expected.scores).softmax(-1).amax(-1)
    assert float(best.median()) < 0.9, "no token is certain"
    beams, _ = with_both(writer, {"num_beams": 4})
    width = min(beams.sequences.shape[1], expected.sequences.shape[1])
    assert beams.sequences[:, :width].tolist() != expected.sequences[:, :width].tolist()


@pytest.mark.parametrize("name", [name for name, (_, twins) in WRITERS.items() if twins])
def test_twins_are_ties(writer_of, name):
    for output in with_both(writer_of(name), {}):
        for logits in output.logits:
            assert torch.equal(logits[:, 6::2], logits[:, 5 : VOCAB_SIZE - 1 : 2])
        written = output.sequences[output.sequences >= 5]
        assert len(written) > 20
        assert (written % 2 == 1).all(), "greedy search takes the first of two"


@pytest.mark.parametrize("num_beams", [1, 4])
def test_cache_changes_nothing(writer, num_beams):
    options = {"max_new_tokens": NEW_TOKENS, "min_new_tokens": NEW_TOKENS, "num_beams": num_beams, **RECORDED}
    cached = writer.pair.ours.generate(writer.pixel_values, **options)
    plain = writer.pair.ours.generate(writer.pixel_values, use_cache=False, **options)
    assert first_twins(cached.sequences) == first_twins(plain.sequences)
    assert len(cached.logits) == NEW_TOKENS
    for with_cache, without in zip(cached.logits, plain.logits, strict=True):
        difference = (with_cache - without).abs().max() / without.abs().max()
        assert float(difference) < CACHE_TOLERANCE


@pytest.mark.parametrize("num_beams", [1, 3])
def test_transition_scores(writer_of, num_beams):
    writer = writer_of("learned")
    expected, found = with_both(writer, {"num_beams": num_beams})
    theirs = writer.pair.hf.compute_transition_scores(
        expected.sequences, expected.scores, expected.get("beam_indices"), normalize_logits=num_beams == 1
    )
    ours = transition_scores(
        found.sequences, found.scores, found.get("beam_indices"), normalize_logits=num_beams == 1
    )
    torch.testing.assert_close(ours, theirs, rtol=0, atol=SCORE_TOLERANCE)
    ended = found.sequences[:, 1:] == PAD
    torch.testing.assert_close(
        found.token_log_probs, theirs.masked_fill(ended, 0.0), rtol=0, atol=SCORE_TOLERANCE
    )


@pytest.mark.parametrize("num_beams", [1, 3])
def test_attentions_and_states(writer_of, num_beams):
    options = {"num_beams": num_beams, "output_attentions": True, "output_hidden_states": True}
    expected, found = with_both(writer_of("learned"), options)
    for name in ("decoder_attentions", "cross_attentions", "decoder_hidden_states"):
        assert len(expected[name]) == len(found[name])
        for step, own_step in zip(expected[name], found[name], strict=True):
            assert len(step) == len(own_step)
            for left, right in zip(step, own_step, strict=True):
                torch.testing.assert_close(right, left, rtol=0, atol=SCORE_TOLERANCE)
    for left, right in zip(expected.encoder_hidden_states, found.encoder_hidden_states, strict=True):
        torch.testing.assert_close(right, left, rtol=0, atol=SCORE_TOLERANCE)
    assert len(found.encoder_attentions) == 2


@pytest.mark.parametrize("name", ["learned", "sinusoidal"])
@pytest.mark.parametrize("options", [{}, {"num_beams": 3, "num_return_sequences": 2}])
def test_batches_large_enough_to_drop_finished_rows(writer_of, name, options):
    writer = writer_of(name)
    more = images(writer.pair.family, 56, seed=9)
    many = Writer(writer.pair, torch.cat((writer.pixel_values, more)))
    for recorded in ({"return_dict_in_generate": True}, RECORDED):
        expected, found = with_both(many, {"max_new_tokens": 24, **options}, **recorded)
        assert found.sequences.tolist() == expected.sequences.tolist()
        assert found.finished.tolist() == [EOS in row[1:] for row in expected.sequences.tolist()]


def test_other_image_sizes(writer_of):
    writer = writer_of("learned")
    other = Writer(writer.pair, images(writer.pair.family, 4, size=(48, 64)))
    for num_beams in (1, 3):
        expected, found = with_both(other, {"num_beams": num_beams, "interpolate_pos_encoding": True})
        assert found.sequences.tolist() == expected.sequences.tolist()


def test_encoder_outputs_of_either_library(writer_of):
    writer = writer_of("projection")  # the encoder's states pass a projection on their way
    with torch.no_grad():
        given = writer.pair.hf.encoder(writer.pixel_values)
        own = writer.pair.ours.encoder(writer.pixel_values)
    options = {"num_beams": 3, "max_new_tokens": NEW_TOKENS}
    changed = type(given)(
        last_hidden_state=given.last_hidden_state
    )  # the reference repeats the states in place
    expected = writer.pair.hf.generate(encoder_outputs=changed, use_cache=True, **options)
    for encoded in (given, own, (own.last_hidden_state,)):
        found = writer.pair.ours.generate(encoder_outputs=encoded, **options)
        assert found.tolist() == expected.tolist()


TEXT = torch.tensor([[2, 5, 6, 7], [2, 9, 10, 11], [1, 2, 4, 5]])
LEFT_PADDED = torch.tensor([[1, 1, 1, 1], [0, 1, 1, 1], [0, 0, 1, 1]])


@pytest.mark.parametrize("name", ["learned", "sinusoidal", "unilm"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_cache": False},
        {"num_beams": 3, "num_return_sequences": 3},
        {"do_sample": True, "seed": 3, "num_return_sequences": 2},
        {"repetition_penalty": 2.0},
        {"repetition_penalty": 2.0, "attention_mask": LEFT_PADDED},
        {"repetition_penalty": 2.0, "attention_mask": LEFT_PADDED, "num_beams": 2},
    ],
)
def test_decoder_alone(writer_of, name, options):
    pair = writer_of(name).pair
    options = {"min_new_tokens": 10, "max_new_tokens": 12, **options, **RECORDED}
    theirs = {"use_cache": True, **options}
    if "seed" in theirs:
        torch.manual_seed(theirs.pop("seed"))
    expected = pair.hf.decoder.generate(TEXT, **theirs)
    found = pair.ours.decoder.generate(TEXT, **options)
    assert found.sequences.tolist() == expected.sequences.tolist()
    assert largest_difference(expected.scores, found.scores) < SCORE_TOLERANCE


@pytest.mark.parametrize("num_beams", [1, 3])
def test_decoder_alone_with_encoder_states(writer_of, num_beams):
    pair = writer_of("learned").pair
    states = torch.randn(3, 17, 32, generator=torch.Generator().manual_seed(1))
    options = {"max_new_tokens": 12, "num_beams": num_beams}
    # with a cache the reference counts the encoder's tokens as text here; nor does it repeat the states
    expected = pair.hf.decoder.generate(
        TEXT, encoder_hidden_states=states.repeat_interleave(num_beams, 0), use_cache=False, **options
    )
    found = pair.ours.decoder.generate(TEXT, encoder_hidden_states=states, **options)
    assert found.tolist() == expected.tolist()


@pytest.mark.parametrize(
    "settings",
    [
        {"max_new_tokens": 9},
        {"max_length": 9, "num_beams": 3, "length_penalty": 2.0, "early_stopping": True},
        {"max_length": 12, "num_beams": 2, "no_repeat_ngram_size": 2, "eos_token_id": [EOS, 33]},
        {"max_new_tokens": 12, "repetition_penalty": 1.5, "suppress_tokens": [5, 6]},
    ],
)
@pytest.mark.filterwarnings("ignore:.*were cut:UserWarning")
def test_options_of_the_models_file(writer_of, tmp_path, settings):
    writer = writer_of("learned")
    writer.pair.hf.save_pretrained(tmp_path)
    hf.GenerationConfig(
        **{"decoder_start_token_id": 2, "pad_token_id": PAD, "eos_token_id": EOS, **settings}
    ).save_pretrained(tmp_path)
    expected = load_hf(tmp_path).generate(writer.pixel_values)
    ours = load_ours(tmp_path)
    assert ours.generate(writer.pixel_values).tolist() == expected.tolist()
    ours.save_pretrained(tmp_path / "again")
    assert load_hf(tmp_path / "again").generate(writer.pixel_values).tolist() == expected.tolist()


def test_a_configuration_object(writer_of):
    writer = writer_of("learned")
    values = {"num_beams": 3, "max_new_tokens": 11, "length_penalty": 2.0, "use_cache": True}
    expected = writer.pair.hf.generate(writer.pixel_values, generation_config=hf.GenerationConfig(**values))
    found = writer.pair.ours.generate(writer.pixel_values, generation_config=GenerationConfig(**values))
    assert found.tolist() == expected.tolist()


@pytest.mark.filterwarnings("ignore:.*:UserWarning")
def test_max_new_tokens_of_the_file_goes_before_max_length_of_the_caller(writer_of, tmp_path):
    writer = writer_of("learned")
    writer.pair.hf.save_pretrained(tmp_path)
    hf.GenerationConfig(
        decoder_start_token_id=2, pad_token_id=PAD, eos_token_id=EOS, max_new_tokens=10
    ).save_pretrained(tmp_path)
    expected = load_hf(tmp_path).generate(writer.pixel_values, max_length=5, min_length=9)
    assert (
        load_ours(tmp_path).generate(writer.pixel_values, max_length=5, min_length=9).tolist()
        == expected.tolist()
    )


def test_a_longer_default_is_the_one_difference(writer_of):
    writer = writer_of("learned")
    expected = writer.pair.hf.generate(writer.pixel_values, use_cache=True, min_length=41, max_length=41)
    with pytest.warns(UserWarning, match=r"8 of 8 rows were cut at 41 tokens \(the model's 40 positions\)"):
        found = writer.pair.ours.generate(writer.pixel_values, min_length=41)
    assert found.tolist() == expected.tolist()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.filterwarnings("ignore:.*:UserWarning")
@pytest.mark.parametrize("name", [name for name in GRID if "sampling" not in name])
def test_a_gpu_gives_the_same_tokens(writer_of, name):
    writer = writer_of("learned")
    options = {"max_new_tokens": NEW_TOKENS, **GRID[name]}
    if "max_length" in options:
        del options["max_new_tokens"]
    expected = writer.pair.ours.generate(writer.pixel_values, **options)
    found = writer.pair.fresh(device="cuda").generate(writer.pixel_values.cuda(), **options)
    assert found.tolist() == expected.tolist()
