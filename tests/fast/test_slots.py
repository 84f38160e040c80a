"""Rows that begin and end at different times, against the same rows read alone."""

import pytest
import torch
from families import EOS, START, images
from slot_rows import read_in_slots

from trocr import optimize
from trocr.fast.linear import rounded_rows
from trocr.fast.slots import Row, Slots


def alone(fast, states, most):
    out = fast.generate(
        encoder_outputs=(states[None],), max_new_tokens=most, return_dict_in_generate=True, num_beams=1
    )
    ids = out.sequences[0, 1:].tolist()
    count = ids.index(EOS) + 1 if EOS in ids else len(ids)
    return ids[:count], out.token_log_probs[0, :count].tolist()


@pytest.mark.parametrize(("capacity", "at_once"), [(1, 1), (4, 4), (4, 1), (5, 2)])
@torch.inference_mode()
def test_every_row_reads_as_if_alone(pair, capacity, at_once):
    fast = optimize(pair.ours)
    encoded = fast.encode(images(pair.family, 9, seed=4))
    cuts = [encoded.last_hidden_state.shape[1] - 2 * (n % 3) for n in range(9)]  # images of several sizes
    memories = [states[:cut] for states, cut in zip(fast.memory(encoded), cuts, strict=True)]
    mosts = [3 + 5 * (n % 4) for n in range(9)]
    slots = Slots(fast.decoder, capacity=capacity, start_token_id=START, end_tokens=[EOS])
    done = read_in_slots(slots, memories, mosts, at_once=at_once)
    assert sorted(done) == list(range(9))
    for n, row in done.items():
        ids, log_probs = alone(fast, encoded.last_hidden_state[n, : cuts[n]], mosts[n])
        assert row.ids == ids
        assert row.log_probs == pytest.approx(log_probs, abs=1e-4)
        assert row.finished == (row.ids[-1] == EOS)


@torch.inference_mode()
def test_lengths_that_are_wanted(pair_of):
    fast = optimize(pair_of("learned").ours)
    memory = fast.memory(fast.encode(images(pair_of("learned").family, 3)))
    slots = Slots(fast.decoder, capacity=3, start_token_id=START, end_tokens=[EOS])
    slots.admit([Row(n, 30, wanted) for n, wanted in enumerate((1, 4, 7))], list(memory))
    done = {}
    while slots.active:
        done.update({row.key: row for row in slots.step()})
    assert [len(done[n].ids) for n in range(3)] == [1, 4, 7]
    assert all(row.ids[-1] == EOS and EOS not in row.ids[:-1] for row in done.values())


@pytest.mark.parametrize("parts", [2, 8, 32])
def test_rows_are_rounded_up_to_few_numbers(parts):
    rounded = [rounded_rows(count, parts=parts) for count in range(1, 4097)]
    assert all(count <= up <= count * (1 + 1 / parts) for count, up in enumerate(rounded, start=1))
    assert rounded == sorted(rounded)
    assert len(set(rounded)) <= 12 * parts + 1
    assert [rounded_rows(up, parts=parts) for up in rounded] == rounded
