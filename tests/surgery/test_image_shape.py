"""Images of another size, patch or colour: what the whole model is afterwards, and what is refused."""

from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from drawn import SHIPPED, processor, small_model
from families import Pair
from proofs import assert_works, image_processor, look
from resized import changed, grey_image

from trocr import TrOCRProcessor, VisionEncoderDecoderModel
from trocr.cli import main
from trocr.image import DeiTImageProcessor
from trocr.reader import Reader
from trocr.surgery.adapters import add_adapter
from trocr.surgery.image_shape import resize_images
from trocr.surgery.patterns import SurgeryError
from trocr.surgery.recipe import apply_recipe, read_recipe

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


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
