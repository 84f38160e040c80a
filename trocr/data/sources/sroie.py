"""SROIE in its own layout: receipts, and boxes with texts, cut into lines.

Source: ICDAR 2019 SROIE, task 2; crops as in unilm `trocr/data.py`: the upright box of each quadrangle, in
natural order of the receipts, boxes without area left out, the text what follows the eighth comma.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from trocr.data.records import DataError
from trocr.data.sources.listed import CropOpener, ListedSource, OnEmpty, Row, missing_images, read_lines

IMAGE_FOLDERS = (".", "img", "image", "images")
BOX_FOLDERS = (".", "box", "boxes", "txt")


def open_sroie(path: Path, *, on_empty: OnEmpty = "error") -> ListedSource:
    """Open the lines of receipts.

    The name is "receipt#number", the group the receipt.

    Args:
        path: folder with NAME.jpg and NAME.txt, together or in subfolders img and box.
        on_empty: see `ListedSource`.
    Raises:
        DataError: files are missing or not of this form.
    """
    boxes = {file.stem: file for file in _files(path, BOX_FOLDERS, (".txt",))}
    images = {file.stem: file for file in _files(path, IMAGE_FOLDERS, (".jpg", ".jpeg", ".png"))}
    boxes = {stem: file for stem, file in boxes.items() if _is_box_file(file)}
    if not boxes:
        raise DataError(
            f"{path}: no .txt with boxes (x1,y1,x2,y2,x3,y3,x4,y4,text), beside the images or in box/"
        )
    stems = sorted(boxes, key=natural)
    missing_images(((boxes[stem].name, path / f"{stem}.jpg") for stem in stems if stem not in images), path)
    rows = (row for stem in stems for row in _rows(boxes[stem], images[stem]))
    return ListedSource(rows, origin=path, on_empty=on_empty)


def natural(name: str) -> list[tuple[int, int | str]]:
    """Key that sorts numbers in names by value: "X9" before "X10"."""
    return [(0, int(part)) if part.isdigit() else (1, part) for part in re.split(r"(\d+)", name) if part]


def looks_like_boxes(path: Path) -> bool:
    """Whether a folder holds box files."""
    return any(_is_box_file(file) for file in list(_files(path, BOX_FOLDERS, (".txt",)))[:3])


def _files(path: Path, folders: tuple[str, ...], suffixes: tuple[str, ...]) -> Iterator[Path]:
    for name in folders:
        folder = path / name
        if folder.is_dir():
            yield from (file for file in sorted(folder.iterdir()) if file.suffix.lower() in suffixes)


def _is_box_file(file: Path) -> bool:
    with file.open("rb") as stream:
        first = stream.readline(300)
    return re.match(rb"(\xef\xbb\xbf)?\s*(-?\d+\s*,\s*){8}", first) is not None


def _rows(file: Path, image: Path) -> Iterator[Row]:
    for number, line in enumerate(read_lines(file)):
        if not line.strip():
            continue
        *corners, text = line.split(",", 8)
        try:
            x, y = [int(value) for value in corners[0::2]], [int(value) for value in corners[1::2]]
            if len(corners) != 8:
                raise ValueError
        except ValueError as error:
            raise DataError(
                f"{file}:{number + 1}: expected x1,y1,x2,y2,x3,y3,x4,y4,text, found {line[:60]!r}"
            ) from error
        box = (min(x), min(y), max(x), max(y))
        if box[0] < box[2] and box[1] < box[3]:
            opener = CropOpener(str(image), box)
            yield Row(f"{file.stem}#{number}", text.rstrip(), file.stem, opener, f"{file.name}:{number + 1}")
