"""Image processors against transformers' Pillow backend: the same bits."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from trocr.image import DeiTImageProcessor, ViTImageProcessor, load_image_processor, open_image

transformers = pytest.importorskip("transformers", reason="the reference implementation is not installed")
CLASSES = {
    "vit": (ViTImageProcessor, transformers.ViTImageProcessorPil),
    "deit": (DeiTImageProcessor, transformers.DeiTImageProcessorPil),
}
OFFICIAL = {  # model size -> family, settings of its preprocessor_config.json
    "base": ("vit", {"size": 384, "resample": 2}),
    "small": ("deit", {"size": 384, "resample": 3, "do_center_crop": False, "crop_size": 224}),
}
SIZES = [(1, 1), (1, 97), (97, 1), (2, 3), (64, 900), (1500, 7), (384, 384), (383, 385), (31, 17), (600, 800)]


def noise(height: int, width: int, seed: int = 0) -> Image.Image:
    levels = np.random.default_rng((seed, height, width)).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(levels)


def assert_same_bits(ours: np.ndarray, theirs: np.ndarray) -> None:
    assert ours.dtype == theirs.dtype
    assert ours.shape == theirs.shape
    assert ours.tobytes() == np.ascontiguousarray(theirs).tobytes()


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("model", OFFICIAL)
def test_official_settings(model: str, size: tuple[int, int]) -> None:
    family, config = OFFICIAL[model]
    ours, theirs = (cls(**config) for cls in CLASSES[family])
    image = noise(*size)
    assert_same_bits(
        ours(image, return_tensors="np").pixel_values, theirs(image, return_tensors="np").pixel_values
    )


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("do_normalize", [True, False])
def test_grey_images_of_one_channel(size: tuple[int, int], do_normalize: bool) -> None:
    config = {"size": (32, 48), "image_mean": [0.4], "image_std": [0.3], "do_normalize": do_normalize}
    ours, theirs = ViTImageProcessor(**config), transformers.ViTImageProcessorPil(**config)
    grey, colour = noise(*size).convert("L"), noise(*size)
    made = ours(grey, return_tensors="np").pixel_values
    assert made.shape == (1, 1, 32, 48)
    assert_same_bits(made, theirs(grey, return_tensors="np").pixel_values)
    assert_same_bits(ours(colour, return_tensors="np").pixel_values, made)


SETTINGS = st.fixed_dictionaries(
    {},
    optional={
        "do_resize": st.booleans(),
        "size": st.sampled_from([384, (32, 640), {"height": 17, "width": 5}, [1, 1], 100]),
        "resample": st.integers(0, 5),
        "crop_size": st.sampled_from([10, (33, 400), 224, (501, 3), (384, 385)]),
        "do_rescale": st.booleans(),
        "rescale_factor": st.sampled_from([1 / 255, 1 / 127.5, 0.1]),
        "do_normalize": st.booleans(),
        "image_mean": st.sampled_from([[0.485, 0.456, 0.406], 0.3]),
        "image_std": st.sampled_from([[0.229, 0.224, 0.225], 0.7]),
    },
)


@settings(max_examples=150, deadline=None)
@given(
    family=st.sampled_from(sorted(CLASSES)),
    config=SETTINGS,
    crop=st.booleans(),
    per_call=st.booleans(),
    size=st.tuples(st.integers(1, 130), st.integers(1, 130)),
)
def test_any_settings(
    family: str, config: dict[str, object], crop: bool, per_call: bool, size: tuple[int, int]
) -> None:
    if crop:
        config = {"crop_size": 90, **config, "do_center_crop": True}
    image = noise(*size)
    if per_call:
        ours, theirs = (cls()(image, return_tensors="np", **config) for cls in CLASSES[family])
    else:
        ours, theirs = (cls(**config)(image, return_tensors="np") for cls in CLASSES[family])
    assert_same_bits(ours.pixel_values, theirs.pixel_values)


def batches() -> dict[str, object]:
    levels = np.stack([np.asarray(noise(20, 30, seed)) for seed in range(4)])
    tensor = torch.from_numpy(levels)
    return {
        "list of PIL": [noise(20 + i, 30) for i in range(3)],
        "tuple of PIL": (noise(20, 30),),
        "nested lists": [[noise(20, 30)], [noise(21, 30), noise(22, 3)]],
        "HWC array": levels[0],
        "CHW array": levels[0].transpose(2, 0, 1),
        "BHWC array": levels,
        "BCHW array": levels.transpose(0, 3, 1, 2),
        "list of arrays": list(levels),
        "list of batches": [levels, levels[:2]],
        "CHW tensor": tensor[0].permute(2, 0, 1),
        "BHWC tensor": tensor,
        "list of tensors": list(tensor.permute(0, 3, 1, 2)),
        "int64 tensor": tensor[0].long(),
        "ambiguous 3x3x3": levels[0, :3, :3],
        "ambiguous 3x20x3": levels[0, :3, :20],
        "float levels": levels[0].astype(np.float32),
        "float16 levels": levels[0].astype(np.float16),
    }


@pytest.mark.parametrize("name", batches())
def test_forms_of_a_batch(name: str) -> None:
    images = batches()[name]
    ours, theirs = ViTImageProcessor(size=(32, 48)), transformers.ViTImageProcessorPil(size=(32, 48))
    assert_same_bits(
        ours(images, return_tensors="np").pixel_values, theirs(images, return_tensors="np").pixel_values
    )


@pytest.mark.parametrize("data_format", ["channels_first", "channels_last"])
def test_explicit_channel_order(data_format: str) -> None:
    array = np.asarray(noise(3, 3))
    ours, theirs = (cls(size=8) for cls in CLASSES["vit"])
    assert_same_bits(
        ours(array, return_tensors="np", input_data_format=data_format).pixel_values,
        theirs(array, return_tensors="np", input_data_format=data_format).pixel_values,
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_fractions_that_are_not_rescaled(dtype: type) -> None:
    """The one way in which transformers reads floating point images in 0..1 right."""
    array = np.random.default_rng(0).random((40, 30, 3)).astype(dtype)
    ours, theirs = (cls(size=16, do_rescale=False) for cls in CLASSES["vit"])
    assert_same_bits(
        ours(array, return_tensors="np").pixel_values, theirs(array, return_tensors="np").pixel_values
    )
    ours.do_resize = theirs.do_resize = False  # nothing is made 8-bit then
    assert_same_bits(
        ours(array, return_tensors="np").pixel_values,
        theirs(array, return_tensors="np").pixel_values.astype(np.float32),
    )


@pytest.mark.parametrize("return_tensors", [None, "np", "pt"])
def test_return_types(return_tensors: str | None) -> None:
    images = [noise(10, 20), noise(5, 6)]
    ours, theirs = (cls(size=24)(images, return_tensors=return_tensors) for cls in CLASSES["vit"])
    assert type(ours.pixel_values) is type(theirs.pixel_values)
    assert list(ours.keys()) == list(theirs.keys())
    for mine, other in zip(ours.pixel_values, theirs.pixel_values, strict=True):
        assert_same_bits(np.asarray(mine), np.asarray(other))


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "YCbCr", "1", "HSV"])
def test_modes_that_transformers_converts(mode: str) -> None:
    image = noise(30, 40).convert("RGBA")
    image.putalpha(noise(30, 40, seed=1).convert("L"))
    image = (
        image.convert(mode)
        if mode == "RGBA"
        else image.convert("LA" if mode == "LA" else "RGB").convert(mode)
    )
    ours = ViTImageProcessor(size=(30, 41))
    theirs = transformers.ViTImageProcessorPil(size=(30, 41), do_convert_rgb=True)
    assert_same_bits(
        ours(image, return_tensors="np").pixel_values, theirs(image, return_tensors="np").pixel_values
    )


def test_rgba_array_is_laid_on_white_as_transformers_does() -> None:
    levels = np.random.default_rng(0).integers(0, 256, (256, 256, 4), dtype=np.uint8)
    levels[..., 3] = np.arange(256)
    theirs = transformers.image_transforms.convert_to_rgb(levels, return_numpy=True)
    assert (np.asarray(open_image(levels)) == theirs).all()


@pytest.mark.parametrize("family", CLASSES)
def test_files_go_both_ways(family: str, tmp_path: Path) -> None:
    cls, reference = CLASSES[family]
    config = {
        "size": (40, 64),
        "resample": 3,
        "image_mean": [0.1, 0.2, 0.3],
        "do_center_crop": True,
        "crop_size": 30,
    }
    image = noise(33, 77)
    cls(**config).save_pretrained(tmp_path / "ours")
    reference(**config).save_pretrained(tmp_path / "theirs")
    back = transformers.AutoImageProcessor.from_pretrained(tmp_path / "ours", backend="pil")
    assert type(back) is reference
    loaded = load_image_processor(tmp_path / "theirs")
    assert type(loaded) is cls
    assert loaded == cls(**config)
    assert_same_bits(
        loaded(image, return_tensors="np").pixel_values, back(image, return_tensors="np").pixel_values
    )


def test_defaults_are_those_of_transformers() -> None:
    for cls, reference in CLASSES.values():
        theirs = {key: value for key, value in reference().to_dict().items() if key != "image_processor_type"}
        ours = cls()
        assert {key: getattr(ours, key) for key in theirs} == theirs
