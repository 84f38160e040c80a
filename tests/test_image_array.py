"""What numbers in arrays mean, channel order, and arrays that are no images."""

import numpy as np
import pytest
import torch
from PIL import Image

from trocr.image import ImageError, open_image
from trocr.image_array import is_array, read_array, to_numpy


def levels_of(array: object, **options: str) -> np.ndarray:
    return np.asarray(open_image(array, **options))


def grey(*values: float) -> np.ndarray:
    return np.array([values])


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (grey(0, 7, 255).astype(np.uint8), [0, 7, 255]),
        (grey(False, True), [0, 255]),
        (grey(0, 128, 129, 257, 32896, 65535).astype(np.uint16), [0, 0, 1, 1, 128, 255]),
        (grey(0, 257, 65535).astype(">u2"), [0, 1, 255]),
        (grey(0, 7, 255).astype(np.int64), [0, 7, 255]),
        (grey(0, 257, 65535).astype(np.int32), [0, 1, 255]),
        (grey(0, 5, 127).astype(np.int8), [0, 5, 127]),
        (grey(0, 0.5, 1), [0, 127, 255]),
        (grey(0, 0.5, 1).astype(np.float16), [0, 127, 255]),
        (grey(0.0, 1.0, 1.0), [0, 255, 255]),
        (grey(0, 1, 1.5, 2.5, 254.6, 255), [0, 1, 2, 2, 255, 255]),
    ],
    ids=lambda value: str(value.dtype) if isinstance(value, np.ndarray) else "",
)
def test_every_number_has_one_reading(array: np.ndarray, expected: list[int]) -> None:
    levels = levels_of(array)
    assert levels[0, :, 0].tolist() == expected
    assert (levels == levels[..., :1]).all()  # grey: three equal channels


def test_floats_made_of_levels_come_back_as_they_were() -> None:
    levels = np.arange(256, dtype=np.uint8)[None]
    for fractions in (levels / 255, levels.astype(np.float32) / 255, levels * np.float32(1 / 255)):
        assert (levels_of(fractions)[..., 0] == levels).all()


@pytest.mark.parametrize("kind", ["numpy", "torch"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_channels_are_found_at_either_end(channels: int, kind: str) -> None:
    last = np.random.default_rng(channels).integers(0, 256, (5, 7, channels), dtype=np.uint8)
    if channels == 4:
        last[..., 3] = 255
    first = np.ascontiguousarray(last.transpose(2, 0, 1))
    expected = np.broadcast_to(last[..., :3], (5, 7, 3))
    for array in (last, first):
        assert (levels_of(torch.from_numpy(array) if kind == "torch" else array) == expected).all()


def test_ambiguous_order_is_channels_first_unless_told() -> None:
    array = np.arange(27, dtype=np.uint8).reshape(3, 3, 3)
    assert (levels_of(array) == array.transpose(1, 2, 0)).all()
    assert (levels_of(array, input_data_format="channels_first") == array.transpose(1, 2, 0)).all()
    assert (levels_of(array, input_data_format="channels_last") == array).all()


def test_transparent_floats_are_laid_on_white() -> None:
    array = np.zeros((2, 3, 4))
    array[..., 3] = [0, 0.5, 1]
    assert levels_of(array)[0, :, 0].tolist() == [255, 127, 0]
    assert levels_of(array * 255)[0, :, 0].tolist() == [255, 128, 0]  # levels are rounded, fractions cut


def test_the_array_is_left_alone() -> None:
    array = np.random.default_rng(0).integers(0, 256, (4, 5, 4), dtype=np.uint8)
    before = array.copy()
    open_image(array)
    assert (array == before).all()


def test_tensors_that_numpy_cannot_hold_directly() -> None:
    tensor = torch.tensor([[0.0, 0.5, 1.0]], requires_grad=True)
    assert levels_of(tensor)[0, :, 0].tolist() == [0, 127, 255]
    assert levels_of(tensor.to(torch.bfloat16))[0, :, 0].tolist() == [0, 127, 255]
    assert to_numpy(tensor.bfloat16()).dtype == np.float32
    assert is_array(tensor)
    assert not is_array([1, 2])


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((0, 5), np.uint8), r"array of shape \(0, 5\), uint8: no pixels"),
        (np.zeros((4, 0, 3), np.uint8), "no pixels; expected height and width of at least 1"),
        (np.zeros(5, np.uint8), r"1 dimensions; expected \(H, W\)"),
        (np.zeros((1, 2, 3, 4, 5), np.uint8), "5 dimensions"),
        (
            np.zeros((5, 6, 2), np.uint8),
            "no axis of 1, 3 or 4 channels.*: put the grey images",
        ),
        (np.zeros((4, 4), complex), "complex128: not numbers; expected bool, uint8"),
        (np.full((4, 4), "x"), "not numbers"),
        (np.full((4, 4), None), "object: not numbers"),
        (np.full((2, 2), np.nan), "NaN or infinite values; expected finite ones"),
        (np.array([[0, np.inf]]), "NaN or infinite"),
        (
            np.array([[-1.0, 1.0]]),
            r"values -1..1; expected 0..1 or 0..255.*already go to the model",
        ),
        (np.array([[0.0, 256.0]]), r"values 0..256"),
        (np.array([[-1, 1]]), r"values -1..1; expected 0..255 or 0..65535"),
        (np.array([[0, 65536]]), r"values 0..65536"),
    ],
)
def test_arrays_that_are_no_images(array: np.ndarray, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        open_image(array)


def test_channel_order_must_be_one_of_two() -> None:
    array = np.zeros((3, 5, 6), np.uint8)
    with pytest.raises(ImageError, match="input_data_format: 'CHW'; expected 'channels_first'"):
        open_image(array, input_data_format="CHW")
    with pytest.raises(ImageError, match="where input_data_format='channels_last' looks for it"):
        open_image(array, input_data_format="channels_last")


def test_grey_stays_grey_and_fractions_stay_exact() -> None:
    assert read_array(np.zeros((2, 3), np.uint8), None, "").data.mode == "L"
    values = np.random.default_rng(0).random((5, 4, 3), dtype=np.float32)
    pixels = read_array(values, None, "")
    assert pixels.is_fraction
    assert pixels.data is not None
    assert not isinstance(pixels.data, Image.Image)
    assert (pixels.data == values).all()
