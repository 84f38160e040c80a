"""Lines that a list names: what every format on disk is turned into.

Source: original work.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from PIL import Image

from trocr.data.records import DataError, LineRecord
from trocr.image_array import ImageError
from trocr.image_input import load_pixels, open_image

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".gif", ".jp2", ".pgm", ".ppm")

OnEmpty = Literal["error", "skip"]

NAMED = 5
"""Problems that a message lists."""


@dataclass(frozen=True, slots=True)
class FileOpener:
    """Opens an image file."""

    path: str

    def __call__(self) -> Image.Image:
        """Open it; grey images stay grey."""
        image = load_pixels(self.path).to_image()
        return image if image.mode in ("L", "RGB") else open_image(image)


@dataclass(frozen=True, slots=True)
class CropOpener:
    """Cuts a line out of a page.

    Attributes:
        path: the page's image.
        box: (left, top, right, bottom) in pixels, right and bottom not included.
        polygon: (x, y) corners in pixels; what lies outside is painted in the crop's brightest common
            colour. Empty keeps the box whole.
    """

    path: str
    box: tuple[int, int, int, int]
    polygon: tuple[tuple[int, int], ...] = ()

    def __call__(self) -> Image.Image:
        """Open the page and cut."""
        page = _page(self.path)
        left, top, right, bottom = self.box
        box = (max(0, left), max(0, top), min(page.width, right), min(page.height, bottom))
        if box[0] >= box[2] or box[1] >= box[3]:
            raise ImageError(
                f"{self.path}: the line's box {self.box} lies outside the image of {page.width} x "
                f"{page.height} pixels"
            )
        crop = page.crop(box)
        return _masked(crop, [(x - box[0], y - box[1]) for x, y in self.polygon]) if self.polygon else crop


@dataclass(slots=True)
class _LastPage:
    path: str = ""
    image: Image.Image | None = None


_last = _LastPage()


def _page(path: str) -> Image.Image:
    """A page's image; the last one is kept, as its lines mostly come together."""
    if _last.image is None or _last.path != path:
        _last.image, _last.path = open_image(path), path
    return _last.image


def _masked(crop: Image.Image, polygon: list[tuple[int, int]]) -> Image.Image:
    """Paint what is outside a polygon in the colour that most bright pixels have."""
    import numpy as np
    from PIL import ImageDraw

    mask = Image.new("L", crop.size, 0)
    ImageDraw.Draw(mask).polygon(polygon, fill=255)
    grey = np.asarray(crop.convert("L"))
    bright = np.asarray(crop)[grey >= np.percentile(grey, 60)]
    paper = tuple(int(value) for value in np.median(bright.reshape(-1, 3), axis=0))
    return Image.composite(crop, Image.new("RGB", crop.size, paper), mask)


@dataclass(frozen=True, slots=True)
class Row:
    """A line in a list, before its image is opened.

    Attributes:
        name: of the record.
        text: of the record.
        group: of the record.
        opener: of the record.
        place: where the list says it, for messages: "labels.tsv:3".
    """

    name: str
    text: str
    group: str | None
    opener: Callable[[], Image.Image]
    place: str


class ListedSource:
    """Lines in the order of a list.

    Args:
        rows: the lines.
        origin: file or folder, for messages.
        on_empty: "error" refuses lines without text, "skip" leaves them out.
    Raises:
        DataError: there is no line, a name occurs twice, or lines have no text; the message names the first
            ones.
    """

    def __init__(self, rows: Iterable[Row], *, origin: Path, on_empty: OnEmpty = "error") -> None:
        kept, empty, twice = [], [], []
        places: dict[str, str] = {}
        for row in rows:
            if not row.text.strip():
                empty.append(f"{row.place} ({row.name})")
                continue
            if row.name in places:
                twice.append(f"{row.name} at {places[row.name]} and {row.place}")
            places[row.name] = row.place
            kept.append((row.name, row.text, row.group, row.opener))
        if twice:
            raise DataError(f"{origin}: {len(twice)} lines come twice: {some(twice)}")
        if empty and on_empty == "error":
            raise DataError(
                f"{origin}: {len(empty)} lines have no text: {some(empty)}. Write their text, take them out, "
                'or open the source with on_empty="skip"'
            )
        if not kept:
            raise DataError(f"{origin}: no lines{f' but {len(empty)} without text' if empty else ''}")
        self.num_empty = len(empty)
        self._rows = kept

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int, /) -> LineRecord:
        if not 0 <= index < len(self):
            raise IndexError(f"line {index} of {len(self)}")
        name, text, group, opener = self._rows[index]
        return LineRecord(name=name, text=text, group=group, opener=opener)

    def __iter__(self) -> Iterator[LineRecord]:
        return (self[index] for index in range(len(self)))


def some(problems: list[str]) -> str:
    """The first problems of a list, and how many more there are."""
    more = f" and {len(problems) - NAMED} more" if len(problems) > NAMED else ""
    return "; ".join(problems[:NAMED]) + more


def read_lines(path: Path) -> list[str]:
    """Lines of a UTF-8 text file, with or without byte order mark, without their ends.

    Raises:
        DataError: it cannot be read, or a line is not UTF-8.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        number = content[: error.start].count(b"\n") + 1
        raise DataError(
            f"{path}:{number}: not UTF-8 (byte 0x{content[error.start]:02x}); convert the file, for example "
            f"with iconv -f latin1 -t utf-8"
        ) from error
    lines = text.replace("\r\n", "\n").split("\n")
    return lines[:-1] if lines and not lines[-1] else lines


def missing_images(rows: Iterable[tuple[str, Path]], origin: Path) -> None:
    """Check that images are there.

    Args:
        rows: (place in the list, image).
        origin: for messages.
    Raises:
        DataError: some are not; the message names the first ones.
    """
    folders: dict[Path, set[str]] = {}
    gone = []
    for place, path in rows:
        names = folders.get(path.parent)
        if names is None:
            try:
                names = {entry.name for entry in path.parent.iterdir()}
            except OSError:
                names = set()
            folders[path.parent] = names
        if path.name not in names:
            gone.append(f"{path} ({place})")
    if gone:
        raise DataError(f"{origin}: {len(gone)} images are missing: {some(gone)}")
