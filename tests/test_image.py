"""Settings, files, padding and results of the image processors. Bits are compared in test_image_parity.py."""

import copy
import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from trocr.image import (
    BatchFeature,
    DeiTImageProcessor,
    ImageError,
    ViTImageProcessor,
    load_image_processor,
)

TINY_PRINTED = {
    "image_processor_type": "ViTImageProcessor",
    "do_convert_rgb": True,
    "do_resize": True,
    "size": {"height": 32, "width": 640},
    "resample": 2,
    "do_rescale": True,
    "rescale_factor": 0.00392156862745098,
    "do_normalize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "pad_to_aspect_ratio": True,
    "pad_value": "median",
}
OLD_SMALL = {
    "feature_extractor_type": "DeiTFeatureExtractor",
    "crop_size": 224,
    "do_center_crop": False,
    "size": 384,
}
OLD_BASE = {
    "do_normalize": True,
    "do_resize": True,
    "feature_extractor_type": "ViTFeatureExtractor",
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "resample": 2,
    "size": 384,
}
V4_FAST = {  # as transformers 4.5x writes it: every argument of every fast processor
    **dict.fromkeys(("crop_size", "do_center_crop", "do_convert_rgb", "device", "input_data_format")),
    **dict.fromkeys(("return_tensors", "pad_size", "do_pad", "disable_grouping", "size_divisor")),
    "data_format": "channels_first",
    "default_to_square": True,
    "image_processor_type": "ViTImageProcessorFast",
    "size": {"height": 384, "width": 384},
}


def line(width: int, height: int = 48, mode: str = "L") -> Image.Image:
    rng = np.random.default_rng((width, height))
    shape = (height, width, 3) if mode == "RGB" else (height, width)
    return Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8))


def pixels(processor: ViTImageProcessor, image: object, **overrides: object) -> np.ndarray:
    """(3, H, W) levels, whatever the normalisation, of one image."""
    values = processor(
        image, return_tensors="np", do_rescale=False, do_normalize=False, **overrides
    ).pixel_values
    assert values.dtype == np.uint8
    return values[0]


# ---- padding ----


def finished_line(image: Image.Image) -> np.ndarray:
    """(32, 640) levels, by the recipe that the shipped checkpoint is trained with (at 960)."""
    image = image.convert("L")
    width = min(640, round(image.width * 32 / image.height))
    resized = np.asarray(image.resize((width, 32), Image.Resampling.BILINEAR))
    finished = np.full((32, 640), int(np.median(resized)), np.uint8)
    finished[:, :width] = resized
    return finished


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("width", [20, 300, 959, 960, 961, 3000])
def test_lines_are_padded_as_the_shipped_checkpoint_was_trained(width: int, mode: str) -> None:
    processor, image = ViTImageProcessor.from_dict(TINY_PRINTED), line(width, mode=mode)
    expected = np.broadcast_to(finished_line(image), (3, 32, 640))
    assert (pixels(processor, image) == expected).all()
    values = processor(image, return_tensors="np").pixel_values[0]
    assert values.dtype == np.float32
    assert np.allclose(values, expected / 127.5 - 1, atol=2e-7)


def test_a_very_narrow_line_keeps_one_column() -> None:
    narrow = line(1, height=500)
    levels = pixels(ViTImageProcessor(size=(8, 20), pad_to_aspect_ratio=True), narrow)
    column = np.asarray(narrow.resize((1, 8), Image.Resampling.BILINEAR))
    assert (levels[:, :, :1] == column).all()
    assert (levels[:, :, 1:] == int(np.median(column))).all()


@pytest.mark.parametrize(
    ("image_mode", "pad_value", "expected"),
    [("L", 7, (7, 7, 7)), ("RGB", 7, (7, 7, 7)), ("RGB", [1, 2, 3], (1, 2, 3)), ("L", [1, 2, 3], (1, 2, 3))],
)
def test_given_pad_values_keep_colours(image_mode: str, pad_value: object, expected: tuple[int, ...]) -> None:
    processor = ViTImageProcessor(size=(16, 100), resample=3, pad_to_aspect_ratio=True, pad_value=pad_value)
    image = line(90, mode=image_mode)
    levels = pixels(processor, image).transpose(1, 2, 0)
    assert (levels[:, 30:] == expected).all()
    resized = image.convert("RGB").resize((30, 16), Image.Resampling.BICUBIC)
    assert (levels[:, :30] == np.asarray(resized)).all()


