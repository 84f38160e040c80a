"""Lines in LMDB, as the benchmarks of scene text have them.

Source: the keys of clovaai's deep-text-recognition-benchmark (`create_lmdb_dataset.py`): num-samples,
image-%09d and label-%09d, counted from 1.
"""

import functools
import os
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from trocr.data.packing import Packed, image_bytes, staged
from trocr.data.records import DataError, LineRecord, LineSource, text_problem
from trocr.data.sources.listed import SKIP_EMPTY, OnEmpty, some
from trocr.data.sources.openers import decode
from trocr.image_array import ImageError

MAP_BYTES = 2**40
"""Address space that a database may grow to while it is written; the file is as large as its content."""


@dataclass
class LMDBSource:
    """Lines of a database; it is opened anew in each process that reads.

    Args:
        path: folder with data.mdb.
        on_empty: "error" refuses lines without text, "skip" leaves them out.
    Attributes:
        num_empty: lines without text that were left out.
    Raises:
        DataError: it is no such database or cut short, labels are missing or are not one line of UTF-8, or
            lmdb is not installed.
    """

    path: str
    on_empty: OnEmpty = "error"

    def __post_init__(self) -> None:
        count = _get(self.path, "num-samples")
        if count is None or not count.isdigit():
            raise DataError(f"{self.path}: no key num-samples; expected an LMDB of a scene-text benchmark")
        self._numbers: Sequence[int] = range(1, int(count) + 1)
        empty = self._check()
        if empty:
            self._numbers = array("L", (number for number in self._numbers if number not in empty))
        self.num_empty = len(empty)
        if not self._numbers:
            raise DataError(f"{self.path}: no lines")

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: int, /) -> LineRecord:
        if not 0 <= index < len(self):
            raise IndexError(f"line {index} of {len(self)}")
        number = self._numbers[index]
        label = _get(self.path, f"label-{number:09}") or b""
        name = f"image-{number:09}"
        return LineRecord(name=name, text=label.decode("utf-8"), opener=_LMDBOpener(self.path, name))

    def __iter__(self) -> Iterator[LineRecord]:
        return (self[index] for index in range(len(self)))

    def _check(self) -> set[int]:
        """Look at all labels, and give the numbers of those without text.

        Raises:
            DataError: labels are missing, or are not one line of UTF-8, or (see `on_empty`) have no text.
        """
        empty: dict[int, str] = {}
        wrong: list[str] = []
        with _environment(os.path.realpath(self.path), os.getpid()).begin() as transaction:
            for number in self._numbers:
                name = f"label-{number:09}"
                problem = _label_problem(transaction.get(name.encode()))
                if problem == _EMPTY:
                    empty[number] = name
                elif problem is not None:
                    wrong.append(f"{name} {problem}")
        told = [f"{len(wrong)} labels are not one line of UTF-8: {some(wrong)}"] if wrong else []
        if empty and self.on_empty == "error":
            told.append(
                f"{len(empty)} labels have no text: {some(list(empty.values()))}. Write it, or {SKIP_EMPTY}"
            )
        if told:
            raise DataError(f"{self.path}: {'. '.join(told)}")
        return set(empty)


def _get(path: str, key: str) -> bytes | None:
    with _environment(os.path.realpath(path), os.getpid()).begin() as transaction:
        value: bytes | None = transaction.get(key.encode())
    return value


_EMPTY = "has no text"


def _label_problem(label: bytes | None) -> str | None:
    if label is None:
        return "is missing"
    try:
        text = label.decode("utf-8")
    except UnicodeDecodeError:
        return "is not UTF-8"
    if not text.strip():
        return _EMPTY
    problem = text_problem(text)
    return None if problem is None else f"has {problem}"


@functools.lru_cache(maxsize=64)
def _environment(path: str, process: int) -> Any:
    """Open a database for reading; a process must open it once only, and not use its parent's."""
    lmdb = _lmdb()
    try:
        environment = lmdb.open(path, readonly=True, lock=False, readahead=False, meminit=False)
    except lmdb.Error as error:
        raise DataError(f"{path}: not an LMDB that can be read ({error})") from error
    size = os.path.getsize(os.path.join(path, "data.mdb"))
    wanted = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
    if size < wanted:  # reading behind the end would kill the process
        environment.close()
        raise DataError(
            f"{path}: data.mdb is cut short: {size} of {wanted} bytes; copy it again, or write the original "
            "anew with mdb_copy"
        )
    return environment


@dataclass(frozen=True, slots=True)
class _LMDBOpener:
    path: str
    name: str

    def __call__(self) -> Image.Image:
        content = self.stored()
        if content is None:
            raise ImageError(f"{self.path}: {self.name} is missing")
        return decode(content, f"{self.path}:{self.name}")

    def stored(self) -> bytes | None:
        return _get(self.path, self.name)


def open_lmdb(path: str | os.PathLike[str], *, on_empty: OnEmpty = "error") -> LMDBSource:
    """Open a database.

    Args:
        path: folder with data.mdb.
        on_empty: see `LMDBSource`.
    Raises:
        DataError: see `LMDBSource`.
    """
    return LMDBSource(os.fspath(path), on_empty)


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
    skipped: list[str] = []
    with staged(place) as stage:
        try:
            with lmdb.open(str(stage), map_size=MAP_BYTES) as environment:
                count = _fill(environment, source, skipped)
        except lmdb.Error as error:
            raise DataError(f"{place}: cannot be written ({error})") from error
        if count == 0:
            raise DataError(f"none of {len(source)} lines can be read: {some(skipped)}")
    return Packed(num_lines=count, files=(place / "data.mdb",), skipped=tuple(skipped))


def _fill(environment: Any, source: LineSource, skipped: list[str]) -> int:
    """Write lines, and count those that could be; the others are added to `skipped`."""
    count = 0
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
    return count


def _lmdb() -> Any:
    try:
        import lmdb
    except ImportError as error:
        raise DataError("LMDB needs the package lmdb: pip install 'trocr[data]'") from error
    return lmdb
