"""What every source of lines gives: a name, a text, and an image that is opened when it is needed.

Source: original work.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from PIL import Image


class DataError(ValueError):
    """Labels or images are missing, or are not what their format says."""


def text_problem(text: str) -> str | None:
    """What keeps a text from being one line of a UTF-8 table; None where nothing does."""
    for character, name in (("\t", "a tab"), ("\n", "a line's end"), ("\r", "a line's end")):
        if character in text:
            return name
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        return f"U+{ord(text[error.start]):04X}, which is no character"
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class LineRecord:
    """One line of text and where its image comes from.

    Attributes:
        name: unique in its source, and good enough to find the line by: a path, "page.xml#line_3".
        text: as in the labels; nothing is stripped but the line's end.
        group: the writer, receipt or document that the line belongs to: what a split keeps together. None
            where the source does not say.
        opener: opens the image; can be pickled, as it travels to worker processes.
    """

    name: str
    text: str
    group: str | None = None
    opener: Callable[[], Image.Image]

    def open(self) -> Image.Image:
        """Open the image, in mode "L" or "RGB".

        Raises:
            ImageError: it is missing or damaged; the message names it.
        """
        return self.opener()

    def stored(self) -> bytes | None:
        """Content of the file that holds this image alone; None where there is no such file.

        Raises:
            OSError: it cannot be read.
        """
        stored: Callable[[], bytes | None] | None = getattr(self.opener, "stored", None)
        return None if stored is None else stored()


class LineSource(Protocol):
    """Lines by number: a data set on disk, shards, or a generator."""

    def __len__(self) -> int:
        """Count the lines."""
        ...

    def __getitem__(self, index: int, /) -> LineRecord:
        """Give the line of a number from 0 on.

        Raises:
            IndexError: there is no such line.
        """
        ...

    def __iter__(self) -> Iterator[LineRecord]:
        """Give all lines in order."""
        ...