def test_median_of_each_channel_where_colours_are_kept() -> None:
    processor = ViTImageProcessor(size=(16, 100), pad_to_aspect_ratio=True, do_grayscale=False)
    image = line(90, mode="RGB")
    resized = np.asarray(image.resize((30, 16), Image.Resampling.BILINEAR))
    levels = pixels(processor, image).transpose(1, 2, 0)
    assert (levels[:, :30] == resized).all()
    assert (levels[:, 30:] == [int(np.median(resized[..., c])) for c in range(3)]).all()


def test_finished_pixels_pass_through() -> None:
    processor, image = ViTImageProcessor.from_dict(TINY_PRINTED), line(300)
    finished = finished_line(image)
    assert (pixels(processor, finished) == finished).all()
    assert (pixels(processor, finished[:, :300], do_resize=False) == finished[:, :300]).all()


def test_grey_on_request() -> None:
    image = line(40, mode="RGB")
    levels = pixels(ViTImageProcessor(do_resize=False, do_grayscale=True), image)
    assert (levels == np.asarray(image.convert("L"))).all()


# ---- fractions ----


def test_fractions_are_not_rescaled_twice() -> None:
    """transformers multiplies images that are in 0..1 by 1/255 again, unless told not to."""
    levels = np.asarray(line(30, mode="RGB"))
    crop = {"do_resize": False, "do_center_crop": True, "crop_size": 9}
    for fractions in (levels / 255, (levels / 255).astype(np.float32), torch.from_numpy(levels / 255)):
        for options in ({"size": 24}, {"do_resize": False}, crop):
            processor = ViTImageProcessor(**options)
            expected = processor(levels, return_tensors="np").pixel_values
            for do_rescale in (True, False):
                found = processor(fractions, return_tensors="np", do_rescale=do_rescale).pixel_values
                assert found.dtype == np.float32
                assert np.allclose(found, expected, atol=3e-7)


def test_floats_are_not_made_8_bit_unless_they_are_resized() -> None:
    values = np.random.default_rng(0).random((10, 12, 3))
    processor = ViTImageProcessor(do_resize=False)
    found = processor(values, return_tensors="np").pixel_values[0]
    assert np.allclose(found, (values.transpose(2, 0, 1) - 0.5) / 0.5, atol=1e-6)
    found = processor(values * 255, return_tensors="np").pixel_values[0]
    assert np.allclose(found, (values.transpose(2, 0, 1) - 0.5) / 0.5, atol=1e-6)


def test_bool_and_grey_arrays_become_three_channels() -> None:
    mask = np.random.default_rng(0).random((10, 12)) < 0.5
    assert (pixels(ViTImageProcessor(do_resize=False), mask) == mask * np.uint8(255)).all()


# ---- batches ----


def test_batches_of_unlike_sources(tmp_path: Path) -> None:
    image = line(50, mode="RGB")
    path, array = tmp_path / "a.png", np.asarray(image)
    image.save(path)
    sources = [
        tmp_path / "a.png",
        (tmp_path / "a.png").read_bytes(),
        image,
        [array, array.transpose(2, 0, 1)],
    ]
    values = ViTImageProcessor(size=20)(sources, return_tensors="pt").pixel_values
    assert values.shape == (5, 3, 20, 20)
    assert (values == values[:1]).all()


def test_different_sizes_make_a_list_but_no_array() -> None:
    processor, images = ViTImageProcessor(do_resize=False), [line(20), line(30)]
    found = processor(images).pixel_values
    assert [values.shape for values in found] == [(3, 48, 20), (3, 48, 30)]
    with pytest.raises(ImageError, match=r"different sizes, \[\(48, 20\), \(48, 30\)\] .*: set do_resize"):
        processor(images, return_tensors="pt")


