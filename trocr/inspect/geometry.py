"""Where the pixels of an image went on their way into the model, and the patches of the model on the image.

Source: `trocr.image`, whose steps this repeats for coordinates.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trocr.image import ImageProcessor

Floats = npt.NDArray[np.floating]


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """A map from the pixels of an image to those of the model's input: p * scale + offset.

    Attributes:
        image_hw: (height, width) of the image.
        input_hw: (height, width) of the model's input.
        scale: (vertical, horizontal) pixels of the input for one of the image.
        offset: (vertical, horizontal) place of the image's top left corner in the input.
        patch_hw: (height, width) of a patch in pixels of the input.
        grid: (rows, columns) of patches.
    """

    image_hw: tuple[int, int]
    input_hw: tuple[int, int]
    scale: tuple[float, float]
    offset: tuple[float, float]
    patch_hw: tuple[int, int]
    grid: tuple[int, int]

    @classmethod
    def of(
        cls,
        processor: ImageProcessor,
        image_hw: tuple[int, int],
        *,
        patch_hw: tuple[int, int],
        grid: tuple[int, int],
    ) -> "Geometry":
        """Follow an image through a processor: resizing, padding on the right, cropping."""
        height, width = image_hw
        line = canvas = image_hw
        if processor.do_resize:
            line = canvas = processor.size["height"], processor.size["width"]
            if processor.pad_to_aspect_ratio:
                line = canvas[0], min(canvas[1], max(1, round(width * canvas[0] / height)))
        offset = (0.0, 0.0)
        if processor.do_center_crop:
            crop = processor.crop_size["height"], processor.crop_size["width"]
            offset = -float((canvas[0] - crop[0]) // 2), -float((canvas[1] - crop[1]) // 2)
            canvas = crop
        scale = line[0] / height, line[1] / width
        return cls(
            image_hw=image_hw, input_hw=canvas, scale=scale, offset=offset, patch_hw=patch_hw, grid=grid
        )

    @property
    def box(self) -> tuple[float, float, float, float]:
        """(left, top, width, height) of all patches together, in fractions of the image's size."""
        (top, left), (height, width) = (self._to_image(edge) for edge in ((0, 0), self.grid))
        return left, top, width - left, height - top

    def _to_image(self, edge: tuple[int, int]) -> tuple[float, float]:
        """Place of a corner of patches (row, column) as fractions of the image's height and width."""
        y, x = (
            (edge[axis] * self.patch_hw[axis] - self.offset[axis]) / self.scale[axis] / self.image_hw[axis]
            for axis in (0, 1)
        )
        return y, x

    def patch_of(self, axis: int) -> npt.NDArray[np.int_]:
        """Number the patches of pixels along the height (0) or width (1); -1 where the model sees none."""
        middles = np.arange(self.image_hw[axis]) + 0.5
        places = np.floor((middles * self.scale[axis] + self.offset[axis]) / self.patch_hw[axis]).astype(int)
        return np.where((places >= 0) & (places < self.grid[axis]), places, -1)

    def to_pixels(self, patches: Floats) -> Floats:
        """Lay values of patches (..., rows, columns) on the image, (..., height, width); 0 outside them."""
        rows, columns = self.patch_of(0), self.patch_of(1)
        laid: Floats = patches[..., rows[:, None], columns[None, :]]
        return laid * ((rows >= 0)[:, None] & (columns >= 0)[None, :])

    def on_image(self) -> npt.NDArray[np.bool_]:
        """Which patches (rows, columns) show a part of the image, not only what it was padded with."""
        touched = []
        for axis in (0, 1):
            edges = np.arange(self.grid[axis] + 1) * self.patch_hw[axis]
            start = self.offset[axis]
            end = start + self.image_hw[axis] * self.scale[axis]
            touched.append((edges[1:] > start) & (edges[:-1] < end))
        shown: npt.NDArray[np.bool_] = touched[0][:, None] & touched[1][None, :]
        return shown
