"""Continuous reading against reading by batches, and both against a line read alone."""

from collections import Counter

import pytest
import torch
from families import EOS, MAX_POSITIONS
from line_images import padded

from trocr import GenerationError, optimize
from trocr.generation import NGramDraft
from trocr.generation.lengths import Length
from trocr.reading.images import at_native_width
from trocr.reading.recognisers import (
    BatchRecogniser,
    Found,
    SlotRecogniser,
    changes_scores,
    greedy_length,
    patch_width,
)
from trocr.reading.sorting import Sorter

LOG_PROB_TOLERANCE = 1e-4
"""Float32: other numbers of rows are summed in another order."""


def read(recogniser, images, *, at_once):
    found = {}
    for first in range(0, len(images), at_once):
        found.update(recogniser.push(images[first : first + at_once]))
    found.update(recogniser.drain())
    assert sorted(found) == sorted(number for number, _ in images)
    return found


def continuous(fast, options, **kwargs):
    length = greedy_length(fast, options)
    assert length is not None
    return SlotRecogniser(fast, length=length, **kwargs)


def assert_same(found, wanted):
    assert found.keys() == wanted.keys()
    for number, line in wanted.items():
        assert found[number].ids == line.ids, number
        assert found[number].finished == line.finished
        assert found[number].log_probs == pytest.approx(line.log_probs, abs=LOG_PROB_TOLERANCE)


def ending_early(model, options, images):
    """Let a model of random weights, which repeats itself, end its texts at all but its commonest token."""
    texts = alone(model, options, images).values()
    counts = Counter(id for line in texts for id in line.ids)
    ends = [EOS, *(id for id, _ in counts.most_common()[1:])]
    model.generation_config = model.generation_config.update(eos_token_id=ends)
    return model


def without_padding(images, model):
    return [(n, at_native_width(one[None], patch_px=patch_width(model))[0]) for n, one in images]


def alone(model, options, images, *, native_width=False):
    """Each line by itself, by the model that was trained."""
    found = {}
    for image in images:
        recogniser = BatchRecogniser(model, options, batch_size=1, native_width=native_width)
        found.update(read(recogniser, [image], at_once=1))
    return found


@pytest.mark.parametrize("native_width", [False, True])
@pytest.mark.parametrize("capacity", [1, 2, 5, 16])
def test_continuously_as_in_batches_as_alone(pair, capacity, native_width):
    images, options = padded(pair.family, 11), {"max_new_tokens": 12}
    model = ending_early(pair.fresh(), options, images)
    fast = optimize(model)
    kwargs = {"native_width": native_width}
    if native_width:
        images = without_padding(images, model)
    wanted = alone(model, options, images, **kwargs)
    assert len({len(line.ids) for line in wanted.values()}) > 1, "all texts are equally long"
    slots = continuous(fast, options, capacity=capacity, **kwargs)
    assert_same(read(slots, images, at_once=capacity), wanted)
    for other in (model, fast):
        batches = BatchRecogniser(other, options, batch_size=capacity, **kwargs)
        assert_same(read(batches, images, at_once=capacity), wanted)


@pytest.mark.parametrize("at_once", [1, 4, 9])
def test_however_images_are_handed_over(pair_of, at_once):
    pair = pair_of("learned")
    images, options, fast = padded(pair.family, 9), {"max_new_tokens": 9}, optimize(pair.ours)
    wanted = alone(pair.ours, options, images)
    assert_same(read(continuous(fast, options, capacity=3), images, at_once=at_once), wanted)


def test_beams_go_by_batches(pair):
    images, options = padded(pair.family, 6), {"num_beams": 3, "max_new_tokens": 8}
    fast = optimize(pair.ours)
    assert greedy_length(fast, options) is None
    found = read(BatchRecogniser(fast, options, batch_size=4), images, at_once=4)
    assert_same(found, alone(pair.ours, options, images))


@pytest.mark.filterwarnings("ignore:1 of 1 rows were cut")
def test_up_to_the_last_position(pair):
    """Rows that never end, beside rows that begin later: no position is missing and none is left over."""
    images, fast = padded(pair.family, 5), optimize(pair.ours)
    options = fast.generation_config.update(eos_token_id=98)
    fast.generation_config, model = options, pair.fresh()
    model.generation_config = options
    wanted = alone(model, {}, images)
    assert max(len(line.ids) for line in wanted.values()) == MAX_POSITIONS
    slots = continuous(fast, {}, capacity=2)
    with pytest.warns(
        UserWarning, match=f"of 5 rows were cut at 41 tokens .*the model's {MAX_POSITIONS} pos"
    ):
        assert_same(read(slots, images, at_once=2), wanted)


def test_native_width_needs_no_neighbours(pair_of):
    """Whatever else is read, and however many lines at a time."""
    pair = pair_of("non_square")
    images = without_padding(padded(pair.family, 40), pair.ours)
    options, fast = {"max_new_tokens": 10}, optimize(pair.ours)
    kwargs = {"native_width": True, "capacity": 3}
    whole = read(continuous(fast, options, **kwargs), images, at_once=3)
    part = read(continuous(fast, options, **kwargs), images[7:19:2], at_once=3)
    assert_same(part, {number: whole[number] for number in range(7, 19, 2)})
    backwards = read(continuous(fast, options, **{**kwargs, "capacity": 7}), images[::-1], at_once=7)
    assert_same(backwards, whole)


