"""Images of another size, patch or colour: the geometry is right, and what need not change does not."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers
from click.testing import CliRunner
from drawn import SHIPPED, processor, small_model
from families import FAMILIES, SQUARE, Pair, difference, ids, make_pair
from PIL import Image
from proofs import AGREES, assert_works, image_processor, logits, look, pixels
from torch import Tensor

from trocr import TrOCRProcessor, VisionEncoderDecoderModel
from trocr.cli import main
from trocr.image import DeiTImageProcessor, ViTImageProcessor
from trocr.nn.embeddings import resample_patches
from trocr.reader import Reader
from trocr.surgery.adapters import add_adapter
from trocr.surgery.image_shape import resize_images
from trocr.surgery.patterns import SurgeryError
from trocr.surgery.recipe import apply_recipe, read_recipe

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"

EQUAL = 1e-5
"""Largest difference where two computations are equal but for rounding, relative to the largest number."""


def changed(pair: Pair, **options) -> tuple[VisionEncoderDecoderModel, TrOCRProcessor]:
    model = pair.fresh()
    found = image_processor(model)
    resize_images(model, processor=found, **options)
    return model, found


# ---- positions ----


def cubic_weights(old: int, new: int) -> Tensor:
    """Matrix (new, old) of cubic convolution with a = -0.75, centres of cells aligned, edges repeated."""
    a, weights = -0.75, torch.zeros(new, old, dtype=torch.float64)
    for row in range(new):
        centre = (row + 0.5) * old / new - 0.5
        first = int(np.floor(centre)) - 1
        for column in range(first, first + 4):
            d = abs(centre - column)
            if d <= 1:
                weight = (a + 2) * d**3 - (a + 3) * d**2 + 1
            else:
                weight = a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a
            weights[row, min(max(column, 0), old - 1)] += weight
    return weights


@pytest.mark.parametrize("grid", [(8, 8), (2, 24), (3, 5), (4, 48), (7, 1)])
def test_the_table_is_the_interpolated_one(pair: Pair, grid: tuple[int, int]):
    """In two dimensions, by a kernel written here, with the prefix rows as they were."""
    embeddings = pair.ours.encoder.embeddings
    patch, old, prefix = embeddings.patch_hw, embeddings.grid, embeddings.num_prefix
    model, found = changed(pair, image_size=(grid[0] * patch[0], grid[1] * patch[1]))
    before, after = (m.encoder.embeddings.position_embeddings.detach() for m in (pair.ours, model))
    down, across = (cubic_weights(*sizes) for sizes in zip(old, grid, strict=True))
    patches = before[0, prefix:].double().view(*old, -1)
    expected = torch.einsum("yh,xw,hwd->yxd", down, across, patches).flatten(0, 1)
    assert difference(expected.float(), after[0, prefix:]) < EQUAL
    assert torch.equal(after[:, :prefix], before[:, :prefix])
    assert model.encoder.embeddings.grid == model.config.encoder.grid == grid
    assert found.image_processor.size == dict(
        zip(("height", "width"), model.config.encoder.image_hw, strict=True)
    )


def test_positions_keep_their_place_in_the_image(tmp_path: Path):
    """A table of each patch's place: a 384 x 384 checkpoint turned to 64 x 768 knows where patches are.

    A table that was cut off, or read row by row into the new grid, would be wrong by many patches.
    """
    family = FAMILIES["learned"].changed({"image_size": 384, "patch_size": 16})
    model = make_pair(family, tmp_path).ours
    table = model.encoder.embeddings.position_embeddings
    y, x = torch.meshgrid(torch.arange(24.0), torch.arange(24.0), indexing="ij")
    with torch.no_grad():
        table[0, 1:, 0], table[0, 1:, 1] = y.flatten(), x.flatten()
    resize_images(model, processor=image_processor(model), image_size=(64, 768))
    patches = model.encoder.embeddings.position_embeddings[0, 1:].view(4, 48, -1)
    rows = (torch.arange(4) + 0.5) * 24 / 4 - 0.5  # centres of the new patches, in old patches
    columns = (torch.arange(48) + 0.5) * 24 / 48 - 0.5
    inside = slice(3, -3)  # at the edges the outermost patch is repeated
    assert (patches[..., 0] - rows[:, None]).abs().max() < 0.06  # the kernel is linear but for 0.05
    assert (patches[:, inside, 1] - columns[None, inside]).abs().max() < 0.06
    assert (patches[..., 0].diff(dim=0) > 5).all()
    assert (patches[..., 1].diff(dim=1) > 0).all()


def test_a_square_checkpoint_reads_lines(tmp_path: Path):
    family = FAMILIES["learned"].changed({"image_size": 384, "patch_size": 16}, {"vocab_size": 520})
    model = make_pair(family, tmp_path / "square").ours
    found = image_processor(model)
    resize_images(model, processor=found, image_size=(64, 768))
    model.save_pretrained(tmp_path / "wide")
    found.save_pretrained(tmp_path / "wide")
    reader = Reader(tmp_path / "wide")
    assert reader.processor.image_processor.pad_to_aspect_ratio
    lines = list(reader.read([EXAMPLES / "heading.jpg", EXAMPLES / "receipt.png"], max_new_tokens=5))
    assert len(lines) == 2
    assert all(line.tokens for line in lines)


@pytest.mark.parametrize("name", SQUARE)
def test_it_is_what_the_reference_interpolates_on_the_fly(pair_of, name: str):
    pair = pair_of(name)
    model, _ = changed(pair, image_size=(48, 80))
    made, tokens = pixels(model), ids(2, 7)
    with torch.no_grad():
        theirs = pair.hf(pixel_values=made, decoder_input_ids=tokens, interpolate_pos_encoding=True).logits
    assert difference(theirs, logits(model, made)) < AGREES


def test_extended_positions_keep_what_was_there(tmp_path: Path):
    model, found = small_model().eval(), processor()
    before = model.encoder.embeddings.position_embeddings.detach().clone()
    told = resize_images(model, processor=found, image_size=(32, 960), positions="extend")
    after = model.encoder.embeddings.position_embeddings
    assert after.shape == (1, 121, 32)
    assert torch.equal(after[:, :81], before)
    assert torch.equal(after[:, 81:], before[:, 41:])
    assert model.config.encoder.image_size == (32, 960)
    assert found.image_processor.size == {"height": 32, "width": 960}
    assert [change.action for change in told.changes] == ["carried"]
    model.save_pretrained(tmp_path)
    again = VisionEncoderDecoderModel.from_pretrained(tmp_path)
    made = torch.randn(1, 3, 32, 960)
    assert torch.equal(again.encode(made)[0], model.encode(made)[0])


def test_a_line_that_fits_reads_the_same_before_and_after_an_extension():
    model = small_model().eval()
    made = torch.randn(1, 3, 32, 640)
    before = model.encode(made)[0]
    resize_images(model, processor=processor(), image_size=(32, 960), positions="extend")
    torch.testing.assert_close(model.encode(made, crop_pos_encoding=True)[0], before)


# ---- patches ----


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


# ---- colours ----


def grey_image(seed: int = 0, size: tuple[int, int] = (40, 300)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8))


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


# ---- all of it ----


@pytest.mark.parametrize(
    "options",
    [
        {"image_size": (16, 96)},
        {"image_size": 48, "patch_size": (12, 16), "num_channels": 1},
        {"patch_size": 4},
    ],
)
def test_a_changed_model_works(pair: Pair, options: dict, tmp_path: Path):
    model, _ = changed(pair, **options)
    assert_works(model, tmp_path)


def test_the_same_again_changes_nothing(pair: Pair):
    model = pair.fresh()
    found = image_processor(model)
    before, config = look(model, found), model.config.encoder
    told = resize_images(
        model, processor=found, image_size=config.image_hw, patch_size=config.patch_hw, num_channels=3
    )
    assert told.counts() == {"kept": len(list(model.parameters()))}
    assert look(model, found) == before


def test_precision_and_flags_stay(pair_of):
    model = pair_of("unilm").fresh().bfloat16().train()
    model.encoder.embeddings.requires_grad_(False)
    model.encoder.embeddings.patch_embeddings.bias.requires_grad_(True)
    flags = {name: p.requires_grad for name, p in model.named_parameters()}
    resize_images(model, processor=image_processor(model), image_size=64, patch_size=16, num_channels=1)
    assert {name: p.requires_grad for name, p in model.named_parameters()} == flags
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert all(part.training for part in model.modules())
    assert (model.config.encoder.image_size, model.config.encoder.patch_size) == (64, 16)


def test_the_report(pair_of):
    model = pair_of("learned").fresh()
    told = resize_images(
        model, processor=image_processor(model), image_size=(32, 96), patch_size=(16, 8), num_channels=1
    )
    table, kernel = told.changes
    assert (table.name, table.action) == ("encoder.embeddings.position_embeddings", "resampled")
    assert table.detail == "4 x 4 patches (rows x columns) to 2 x 12, bicubic"
    assert (table.before, table.shape) == ((1, 17, 32), (1, 25, 32))
    assert (kernel.name, kernel.action) == ("encoder.embeddings.patch_embeddings.weight", "resampled")
    assert (kernel.before, kernel.shape) == ((32, 3, 8, 8), (32, 1, 16, 8))
    assert "colour planes added up; patches of 8 x 8 pixels" in kernel.detail
    assert told.numbers == {"patches_before": 16, "patches": 24}
    assert "one channel, grey" in told.notes[0]


def test_a_processor_that_cuts_the_middle_out_keeps_its_proportions(pair_of):
    model = pair_of("unilm").fresh()
    found = TrOCRProcessor(DeiTImageProcessor(size=(40, 36), crop_size=32), processor().tokenizer)
    resize_images(model, processor=found, image_size=(64, 48))
    assert found.image_processor.crop_size == {"height": 64, "width": 48}
    assert found.image_processor.size == {"height": 80, "width": 54}
    assert found(grey_image(), return_tensors="pt").pixel_values.shape == (1, 3, 64, 48)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "nothing to change: give image_size, patch_size or num_channels"),
        ({"image_size": (32, 644)}, r"size 32 x 644 .* is not a multiple of the patch, 32 x 8; .*: 32 x 640"),
        ({"image_size": 4}, r"size 4 x 4 .* is not a multiple of the patch, 32 x 8; .*: 32 x 8"),
        ({"patch_size": 24}, r"size 32 x 640 .* is not a multiple of the patch, 24 x 24; .*: 24 x 648"),
        ({"image_size": (0, 640)}, r"image_size=\(0, 640\), expected \(height, width\) or one number"),
        ({"image_size": -32}, "image_size=-32, expected"),
        ({"image_size": (32, 640, 3)}, "image_size=.*, expected"),
        ({"image_size": (32.0, 640)}, "image_size=.*, expected"),
        ({"image_size": True}, "image_size=True, expected"),
        ({"patch_size": "16"}, "patch_size='16', expected"),
        ({"num_channels": 4}, r"num_channels=4 instead of 3, expected 1 \(grey\) or 3"),
        ({"num_channels": 0}, "num_channels=0 instead of 3"),
        ({"num_channels": True}, "num_channels=True instead of 3"),
        (
            {"image_size": 64, "positions": "crop"},
            "positions='crop' is unknown, expected one of resample, extend",
        ),
        ({"image_size": (64, 640), "positions": "extend"}, "cannot be extended to 2 x 80"),
        ({"image_size": (32, 320), "positions": "extend"}, "cannot be extended to 1 x 40"),
        ({"image_size": (32, 1024), "positions": "extend"}, "columns can grow up to 120"),
    ],
)
def test_what_cannot_be_is_refused(options, message):
    model, found = small_model(), processor()
    before = look(model, found)
    with pytest.raises(SurgeryError, match=message):
        resize_images(model, processor=found, **options)
    assert look(model, found) == before


def test_others_that_are_refused(pair_of):
    model = pair_of("learned").fresh()
    found = image_processor(model)
    found.image_processor.image_mean = found.image_processor.image_std = [0.5]
    with pytest.raises(SurgeryError, match="the processor makes images of 1 channels, the model takes 3"):
        resize_images(model, processor=found, num_channels=1)
    before = look(model)
    with pytest.raises(SurgeryError, match="processor is a NoneType, expected the model's TrOCRProcessor"):
        resize_images(model, processor=None, image_size=64)
    assert look(model) == before
    add_adapter(model)
    before = look(model)
    with pytest.raises(SurgeryError, match="have an adapter"):
        resize_images(model, processor=found, image_size=64)
    assert look(model) == before
    pytest.importorskip("timm")
    from test_adapters_timm import VIT, model_with

    model = model_with("vit_tiny_patch16_224", **VIT)
    with pytest.raises(SurgeryError, match="the encoder has a TimmConfig: only the images of a ViT or DeiT"):
        resize_images(model, processor=found, image_size=64)


def test_commands_and_recipes(tmp_path: Path):
    model, folder = small_model(), tmp_path / "model"
    model.save_pretrained(folder)
    processor().save_pretrained(folder)

    def run(*arguments: str):
        return CliRunner().invoke(main, ["surgery", "resize-images", *arguments], catch_exceptions=False)

    size = ("--image-size", "64", "960", "--patch-size", "64", "16", "--channels", "1")
    done = run(str(folder), f"{folder}-2", *size)
    assert done.exit_code == 0, done.output
    assert "patches 60" in done.output
    reader = Reader(f"{folder}-2")
    assert reader.model.config.encoder.image_hw == (64, 960)
    assert reader.processor.image_processor.num_channels == 1
    assert len(list(reader.read(EXAMPLES / "heading.jpg", max_new_tokens=3, native_width=True))) == 1
    longer = run(str(folder), f"{folder}-3", "--image-size", "32", "720", "--positions", "extend")
    assert "the second half of the columns repeated" in longer.output
    wrong = run(str(folder), f"{folder}-4", "--image-size", "30", "960")
    assert wrong.exit_code == 1
    assert "is not a multiple of the patch, 32 x 8; the nearest that is: 32 x 960" in wrong.output
    assert not Path(f"{folder}-4").exists()
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('[[operation]]\nname = "resize_images"\nimage_size = [64, 640]\npatch_size = 16\n')
    found = processor()
    apply_recipe(model, read_recipe(recipe), processor=found)
    assert model.config.encoder.grid == (4, 40)
    assert found.image_processor.size == {"height": 64, "width": 640}


def test_the_shipped_reader_reads_twice_as_large_in_grey():
    model = VisionEncoderDecoderModel.from_pretrained(SHIPPED)
    found = TrOCRProcessor.from_pretrained(SHIPPED)
    resize_images(model, processor=found, image_size=(64, 1920), patch_size=(64, 16), num_channels=1)
    lines = Reader(model, found).read([EXAMPLES / "heading.jpg", EXAMPLES / "receipt.png"])
    assert [line.text for line in lines] == ["Annual Report 1987", "TOTAL 3 ITEMS 27.45"]