def test_one_bad_image_of_a_batch_is_named(tmp_path: Path) -> None:
    images = [line(20), tmp_path / "none.png", np.zeros((3, 0, 5))]
    with pytest.raises(ImageError, match=r"images\[1\] \(.*none.png\): no such file"):
        ViTImageProcessor()(images)
    with pytest.raises(ImageError, match=r"images\[1\] \(array of shape \(3, 0, 5\), float64\): no pixels"):
        ViTImageProcessor()([images[0], images[2]])
    with pytest.raises(ImageError, match=r"images\[0\] \(int\): not an image"):
        ViTImageProcessor()([[1, 2], [3, 4]])


def test_batch_feature() -> None:
    batch = ViTImageProcessor(size=8)(line(20), return_tensors="pt")
    batch["labels"] = torch.tensor([[1, 2]])
    batch["names"] = ["a"]
    assert isinstance(batch, BatchFeature)
    assert list(batch) == ["pixel_values", "labels", "names"]
    assert batch.pixel_values is batch["pixel_values"] is batch.data["pixel_values"]
    assert dict(**batch).keys() == batch.keys()
    assert batch.to("cpu", torch.float16) is batch
    assert (batch.pixel_values.dtype, batch.labels.dtype, batch.names) == (torch.float16, torch.int64, ["a"])
    assert batch.to(dtype=torch.bfloat16).pixel_values.dtype == torch.bfloat16
    assert batch.to("meta").labels.device.type == "meta"
    with pytest.raises(AttributeError, match="no 'input_ids'; it has pixel_values, labels, names"):
        _ = batch.input_ids
    arrays = ViTImageProcessor(size=8)(line(20), return_tensors="np")
    for twin in (pickle.loads(pickle.dumps(arrays)), copy.deepcopy(arrays)):
        assert (twin.pixel_values == arrays.pixel_values).all()


# ---- settings ----


def test_settings_are_normalised_whenever_they_are_set() -> None:
    processor = ViTImageProcessor(size=384, image_mean=0.5, resample=Image.Resampling.BICUBIC)
    assert processor.size == {"height": 384, "width": 384}
    processor.size = (32, np.int64(640))
    assert processor.size == {"height": 32, "width": 640}
    assert processor.image_mean == (0.5, 0.5, 0.5)
    assert processor.resample == 3
    processor.size = None
    assert processor.size == {"height": 224, "width": 224}
    assert ViTImageProcessor(do_resize=None, crop_size=None) == ViTImageProcessor()
    assert DeiTImageProcessor(crop_size=None).crop_size == {"height": 224, "width": 224}
    assert processor.model_input_names == ["pixel_values"]


def test_overrides_last_one_call() -> None:
    processor = ViTImageProcessor(size=16)
    options = {"size": (4, 9), "data_format": "channels_first", "device": "cpu", "resample": None}
    assert processor(line(20), return_tensors="np", **options).pixel_values.shape == (1, 3, 4, 9)
    assert processor.preprocess(line(20), return_tensors="np").pixel_values.shape == (1, 3, 16, 16)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (
            "size",
            {"shortest_edge": 5},
            r"size: \{'shortest_edge': 5\}; expected \{\"height\": h, ",
        ),
        ("size", (1, 2, 3), r"size: \(1, 2, 3\); expected"),
        ("size", 0, "size: 0; expected"),
        ("size", 3.5, "size: 3.5; expected"),
        ("size", True, "size: True; expected"),
        ("crop_size", (-1, 5), r"crop_size: \(-1, 5\); expected"),
        ("resample", 9, "resample: 9; expected one of Pillow's filters: 0 nearest, 1 lanczos, 2 bilinear"),
        ("resample", "bicubic", "resample: 'bicubic'; expected"),
        ("do_resize", 1, "do_resize: 1; expected true or false"),
        ("rescale_factor", float("nan"), "rescale_factor: nan; expected a finite number"),
        ("rescale_factor", "1/255", "rescale_factor: '1/255'; expected a finite number"),
        ("image_mean", [0.5, 0.5], r"image_mean: \[0.5, 0.5\]; expected three numbers"),
        ("image_mean", [0.5, 0.5, "x"], "image_mean: 'x'; expected a finite number"),
        ("image_std", [0.5, 0, 1], "expected numbers other than 0: pixels are divided by them"),
        ("pad_value", "white", "pad_value: 'white'; expected \"median\", a level 0..255, or"),
        ("pad_value", 256, "pad_value: 256; expected"),
        ("pad_value", [1, 2], r"pad_value: \[1, 2\]; expected"),
        ("return_tensors", "tf", "return_tensors: 'tf'; expected 'pt', 'np' or None"),
    ],
)
def test_wrong_settings(name: str, value: object, message: str) -> None:
    if name != "return_tensors":
        with pytest.raises(ImageError, match=message):
            ViTImageProcessor(**{name: value})
    with pytest.raises(ImageError, match=message):
        ViTImageProcessor()(line(20), **{name: value})


