"""SROIE in its own layout: receipts, and boxes with texts, cut into lines.

Source: ICDAR 2019 SROIE, task 2; crops as in unilm `trocr/data.py`: the upright box of each quadrangle, in
natural order of the receipts, boxes without area left out, the text what follows the eighth comma.
"""

import itertools
import re
from collections.abc import Iterator
from pathlib import Path

from trocr.data.records import DataError
from trocr.data.sources.listed import SKIP_EMPTY, ListedSource, OnEmpty, Row, missing_images, read_lines, some
from trocr.data.sources.openers import CropOpener

IMAGE_FOLDERS = (".", "img", "image", "images")
BOX_FOLDERS = (".", "box", "boxes", "txt")

LOOKED_AT = 20
"""Files that are looked at for boxes, before it is said that a folder has none."""


def open_sroie(path: Path, *, on_empty: OnEmpty = "error") -> ListedSource:
    """Open the lines of receipts.

    The name is "receipt#number", the group the receipt. Every .txt in box/, and every other one with an image
    of its name, is a box file.

    Args:
        path: folder with NAME.jpg and NAME.txt, together or in subfolders img and box.
        on_empty: what to do with lines without text and receipts without lines; see `ListedSource`.
    Raises:
        DataError: files are missing or not of this form; one message names the first ones.
    """
    boxes = {file.stem: file for file in _files(path, BOX_FOLDERS, (".txt",))}
    images = {file.stem: file for file in _files(path, IMAGE_FOLDERS, (".jpg", ".jpeg", ".png"))}
    boxes = {
        stem: file
        for stem, file in boxes.items()
        if stem in images or file.parent != path or _is_box_file(file)
    }
    if not boxes:
        raise DataError(
            f"{path}: no .txt with boxes (x1,y1,x2,y2,x3,y3,x4,y4,text), beside the images or in box/"
        )
    stems = sorted(boxes, key=natural)
    missing_images(((boxes[stem].name, path / f"{stem}.jpg") for stem in stems if stem not in images), path)
    bad: list[str] = []
    rows = {stem: list(_rows(boxes[stem], images[stem], bad)) for stem in stems}
    if bad:
        raise DataError(f"{path}: {len(bad)} rows are not x1,y1,x2,y2,x3,y3,x4,y4,text: {some(bad)}")
    without = [boxes[stem].name for stem in stems if not rows[stem]]
    if without and on_empty == "error":
        raise DataError(
            f"{path}: {len(without)} receipts have no lines: {some(without)}. Take them out, or {SKIP_EMPTY}"
        )
    return ListedSource((row for stem in stems for row in rows[stem]), origin=path, on_empty=on_empty)


def natural(name: str) -> list[tuple[int, int | str]]:
    """Key that sorts numbers in names by value: "X9" before "X10"."""
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in re.split(r"(\d+)", name) if part]


def looks_like_boxes(path: Path) -> bool:
    """Whether a folder holds box files."""
    return any(map(_is_box_file, itertools.islice(_files(path, BOX_FOLDERS, (".txt",)), LOOKED_AT)))


def _files(path: Path, folders: tuple[str, ...], suffixes: tuple[str, ...]) -> Iterator[Path]:
    for name in folders:
        folder = path / name
        if folder.is_dir():
            files = (file for file in sorted(folder.iterdir()) if not file.name.startswith("."))
            yield from (file for file in files if file.suffix.lower() in suffixes)


def _is_box_file(file: Path) -> bool:
    with file.open("rb") as stream:
        start = stream.read(400)
    return re.match(rb"(\xef\xbb\xbf)?\s*(-?\d+(\.\d+)?\s*,\s*){8}", start) is not None


def _rows(file: Path, image: Path, bad: list[str]) -> Iterator[Row]:
    """Lines of a receipt; rows that are of another form are added to `bad`."""
    for number, line in enumerate(read_lines(file)):
        if not line.strip():
            continue
        *corners, text = line.split(",", 8)
        try:
            values = [round(float(value)) for value in corners]
            if len(values) != 8:
                raise ValueError
        except (ValueError, OverflowError):
            bad.append(f"{file.name}:{number + 1} has {line[:60]!r}")
            continue
        x, y = values[0::2], values[1::2]
        box = (min(x), min(y), max(x), max(y))
        if box[0] < box[2] and box[1] < box[3]:
            opener = CropOpener(str(image), box)
            yield Row(f"{file.stem}#{number}", text.rstrip(), file.stem, opener, f"{file.name}:{number + 1}")