def test_drawn_lines_by_the_shipped_reader(reader, plain_reader, lines):
    for native_width in (False, True):
        wanted = list(plain_reader.read(lines, batch_size=1, native_width=native_width))
        assert len({line.text for line in wanted}) == len(lines)
        for batch_size in (1, 4, 64):
            for other in (reader, plain_reader):
                found = list(other.read(lines, batch_size=batch_size, native_width=native_width))
                assert [line.text for line in found] == [line.text for line in wanted]
                for one, two in zip(found, wanted, strict=True):
                    assert one.score == pytest.approx(two.score, abs=LOG_PROB_TOLERANCE)


def test_two_readings_at_once(reader, lines):
    """Interleaved generators of one reader do not know of each other."""
    wanted = [line.text for line in reader.read(lines)]
    pairs = zip(reader.read(lines, batch_size=2), reader.read(lines[::-1], batch_size=3), strict=True)
    forwards, backwards = zip(*((one.text, two.text) for one, two in pairs), strict=True)
    assert list(forwards) == wanted
    assert list(backwards) == wanted[::-1]


def test_readers_in_threads(reader, lines):
    from concurrent.futures import ThreadPoolExecutor

    wanted = [line.text for line in reader.read(lines)]
    with ThreadPoolExecutor(3) as pool:
        tasks = [pool.submit(lambda: [line.text for line in reader.read(lines)]) for _ in range(3)]
        assert all(task.result() == wanted for task in tasks)


def test_sorting_loses_nothing():
    sorter = Sorter(batch_size=3, waits=True)
    images = [(number, torch.rand(1, 4, 8 * (1 + number % 5))) for number in range(17)]
    groups = []
    for first in range(0, 17, 5):
        groups += sorter.push(images[first : first + 5])
    groups += sorter.drain()
    assert sorted(number for group in groups for number, _ in group) == list(range(17))
    for group in groups:
        assert 1 <= len(group) <= 3
        assert len({tuple(pixels.shape) for _, pixels in group}) == 1
        for number, pixels in group:
            assert pixels is images[number][1]
    assert list(sorter.drain()) == []


def test_lengths_for_timing(pair_of):
    fast = optimize(pair_of("learned").ours)
    images = padded(pair_of("learned").family, 5)
    slots = SlotRecogniser(
        fast, capacity=2, length=Length(21, True, "max_new_tokens"), lengths={0: 3, 2: 20, 3: 1}
    )
    found = read(slots, images, at_once=5)
    assert [len(found[number].ids) for number in (0, 2, 3)] == [3, 20, 1]
    assert all(EOS not in line.ids[:-1] for line in found.values())


def test_a_limit_nobody_chose_is_told_once(pair_of):
    pair = pair_of("learned")
    fast, images = optimize(pair.ours), padded(pair.family, 9)
    fast.generation_config = fast.generation_config.update(max_new_tokens=3)
    with pytest.warns(UserWarning, match=r"of 9 rows were cut at 4 tokens \(max_new_tokens=3") as caught:
        found = read(continuous(fast, {}, capacity=4), images, at_once=4)
    assert len(caught) == 1
    cut = [line for line in found.values() if not line.finished]
    assert cut
    assert all(len(line.ids) == 3 for line in cut)
    assert str(caught[0].message).startswith(f"{len(cut)} of 9 rows")


def test_a_limit_that_was_chosen_is_not_told(pair_of, recwarn):
    fast = optimize(pair_of("learned").ours)
    read(continuous(fast, {"max_new_tokens": 2}, capacity=4), padded(pair_of("learned").family, 5), at_once=5)
    assert not recwarn.list


@pytest.mark.parametrize(
    "options",
    [
        {"num_beams": 2},
        {"do_sample": True},
        {"repetition_penalty": 1.3},
        {"no_repeat_ngram_size": 2},
        {"suppress_tokens": [5, 6]},
        {"begin_suppress_tokens": [5]},
        {"forced_bos_token_id": 7},
        {"forced_eos_token_id": 2},
        {"min_new_tokens": 4},
        {"min_length": 6},
        {"bad_words_ids": [[5, 6]]},
        {"sequence_bias": [[[5], 2.0]]},
        {"exponential_decay_length_penalty": [3, 1.5]},
        {"renormalize_logits": True},
        {"max_time": 100.0},
    ],
    ids=lambda options: next(iter(options)),
)
def test_options_of_the_model_that_need_generate(pair_of, options):
    pair = pair_of("learned")
    images, given = padded(pair.family, 5), {"max_new_tokens": 8}
    model, fast = pair.fresh(), optimize(pair.ours)
    model.generation_config = fast.generation_config = model.generation_config.update(**options)
    assert greedy_length(fast, given) is None
    torch.manual_seed(0)
    wanted = read(BatchRecogniser(model, given, batch_size=5), images, at_once=5)
    torch.manual_seed(0)
    found = read(BatchRecogniser(fast, given, batch_size=5), images, at_once=5)
    assert_same(found, wanted)


