"""Patches of another size, and images in grey: the same tokens through other kernels."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers
from drawn import processor
from families import Pair, difference
from PIL import Image
from proofs import image_processor, logits, pixels
from resized import EQUAL, changed, grey_image
from torch import Tensor

from trocr import TrOCRProcessor, VisionEncoderDecoderModel
from trocr.image import ViTImageProcessor
from trocr.nn.embeddings import resample_patches
from trocr.surgery.image_shape import resize_images


def scaled_patches(images: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """Images whose patches are each scaled to another size."""
    batch, channels, height, width = images.shape
    grid = height // old[0], width // old[1]
    cut = images.view(batch, channels, grid[0], old[0], grid[1], old[1]).permute(0, 2, 4, 1, 3, 5)
    scaled = F.interpolate(cut.flatten(0, 2), size=new, mode="bilinear", align_corners=False, antialias=True)
    joined = scaled.view(batch, *grid, channels, *new).permute(0, 3, 1, 4, 2, 5)
    return joined.reshape(batch, channels, grid[0] * new[0], grid[1] * new[1])


@pytest.mark.parametrize("factors", [(2, 2), (1, 3), (2.5, 1.5)])
def test_larger_patches_give_the_very_tokens_of_their_scaled_pixels(pair: Pair, factors: tuple[float, float]):
    """<w', B x> = <w, x>: for the same grid of patches, the whole model computes the same."""
    old = pair.ours.encoder.embeddings
    new = tuple(int(n * factor) for n, factor in zip(old.patch_hw, factors, strict=True))
    size = tuple(rows * n for rows, n in zip(old.grid, new, strict=True))
    model, _ = changed(pair, image_size=size, patch_size=new)
    made = pixels(pair.ours)
    assert difference(logits(pair.ours, made), logits(model, scaled_patches(made, old.patch_hw, new))) < EQUAL
    assert torch.equal(model.encoder.embeddings.position_embeddings, old.position_embeddings)
    assert model.config.encoder.patch_hw == new


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ((8, 8), (16, 16)),
        ((16, 16), (14, 20)),
        ((16, 16), (9, 5)),
        ((32, 8), (16, 16)),
        ((1, 1), (3, 2)),
        ((2, 2), (1, 1)),
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_patches_are_resampled_as_by_timm(old: tuple[int, int], new: tuple[int, int], channels: int):
    layers = pytest.importorskip("timm.layers")
    weight = torch.randn(6, channels, *old, generator=torch.Generator().manual_seed(0))
    theirs = layers.resample_patch_embed(weight, list(new), interpolation="bilinear", antialias=True)
    assert difference(theirs, resample_patches(weight, patch_hw=new)) < EQUAL
    assert resample_patches(weight, patch_hw=old) is weight


def test_smaller_patches_are_the_least_squares_solution():
    """For pixels that are not correlated, no other kernel is nearer on average."""
    weight = torch.randn(1, 1, 8, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    best = resample_patches(weight, patch_hw=(4, 4))
    unit = torch.eye(48, dtype=torch.float64).view(48, 1, 8, 6)
    small = F.interpolate(unit, size=(4, 4), mode="bilinear", align_corners=False, antialias=True)

    def error(kernel: Tensor) -> float:
        return float(((small * kernel[0]).sum(dim=(1, 2, 3)) - weight.flatten()).square().sum())

    for seed in range(5):
        step = torch.randn(best.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        assert error(best) < error(best + 1e-3 * step)
    solution = torch.linalg.lstsq(small.view(48, 16), weight.flatten()[:, None]).solution
    torch.testing.assert_close(best.flatten(), solution.flatten())


def colour_image(seed: int = 0, size: tuple[int, int] = (40, 300)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8))


def memory(model: VisionEncoderDecoderModel, found: TrOCRProcessor, image: Image.Image) -> Tensor:
    with torch.no_grad():
        return model.encode(found(image, return_tensors="pt").pixel_values).last_hidden_state


def tokens(model: VisionEncoderDecoderModel, found: TrOCRProcessor, image: Image.Image) -> Tensor:
    with torch.no_grad():
        return model.encoder.embeddings.patch_embeddings(found(image, return_tensors="pt").pixel_values)


DIFFERING = [{"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}]
ALIKE = [
    {},
    {"image_mean": 0.3, "image_std": 0.7, "do_rescale": False},
    {"do_normalize": False, "image_mean": [0.1, 0.2, 0.3]},  # which is not used
]


@pytest.mark.parametrize("settings", [*DIFFERING, *ALIKE])
def test_grey_images_give_the_same_through_one_channel(pair: Pair, settings: dict, tmp_path: Path):
    model = pair.fresh()
    found = image_processor(model)
    for name, value in settings.items():
        setattr(found.image_processor, name, value)
    expected = memory(model, found, grey_image())
    told = resize_images(model, processor=found, num_channels=1)
    made = found(grey_image(), return_tensors="pt").pixel_values
    assert made.shape[1] == 1
    assert difference(expected, memory(model, found, grey_image())) < 5 * EQUAL
    names = [change.name.rpartition(".")[2] for change in told.changes]
    assert names == (["weight", "bias"] if settings in DIFFERING else ["weight"])
    model.save_pretrained(tmp_path)
    found.save_pretrained(tmp_path)
    again = VisionEncoderDecoderModel.from_pretrained(tmp_path)
    same = TrOCRProcessor.from_pretrained(tmp_path)
    assert torch.equal(memory(again, same, grey_image()), memory(model, found, grey_image()))


def test_the_reference_makes_the_same_channel(pair_of, tmp_path: Path):
    model = pair_of("learned").fresh()
    found = TrOCRProcessor(ViTImageProcessor(size=32, do_convert_rgb=True), processor().tokenizer)
    resize_images(model, processor=found, num_channels=1)
    found.save_pretrained(tmp_path)
    theirs = transformers.ViTImageProcessorPil.from_pretrained(tmp_path)
    left, right = (
        made(grey_image(), return_tensors="pt").pixel_values for made in (found.image_processor, theirs)
    )
    assert torch.equal(left, right)


@pytest.mark.parametrize("image", [grey_image(), colour_image(size=(32, 64))], ids=["grey", "colour"])
def test_coloured_images_give_what_their_grey_gave(pair: Pair, image: Image.Image):
    """From one channel to three: but for the rounding of grey to 8 bits."""
    model = pair.fresh()
    found = image_processor(model)
    found.image_processor.do_grayscale = False
    resize_images(model, processor=found, num_channels=1)
    expected = tokens(model, found, image)
    resize_images(model, processor=found, num_channels=3)
    assert found(image, return_tensors="pt").pixel_values.shape[1] == 3
    assert found.image_processor.image_mean == (0.5, 0.5, 0.5)
    embeddings = model.encoder.embeddings.patch_embeddings
    assert embeddings.weight.shape[1] == embeddings.in_channels == model.config.encoder.num_channels == 3
    assert difference(expected, tokens(model, found, image)) < (EQUAL if image.mode == "L" else 0.01)
    with torch.no_grad():  # an even share would not do
        weight = embeddings.weight.sum(dim=1, keepdim=True).expand(-1, 3, -1, -1) / 3
        embeddings.weight.copy_(weight.clone())
    assert image.mode == "L" or difference(expected, tokens(model, found, image)) > 0.05
