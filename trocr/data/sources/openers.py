"""What opens the image of a line: a file, a part of a page, bytes.

Source: original work.
"""

from collections import OrderedDict
from dataclasses import dataclass, field

from PIL import Image

from trocr.image_array import ImageError
from trocr.image_input import load_pixels, open_image

PAGE_BYTES = 2**28
"""Memory of each process for pages that were opened, whose lines come in any order."""


@dataclass(frozen=True, slots=True)
class FileOpener:
    """Opens an image file."""

    path: str

    def __call__(self) -> Image.Image:
        """Open it; grey images stay grey."""
        image = load_pixels(self.path).to_image()
        return image if image.mode in ("L", "RGB") else open_image(image)

    def stored(self) -> bytes:
        """The file's content."""
        with open(self.path, "rb") as file:
            return file.read()


@dataclass(frozen=True, slots=True)
class TarOpener:
    """Opens an image inside a tar file.

    Attributes:
        path: the tar file.
        offset: where the image begins, in bytes.
        size: of the image, in bytes.
        name: of the image in it.
    """

    path: str
    offset: int
    size: int
    name: str

    def __call__(self) -> Image.Image:
        """Read and decode it."""
        try:
            content = self.stored()
        except OSError as error:
            raise ImageError(f"{self.path}:{self.name}: cannot be read ({error.strerror})") from error
        return decode(content, f"{self.path}:{self.name}")

    def stored(self) -> bytes:
        """The image file's content."""
        with open(self.path, "rb") as file:
            file.seek(self.offset)
            return file.read(self.size)


@dataclass(frozen=True, slots=True)
class BytesOpener:
    """Opens an image that was read already."""

    content: bytes
    name: str

    def __call__(self) -> Image.Image:
        """Decode it."""
        return decode(self.content, self.name)

    def stored(self) -> bytes:
        """The image file's content."""
        return self.content


def decode(content: bytes, name: str) -> Image.Image:
    """Decode an image, grey ones as "L", others as "RGB".

    Raises:
        ImageError: it is damaged; the message has the name.
    """
    try:
        image = load_pixels(content).to_image()
        return image if image.mode in ("L", "RGB") else open_image(image)
    except ImageError as error:
        raise ImageError(f"{name}: {error}") from error


@dataclass(frozen=True, slots=True)
class CropOpener:
    """Cuts a line out of a page.

    Attributes:
        path: the page's image.
        box: (left, top, right, bottom) in pixels, right and bottom not included.
        polygon: (x, y) corners in pixels; what lies outside is painted in the crop's brightest common
            colour. Empty keeps the box whole.
        page_size: (width, height) of the page in another unit, in which box and polygon are given; None where
            they are in pixels of the image.
    """

    path: str
    box: tuple[int, int, int, int]
    polygon: tuple[tuple[int, int], ...] = ()
    page_size: tuple[float, float] | None = None

    def __call__(self) -> Image.Image:
        """Open the page and cut."""
        page = _pages.open(self.path)
        width, height = self.page_size or page.size
        across, down = page.width / width, page.height / height
        left, top, right, bottom = self.box
        left, right, top, bottom = (
            round(value) for value in (left * across, right * across, top * down, bottom * down)
        )
        box = (max(0, left), max(0, top), min(page.width, right), min(page.height, bottom))
        if box[0] >= box[2] or box[1] >= box[3]:
            raise ImageError(
                f"{self.path}: the line's box {(left, top, right, bottom)} lies outside the image of "
                f"{page.width} x {page.height} pixels"
            )
        crop = page.crop(box)
        corners = [(x * across - box[0], y * down - box[1]) for x, y in self.polygon]
        return _masked(crop, corners) if corners else crop


@dataclass
class _Pages:
    """Pages that were opened last, as many as the memory holds, the last one in any case."""

    images: OrderedDict[str, Image.Image] = field(default_factory=OrderedDict)
    num_bytes: int = 0

    def open(self, path: str) -> Image.Image:
        image = self.images.pop(path, None)
        if image is None:
            image = open_image(path)
            self.num_bytes += _size(image)
        self.images[path] = image
        while self.num_bytes > PAGE_BYTES and len(self.images) > 1:
            self.num_bytes -= _size(self.images.popitem(last=False)[1])
        return image


_pages = _Pages()


def _size(image: Image.Image) -> int:
    return image.width * image.height * 3


def _masked(crop: Image.Image, polygon: list[tuple[float, float]]) -> Image.Image:
    """Paint what is outside a polygon in the colour that most bright pixels have."""
    import numpy as np
    from PIL import ImageDraw

    mask = Image.new("L", crop.size, 0)
    ImageDraw.Draw(mask).polygon(polygon, fill=255)
    grey = np.asarray(crop.convert("L"))
    bright = np.asarray(crop)[grey >= np.percentile(grey, 60)]
    paper = tuple(int(value) for value in np.median(bright.reshape(-1, 3), axis=0))
    return Image.composite(crop, Image.new("RGB", crop.size, paper), mask)