def test_settings_that_there_are_not() -> None:
    processor = ViTImageProcessor()
    with pytest.raises(TypeError, match=r"no setting 'do_pda' \(given True\); it has do_convert_rgb"):
        processor(line(20), do_pda=True)
    with pytest.raises(TypeError, match="no setting 'do_pad'"):
        processor(line(20), do_pad=True)
    with pytest.raises(TypeError, match="no setting 'data_format'"):
        processor(line(20), data_format="channels_last")
    with pytest.raises(AttributeError, match="no setting 'sizes'; it has"):
        processor.sizes = 5
    with pytest.raises(ImageError, match="crop_size: not set, while do_center_crop is true"):
        processor(line(20), do_center_crop=True)


# ---- grey ----


def test_one_channel_is_the_grey_of_three() -> None:
    colour = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 40, 3), dtype=np.uint8))
    options = {"size": (8, 64), "pad_to_aspect_ratio": True, "pad_value": [200, 10, 30]}
    one = ViTImageProcessor(image_mean=[0.4], image_std=[0.3], **options)
    three = ViTImageProcessor(image_mean=0.4, image_std=0.3, do_grayscale=True, **options)
    left, right = (made(colour, return_tensors="np").pixel_values for made in (one, three))
    assert left.shape == (1, 1, 8, 64)
    assert (left[:, 0, :, :35] == right[:, 0, :, :35]).all()
    luma = round(0.299 * 200 + 0.587 * 10 + 0.114 * 30)
    np.testing.assert_allclose(left[0, 0, :, 40:], (luma / 255 - 0.4) / 0.3, rtol=1e-5)
    both = one([colour, np.asarray(colour), np.asarray(colour) / 255.0], return_tensors="np", size=(9, 40))
    assert (both.pixel_values == both.pixel_values[:1]).all()
    assert one(colour, do_normalize=False, do_rescale=False)["pixel_values"][0].dtype == np.uint8
    plain = one.preprocess(np.full((4, 5), 0.123), return_tensors="np", do_resize=False, pad_value=3)
    np.testing.assert_allclose(plain.pixel_values, np.full((1, 1, 4, 5), (0.123 - 0.4) / 0.3), rtol=1e-6)


def test_one_channel_in_files(tmp_path: Path) -> None:
    grey = ViTImageProcessor(image_mean=[0.5], image_std=[0.25])
    grey.save_pretrained(tmp_path)
    assert load_image_processor(tmp_path) == grey
    assert load_image_processor(tmp_path).num_channels == 1
    assert grey.image_std == (0.25,)


def test_mean_and_deviation_of_different_channels() -> None:
    with pytest.raises(ImageError, match="image_mean has 1 numbers, image_std 3; expected as many of both"):
        ViTImageProcessor(image_mean=[0.5])
    grey = ViTImageProcessor(image_mean=[0.5], image_std=[0.5])
    grey.image_std = 0.5
    with pytest.raises(ImageError, match="image_mean has 1 numbers, image_std 3"):
        grey(line(20))


