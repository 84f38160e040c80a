"""Lines in tar shards, as WebDataset has them: files of one line share their name up to the first dot.

Reading by number scans the headers once and then seeks; streaming reads from front to end, and so from pipes.

Source: the WebDataset format (webdataset.github.io/webdataset, "The WebDataset Format").
"""

import io
import json
import os
import re
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from glob import glob, has_magic
from pathlib import Path
from typing import IO, Any

from PIL import Image

from trocr.data.records import DataError, LineRecord, LineSource
from trocr.data.sources.listed import IMAGE_SUFFIXES, FileOpener, ListedSource, OnEmpty, Row, some
from trocr.image_array import ImageError
from trocr.image_input import load_pixels, open_image

KEPT_SUFFIXES = (".png", ".jpg", ".jpeg")
"""Images that are packed as they are; others become PNG."""


@dataclass(frozen=True, slots=True)
class TarOpener:
    """Opens an image inside a tar file.

    Attributes:
        path: the tar file.
        offset: where the image begins, in bytes.
        size: of the image, in bytes.
        name: of the image in it.
    """

    path: str
    offset: int
    size: int
    name: str

    def __call__(self) -> Image.Image:
        """Read and decode it."""
        with open(self.path, "rb") as file:
            file.seek(self.offset)
            return decode(file.read(self.size), f"{self.path}:{self.name}")


@dataclass(frozen=True, slots=True)
class BytesOpener:
    """Opens an image that was read already."""

    content: bytes
    name: str

    def __call__(self) -> Image.Image:
        """Decode it."""
        return decode(self.content, self.name)


def decode(content: bytes, name: str) -> Image.Image:
    """Decode an image, grey ones as "L", others as "RGB".

    Raises:
        ImageError: it is damaged; the message has the name.
    """
    try:
        image = load_pixels(content).to_image()
        return image if image.mode in ("L", "RGB") else open_image(image)
    except ImageError as error:
        raise ImageError(f"{name}: {error}") from error


@dataclass
class _Parts:
    """What a shard has of one line."""

    fields: dict[str, Any] = field(default_factory=dict)
    image: Any = None

    def row(self, key: str, place: str) -> Row | None:
        """The line; None where a part is missing."""
        text = self.fields.get("text")
        if self.image is None or not isinstance(text, str):
            return None
        group = self.fields.get("group")
        name = str(self.fields.get("name") or key)
        return Row(name, text, None if group is None else str(group), self.image, place)


def open_shards(path: str | os.PathLike[str], *, on_empty: OnEmpty = "error") -> LineSource:
    """Open shards for reading by number.

    Args:
        path: a .tar, a folder of them, or a pattern: "data-*.tar" or "data-{000..012}.tar".
        on_empty: what to do with lines without text: "error" or "skip".
    Raises:
        DataError: there is no shard, one is cut short, or a line lacks its image or text.
    """
    rows: list[Row] = []
    for shard in shard_files(path):
        with _opened(shard) as tar:
            found = _collect(_members(tar, shard), shard)
        rows += found
    return ListedSource(rows, origin=Path(path), on_empty=on_empty)


def shard_files(path: str | os.PathLike[str]) -> list[Path]:
    """List the shards of a file, folder or pattern, sorted.

    Raises:
        DataError: there is none.
    """
    place = Path(path)
    if place.is_dir():
        files = sorted(place.glob("*.tar"))
    elif place.is_file():
        files = [place]
    else:
        names = _expand_braces(os.fspath(path))
        files = [
            Path(found) for name in names for found in (sorted(glob(name)) if has_magic(name) else [name])
        ]
        gone = [str(file) for file in files if not file.is_file()]
        if gone:
            raise DataError(f"{path}: {len(gone)} shards are missing: {some(gone)}")
    if not files:
        raise DataError(f"{path}: no .tar files")
    return files


def stream_shards(
    shards: Iterable[str | os.PathLike[str] | IO[bytes]], *, part: int = 0, parts: int = 1
) -> Iterator[LineRecord]:
    """Read shards from front to end, one pass, without seeking.

    Args:
        shards: paths, or files open in binary mode such as a pipe.
        part: which share of the shards is read here: each process or worker takes its own.
        parts: number of shares.
    Yields:
        The lines; their images are in memory until they are opened.
    Raises:
        DataError: a shard is cut short, or a line lacks its image or text.
    """
    for number, shard in enumerate(shards):
        if number % parts != part:
            continue
        name = getattr(shard, "name", shard) if hasattr(shard, "read") else shard
        with _opened(shard, stream=True) as tar:
            for row in _rows(_members(tar, name, read=True), str(name)):
                yield LineRecord(name=row.name, text=row.text, group=row.group, opener=row.opener)


def _opened(shard: Any, *, stream: bool = False) -> tarfile.TarFile:
    try:
        if hasattr(shard, "read"):
            return tarfile.open(fileobj=shard, mode="r|")
        return tarfile.open(shard, "r|" if stream else "r:")
    except tarfile.TarError as error:
        raise DataError(f"{shard}: not a tar file ({error})") from error
    except OSError as error:
        raise DataError(f"{shard}: cannot be read ({error.strerror or error})") from error


