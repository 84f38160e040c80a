"""Elastic distortion: every pixel moves a little, neighbours alike.

Source: Simard, Steinkraus and Platt 2003, "Best practices for convolutional neural networks applied to visual
document analysis". Differs: the field is random numbers on a coarse grid, scaled up by cubic interpolation,
instead of white noise under a Gaussian, which costs much more.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image


@dataclass(frozen=True)
class Elastic:
    """Move pixels by a smooth random field; what comes from outside repeats the edge.

    Attributes:
        strength: largest shift, as a share of the image's height.
        scale: distance between the field's grid points, as a share of the image's height.
    """

    strength: float = 0.06
    scale: float = 0.4

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        """Distort; the size stays."""
        values = np.asarray(image, dtype=np.float32)
        height, width = values.shape[:2]
        rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
        rows += self._field(height, width, rng)
        columns += self._field(height, width, rng)
        return Image.fromarray(np.rint(_sample(values, rows, columns)).astype(np.uint8))

    def _field(self, height: int, width: int, rng: np.random.Generator) -> np.ndarray:
        step = max(2.0, self.scale * height)
        shape = (max(2, round(height / step) + 1), max(2, round(width / step) + 1))
        coarse = rng.uniform(-1, 1, shape).astype(np.float32)
        smooth = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        return np.asarray(smooth) * np.float32(self.strength * height)


def _sample(values: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Values at fractional places, by bilinear interpolation."""
    height, width = values.shape[:2]
    rows, columns = rows.clip(0, height - 1), columns.clip(0, width - 1)
    top, left = np.floor(rows).astype(np.intp), np.floor(columns).astype(np.intp)
    bottom, right = np.minimum(top + 1, height - 1), np.minimum(left + 1, width - 1)
    down, across = rows - top, columns - left
    if values.ndim == 3:
        down, across = down[..., None], across[..., None]
    upper = values[top, left] * (1 - across) + values[top, right] * across
    lower = values[bottom, left] * (1 - across) + values[bottom, right] * across
    return upper * (1 - down) + lower * down
