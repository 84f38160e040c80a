"""Whether a degraded line still shows the text that was drawn.

Source: original work.
"""

from functools import cached_property

import numpy as np
from PIL import Image

MOST_STRIPS = 8
"""Parts of a line, from left to right, that are looked at one by one; each is at least as wide as high."""

CONTRAST = 0.25
"""Share of the contrast that was drawn, between ink and paper, that a column needs to count as inked."""

LEAST_TEXT = 0.3
"""Inked columns that a strip has text with, as a share of those of the strip that has most."""

SHARE_OF_COLUMNS = 0.5
"""Share of a strip's inked columns that must still be inked."""

SHARE_OF_STRIPS = 0.75
"""Share of the strips with text that must still have it."""


class Legibility:
    """What a line showed when it was drawn, to compare degraded images with.

    Args:
        image: the line as it was drawn.
        contrast: of ink and paper, as a share of the paper's brightness, 0..1.
    """

    def __init__(self, image: Image.Image, contrast: float) -> None:
        self.image = image
        self.contrast = contrast
        self.num_strips = min(MOST_STRIPS, max(1, image.width // image.height))

    @cached_property
    def drawn(self) -> np.ndarray:
        """Share of inked columns in each strip of the line as it was drawn."""
        return _inked(self.image, CONTRAST * self.contrast, self.num_strips)

    def holds(self, image: Image.Image, *, is_binary: bool = False) -> bool:
        """Whether most strips that had ink still have it; strips are compared by their place in the width.

        Args:
            image: the line after a degradation, without noise.
            is_binary: it is black and white now, maybe with specks; these do not count as ink.
        """
        contrast = 1.0 if is_binary else self.contrast
        seen = image.reduce(2) if is_binary else image
        left = _inked(seen, CONTRAST * contrast, self.num_strips)
        has_text = self.drawn > LEAST_TEXT * self.drawn.max()
        kept = (left >= SHARE_OF_COLUMNS * self.drawn)[has_text]
        return bool(kept.mean() >= SHARE_OF_STRIPS) if len(kept) else True


def _inked(image: Image.Image, least: float, num_strips: int) -> np.ndarray:
    """Share of columns with ink in each strip: those whose darkest pixel is darker than their brightest."""
    values = np.asarray(image)
    bright, dark = values.max(axis=0).astype(np.float32), values.min(axis=0)
    is_inked = bright - dark > least * bright
    bounds = np.arange(num_strips + 1) * len(is_inked) // num_strips
    counts = np.concatenate([[0], np.cumsum(is_inked)])[bounds]
    return (counts[1:] - counts[:-1]) / np.maximum(1, bounds[1:] - bounds[:-1])
