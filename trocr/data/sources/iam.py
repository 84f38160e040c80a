"""The IAM handwriting database in its own layout: lines.txt or XML, and split files.

Source: "The IAM-database" (Marti and Bunke 2002) and the readme in its ascii.tgz; the Aachen split lists
forms or lines, as in jpuigcerver's Laia (egs/iam), which unilm's authors name (microsoft/unilm issue 682).
"""

import html
from collections.abc import Iterator
from pathlib import Path

from trocr.data.records import DataError
from trocr.data.sources.listed import ListedSource, OnEmpty, Row, missing_images, read_lines, read_xml, some
from trocr.data.sources.openers import FileOpener
from trocr.data.sources.parts import spellings

SPLIT_NAMES = ("{}.txt", "{}.uttlist", "{}.lst", "{}set.txt", "{}set1.txt")
"""Names of a split file for a part such as "train"."""


def open_iam(
    path: Path, *, split: str | None = None, only_ok: bool = False, on_empty: OnEmpty = "error"
) -> ListedSource:
    """Open the lines of IAM.

    The group is the writer, from forms.txt or the XML; without them it is the form. In lines.txt words are
    joined by "|", which becomes a space, so punctuation stands apart as in the paper's labels ("said , he").

    Args:
        path: folder with lines.txt (or ascii/lines.txt) and lines/, or with xml/ and lines/.
        split: a file with the ids of forms or lines, or the name of one in the folders `path` and
            `path`/splits, without its ending: "train"; "val" finds "valid" and "validation" too.
        only_ok: leave out lines whose segmentation is marked "err". The paper's splits keep them.
        on_empty: see `ListedSource`.
    Raises:
        DataError: files are missing or not of this form, or a split names lines that are not there.
    """
    lists = [file for file in (path / "lines.txt", path / "ascii" / "lines.txt") if file.is_file()]
    entries = _from_list(lists[0], _writers(path), only_ok) if lists else _from_xml(path, only_ok)
    chosen = list(entries)
    if split is not None:
        chosen = _choose(chosen, _split_file(path, split))
    rows = [
        Row(line, text, group, FileOpener(str(_image(path, line))), place)
        for line, text, group, place in chosen
    ]
    missing_images(((row.place, _image(path, row.name)) for row in rows), path)
    return ListedSource(rows, origin=path, on_empty=on_empty)


Entry = tuple[str, str, str, str]
"""Id of a line, its text, its group, and where that was read."""


def _from_list(file: Path, writers: dict[str, str], only_ok: bool) -> Iterator[Entry]:
    for number, line in enumerate(read_lines(file), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        parts = line.split(" ", 8)
        if len(parts) < 9 or parts[1] not in ("ok", "err"):
            raise DataError(
                f"{file}:{number}: expected id, ok or err, six numbers and the words joined by |, found "
                f"{line[:60]!r}"
            )
        if parts[1] == "ok" or not only_ok:
            form = _form(parts[0])
            text = parts[8].replace("|", " ").strip()
            yield parts[0], text, writers.get(form, form), f"{file.name}:{number}"


def _from_xml(path: Path, only_ok: bool) -> Iterator[Entry]:
    files = sorted((path / "xml").glob("*.xml"))
    if not files:
        raise DataError(f"{path}: neither lines.txt nor ascii/lines.txt nor xml/*.xml, as IAM has them")
    for file in files:
        form = read_xml(file)
        group = form.get("writer-id") or form.get("id") or file.stem
        for line in form.iter("line"):
            identity, text = line.get("id"), line.get("text")
            if identity is None or text is None:
                raise DataError(f"{file}: a line has no id or no text")
            if line.get("segmentation") != "err" or not only_ok:
                # The files escape twice: "&amp;quot;" is a quotation mark.
                yield identity, html.unescape(text).strip(), group, file.name


def _writers(path: Path) -> dict[str, str]:
    """Writer of each form, from forms.txt, where it is there."""
    for file in (path / "forms.txt", path / "ascii" / "forms.txt"):
        if file.is_file():
            rows = (line.split() for line in read_lines(file) if line.strip() and not line.startswith("#"))
            return {row[0]: row[1] for row in rows if len(row) > 1}
    return {}


def _form(line: str) -> str:
    """Form of a line: "a01-000u" of "a01-000u-00"."""
    return line.rpartition("-")[0]


def _image(path: Path, line: str) -> Path:
    form = _form(line)
    return path / "lines" / form.split("-")[0] / form / f"{line}.png"


def _split_file(path: Path, split: str) -> Path:
    given = Path(split)
    if given.is_file():
        return given
    names = [name.format(part) for part in spellings(split) for name in SPLIT_NAMES]
    for name in names:
        for file in (path / name, path / "splits" / name):
            if file.is_file():
                return file
    raise DataError(f"{path}: no split {split!r}; looked there and in splits/ for {', '.join(names)}")


def _choose(entries: list[Entry], file: Path) -> list[Entry]:
    wanted = {line.split()[0].removesuffix(".png") for line in read_lines(file) if line.strip()}
    wanted = {name for name in wanted if not name.startswith("#")}
    chosen = [entry for entry in entries if entry[0] in wanted or _form(entry[0]) in wanted]
    found = {entry[0] for entry in chosen} | {_form(entry[0]) for entry in chosen}
    unknown = sorted(wanted - found)
    if unknown:
        raise DataError(f"{file}: {len(unknown)} ids are not in the database: {some(unknown)}")
    return chosen
