"""Folders of line images with their texts: one list, several lists, or a text file beside each image.

Source: labels.tsv and gt_*.txt: unilm `trocr/data.py` (file name, TAB, text) and the ICDAR robust reading
challenges (file name, comma, quoted text); .gt.txt: Tesseract's tesstrain and OCRopus; JSON lines: the
`metadata.jsonl` of Hugging Face's imagefolder.
"""

import json
from collections.abc import Iterator
from pathlib import Path

from trocr.data.records import DataError
from trocr.data.sources.listed import (
    IMAGE_SUFFIXES,
    ListedSource,
    OnEmpty,
    Row,
    missing_images,
    read_lines,
    some,
)
from trocr.data.sources.openers import FileOpener
from trocr.data.sources.parts import is_part, spellings

GT_SUFFIX = ".gt.txt"


Entry = tuple[str, str, str, str | None]
"""Where a line was read, the name of its image, its text, its group."""


def open_labels(path: Path, *, images: Path | None = None, on_empty: OnEmpty = "error") -> ListedSource:
    """Open a list of file name, TAB, text, and maybe TAB, group; all rows have the same columns.

    Args:
        path: labels.tsv or the folder that it is in; a gt_*.txt.
        images: folder of the images; None looks beside the list, then in its subfolders "image" and "images".
        on_empty: see `ListedSource`.
    Raises:
        DataError: the list or images are missing, or a line is not of this form.
    """
    file = path / "labels.tsv" if path.is_dir() else path
    entries = _entries(file)
    folder = images or _image_folder(file.parent, [name for _, name, _, _ in entries])
    return _listed(file, folder, entries, on_empty)


def open_gt_lists(
    path: Path, *, split: str | None = None, images: Path | None = None, on_empty: OnEmpty = "error"
) -> ListedSource:
    """Open all gt_*.txt of a folder, or gt.txt, or one of them.

    Args:
        path: the folder.
        split: opens gt_SPLIT.txt alone; "val" finds "valid" and "validation" too.
        images: as for `open_labels`.
        on_empty: see `ListedSource`.
    Raises:
        DataError: as `open_labels`; or lists are parts of a split, such as gt_train.txt and gt_test.txt, and
            none is chosen.
    """
    files = sorted([*path.glob("gt_*.txt"), *path.glob("gt.txt")])
    if not files:
        raise DataError(f"{path}: no gt.txt or gt_*.txt")
    found = ", ".join(file.name for file in files)
    if split is not None:
        wanted = [path / f"gt_{name}.txt" for name in spellings(split)]
        files = [file for file in wanted if file in files][:1]
        if not files:
            raise DataError(f"{path}: no gt_{split}.txt; there is {found}")
    elif sum(is_part(file.stem.removeprefix("gt_")) for file in files) > 1:
        raise DataError(
            f"{path}: {found} are parts of a split, which must not be mixed; open one, as "
            f"{path}#{files[0].stem.removeprefix('gt_')}, or name the files"
        )
    entries = [entry for file in files for entry in _entries(file)]
    folder = images or _image_folder(path, [name for _, name, _, _ in entries])
    return _listed(path, folder, entries, on_empty)


def open_gt_texts(path: Path, *, on_empty: OnEmpty = "error") -> ListedSource:
    """Open images with a text file each: line.png (or line.bin.png, line.nrm.png) and line.gt.txt.

    The group is the subfolder that they are in.

    Raises:
        DataError: a text has no image, or several lines.
    """
    rows, gone = [], []
    for file in sorted(path.rglob(f"[!.]*{GT_SUFFIX}")):
        stem = file.name.removesuffix(GT_SUFFIX)
        image = _beside(file.parent, stem)
        relative = file.relative_to(path)
        if image is None:
            gone.append((str(relative), file.with_name(f"{stem}.png")))
            continue
        lines = [line for line in read_lines(file) if line.strip()]
        if len(lines) > 1:
            raise DataError(f"{file}: {len(lines)} lines of text, expected the text of one line image")
        group = str(relative.parent) if relative.parent != Path() else None
        name = str(image.relative_to(path))
        rows.append(Row(name, lines[0] if lines else "", group, FileOpener(str(image)), str(relative)))
    missing_images(gone, path)
    return ListedSource(rows, origin=path, on_empty=on_empty)