Member = tuple[str, str, Any]
"""Key, suffix, and content: bytes of small files, an opener of images."""


def _members(tar: tarfile.TarFile, shard: Any, *, read: bool = False) -> Iterator[Member]:
    size = None if read else os.path.getsize(shard)
    try:
        for member in tar:
            if not member.isfile():
                continue
            folder, _, base = member.name.rpartition("/")
            stem, _, suffix = base.partition(".")
            key, suffix = f"{folder}/{stem}".lstrip("/"), f".{suffix.lower()}"
            if size is not None and member.offset_data + member.size > size:
                raise DataError(f"{shard}: cut short at {member.name}; pack or copy it again")
            if suffix not in IMAGE_SUFFIXES or read:
                file = tar.extractfile(member)
                content: Any = b"" if file is None else file.read()
                if suffix in IMAGE_SUFFIXES:
                    content = BytesOpener(content, f"{shard}:{member.name}")
            else:
                content = TarOpener(str(shard), member.offset_data, member.size, member.name)
            yield key, suffix, content
    except tarfile.TarError as error:
        raise DataError(f"{shard}: damaged or cut short ({error}); pack or copy it again") from error


def _collect(members: Iterable[Member], shard: Path) -> list[Row]:
    return list(_rows(members, str(shard)))


def _rows(members: Iterable[Member], shard: str) -> Iterator[Row]:
    """Put files of one key together; they follow one another."""
    current: str | None = None
    parts = _Parts()
    for key, suffix, content in members:
        if key != current:
            if current is not None:
                yield _checked(parts, current, shard)
            current, parts = key, _Parts()
        if suffix in IMAGE_SUFFIXES:
            parts.image = content
        elif suffix == ".txt":
            parts.fields.setdefault("text", _text(content, key, shard).rstrip("\r\n"))
        elif suffix == ".json":
            parts.fields |= _json(content, key, shard)
    if current is not None:
        yield _checked(parts, current, shard)


def _checked(parts: _Parts, key: str, shard: str) -> Row:
    row = parts.row(key, f"{shard}:{key}")
    if row is None:
        lacks = "image" if parts.image is None else 'text (a .txt, or "text" in a .json)'
        raise DataError(f"{shard}: {key} has no {lacks}")
    return row


def _text(content: bytes, key: str, shard: str) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{shard}: the text of {key} is not UTF-8") from error


def _json(content: bytes, key: str, shard: str) -> dict[str, Any]:
    try:
        value = json.loads(content)
    except ValueError as error:
        raise DataError(f"{shard}: {key}.json is no JSON ({error})") from error
    return value if isinstance(value, dict) else {}


def _expand_braces(pattern: str) -> list[str]:
    """Names of a pattern with one range of numbers: "a-{00..02}.tar"."""
    found = re.search(r"\{(\d+)\.\.(\d+)\}", pattern)
    if not found:
        return [pattern]
    first, last = found.groups()
    numbers = range(int(first), int(last) + 1)
    return [pattern[: found.start()] + str(n).zfill(len(first)) + pattern[found.end() :] for n in numbers]


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


def write_shards(
    source: LineSource,
    folder: str | os.PathLike[str],
    *,
    lines_per_shard: int = 10_000,
) -> Packed:
    """Write lines as shards, the same bytes for the same lines.

    PNG and JPEG files are packed as they are, other images as PNG. A shard appears under its name when it is
    whole.

    Args:
        source: the lines.
        folder: made where it is missing; it must not hold shards.
        lines_per_shard: at most.
    Raises:
        DataError: the folder holds shards, or no line can be read.
    """
    place = Path(folder)
    if list(place.glob("*.tar")):
        raise DataError(f"{place}: holds .tar files already; choose an empty folder")
    place.mkdir(parents=True, exist_ok=True)
    files: list[Path] = []
    skipped: list[str] = []
    num_lines = 0
    for start in range(0, len(source), lines_per_shard):
        path = place / f"lines-{len(files):05}.tar"
        temporary = place / f".{path.name}.tmp"
        count = 0
        try:
            with tarfile.open(temporary, "w", format=tarfile.PAX_FORMAT) as tar:
                for number in range(start, min(start + lines_per_shard, len(source))):
                    count += _add(tar, source[number], number, skipped)
            if count:
                os.replace(temporary, path)
                files.append(path)
                num_lines += count
        finally:
            temporary.unlink(missing_ok=True)
    if not files:
        raise DataError(f"none of {len(source)} lines can be read: {some(skipped)}")
    return Packed(num_lines=num_lines, files=tuple(files), skipped=tuple(skipped))


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
    opener = record.opener
    if isinstance(opener, FileOpener) and Path(opener.path).suffix.lower() in KEPT_SUFFIXES:
        return Path(opener.path).suffix.lower(), Path(opener.path).read_bytes()
    content = io.BytesIO()
    image.save(content, "PNG")
    return ".png", content.getvalue()
