"""Beam search on a toy model, against exhaustive search and by hand; `tests/parity` has the reference."""

import itertools

import pytest
import torch
from toys import EOS, START, ToyModel, pixels, spell, toy

from trocr.generation import generate

STEPS, V = 4, 6


def every_result(model: ToyModel, image: int, penalty: float) -> list[tuple[float, list[int]]]:
    """Score every row that ends, or reaches the limit without an end, by brute force; best first."""
    table = model.decoder.table[image].log_softmax(-1)
    found = []
    for length in range(1, STEPS + 1):
        for tokens in itertools.product(range(V), repeat=length):
            ends = tokens[-1] == EOS
            if EOS in tokens[:-1] or (not ends and length < STEPS):
                continue
            row = [START, *tokens]
            total = sum(float(table[row[i], i, row[i + 1]]) for i in range(length))
            found.append((total / length**penalty, row))
    return sorted(found, reverse=True)


@pytest.mark.parametrize("penalty", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("seed", [0, 1])
def test_with_beams_enough_the_best_rows_are_found(penalty, seed):
    model = toy(vocab_size=V, steps=STEPS, seed=seed)
    out = generate(
        model,
        pixels(0, 1, 2),
        num_beams=V**3,
        num_return_sequences=4,
        max_new_tokens=STEPS,
        length_penalty=penalty,
        early_stopping="never",
        return_dict_in_generate=True,
    )
    for image in range(3):
        best = every_result(model, image, penalty)[:4]
        for place, (score, row) in enumerate(best):
            got = image * 4 + place
            assert out.sequences[got, : len(row)].tolist() == row
            assert float(out.sequences_scores[got]) == pytest.approx(score, abs=1e-5)
            assert bool(out.finished[got]) == (row[-1] == EOS)


def test_log_probabilities_add_up_to_the_score():
    model = toy(vocab_size=V, steps=STEPS, seed=4)
    out = generate(
        model,
        pixels(0, 1, 2),
        num_beams=4,
        num_return_sequences=4,
        max_new_tokens=STEPS,
        length_penalty=1.5,
        return_dict_in_generate=True,
    )
    lengths = (out.beam_indices >= 0).sum(dim=1)
    torch.testing.assert_close(out.token_log_probs.sum(dim=1) / lengths**1.5, out.sequences_scores)
    table = model.decoder.table.log_softmax(-1)
    for image in range(3):
        row, length = out.sequences[4 * image].tolist(), int(lengths[4 * image])
        expected = [float(table[image, row[i], i, row[i + 1]]) for i in range(length)]
        assert out.token_log_probs[4 * image, :length].tolist() == pytest.approx(expected, abs=1e-5)


def test_one_image_does_not_depend_on_the_others():
    model = toy(vocab_size=V, steps=STEPS, seed=5)
    options = {"num_beams": 3, "max_new_tokens": STEPS, "return_dict_in_generate": True}
    together = generate(model, pixels(0, 1, 2), **options)
    for image in range(3):
        alone = generate(model, pixels(image), **options)
        length = alone.sequences.shape[1]
        assert together.sequences[image, :length].tolist() == alone.sequences[0].tolist()
        assert (together.sequences[image, length:] == 1).all()
        torch.testing.assert_close(together.sequences_scores[image], alone.sequences_scores[0])


def test_early_stopping_takes_the_first_results():
    # the short row ends at once with probability 0.5; the long one is better by its length
    model = toy(num_images=1, vocab_size=V, steps=STEPS, scale=0.0)
    table = model.decoder.table
    table[:] = -20.0
    table[0, START, 0, EOS], table[0, START, 0, 4] = 0.0, 0.0
    table[0, 4, 1:, 4] = 0.0
    table[0, 4, 3, EOS] = 5.0
    options = {"num_beams": 1 + 1, "max_new_tokens": STEPS, "length_penalty": 2.0}
    results = {
        early: generate(model, pixels(0), early_stopping=early, **options)[0].tolist()
        for early in (True, False, "never")
    }
    assert results["never"] == [START, 4, 4, 4, EOS]
    assert results[False] == results["never"]
    model.decoder.table[0, 4, 1, EOS] = 0.0
    assert generate(model, pixels(0), early_stopping=True, **options)[0].tolist() == [START, 4, EOS]
    assert generate(model, pixels(0), early_stopping="never", **options)[0].tolist() == [START, 4, 4, 4, EOS]


def test_the_cache_moves_only_when_beams_do():
    model = spell([5, 6, 7, EOS])
    generate(model, pixels(0), num_beams=2, max_new_tokens=6)
    sizes = [shape[0] for shape in model.decoder.calls]
    assert sizes[0] == 1, "all beams begin alike: the start is computed once for each image"
    assert set(sizes[1:]) == {2}


def test_cut_rows_are_not_finished():
    model = spell([5, 6, 7, 5, 6, EOS])
    model.generation_config = model.generation_config.update(max_length=4)
    with pytest.warns(UserWarning, match="were cut at 4 tokens"):
        out = generate(model, pixels(0), num_beams=2, return_dict_in_generate=True)
    assert out.sequences.tolist() == [[2, 5, 6, 7]]
    assert out.finished.tolist() == [False]


@pytest.mark.parametrize("early_stopping", [True, False, "never"])
def test_settled_images_are_dropped_and_change_nothing(early_stopping):
    model = toy(num_images=40, vocab_size=V, steps=12, seed=6, scale=1.5)
    model.decoder.table[:30, :, :, EOS] += 4.0  # most images end soon
    options = {
        "num_beams": 3,
        "num_return_sequences": 2,
        "max_new_tokens": 12,
        "early_stopping": early_stopping,
        "return_dict_in_generate": True,
    }
    everything = generate(model, pixels(*range(40)), output_scores=True, **options)
    assert {rows for rows, _ in model.decoder.calls[1:]} == {120}, "recorded scores are those of all rows"
    model.decoder.calls.clear()
    out = generate(model, pixels(*range(40)), **options)
    sizes = [rows for rows, _ in model.decoder.calls[1:]]
    assert sizes[0] == 120
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] <= 60
    for name in ("sequences", "beam_indices", "finished"):
        assert torch.equal(out[name], everything[name]), name
    for name in ("sequences_scores", "token_log_probs"):
        torch.testing.assert_close(out[name], everything[name])
