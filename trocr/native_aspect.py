"""Line images at their own aspect ratio, for models whose processor squeezes every image into a square.

The official models read lines scaled to 384 x 384 pixels: a line ten times as wide as high is stretched
tenfold in height. Here a line gets a grid of patches of its own shape with as many patches or fewer, and the
encoder's positions are interpolated to that grid (`interpolate_pos_encoding=True`). Small lines then cost a
fraction of the arithmetic.

The models have not seen such images in training: whether their text survives it is for a comparison on lines
with known texts to say, and it was not measured with official weights here. After some fine-tuning on such
images it is an ordinary input.

Source: arXiv:2210.03347 sec. 3.1 (Pix2Struct) and arXiv:2307.06304 (NaViT) for patches at the image's own
aspect ratio within a budget; arXiv:2010.11929 sec. 3.2 for interpolated positions.
"""

import math
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from trocr.config import ViTConfig
from trocr.image import ImageProcessor, open_image

if TYPE_CHECKING:
    from torch import Tensor


class NativeAspectError(ValueError):
    """Encoding at an image's own aspect ratio that a model, a processor or numbers do not allow."""


def choose_grid(
    image_hw: tuple[int, int],
    *,
    patch_hw: tuple[int, int],
    max_patches: int,
    enlarge: float = 2.0,
    column_step: int = 1,
) -> tuple[int, int]:
    """Choose the grid of patches for an image: its aspect ratio, within a budget.

    Args:
        image_hw: (height, width) of the image in pixels.
        patch_hw: (height, width) of a patch in pixels.
        max_patches: most patches of the grid.
        enlarge: most times that the image may be enlarged, in height and width alike; below 1 it is reduced.
        column_step: columns come in multiples of this, so that more lines share a shape; the first multiple
            that holds the image, where the budget allows it.
    Returns:
        (rows, columns), 1 or more each, at most `max_patches` together.
    Raises:
        NativeAspectError: a number that is not positive.
    """
    numbers: dict[str, float] = {
        "image_hw": min(image_hw),
        "patch_hw": min(patch_hw),
        "max_patches": max_patches,
    }
    numbers |= {"enlarge": enlarge, "column_step": column_step}
    for name, value in numbers.items():
        if not value > 0:
            raise NativeAspectError(f"{name} has {value}, expected numbers above 0")
    height, width = image_hw[0] / patch_hw[0], image_hw[1] / patch_hw[1]  # in patches
    scale = min(math.sqrt(max_patches / (height * width)), enlarge)
    # a row of patches is the least there is: what a very long line lacks in height, it keeps in width
    least = min(max(1, math.floor(scale * height)), max_patches)
    grids = [
        (rows, max(1, min(math.ceil(scale * width), max_patches // rows)))
        for rows in range(least, min(least + 1, max_patches) + 1)
    ]
    rows, columns = min(grids, key=lambda grid: abs(math.log(grid[1] * height / (grid[0] * width))))
    stepped = math.ceil(columns / column_step) * column_step
    if stepped > max_patches // rows:
        stepped = max_patches // rows // column_step * column_step
    return rows, stepped or columns


@dataclass(frozen=True, kw_only=True)
class NativeAspect:
    """Encoding at the images' own aspect ratio: sizes for one model, and pixel values of those sizes.

    How a reader uses it, for a batch of images::

        aspect = NativeAspect.of(model, processor.image_processor)
        pixels = [aspect.prepare(processor.image_processor, image) for image in images]
        for places, same in by_shape(pixels):            # one batch for each shape
            encoded = model.encode(torch.stack(same), interpolate_pos_encoding=True)
            output = model.generate(encoder_outputs=encoded, ...)

    or `model.generate(torch.stack(same), interpolate_pos_encoding=True)`.

    Attributes:
        patch_hw: (height, width) of the encoder's patches in pixels.
        max_patches: most patches of an image.
        enlarge: see `choose_grid`.
        column_step: see `choose_grid`.
    """

    patch_hw: tuple[int, int]
    max_patches: int
    enlarge: float = 2.0
    column_step: int = 4

    def __post_init__(self) -> None:
        choose_grid(self.patch_hw, **vars(self))  # the numbers are checked

    @classmethod
    def of(cls, model: Any, processor: ImageProcessor, *, share: float = 1.0, **options: Any) -> Self:
        """Make it for a model and its processor.

        Args:
            model: a reading model; its configuration says the patches.
            processor: that of the model.
            share: patches of an image, as a share of those that the model was made for.
            options: `enlarge`, `column_step`.
        Raises:
            NativeAspectError: a processor that pads lines (those have `native_width`) or does not resize, an
                encoder whose positions cannot be interpolated, or numbers out of range.
        """
        if processor.pad_to_aspect_ratio:
            raise NativeAspectError(
                "native_aspect is for processors that scale every image to one size; this one keeps the "
                "aspect ratio and pads (pad_to_aspect_ratio): use native_width"
            )
        if not processor.do_resize:
            raise NativeAspectError(
                "native_aspect resizes images, and this processor has do_resize=False; set it to true"
            )
        encoder = model.config.encoder
        if not isinstance(encoder, ViTConfig):
            raise NativeAspectError(
                f"native_aspect interpolates positions, which {type(encoder).__name__} does not allow; it is "
                "for encoders of ViTConfig and DeiTConfig"
            )
        if not 0.0 < share <= 1.0:
            raise NativeAspectError(f"share is {share}, expected above 0 and at most 1")
        most = max(1, int(share * encoder.num_patches))
        return cls(patch_hw=encoder.patch_hw, max_patches=most, **options)

    def size(self, image_hw: tuple[int, int]) -> tuple[int, int]:
        """Give the (height, width) in pixels that an image of `image_hw` is resized to, whole patches."""
        rows, columns = choose_grid(image_hw, **vars(self))
        return rows * self.patch_hw[0], columns * self.patch_hw[1]

    def prepare(self, processor: ImageProcessor, image: Any) -> "Tensor":
        """Make the pixel values (C, height, width) of one image; sizes differ between images.

        Args:
            processor: whose settings hold, but for the size and the crop.
            image: whatever `trocr.image.open_image` takes.
        Raises:
            ImageError: the image cannot be read.
        """
        opened = open_image(image)
        height, width = self.size((opened.height, opened.width))
        batch = processor(
            opened, return_tensors="pt", size={"height": height, "width": width}, do_center_crop=False
        )
        pixels: Tensor = batch["pixel_values"][0]
        return pixels


def by_shape(pixels: Iterable["Tensor"]) -> list[tuple[list[int], list["Tensor"]]]:
    """Sort pixel values (C, height, width) into groups of one shape.

    Returns:
        For each shape, in order of the first image that has it: the places in `pixels`, and the tensors.
    """
    groups: dict[Hashable, tuple[list[int], list[Tensor]]] = {}
    for place, item in enumerate(pixels):
        places, items = groups.setdefault(tuple(item.shape), ([], []))
        places.append(place)
        items.append(item)
    return list(groups.values())
