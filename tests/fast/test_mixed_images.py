"""Images of several sizes in one pass, against the encoder; and how images are divided into passes."""

import pytest
import torch
from families import images

from trocr import optimize
from trocr.fast.image_room import rounded_rows
from trocr.fast.mixed import FULL, TOGETHER, MixedEncoder

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.1}
"""Other numbers of rows are summed in another order."""


def cropped(family, widths):
    pixels = images(family, len(widths), seed=3)
    step = pixels.shape[3] // 4
    return [image[..., : step * width] for image, width in zip(pixels, widths, strict=True)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_states_are_those_of_the_encoder(pair, dtype):
    fast = optimize(pair.ours, dtype=dtype)
    assert MixedEncoder.can_mix(fast)
    pixels = cropped(pair.family, (1, 1, 1, 2, 2, 4))
    with torch.inference_mode():
        found = MixedEncoder(fast, crop=True, interpolate=False)(pixels)
        for one, states in zip(pixels, found, strict=True):
            wanted = fast.memory(fast.encode(one[None], crop_pos_encoding=True))[0]
            torch.testing.assert_close(states, wanted, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


def test_images_of_any_aspect(pair):
    fast = optimize(pair.ours)
    pixels = images(pair.family, 2, seed=5)
    wide = pixels[0].transpose(1, 2).contiguous().flatten(1).view(pixels.shape[1], pixels.shape[3], -1)
    with torch.inference_mode():
        found = MixedEncoder(fast, crop=False, interpolate=True)([pixels[1], wide])
        for one, states in zip((pixels[1], wide), found, strict=True):
            wanted = fast.memory(fast.encode(one[None], interpolate_pos_encoding=True))[0]
            torch.testing.assert_close(states, wanted, atol=1e-4, rtol=1e-4)


def test_models_whose_images_may_not_share_a_pass(pair_of):
    model = pair_of("learned").ours
    assert not MixedEncoder.can_mix(optimize(model, quantize="int8"))  # one range for all rows
    fast = optimize(model)
    object.__setattr__(fast.settings, "compile", True)
    assert not MixedEncoder.can_mix(fast)


@pytest.mark.parametrize(
    "counts",
    [[121] * 50, [5] * 7, [5, 21, 60, 121] * 30, [577] * 4, [1500, 1600, 9], [FULL, 1, FULL], [9], []],
)
def test_passes_are_full_and_the_rest_is_left_over(pair_of, monkeypatch, counts):
    mixed = MixedEncoder(optimize(pair_of("learned").ours), crop=True, interpolate=False)
    monkeypatch.setattr(mixed, "tokens", lambda count: count)
    rest, sizes = list(counts), mixed.sizes(counts)
    for size in sizes:
        rows = [rest.pop(0) for _ in range(size)]
        assert size == 1 or sum(rows) <= FULL
        assert sum(rows) >= FULL or sum(rows) + rest[0] > FULL
    assert sum(rest) < FULL


def test_a_full_pass_is_not_rounded():
    assert rounded_rows(FULL, parts=TOGETHER) == FULL
