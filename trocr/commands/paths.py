"""Names of image files from what a person types: files, folders, patterns, a list on standard input.

Source: original work.
"""

import glob
import os
import re
import sys
from collections.abc import Iterator

IMAGE_SUFFIXES = frozenset(
    f".{suffix}"
    for suffix in (
        *("bmp", "gif", "jfif", "jp2", "jpeg", "jpg"),
        *("pbm", "pgm", "png", "pnm", "ppm", "tif", "tiff", "webp"),
    )
)
"""Endings that count as images in a folder; a file that is named is read whatever its ending."""

STANDARD_INPUT = "-"


class PathError(OSError):
    """A path that leads to no image."""


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Sort key that puts line2 before line10, and ignores case."""
    parts = re.split(r"(\d+)", name.casefold())
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts if part]


def expand(argument: str) -> Iterator[str]:
    """Give the image files that one argument means.

    Args:
        argument: a file; a folder, searched with its subfolders, hidden ones and linked ones left out; a
            pattern (`*`, `?`, `[...]`, and `**` for any depth); or "-": standard input, one file a line.
    Yields:
        Paths, in natural order. Standard input is read line by line as the paths are needed.
    Raises:
        PathError: there is no such file, or no image there.
    """
    if argument == STANDARD_INPUT:
        yield from filter(None, (line.rstrip("\r\n") for line in sys.stdin))
    elif os.path.isdir(argument):
        yield from _folder(argument)
    elif os.path.lexists(argument):
        yield argument
    elif glob.has_magic(argument):
        yield from _pattern(argument)
    else:
        raise PathError(f"{argument}: no such file or folder")


def _folder(folder: str) -> Iterator[str]:
    found = False
    for path in _walk(folder):
        found = True
        yield path
    if not found:
        raise PathError(f"{folder}: no image in this folder ({' '.join(sorted(IMAGE_SUFFIXES))})")


def _walk(folder: str) -> Iterator[str]:
    try:
        with os.scandir(folder) as scan:
            entries = [entry for entry in scan if not entry.name.startswith(".")]
    except OSError as error:
        raise PathError(f"{folder}: cannot be listed ({error.strerror})") from error
    for entry in sorted(entries, key=lambda entry: natural_key(entry.name)):
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(entry.path)
        elif os.path.splitext(entry.name)[1].lower() in IMAGE_SUFFIXES and not entry.is_dir():
            yield entry.path


def _pattern(pattern: str) -> Iterator[str]:
    names = sorted(glob.glob(pattern, recursive=True), key=natural_key)
    if not names:
        raise PathError(f"{pattern}: nothing matches this pattern")
    for name in names:
        if not os.path.isdir(name):
            yield name
        elif "**" not in pattern:  # with it, the folder's files match for themselves
            yield from _folder(name)
