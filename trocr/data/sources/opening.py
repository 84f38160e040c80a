"""`open_source`: the door to lines on disk, which looks what format they have.

Source: original work.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trocr.data.records import DataError, LineSource
from trocr.data.sources.folder import GT_SUFFIX, open_gt_lists, open_gt_texts, open_json_lines, open_labels
from trocr.data.sources.iam import open_iam
from trocr.data.sources.layout_xml import open_layout_xml
from trocr.data.sources.sroie import looks_like_boxes, open_sroie


def _open_shards(path: Path, **options: Any) -> LineSource:
    from trocr.data.shards import open_shards

    return open_shards(path, **options)


def _open_lmdb(path: Path, **options: Any) -> LineSource:
    from trocr.data.lmdb_source import open_lmdb

    return open_lmdb(path, **options)


_KINDS: dict[str, tuple[Callable[..., LineSource], Callable[[Path], bool], str]] = {
    "labels": (
        open_labels,
        lambda p: (p / "labels.tsv").is_file() or p.suffix in (".tsv", ".txt"),
        "labels.tsv",
    ),
    "gt": (open_gt_lists, lambda p: _has(p, "gt_*.txt") or (p / "gt.txt").is_file(), "gt.txt or gt_*.txt"),
    "json": (
        open_json_lines,
        lambda p: (p / "metadata.jsonl").is_file() or p.suffix in (".jsonl", ".ndjson"),
        "metadata.jsonl",
    ),
    "iam": (
        open_iam,
        lambda p: (p / "lines").is_dir() and any((p / n).exists() for n in ("lines.txt", "ascii", "xml")),
        "lines.txt (or ascii/lines.txt, xml/) and lines/ (IAM)",
    ),
    "gt-texts": (open_gt_texts, lambda p: _has(p, f"**/[!.]*{GT_SUFFIX}"), f"*{GT_SUFFIX}"),
    "sroie": (open_sroie, looks_like_boxes, "box files x1,y1,...,y4,text (SROIE)"),
    "shards": (_open_shards, lambda p: _has(p, "[!.]*.tar") or p.suffix == ".tar", "*.tar (WebDataset)"),
    "lmdb": (_open_lmdb, lambda p: (p / "data.mdb").is_file(), "data.mdb (LMDB)"),
    "xml": (open_layout_xml, lambda p: _has(p, "**/[!.]*.xml") or p.suffix == ".xml", "*.xml (PAGE or ALTO)"),
}
"""Format -> how it is opened, how it is recognised (the first that fits is taken), and by what."""

KINDS = ("auto", *_KINDS)
"""Formats by name; "auto" takes the first that fits."""

WITH_PARTS = ("iam", "gt")
"""Formats of which "FOLDER#NAME" opens a part."""


def open_source(path: str | os.PathLike[str], kind: str = "auto", **options: Any) -> LineSource:
    """Open lines on disk.

    Args:
        path: folder or file. "FOLDER#NAME" opens a part of a source that has parts: IAM's split "train", or
            gt_train.txt.
        kind: one of `KINDS`.
        options: of the format, such as `on_empty="skip"`, `images=` or, for IAM, `split=` and `only_ok=`.
    Raises:
        DataError: there is nothing at `path`, it has no known format, or it is not what its format says.
    """
    try:
        return _open(os.fspath(path), kind, options)
    except OSError as error:
        raise DataError(f"{error.filename or path}: cannot be read ({error.strerror or error})") from error


def _open(path: str, kind: str, options: dict[str, Any]) -> LineSource:
    place, part = _split_part(path)
    if kind not in KINDS:
        raise DataError(f"kind {kind!r} is unknown, expected one of {', '.join(KINDS)}")
    if not place.exists() and kind != "shards" and not _is_pattern(place):
        raise DataError(f"{place}: there is no such file or folder")
    if kind == "auto":
        kind = _recognise(place)
    if part is not None:
        if kind not in WITH_PARTS:
            raise DataError(
                f"{path}: #{part} names a part, which {' and '.join(WITH_PARTS)} have; this is {kind}"
            )
        options = {"split": part, **options}
    return _KINDS[kind][0](place, **options)


def _split_part(path: str) -> tuple[Path, str | None]:
    if "#" in path and not Path(path).exists():
        before, _, part = path.rpartition("#")
        return Path(before), part
    return Path(path), None


def _is_pattern(path: Path) -> bool:
    return path.suffix == ".tar" and any(sign in path.name for sign in "*?[{")


def _recognise(path: Path) -> str:
    if _is_pattern(path):
        return "shards"
    for kind, (_, fits, _) in _KINDS.items():
        if fits(path):
            return kind
    looked_for = ", ".join(what for _, _, what in _KINDS.values())
    entries = sorted(entry.name for entry in path.iterdir()) if path.is_dir() else []
    found = f"; it has {', '.join(entries[:5])}{' ...' if len(entries) > 5 else ''}" if entries else ""
    if path.is_dir() and not entries:
        found = "; it is empty"
    raise DataError(f"{path}: no known format{found}. Looked for {looked_for}")


def _has(path: Path, pattern: str) -> bool:
    return path.is_dir() and next(path.glob(pattern), None) is not None