def open_json_lines(path: Path, *, images: Path | None = None, on_empty: OnEmpty = "error") -> ListedSource:
    """Open a file with a JSON object a line: file_name (or image, path), text (or label), and maybe group.

    Args:
        path: the file, or the folder with a metadata.jsonl.
        images: folder that names are relative to; None is the file's.
        on_empty: see `ListedSource`.
    Raises:
        DataError: a line is not such an object, or images are missing.
    """
    file = path / "metadata.jsonl" if path.is_dir() else path
    entries = []
    for number, line in enumerate(read_lines(file), start=1):
        if line.strip():
            place = f"{file.name}:{number}"
            entries.append((place, *_fields(file, number, line)))
    return _listed(file, images or file.parent, entries, on_empty)


def _fields(file: Path, number: int, line: str) -> tuple[str, str, str | None]:
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{file}:{number}: not a JSON object ({error.msg})") from error
    if not isinstance(value, dict):
        raise DataError(
            f"{file}:{number}: {type(value).__name__}, expected an object with file_name and text"
        )
    found = {
        field: next((value[key] for key in keys if isinstance(value.get(key), str)), None)
        for field, keys in (("name", ("file_name", "image", "path")), ("text", ("text", "label")))
    }
    lacking = [field for field, item in found.items() if item is None]
    if lacking:
        raise DataError(
            f"{file}:{number}: no {' and no '.join(lacking)} among the keys {', '.join(value)}; expected "
            'strings "file_name" (or "image", "path") and "text" (or "label")'
        )
    if not str(found["name"]).strip():
        raise DataError(f"{file}:{number}: the file name is empty")
    group = value.get("group")
    return str(found["name"]), str(found["text"]), None if group is None else str(group)


def _entries(file: Path) -> list[Entry]:
    """Rows of a list of images and texts.

    Raises:
        DataError: rows have no name, or do not all have the same columns.
    """
    found: list[Entry] = []
    by_columns: dict[int, list[str]] = {}
    for number, line in enumerate(read_lines(file), start=1):
        if not line.strip():
            continue
        place = f"{file.name}:{number}"
        name, text, *more = _columns(file.parent / place, line)
        if not name.strip():
            raise DataError(f"{file.parent / place}: no file name before the text, found {line[:60]!r}")
        if "\t" in line:
            by_columns.setdefault(2 + len(more), []).append(place)
        found.append((place, name.strip(), text, (more[0].strip() or None) if more else None))
    if len(by_columns) > 1:
        fewest = min(by_columns, key=lambda count: len(by_columns[count]))
        counts = " and ".join(
            f"{len(places)} rows of {count}" for count, places in sorted(by_columns.items())
        )
        raise DataError(
            f"{file}: not the same columns everywhere, but {counts}: look at {some(by_columns[fewest])}. "
            "Expected file name, TAB, text in all rows, or TAB and a group (or nothing) after it in all. "
            "A text cannot hold tabs: write spaces"
        )
    return found


def _columns(place: Path, line: str) -> list[str]:
    """Parse "name TAB text", "name TAB text TAB group", or ICDAR's 'name, "text"'."""
    if "\t" in line:
        columns = line.split("\t")
        if len(columns) > 3:
            raise DataError(
                f"{place}: {len(columns)} columns; expected file name, TAB, text, and at most one more with "
                "the group. A text cannot hold tabs: write spaces"
            )
        return columns
    name, comma, text = line.partition(",")
    text = text.strip()
    if comma and len(text) > 1 and text[0] == text[-1] == '"':
        return [name, text[1:-1].replace('\\"', '"').replace("\\\\", "\\")]
    if name.strip().lower().endswith(IMAGE_SUFFIXES):
        return [name, ""]
    raise DataError(f"{place}: no tab; expected file name, TAB, text, found {line[:60]!r}")


def _image_folder(folder: Path, names: list[str]) -> Path:
    """Where the first image of a list is: beside it, or in its subfolder of images."""
    first = names[0] if names else ""
    choices = (folder, folder / "image", folder / "images")
    return next((choice for choice in choices if first and (choice / first).is_file()), folder)


def _listed(origin: Path, folder: Path, entries: list[Entry], on_empty: OnEmpty) -> ListedSource:
    missing_images(((place, folder / name) for place, name, _, _ in entries), origin)
    rows: Iterator[Row] = (
        Row(name, text, group, FileOpener(str(folder / name)), place) for place, name, text, group in entries
    )
    return ListedSource(rows, origin=origin, on_empty=on_empty)


def _beside(folder: Path, stem: str) -> Path | None:
    """The image of a .gt.txt: the plain one, else the binarised or normalised one."""
    for kind in ("", ".bin", ".nrm", ".dew"):
        for suffix in IMAGE_SUFFIXES:
            path = folder / f"{stem}{kind}{suffix}"
            if path.is_file():
                return path
    return None
