"""Arithmetic on pixels: cropping, and levels to numbers, rounding where the reference rounds.

Source: transformers 5.23 `image_transforms.py` (`rescale`: float64, then float32; `normalize`: float32;
`center_crop`: where an odd pixel goes).
"""

from functools import lru_cache

import numpy as np

from trocr.image_array import Array


def center_crop(array: Array, height: int, width: int) -> Array:
    """Middle (height, width) of an (H, W, ...) array; black around it where the array is smaller."""
    cropped = np.zeros((height, width, *array.shape[2:]), array.dtype)
    targets, sources = [], []
    for have, want in zip(array.shape, (height, width), strict=False):
        # Odd differences: one pixel more is cut off at the end, one more is padded at the start.
        offset = (have - want) // 2
        targets.append(slice(max(0, -offset), max(0, -offset) + min(have, want)))
        sources.append(slice(max(0, offset), max(0, offset) + min(have, want)))
    cropped[tuple(targets)] = array[tuple(sources)]
    return cropped


def write_pixels(
    target: Array,
    array: Array,
    factor: float | None,
    mean: tuple[float, ...] | None,
    std: tuple[float, ...] | None,
) -> None:
    """Rescale and normalise an image into a given array.

    8-bit images are looked up in a table of 256 numbers a channel.

    Args:
        target: (C, H, W) float32, C 3 or 1; or uint8, for levels that stay as they are.
        array: (H, W), or (H, W, 3) where C is 3.
        factor: what values are multiplied by; None: nothing.
        mean, std: per channel, subtracted and divided by; None: not normalised.
    """
    channels = len(target)
    planes = [array] * channels if array.ndim == 2 else [array[..., channel] for channel in range(3)]
    if array.dtype != np.uint8:
        target[...] = _scale(np.stack(planes), factor, mean, std)
        return
    table = _table(channels, factor, mean, std).astype(target.dtype, copy=False)
    grey = array.ndim == 2 and bool((table == table[0]).all())
    for channel in range(channels):
        if grey and channel > 0:
            target[channel] = target[0]
        else:
            np.take(table[channel], planes[channel], out=target[channel], mode="clip")  # "clip": unbuffered


@lru_cache(maxsize=16)
def _table(
    channels: int, factor: float | None, mean: tuple[float, ...] | None, std: tuple[float, ...] | None
) -> Array:
    """(C, 256): what each level of each channel becomes."""
    levels = np.broadcast_to(np.arange(256, dtype=np.uint8)[:, None], (channels, 256, 1))
    table = _scale(levels, factor, mean, std)[..., 0]
    table.flags.writeable = False
    return table


def _scale(
    planes: Array, factor: float | None, mean: tuple[float, ...] | None, std: tuple[float, ...] | None
) -> Array:
    """Rescale and normalise (C, H, W) values, rounding where the reference rounds."""
    if factor is not None:
        planes = (planes.astype(np.float64) * factor).astype(np.float32)
    if mean is None or std is None:
        return planes
    if planes.dtype not in (np.float32, np.float64):
        planes = planes.astype(np.float32)
    columns = np.array([mean, std], planes.dtype)[..., None, None]
    return np.asarray((planes - columns[0]) / columns[1])
