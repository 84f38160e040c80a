"""Lines in tar shards, as WebDataset has them: files of one line share their name up to the first dot.

Reading by number scans the headers once and then seeks; streaming reads from front to end, and so from pipes.

Source: the WebDataset format (webdataset.github.io/webdataset, "The WebDataset Format").
"""

import json
import os
import re
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from glob import glob, has_magic
from pathlib import Path
from typing import IO, Any, Self

from trocr.data.records import DataError, LineRecord, LineSource, text_problem
from trocr.data.sources.listed import (
    IMAGE_SUFFIXES,
    SKIP_EMPTY,
    WRITE_SPACES,
    ListedSource,
    OnEmpty,
    Row,
    some,
)
from trocr.data.sources.openers import BytesOpener, TarOpener


def open_shards(path: str | os.PathLike[str], *, on_empty: OnEmpty = "error") -> LineSource:
    """Open shards for reading by number.

    A line's name is what its JSON says, else its key; names that several shards have get the shard's before.

    Args:
        path: a .tar, a folder of them, or a pattern: "data-*.tar" or "data-{000..012}.tar".
        on_empty: what to do with lines without text: "error" or "skip".
    Raises:
        DataError: there is no shard, one is cut short, or a line lacks its image or text.
    """
    rows: list[list[Row]] = []
    shards = shard_files(path)
    for shard in shards:
        with _opened(shard) as tar:
            rows.append(list(_rows(_members(tar, shard), str(shard))))
    owners = Counter(name for part in rows for name in {row.name for row in part})
    named = (
        replace(row, name=f"{shard.stem}/{row.name}") if owners[row.name] > 1 else row
        for shard, part in zip(shards, rows, strict=True)
        for row in part
    )
    return ListedSource(named, origin=Path(path), on_empty=on_empty)


def shard_files(path: str | os.PathLike[str]) -> list[Path]:
    """List the shards of a file, folder or pattern, sorted.

    Raises:
        DataError: there is none.
    """
    place = Path(path)
    if place.is_dir():
        files = sorted(place.glob("[!.]*.tar"))
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
    shards: Iterable[str | os.PathLike[str] | IO[bytes]],
    *,
    part: int = 0,
    parts: int = 1,
    on_empty: OnEmpty = "error",
) -> Iterator[LineRecord]:
    """Read shards from front to end, one pass, without seeking.

    Args:
        shards: paths, or files open in binary mode such as a pipe.
        part: which share of the shards is read here: each process or worker takes its own.
        parts: number of shares.
        on_empty: what to do with lines without text: "error" or "skip".
    Yields:
        The lines; their images are in memory until they are opened.
    Raises:
        DataError: a shard is cut short, or a line lacks its image or text, or its text is not one line.
    """
    for number, shard in enumerate(shards):
        if number % parts != part:
            continue
        name = getattr(shard, "name", shard) if hasattr(shard, "read") else shard
        with _opened(shard, stream=True) as tar:
            for row in _rows(_members(tar, name, read=True), str(name)):
                if row.text.strip() or on_empty == "error":
                    yield _record(row)


def _record(row: Row) -> LineRecord:
    problem = text_problem(row.text)
    if problem:
        raise DataError(f"{row.place}: the text {row.text[:60]!r} has {problem}. {WRITE_SPACES}")
    if not row.text.strip():
        raise DataError(f"{row.place}: has no text. Write it, or {SKIP_EMPTY}")
    return LineRecord(name=row.name, text=row.text, group=row.group, opener=row.opener)


