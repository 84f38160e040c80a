"""Lines in LMDB, as the benchmarks of scene text have them.

Source: the keys of clovaai's deep-text-recognition-benchmark (`create_lmdb_dataset.py`): num-samples,
image-%09d and label-%09d, counted from 1.
"""

import functools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from trocr.data.records import DataError, LineRecord, LineSource
from trocr.data.shards import Packed, decode, image_bytes
from trocr.image_array import ImageError

MAP_BYTES = 2**40
"""Address space that a database may grow to while it is written; the file is as large as its content."""


@dataclass
class LMDBSource:
    """Lines of a database; it is opened anew in each process that reads.

    Args:
        path: folder with data.mdb.
    Raises:
        DataError: it is no such database, or lmdb is not installed.
    """

    path: str

    def __post_init__(self) -> None:
        count = self._get(b"num-samples")
        if count is None or not count.isdigit():
            raise DataError(f"{self.path}: no key num-samples; expected an LMDB of a scene-text benchmark")
        self._count = int(count)
        if self._count == 0:
            raise DataError(f"{self.path}: no lines")

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int, /) -> LineRecord:
        if not 0 <= index < self._count:
            raise IndexError(f"line {index} of {self._count}")
        label = self._get(f"label-{index + 1:09}".encode())
        if label is None:
            raise DataError(f"{self.path}: num-samples is {self._count}, and label-{index + 1:09} is missing")
        try:
            text = label.decode("utf-8")
        except UnicodeDecodeError as error:
            raise DataError(f"{self.path}: label-{index + 1:09} is not UTF-8") from error
        name = f"image-{index + 1:09}"
        return LineRecord(name=name, text=text, opener=_LMDBOpener(self, name))

    def __iter__(self) -> Iterator[LineRecord]:
        return (self[index] for index in range(len(self)))

    def image(self, name: str) -> Image.Image:
        """Decode an image.

        Raises:
            ImageError: it is missing or damaged.
        """
        content = self._get(name.encode())
        if content is None:
            raise ImageError(f"{self.path}: {name} is missing")
        return decode(content, f"{self.path}:{name}")

    def _get(self, key: bytes) -> bytes | None:
        environment = _environment(os.path.realpath(self.path), os.getpid())
        with environment.begin() as transaction:
            value: bytes | None = transaction.get(key)
        return value


@functools.lru_cache(maxsize=64)
def _environment(path: str, process: int) -> Any:
    """Open a database for reading; a process must open it once only, and not use its parent's."""
    lmdb = _lmdb()
    try:
        return lmdb.open(path, readonly=True, lock=False, readahead=False, meminit=False)
    except lmdb.Error as error:
        raise DataError(f"{path}: not an LMDB that can be read ({error})") from error


@dataclass(frozen=True)
class _LMDBOpener:
    source: LMDBSource
    name: str

    def __call__(self) -> Image.Image:
        return self.source.image(self.name)


def open_lmdb(path: str | os.PathLike[str]) -> LMDBSource:
    """Open a database.

    Raises:
        DataError: see `LMDBSource`.
    """
    return LMDBSource(os.fspath(path))


def write_lmdb(source: LineSource, folder: str | os.PathLike[str]) -> Packed:
    """Write lines as a database; names and groups have no place in it.

    Args:
        source: the lines.
        folder: made where it is missing; it must not hold a database.
    Raises:
        DataError: there is a database already, no line can be read, or lmdb is not installed.
    """
    lmdb, place = _lmdb(), Path(folder)
    if (place / "data.mdb").exists():
        raise DataError(f"{place}: holds a data.mdb already; choose an empty folder")
    place.mkdir(parents=True, exist_ok=True)
    skipped, count = [], 0
    with lmdb.open(str(place), map_size=MAP_BYTES) as environment:
        for start in range(0, len(source), 1000):
            with environment.begin(write=True) as transaction:
                for number in range(start, min(start + 1000, len(source))):
                    record = source[number]
                    try:
                        content = image_bytes(record)[1]
                    except ImageError as error:
                        skipped.append(f"{record.name}: {error}")
                        continue
                    count += 1
                    transaction.put(f"image-{count:09}".encode(), content)
                    transaction.put(f"label-{count:09}".encode(), record.text.encode("utf-8"))
        with environment.begin(write=True) as transaction:
            transaction.put(b"num-samples", str(count).encode())
    if count == 0:
        raise DataError(f"none of {len(source)} lines can be read: {'; '.join(skipped[:3])}")
    return Packed(num_lines=count, files=(place / "data.mdb",), skipped=tuple(skipped))


def _lmdb() -> Any:
    try:
        import lmdb
    except ImportError as error:
        raise DataError("LMDB needs the package lmdb: pip install 'trocr[data]'") from error
    return lmdb
