"""Lines that a list names: what every format on disk is turned into.

Source: original work.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from xml.etree import ElementTree

from PIL import Image

from trocr.data.records import DataError, LineRecord, text_problem

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".gif", ".jp2", ".pgm", ".ppm")

OnEmpty = Literal["error", "skip"]

NAMED = 5
"""Problems that a message lists."""

SKIP_EMPTY = "leave them out: trocr data pack SRC DST --skip-empty"
"""What a message about lines without text offers."""

WRITE_SPACES = "Write spaces for tabs and line ends, and save the file as UTF-8"
"""What a message about texts of another form than one line says."""


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
    Attributes:
        num_empty: lines without text that were left out.
    Raises:
        DataError: there is no line, a name occurs twice, lines have no text, or a text has a tab, a line's
            end or what cannot be written as UTF-8; one message names the first ones of each.
    """

    def __init__(self, rows: Iterable[Row], *, origin: Path, on_empty: OnEmpty = "error") -> None:
        kept, empty, twice, odd = [], [], [], []
        places: dict[str, str] = {}
        for row in rows:
            if not row.text.strip():
                empty.append(f"{row.place} ({row.name})")
                continue
            if row.name in places:
                twice.append(f"{row.name} at {places[row.name]} and {row.place}")
            odd += [f"{row.place}: {what}" for what in _problems(row)]
            places[row.name] = row.place
            kept.append((row.name, row.text, row.group, row.opener))
        wrong = []
        if twice:
            wrong.append(f"{len(twice)} lines come twice: {some(twice)}")
        if odd:
            wrong.append(f"{len(odd)} texts or names are not one line of UTF-8: {some(odd)}. {WRITE_SPACES}")
        if empty and on_empty == "error":
            wrong.append(f"{len(empty)} lines have no text: {some(empty)}. Write their text, or {SKIP_EMPTY}")
        if wrong:
            raise DataError(f"{origin}: {'. '.join(wrong)}")
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


def _problems(row: Row) -> Iterator[str]:
    for what, value in (("text", row.text), ("name", row.name), ("group", row.group or "")):
        problem = text_problem(value)
        if problem:
            yield f"the {what} {value[:60]!r} has {problem}"


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


def read_xml(path: Path) -> ElementTree.Element:
    """Root of an XML file.

    Raises:
        DataError: it cannot be read, is damaged, or is in an encoding that is not known.
    """
    try:
        return ElementTree.parse(path).getroot()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    except (ElementTree.ParseError, LookupError, ValueError) as error:  # the last two are about encodings
        raise DataError(f"{path}: not well-formed XML ({error})") from error


def missing_images(rows: Iterable[tuple[str, Path]], origin: Path) -> None:
    """Check that images are there.

    Args:
        rows: (place in the list, image).
        origin: for messages.
    Raises:
        DataError: some are not, or are folders; the message names the first ones.
    """
    folders: dict[Path, set[str]] = {}
    gone = []
    for place, path in rows:
        names = folders.get(path.parent)
        if names is None:
            folders[path.parent] = names = _files(path.parent)
        if path.name not in names:
            gone.append(f"{path} ({place})")
    if gone:
        raise DataError(f"{origin}: {len(gone)} images are missing: {some(gone)}")


def _files(folder: Path) -> set[str]:
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries if entry.is_file()}
    except OSError:
        return set()
