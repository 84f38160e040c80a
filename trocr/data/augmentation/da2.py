"""The paper's augmentation of printed and handwritten lines: one of seven operations, each as likely.

Source: arXiv:2109.10282 sec. 3.1 ("Data Augmentation"); what the operations do is fixed by unilm
`trocr/data_aug.py` (`build_data_aug`, commit 35b5eac) and torchvision's RandomRotation and GaussianBlur.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

DEGREES = 10.0
"""Largest rotation, to both sides."""

BLUR_SIGMA = (0.1, 2.0)
"""Range of the blur's standard deviation in pixels, under a kernel of 3 x 3."""

INK = 50
"""Grey level below which a pixel counts as ink when the place of an underline is looked for."""

UNDERLINE_ROWS = 3

Operation = Callable[[Image.Image, np.random.Generator], Image.Image]


def rotate(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Rotate by up to ten degrees; the image grows, its corners are white. Nearest neighbour."""
    angle = float(rng.uniform(-DEGREES, DEGREES))
    white = 255 if image.mode == "L" else (255, 255, 255)
    return image.rotate(angle, Image.Resampling.NEAREST, expand=True, fillcolor=white)


def blur(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Blur by a Gaussian kernel of 3 x 3; at the edges the image is mirrored."""
    sigma = float(rng.uniform(*BLUR_SIGMA))
    weights = np.exp(-0.5 * (np.array([-1.0, 0.0, 1.0]) / sigma) ** 2)
    weights /= weights.sum()
    if min(image.size) < 2:
        return image  # nothing to mirror
    values = np.asarray(image, dtype=np.float32)
    padded = np.pad(values, [(1, 1), (1, 1)] + [(0, 0)] * (values.ndim - 2), mode="reflect")
    height, width = values.shape[:2]
    found = np.zeros_like(values)
    for row in range(3):
        for column in range(3):
            part = padded[row : row + height, column : column + width]
            found += np.float32(weights[row] * weights[column]) * part
    return Image.fromarray(np.rint(found).astype(np.uint8))


def dilate(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Take the brightest of 3 x 3 pixels: what the paper calls dilation thins dark ink."""
    return image.filter(ImageFilter.MaxFilter(3))


def erode(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Take the darkest of 3 x 3 pixels, which thickens dark ink."""
    return image.filter(ImageFilter.MinFilter(3))


@dataclass(frozen=True)
class Downscale:
    """Scale to a third of the size that the model takes, nearest neighbour; the processor scales up again.

    Attributes:
        image_hw: (height, width) of the model's images in pixels.
        keeps_aspect: the processor scales lines by their height and pads them: so does this.
    """

    image_hw: tuple[int, int]
    keeps_aspect: bool = False

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        """Scale; see the class."""
        height, width = self.image_hw[0] // 3, self.image_hw[1] // 3
        if self.keeps_aspect:
            width = round(image.width * height / image.height)
        return image.resize((max(1, width), max(1, height)), Image.Resampling.NEAREST)


def underline(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Draw a black line of three rows at the lowest ink, from the leftmost ink to the rightmost.

    An image without ink stays as it is. Differs: unilm writes into the image that it was given; rows above
    the image's top are left out.
    """
    rows, columns = np.nonzero(np.asarray(image.convert("L")) < INK)
    if len(rows) == 0:
        return image
    bottom, left, right = int(rows.max()), int(columns.min()), int(columns.max())
    values = np.array(image)
    values[max(0, bottom - UNDERLINE_ROWS + 1) : bottom + 1, left:right] = 0
    return Image.fromarray(values)


def keep(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Change nothing."""
    return image


@dataclass(frozen=True)
class DA2:
    """One of the seven operations, each with the same probability.

    Attributes:
        image_hw: (height, width) of the model's images in pixels.
        keeps_aspect: see `Downscale`.
    """

    image_hw: tuple[int, int]
    keeps_aspect: bool = False

    @property
    def operations(self) -> tuple[Operation, ...]:
        """The seven, in the order of the source."""
        return (rotate, blur, dilate, erode, Downscale(self.image_hw, self.keeps_aspect), underline, keep)

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        """Apply one."""
        return self.operations[rng.integers(7)](image, rng)
