import math
import pickle
import random

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFont

from trocr.data.augmentation import PRESETS, AugmentationError, build_augmentation
from trocr.data.augmentation.da2 import DA2, Downscale, blur, dilate, erode, keep, rotate, underline
from trocr.data.augmentation.elastic import Elastic
from trocr.data.augmentation.pipeline import RandAugment


def line(mode="RGB", size=(160, 40)):
    image = Image.new(mode, size, "white")
    ImageDraw.Draw(image).text((10, 6), "Line 1", fill="black", font=ImageFont.load_default(24))
    return image


class Given:
    """Random numbers that are chosen by the test."""

    def __init__(self, value):
        self.value = value

    def uniform(self, low, high):
        assert low <= self.value <= high
        return self.value


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_rotation_is_torchvisions(mode):
    from torchvision.transforms.functional import InterpolationMode
    from torchvision.transforms.functional import rotate as reference

    white = 255 if mode == "L" else (255, 255, 255)
    for angle in (-10, -3.7, 0, 8.25):
        wanted = reference(line(mode), angle, InterpolationMode.NEAREST, expand=True, fill=white)
        assert np.array_equal(rotate(line(mode), Given(angle)), wanted)


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_blur_is_torchvisions(mode):
    from torchvision.transforms.functional import gaussian_blur

    for sigma in (0.1, 0.8, 2.0):
        wanted = np.asarray(gaussian_blur(line(mode), 3, sigma), dtype=int)
        found = np.asarray(blur(line(mode), Given(sigma)), dtype=int)
        assert np.abs(found - wanted).max() <= 1  # ties of rounding
        assert (found != wanted).mean() < 1e-3


def test_thinner_and_thicker_ink():
    ink = [(np.asarray(f(line("L"), None)) < 128).sum() for f in (dilate, keep, erode)]
    assert ink[0] < ink[1] < ink[2]


def test_downscale_takes_a_third_of_the_models_size():
    assert Downscale((384, 384))(line(), None).size == (128, 128)
    assert Downscale((32, 640), keeps_aspect=True)(line(), None).size == (40, 10)


def test_underline_has_three_rows_below_the_ink():
    image = Image.new("L", (30, 20), 255)
    for x, y in ((4, 3), (9, 12), (20, 7)):
        image.putpixel((x, y), 49)
    image.putpixel((25, 18), 50)  # not ink
    found = np.asarray(underline(image, None))
    drawn = np.argwhere(found == 0)
    assert drawn.min(axis=0).tolist() == [10, 4]
    assert drawn.max(axis=0).tolist() == [12, 19]  # up to the last ink, which is left out as in the source
    assert len(drawn) == 3 * 16
    assert image.getpixel((4, 12)) == 255
    blank = Image.new("L", (5, 5), 200)
    assert underline(blank, None) is blank


def test_the_seven_are_equally_likely():
    counts = [0] * 7

    class Counting(DA2):
        @property
        def operations(self):
            return tuple(lambda image, rng, i=i: counts.__setitem__(i, counts[i] + 1) for i in range(7))

    augment, rng = Counting((384, 384)), np.random.default_rng(0)
    for _ in range(7000):
        augment(None, rng)
    assert all(abs(count - 1000) < 4 * math.sqrt(1000 * 6 / 7) for count in counts)


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("preset", [name for name in PRESETS if name != "none"])
def test_presets_are_seeded_and_leave_other_random_numbers_alone(preset, mode):
    augment = pickle.loads(pickle.dumps(build_augmentation(preset)))
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    expected = random.random(), np.random.rand(), torch.rand(1).item()
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    image, seen = line(mode), set()
    before = image.tobytes()
    for seed in range(12):
        found = augment(image, np.random.default_rng(seed))
        again = augment(image, np.random.default_rng(seed))
        assert found.mode == mode
        assert (found.size, found.tobytes()) == (again.size, again.tobytes())
        seen.add((found.size, found.tobytes()))
    assert image.tobytes() == before
    assert len(seen) >= 4
    assert (random.random(), np.random.rand(), torch.rand(1).item()) == expected


def test_none_is_nothing():
    assert build_augmentation("none") is None


def test_channels_of_a_grey_picture_in_colour_stay_alike():
    augment = build_augmentation("printed", {"degradations": {"noise": 1.0, "fading": 1.0}})
    values = np.asarray(augment(line(), np.random.default_rng(3)))
    assert (values[..., 0] == values[..., 1]).all()
    assert (values[..., 0] == values[..., 2]).all()


def test_elastic_moves_ink_a_little():
    image = line("L")
    found = Elastic(strength=0.06)(image, np.random.default_rng(0))
    assert found.size == image.size
    assert found.tobytes() != image.tobytes()
    assert Elastic(strength=0.0)(image, np.random.default_rng(0)).tobytes() == image.tobytes()
    ink = [(np.asarray(i) < 128).sum() for i in (image, found)]
    assert abs(ink[0] - ink[1]) < 0.3 * ink[0]


def test_rand_augment_keeps_the_share_that_is_asked_for():
    augment, image = RandAugment(intact=0.75), line()
    same = sum(augment(image, np.random.default_rng(seed)) is image for seed in range(200))
    assert 120 < same < 175


@pytest.mark.parametrize(
    ("preset", "settings", "message"),
    [
        ("da3", {}, "'da3' is unknown, did you mean 'da2'"),
        ("da2", {"intakt": 1}, "intakt is unknown to the preset 'da2', expected one of da2, elastic"),
        ("none", {"da2": 1}, "it takes none"),
        ("printed", {"degradations": {"blurr": 1}}, "degradations.blurr is unknown, did you mean 'blur'"),
        ("printed", {"degradations": {"blur": 2}}, r"blur=2 must be a number from 0 to 1"),
        ("handwriting", {"elastic": "much"}, r"elastic='much' must be a number"),
        ("scene-text", {"rand_augment": "m9"}, "must be timm's description"),
        (
            "scene-text",
            {"rand_augment": "rand-m5-foo3"},
            "foo3' must be timm's .*: Unknown RandAugment config",
        ),
        ("scene-text", {"rand_augment": 5}, "rand_augment=5 must be timm's description"),
        ("printed", {"degradations": 3}, "degradations=3 must be a table"),
    ],
)
def test_mistakes_are_named(preset, settings, message):
    with pytest.raises(AugmentationError, match=message):
        build_augmentation(preset, settings)