class _Header(tarfile.TarInfo):
    """A header that must be whole: `tarfile` takes a damaged one, or none, for the end of the file."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        """Read a block of 512 bytes; the one of zeros, the end, is left to `tarfile`."""
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if len(buf) == tarfile.BLOCKSIZE and not any(buf):
                raise
            raise tarfile.ReadError(str(error) if buf else "the end mark is missing") from error


def _opened(shard: Any, *, stream: bool = False) -> tarfile.TarFile:
    try:
        if hasattr(shard, "read"):
            return tarfile.open(fileobj=shard, mode="r|", tarinfo=_Header)
        return tarfile.open(shard, "r|" if stream else "r:", tarinfo=_Header)
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
            folder, _, base = member.name.rpartition("/")
            if not member.isfile() or base.startswith("."):  # "._a.png" is macOS's
                continue
            stem, _, suffix = base.partition(".")
            key, suffix = f"{folder}/{stem}".lstrip("/"), f".{suffix.lower()}"
            if size is not None and member.offset_data + member.size > size:
                raise DataError(f"{shard}: cut short at {member.name}; pack or copy it again")
            is_image = suffix.endswith(IMAGE_SUFFIXES)
            if not is_image or read:
                file = tar.extractfile(member)
                content: Any = b"" if file is None else file.read()
                if is_image:
                    content = BytesOpener(content, f"{shard}:{member.name}")
            else:
                content = TarOpener(str(shard), member.offset_data, member.size, member.name)
            yield key, suffix, content
    except tarfile.TarError as error:
        raise DataError(f"{shard}: damaged or cut short ({error}); pack or copy it again") from error


def _rows(members: Iterable[Member], shard: str) -> Iterator[Row]:
    """Put files of one key together; they follow one another."""
    current: str | None = None
    files: list[tuple[str, Any]] = []
    for key, suffix, content in members:
        if key != current:
            if current is not None:
                yield from _lines(current, files, shard)
            current, files = key, []
        files.append((suffix, content))
    if current is not None:
        yield from _lines(current, files, shard)


@dataclass
class _Parts:
    """What a shard has of one line."""

    fields: dict[str, Any] = field(default_factory=dict)
    image: Any = None

    @property
    def text(self) -> str | None:
        """Of a JSON's "text", else of a .txt, else of a JSON's "label"."""
        return next(
            (
                self.fields[name]
                for name in ("text", ".txt", "label")
                if isinstance(self.fields.get(name), str)
            ),
            None,
        )


def _lines(key: str, files: list[tuple[str, Any]], shard: str) -> Iterator[Row]:
    """The line of a key; several where names differ after the first dot: "p.1.png", "p.1.txt", "p.2.png" ...

    Files that are neither an image nor a text make no line: a README, the index of a shard.
    """
    found: dict[str, _Parts] = {}
    for suffix, content in files:
        stem, _, ending = suffix.rpartition(".")
        parts = found.setdefault(stem, _Parts())
        if f".{ending}" in IMAGE_SUFFIXES:
            parts.image = content
        elif ending == "txt":
            parts.fields[".txt"] = _text(content, key, shard).rstrip("\r\n")
        elif ending == "json":
            parts.fields |= _json(content, key, shard)
    plain = found.pop("", _Parts())
    if plain.text is None and ".gt" in found:
        plain.fields |= found.pop(".gt").fields
    if plain.image is not None and plain.text is not None:
        yield _row(plain, key, shard)
        return
    has_any = any(parts.image is not None or parts.text is not None for parts in (plain, *found.values()))
    whole = {
        stem: parts for stem, parts in found.items() if parts.image is not None and parts.text is not None
    }
    if plain.image is None and plain.text is None and whole:
        yield from (_row(parts, f"{key}{stem}", shard) for stem, parts in whole.items())
    elif has_any:
        lacks = "image" if plain.image is None else 'text (a .txt, or "text" or "label" in a .json)'
        raise DataError(f"{shard}: {key} has no {lacks}")


def _row(parts: _Parts, key: str, shard: str) -> Row:
    group = parts.fields.get("group")
    name = str(parts.fields.get("name") or key)
    return Row(name, parts.text or "", None if group is None else str(group), parts.image, f"{shard}:{key}")


def _text(content: bytes, key: str, shard: str) -> str:
    try:
        return content.decode("utf-8-sig")
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
