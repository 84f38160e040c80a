"""Pixels out of numpy arrays and torch tensors, and what a number in them means.

Every type of number has one reading:

- bool: black and white. uint8: levels.
- uint16: the full 16 bits, `round(v / 257)`.
- other integers, which say nothing about their range: values within 0..255 are levels, values within 0..65535
  are 16-bit, anything else is an error.
- floating point: values within 0..1 are fractions of white, values within 0..255 are levels, anything else is
  an error. The range is that of the one image, not of its batch.

Source: transformers 5.23 `image_utils.py`, `image_transforms.py` (order of channels, white background).
Differs: transformers reads bool arrays, and float arrays of nothing but 0 and 1, as levels 0 and 1 (black),
refuses floating point values between the levels, and refuses uint16 above 255.
"""

import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

CHANNELS_FIRST = "channels_first"
CHANNELS_LAST = "channels_last"

_CHANNEL_COUNTS = (1, 3, 4)

Array = npt.NDArray[Any]


class ImageError(ValueError):
    """An image cannot be read, or image settings cannot be used.

    The message names the image, what was found, what was expected, and what to do.
    """


@dataclass(frozen=True, slots=True)
class Pixels:
    """An image as it came in, before it is resized.

    Attributes:
        data: 8-bit PIL image of mode "L" (grey: all three channels are the same) or "RGB", or a floating
            point array, (H, W) or (H, W, 3), in 0..1 or 0..255.
        is_fraction: the source was floating point in 0..1.
    """

    data: Image.Image | Array
    is_fraction: bool = False

    def to_image(self) -> Image.Image:
        """8-bit image, mode "L" or "RGB".

        Fractions become `floor(255 * v)`, as in transformers; levels are rounded.
        """
        if isinstance(self.data, Image.Image):
            return self.data
        if self.is_fraction:
            levels = (self.data.astype(np.float64) * 255).astype(np.float32)
        else:
            levels = np.rint(self.data)
        return Image.fromarray(levels.astype(np.uint8))


def is_array(source: Any) -> bool:
    """Whether it is a numpy array or a torch tensor. Does not import torch: whoever holds a tensor has."""
    torch = sys.modules.get("torch")
    return isinstance(source, np.ndarray) or (torch is not None and isinstance(source, torch.Tensor))


def to_numpy(array: Any) -> Array:
    """The numpy array of an array or a torch tensor, from any device; bfloat16 becomes float32."""
    if isinstance(array, np.ndarray):
        return array
    tensor = array.detach().cpu()
    if str(tensor.dtype) == "torch.bfloat16":
        tensor = tensor.float()
    return np.asarray(tensor.numpy())


def read_array(array: Array, input_data_format: str | None, label: str) -> Pixels:
    """Pixels of one image.

    Args:
        array: (H, W), (H, W, C) or (C, H, W), C being 1 (grey), 3 (RGB) or 4 (RGBA, laid on white).
        input_data_format: "channels_first", "channels_last", or None: channels are the first axis if it could
            be (1, 3 or 4 long), else the last, as in transformers.
        label: what errors call the image.

    Raises:
        ImageError: shape, type or values are not those of an image.
    """
    kind = array.dtype.kind
    if kind not in "buif":
        raise ImageError(f"{label}: not numbers; expected bool, uint8, uint16, another integer type or float")
    array = _channels_last(array, input_data_format, label)
    if array.size == 0:
        raise ImageError(f"{label}: no pixels; expected height and width of at least 1: check the crop")
    if array.shape[-1] == 1:
        array = array[..., 0]
    if kind != "f":
        image = Image.fromarray(np.ascontiguousarray(_integer_levels(array, label)))
        return Pixels(on_white(image) if image.mode == "RGBA" else image)
    white = _float_white(array, label)
    if array.ndim == 3 and array.shape[-1] == 4:
        alpha = array[..., 3:] / white
        array = alpha * array[..., :3] + (1 - alpha) * white
    return Pixels(array, is_fraction=white == 1)


def on_white(image: Image.Image) -> Image.Image:
    """RGB of an RGBA image laid on white."""
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, image).convert("RGB")


def _channels_last(array: Array, input_data_format: str | None, label: str) -> Array:
    """(H, W, C) view of an array."""
    if input_data_format not in (None, CHANNELS_FIRST, CHANNELS_LAST):
        raise ImageError(
            f"input_data_format: {input_data_format!r}; expected {CHANNELS_FIRST!r}, {CHANNELS_LAST!r} or "
            "None"
        )
    if array.ndim == 2:
        return array[..., None]
    if array.ndim != 3:
        raise ImageError(
            f"{label}: {array.ndim} dimensions; expected (H, W), (H, W, C) or (C, H, W), or a batch of "
            "those, as a list or a 4-D array"
        )
    if input_data_format is None:
        first = array.shape[0] in _CHANNEL_COUNTS
    else:
        first = input_data_format == CHANNELS_FIRST
    array = np.moveaxis(array, 0, -1) if first else array
    if array.shape[-1] not in _CHANNEL_COUNTS:
        raise ImageError(
            f"{label}: no axis of 1, 3 or 4 channels where input_data_format={input_data_format!r} looks for "
            "it; expected (H, W, C) or (C, H, W): put the grey images of a batch in a list"
        )
    return array


def _integer_levels(array: Array, label: str) -> Array:
    """uint8 levels of an integer or bool array; the table in the module's header."""
    kind, size = array.dtype.kind, array.dtype.itemsize
    if kind == "b":
        return array.astype(np.uint8) * np.uint8(255)
    if kind == "u" and size == 1:
        return array
    low, high = int(array.min()), int(array.max())
    if low < 0 or high > 65535:
        raise ImageError(f"{label}: values {low}..{high}; expected 0..255 or 0..65535: scale them")
    if high <= 255 and not (kind == "u" and size == 2):
        return array.astype(np.uint8)
    return ((array.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _float_white(array: Array, label: str) -> float:
    """What white is in a floating point array: 1 or 255."""
    low, high = float(array.min()), float(array.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ImageError(f"{label}: NaN or infinite values; expected finite ones, in 0..1 or 0..255")
    if low < 0 or high > 255:
        raise ImageError(
            f"{label}: values {low:g}..{high:g}; expected 0..1 or 0..255: scale them (pixels that are "
            "normalised already go to the model as they are)"
        )
    return 1.0 if high <= 1 else 255.0