# ---- files ----


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (TINY_PRINTED, ViTImageProcessor(size=(32, 640), pad_to_aspect_ratio=True, do_convert_rgb=True)),
        (OLD_BASE, ViTImageProcessor(size=384)),
        (V4_FAST, ViTImageProcessor(size=384)),
        (OLD_SMALL, DeiTImageProcessor(size=384, do_center_crop=False)),
    ],
)
def test_files_of_every_age(data: dict[str, object], expected: ViTImageProcessor, tmp_path: Path) -> None:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(data))
    loaded = load_image_processor(tmp_path)
    assert type(loaded) is type(expected)
    assert loaded == expected
    assert type(expected).from_pretrained(tmp_path / "preprocessor_config.json") == expected
    assert load_image_processor(tmp_path, size=5).size == {"height": 5, "width": 5}
    files = loaded.save_pretrained(tmp_path / "new" / "folder")
    assert files == [str(tmp_path / "new" / "folder" / "preprocessor_config.json")]
    assert load_image_processor(tmp_path / "new" / "folder") == expected


def test_the_shipped_file_is_written_as_it_was_read() -> None:
    assert ViTImageProcessor.from_dict(TINY_PRINTED).to_dict() == TINY_PRINTED
    assert "pad_value" not in ViTImageProcessor(pad_value=3).to_dict()


def test_official_file(reference: Path) -> None:
    processor = load_image_processor(reference / "trocr-small-printed")
    assert processor == DeiTImageProcessor(size=384, do_center_crop=False)
    assert processor(line(30), return_tensors="np").pixel_values.shape == (1, 3, 384, 384)


def test_files_of_transformers_5_win_and_are_not_left_behind(tmp_path: Path) -> None:
    nested = {"image_processor": {**OLD_BASE, "size": 7}, "processor_class": "TrOCRProcessor"}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(OLD_BASE))
    (tmp_path / "processor_config.json").write_text(json.dumps(nested))
    assert load_image_processor(tmp_path).size == {"height": 7, "width": 7}
    assert ViTImageProcessor.from_pretrained(tmp_path / "processor_config.json").size["height"] == 7
    ViTImageProcessor(size=9).save_pretrained(tmp_path, processor_class="TrOCRProcessor")
    assert load_image_processor(tmp_path).size == {"height": 9, "width": 9}
    assert json.loads((tmp_path / "processor_config.json").read_text()) == {
        "processor_class": "TrOCRProcessor"
    }
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "preprocessor_config.json",
        "processor_config.json",
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no preprocessor_config.json in it, and no processor_config.json with an image processor"),
        ("{", "preprocessor_config.json: cannot be read as JSON"),
        ("[]", "preprocessor_config.json: holds a list; expected a JSON object"),
        ("{}", "image_processor_type is None; expected one of DeiTFeatureExtractor"),
        ('{"image_processor_type": "CLIPImageProcessor"}', "image_processor_type is 'CLIPImageProcessor'"),
        (
            '{"image_processor_type": "ViTImageProcessor", "size": "big"}',
            r"preprocessor_config.json: size: 'big'",
        ),
        (
            '{"image_processor_type": "ViTImageProcessor", "patch_size": 8}',
            "json: not settings of ViTImageProcessor: patch_size=8; it has do_convert_rgb",
        ),
    ],
)
def test_files_that_hold_no_settings(content: str | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "preprocessor_config.json").write_text(content)
    with pytest.raises(ImageError, match=message):
        load_image_processor(tmp_path)


def test_a_save_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ViTImageProcessor(size=5).save_pretrained(tmp_path)

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("trocr.image_settings.os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        ViTImageProcessor(size=6).save_pretrained(tmp_path)
    monkeypatch.undo()
    assert load_image_processor(tmp_path).size["height"] == 5
    assert [path.name for path in tmp_path.iterdir()] == ["preprocessor_config.json"]


def test_importing_it_does_not_import_torch() -> None:
    code = "import sys, trocr.image; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
