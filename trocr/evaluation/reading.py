"""Read the lines of a source with a model, timed, and keep what a report needs.

Source: original work.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from PIL import Image

from trocr.data.records import DataError, LineRecord, LineSource
from trocr.evaluation.manifest import image_hash
from trocr.evaluation.report import Reading
from trocr.image import ImageError
from trocr.reader import Reader

CHUNK = 512
"""Lines that are opened and sorted by shape together: memory is bounded, batches hold like lines."""


@dataclass(frozen=True, kw_only=True)
class ReadLines:
    """The readings of a source.

    Attributes:
        readings: in the order of the source.
        seconds: that the model and its image processor took; opening files is not in it.
        skipped: messages of lines that could not be opened, each with the line's name.
    """

    readings: tuple[Reading, ...]
    seconds: float
    skipped: tuple[str, ...]

    @property
    def lines_per_s(self) -> float:
        """Speed of reading."""
        return len(self.readings) / self.seconds if self.seconds else float("inf")


def read_source(
    reader: Reader,
    source: LineSource,
    *,
    batch_size: int = 16,
    num_beams: int | None = None,
    max_new_tokens: int | None = None,
    native_width: bool = False,
    progress: Callable[[], None] | None = None,
) -> ReadLines:
    """Read all lines of a source.

    Args:
        reader: with its model.
        source: the lines.
        batch_size: lines that go through the model together.
        num_beams: see `Reader.read`.
        max_new_tokens: see `Reader.read`.
        native_width: see `Reader.read`.
        progress: called after each line.
    Raises:
        DataError: no line can be opened.
    """
    found: dict[int, Reading] = {}
    skipped: list[str] = []
    seconds = 0.0
    for opened in open_sorted(source, skipped):
        hashes = [image_hash(image) for _, _, image in opened]
        started = time.perf_counter()
        lines = reader.read(
            [image for _, _, image in opened],
            batch_size=batch_size,
            num_beams=num_beams,
            max_new_tokens=max_new_tokens,
            native_width=native_width,
        )
        for (number, record, image), digest, line in zip(opened, hashes, lines, strict=True):
            found[number] = Reading(
                name=record.name,
                target=record.text,
                reading=line.text,
                group=record.group,
                aspect=image.width / image.height,
                score=line.score,
                finished=line.finished,
                image_sha256=digest,
            )
            if progress is not None:
                progress()
        seconds += time.perf_counter() - started
    if not found:
        raise DataError(f"none of the {len(source)} lines can be opened: {'; '.join(skipped[:3])}")
    return ReadLines(
        readings=tuple(found[number] for number in sorted(found)), seconds=seconds, skipped=tuple(skipped)
    )


def open_sorted(
    source: LineSource, skipped: list[str], chunk: int = CHUNK
) -> Iterator[list[tuple[int, LineRecord, Image.Image]]]:
    """Open lines in chunks, each sorted from narrow to wide.

    Args:
        source: the lines.
        skipped: messages of lines that cannot be opened are added here.
        chunk: lines held in memory.
    Yields:
        (number in the source, record, image) of the lines of a chunk.
    """
    for start in range(0, len(source), chunk):
        opened = []
        for number in range(start, min(start + chunk, len(source))):
            record = source[number]
            try:
                opened.append((number, record, record.open()))
            except ImageError as error:
                skipped.append(f"{record.name}: {error}")
        yield sorted(opened, key=lambda line: line[2].width / line[2].height)
