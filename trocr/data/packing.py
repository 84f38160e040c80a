"""Lines written as tar shards: whole or not at all, the same bytes for the same lines.

Source: the WebDataset format (webdataset.github.io/webdataset, "The WebDataset Format").
"""

import io
import json
import os
import shutil
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from trocr.data.records import DataError, LineRecord, LineSource
from trocr.data.sources.listed import some
from trocr.image_array import ImageError

KEPT = {b"\x89PNG\r\n\x1a\n": ".png", b"\xff\xd8\xff": ".jpg"}
"""How files begin that are packed as they are -> their suffix; other images become PNG."""

UNFINISHED = ".unfinished"
"""Folder in which files are until all are written."""


@dataclass(frozen=True, kw_only=True)
class Packed:
    """What was packed.

    Attributes:
        num_lines: written.
        files: of the shards.
        skipped: messages of lines whose image cannot be read.
    """

    num_lines: int
    files: tuple[Path, ...]
    skipped: tuple[str, ...]


@contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """Give a folder for files that go into `folder` when all of them are written, and nowhere otherwise.

    Args:
        folder: made where it is missing. What an earlier call left there when it was killed is removed.
    Raises:
        DataError: something cannot be written.
    """
    stage = folder / UNFINISHED
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(stage, ignore_errors=True)
        stage.mkdir()
        try:
            yield stage
            for entry in sorted(stage.iterdir()):
                os.replace(entry, folder / entry.name)
        finally:
            shutil.rmtree(stage, ignore_errors=True)
    except OSError as error:
        raise DataError(
            f"{folder}: cannot be written ({error.strerror or error}); name another folder, or make room"
        ) from error


def write_shards(
    source: LineSource,
    folder: str | os.PathLike[str],
    *,
    lines_per_shard: int = 10_000,
) -> Packed:
    """Write lines as shards, the same bytes for the same lines.

    PNG and JPEG files are packed as they are, other images as PNG. Shards appear under their names when all
    are whole.

    Args:
        source: the lines.
        folder: made where it is missing; it must not hold shards.
        lines_per_shard: at most.
    Raises:
        DataError: the folder holds shards or cannot be written, or no line can be read.
    """
    place = Path(folder)
    if next(place.glob("*.tar"), None) is not None:
        raise DataError(f"{place}: holds .tar files already; choose an empty folder")
    names: list[str] = []
    skipped: list[str] = []
    num_lines = 0
    with staged(place) as stage:
        for start in range(0, len(source), lines_per_shard):
            path = stage / f"lines-{len(names):05}.tar"
            count = 0
            with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
                for number in range(start, min(start + lines_per_shard, len(source))):
                    count += _add(tar, source[number], number, skipped)
            if count:
                names.append(path.name)
                num_lines += count
            else:
                path.unlink()
        if not names:
            raise DataError(f"none of {len(source)} lines can be read: {some(skipped)}")
    return Packed(num_lines=num_lines, files=tuple(place / name for name in names), skipped=tuple(skipped))


def _add(tar: tarfile.TarFile, record: LineRecord, number: int, skipped: list[str]) -> int:
    try:
        suffix, image = image_bytes(record)
    except ImageError as error:
        skipped.append(f"{record.name}: {error}")
        return 0
    about = {"name": record.name, "text": record.text, "group": record.group}
    content = json.dumps(about, ensure_ascii=False).encode("utf-8")
    for ending, data in ((suffix, image), (".json", content)):
        info = tarfile.TarInfo(f"{number:09}{ending}")
        info.size = len(data)
        info.mode = 0o644
        tar.addfile(info, io.BytesIO(data))
    return 1


def image_bytes(record: LineRecord) -> tuple[str, bytes]:
    """A line's image as file content: (suffix, bytes); unchanged where it is a PNG or JPEG file.

    Raises:
        ImageError: it cannot be read.
    """
    image = record.open()
    try:
        stored = record.stored() or b""
    except OSError as error:
        raise ImageError(f"{record.name}: cannot be read ({error.strerror})") from error
    for start, suffix in KEPT.items():
        if stored.startswith(start):
            return suffix, stored
    content = io.BytesIO()
    image.save(content, "PNG")
    return ".png", content.getvalue()
