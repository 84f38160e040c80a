"""Lines that wait and leave in groups, and how few shapes oneDNN meets."""

import weakref
from collections import defaultdict

import torch

from trocr.fast.linear import PackedLinear
from trocr.reading.images import at_native_width
from trocr.reading.recognisers import SlotRecogniser, greedy_length
from trocr.reading.sorting import Sorter


def rows_met(monkeypatch):
    """Note the numbers of rows that each layer of oneDNN is called with."""
    real, seen = PackedLinear.__call__, defaultdict(set)

    def noting(self, x):
        seen[id(self)].add(x.numel() // x.shape[-1])
        return real(self, x)

    monkeypatch.setattr(PackedLinear, "__call__", noting)
    return seen


def test_few_numbers_of_rows_in_a_long_stream(reader, monkeypatch):
    fast = reader.model
    chance, height = torch.Generator().manual_seed(0), fast.config.encoder.image_hw[0]
    seen = rows_met(monkeypatch)
    recogniser = SlotRecogniser(
        fast,
        capacity=16,
        length=greedy_length(fast, {"max_new_tokens": 12}),
        native_width=True,
        lengths={n: 1 + n % 11 for n in range(320)},
    )
    widths, found = set(), []
    for first in range(0, 320, 16):
        batch = []
        for number in range(first, first + 16):
            pixels = torch.ones(3, height, fast.config.encoder.image_hw[1])
            width = int(torch.randint(300, 960, (), generator=chance))
            pixels[..., :width] = torch.rand(3, height, width, generator=chance)
            pixels = at_native_width(pixels[None], patch_px=8)[0]
            widths.add(pixels.shape[2])
            batch.append((number, pixels))
        found += recogniser.push(batch)
    found += recogniser.drain()
    assert sorted(number for number, _ in found) == list(range(320))
    assert len(widths) > 15
    assert len(seen[id(fast.encoder.blocks[0].qkv)]) <= 6
    assert max(map(len, seen.values())) <= 9, seen


def test_pixels_at_native_width_hold_no_padding():
    pixels = torch.ones(1, 3, 4, 800)
    pixels[..., :5] = 0.0
    kept = at_native_width(pixels, patch_px=2)
    assert kept.shape == (1, 3, 4, 8)
    assert torch.equal(kept, pixels[..., :8])
    assert kept.untyped_storage().nbytes() == kept.numel() * 4
    full = torch.rand(1, 3, 4, 20)
    assert at_native_width(full, patch_px=2) is full


class Pairs:
    @staticmethod
    def sizes(images):
        return [2] * (len(images) // 2)


def test_groups_leave_once_they_are_full():
    sorter = Sorter(batch_size=8, waits=True, division=Pairs())
    line = torch.zeros(3, 4, 8)
    assert list(sorter.push([(0, line)])) == []
    groups = list(sorter.push([(n, line) for n in range(1, 5)]))
    assert [[number for number, _ in group] for group in groups] == [[0, 1], [2, 3]]
    assert [[number for number, _ in group] for group in sorter.drain()] == [[4]]
    assert list(sorter.drain()) == []


def test_a_group_that_is_not_full_waits_for_a_window():
    sorter = Sorter(batch_size=1, waits=True, division=Pairs())
    sorter.division.sizes = lambda images: []
    wide, narrow = torch.zeros(3, 4, 8), torch.zeros(3, 4, 6)
    assert not any(list(sorter.push([(n, wide if n else narrow)])) for n in range(3))
    assert [[number for number, _ in group] for group in sorter.push([(3, narrow)])] == [[0, 3, 1, 2]]


def test_images_that_have_left_are_not_held():
    sorter = Sorter(batch_size=2, waits=False)
    pixels = [torch.zeros(3, 4, 8 + n) for n in range(3)]
    alive = [weakref.ref(one) for one in pixels]
    groups = sorter.push(list(enumerate(pixels)))
    del pixels
    for left in range(1, 4):
        next(groups)
        assert [one() is None for one in alive] == [n < left for n in range(3)]