@pytest.mark.parametrize(
    "options",
    [
        {"max_length": 7},
        {"max_new_tokens": 6, "early_stopping": True, "length_penalty": 2.0},
        {"num_beams": 1, "num_return_sequences": 1, "max_length": 9},
        {"use_cache": False, "max_length": 9},
        {"eos_token_id": [2, 9, 40], "max_length": 30},
        {"temperature": 0.5, "top_k": 3, "max_length": 9},
        {"decoder_start_token_id": 11, "max_length": 9},
    ],
)
@pytest.mark.filterwarnings("ignore:. of . rows were cut")
def test_options_of_the_model_that_do_not(pair_of, options):
    pair = pair_of("unilm")
    images, model, fast = padded(pair.family, 6), pair.fresh(), optimize(pair.ours)
    model.generation_config = fast.generation_config = model.generation_config.update(**options)
    found = read(continuous(fast, {}, capacity=2), images, at_once=2)
    assert_same(found, alone(model, {}, images))


def test_beams_of_the_model_give_way_to_the_callers_choice(pair_of):
    pair = pair_of("learned")
    images, model, fast = padded(pair.family, 4), pair.fresh(), optimize(pair.ours)
    options = model.generation_config.update(num_beams=3, num_return_sequences=3)
    model.generation_config = fast.generation_config = options
    given = {"num_beams": 1, "max_new_tokens": 7}
    found = read(continuous(fast, given, capacity=2), images, at_once=2)
    assert_same(found, alone(model, given, images))


@pytest.mark.parametrize(
    "options",
    [{"draft": "x"}, {"decoder_input_ids": torch.tensor([[2, 5]])}, {"eos_token_id": 7}, {"seed": 1}],
)
def test_arguments_that_slots_do_not_know_need_generate(pair_of, options):
    assert greedy_length(optimize(pair_of("learned").ours), options) is None
    assert greedy_length(pair_of("learned").ours, {}) is None


def test_options_that_cannot_be_followed(pair_of):
    fast = optimize(pair_of("learned").ours)
    with pytest.raises(GenerationError, match="max_new_tokens=50 asks for rows of 51 tokens"):
        greedy_length(fast, {"max_new_tokens": 50})
    fast.generation_config = fast.generation_config.update(eos_token_id=[2, 500])
    with pytest.raises(GenerationError, match=r"outside the vocabulary .*eos_token_id has 500"):
        greedy_length(fast, {})


@pytest.mark.parametrize("name", ["eos_token_id", "decoder_start_token_id"])
def test_models_without_special_tokens_go_by_batches(pair_of, name):
    fast = optimize(pair_of("learned").ours)
    fast.generation_config = fast.generation_config.update(**{name: None})
    assert greedy_length(fast, {"max_new_tokens": 3}) is None


def test_found_is_what_generation_gives(pair_of):
    """Batches that end by the limit, by the end token, and with nothing after the first token."""
    pair = pair_of("learned")
    model = pair.fresh()
    model.generation_config = model.generation_config.update(eos_token_id=list(range(3, 99)))
    found = read(BatchRecogniser(model, {}, batch_size=3), padded(pair.family, 3), at_once=3)
    assert all(line.finished and len(line.ids) == len(line.log_probs) == 1 for line in found.values())
    assert all(isinstance(line, Found) for line in found.values())


def test_scores_that_options_change(pair_of):
    model = pair_of("learned").fresh()
    assert not changes_scores(model, {"num_beams": 4, "max_new_tokens": 5})
    assert changes_scores(model, {"repetition_penalty": 1.2})


@pytest.mark.parametrize("native_width", [False, True])
@pytest.mark.parametrize("kind", ["n-grams", "model"])
def test_drafts_change_nothing_but_the_time(reader, plain_reader, lines, kind, native_width):
    wanted = list(reader.read(lines, native_width=native_width))
    draft = NGramDraft(learns=True) if kind == "n-grams" else plain_reader.model
    for other in (reader, plain_reader):
        for batch_size in (1, 5):
            found = other.read(lines, draft=draft, native_width=native_width, batch_size=batch_size)
            for one, two in zip(found, wanted, strict=True):
                assert one.text == two.text
                assert one.score == pytest.approx(two.score, abs=LOG_PROB_TOLERANCE)


def test_nothing_grows_with_the_number_of_lines(pair_of):
    pair = pair_of("learned")
    fast, images = optimize(pair.ours), padded(pair.family, 8)
    recogniser, most = continuous(fast, {"max_new_tokens": 6}, capacity=4), 0
    for first in range(0, 160, 4):
        part = [(first + place, images[(first + place) % 8][1]) for place in range(4)]
        for _ in recogniser.push(part):
            pass
        most = max(most, recogniser.slots._cache.length)
        assert len(recogniser._written) == recogniser.slots.active <= 4
        assert len(recogniser._encoded) == 0
    rest = recogniser.slots.active
    assert len(list(recogniser.drain())) == rest
    assert 0 < most <= 6
    assert not recogniser._written
