"""Readings as a file: name, TAB, text, a line each; written by one run, scored by another, or made elsewhere.

Source: original work.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from trocr.data.records import LineRecord, LineSource
from trocr.evaluation.distance import EvaluationError
from trocr.evaluation.manifest import image_hash
from trocr.evaluation.report import Reading
from trocr.image import ImageError

Places = Sequence[tuple[str, LineSource]]
"""(where it is, its lines) of each data set."""


def load_predictions(
    path: Path, places: Places, progress: Callable[[], None] | None = None
) -> list[tuple[Reading, ...]]:
    """Take readings that were made elsewhere.

    Args:
        path: a file of name, TAB, text in UTF-8. With several data sets a name can have its set's place and
            "/" before it, and must where another set has a line of the same name.
        places: the data sets. Their images are opened for their shapes; it is no mistake if one cannot be.
        progress: called after each line.
    Returns:
        The readings of each data set.
    Raises:
        EvaluationError: the file is not of this form, or its names are not those of the data.
    """
    texts = _read(path)
    names = [[source[number].name for number in range(len(source))] for _, source in places]
    times = Counter(name for some in names for name in set(some))
    keys: list[list[str]] = []
    for (place, _), some in zip(places, names, strict=True):
        full = [_full(name, place, len(places)) for name in some]
        keys.append([long if long in texts else short for long, short in zip(full, some, strict=True)])
        unclear = next((name for name in keys[-1] if name in texts and times[name] > 1), None)
        if unclear is not None:
            raise EvaluationError(
                f"{path}: {times[unclear]} data sets have a line {unclear!r}: "
                f"write {place}/{unclear} for that of {place}"
            )
    _check(path, texts, {key for some in keys for key in some})
    found = []
    for (_, source), some in zip(places, keys, strict=True):
        readings = []
        for number, key in enumerate(some):
            readings.append(_reading(source[number], texts[key]))
            if progress is not None:
                progress()
        found.append(tuple(readings))
    return found


def predictions_text(parts: Sequence[tuple[str, Sequence[Reading]]]) -> str:
    """Readings as `load_predictions` reads them.

    Args:
        parts: (its place, its readings) of each data set. Line ends inside a reading become spaces.
    """
    rows = []
    for place, readings in parts:
        for reading in readings:
            text = re.sub(r"[\r\n]+", " ", reading.reading.strip("\r\n"))
            rows.append(f"{_full(reading.name, place, len(parts))}\t{text}\n")
    return "".join(rows)


def _full(name: str, place: str, num_places: int) -> str:
    return f"{place}/{name}" if num_places > 1 else name


def _check(path: Path, texts: dict[str, str], wanted: set[str]) -> None:
    missing, unknown = sorted(wanted - texts.keys()), sorted(texts.keys() - wanted)
    if missing or unknown:
        parts = [
            f"{len(some)} {what}, such as {some[0]!r}"
            for some, what in ((missing, "lines have no reading"), (unknown, "names are not in the data"))
            if some
        ]
        raise EvaluationError(f"{path}: {'; '.join(parts)}")


def _read(path: Path) -> dict[str, str]:
    """Texts by name. Rows end at line feeds only: other breaks, such as U+2028, can be part of a text."""
    content = path.read_bytes()
    try:
        rows = content.decode("utf-8", "surrogatepass").removeprefix("\ufeff").split("\n")
    except UnicodeDecodeError as error:
        number = content.count(b"\n", 0, error.start) + 1
        raise EvaluationError(
            f"{path}:{number}: byte 0x{content[error.start]:02x} is not UTF-8; save the file as UTF-8"
        ) from error
    texts: dict[str, str] = {}
    numbers: dict[str, int] = {}
    for number, row in enumerate(rows, start=1):
        name, tab, text = row.removesuffix("\r").partition("\t")
        if not tab and name.strip():
            raise EvaluationError(f"{path}:{number}: no tab; expected name, TAB, text, found {name[:60]!r}")
        if name in texts:
            raise EvaluationError(
                f"{path}:{number}: {name!r} has a reading already, in line {numbers[name]}; keep one of them"
            )
        if tab:
            texts[name], numbers[name] = text, number
    return texts


def _reading(record: LineRecord, text: str) -> Reading:
    aspect, digest = None, None
    try:
        image = record.open()
    except ImageError:
        pass  # the report says that there is no aspect ratio, the manifest that there is no hash
    else:
        aspect, digest = image.width / image.height, image_hash(image)
    return Reading(
        name=record.name,
        target=record.text,
        reading=text,
        group=record.group,
        aspect=aspect,
        image_sha256=digest,
    )
