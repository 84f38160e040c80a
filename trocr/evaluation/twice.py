"""Read the lines of a source with two models, batch by batch in turns.

Source: original work.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from trocr.data.records import LineSource
from trocr.evaluation.reading import open_sorted
from trocr.image import ImageError
from trocr.line import Line
from trocr.reader import Reader

BATCHES_AHEAD = 4
"""Batches that are opened and sorted by shape together, and read by one model before the other's turn."""

UNREAD = Line(text="", score=0.0, tokens=(), finished=False, source="")
"""What counts for a line that the reference reads and the candidate does not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TwoReadings:
    """A line as two models read it.

    Attributes:
        name: of the line.
        target: what it says, "" where that is not known.
        group: its receipt, page or writer, or None.
        reference: what the reference read.
        candidate: what the candidate read.
    """

    name: str
    target: str
    group: str | None
    reference: Line
    candidate: Line


@dataclass(frozen=True, kw_only=True)
class TwiceRead:
    """The readings of a source by two models.

    Attributes:
        lines: in the order of the source.
        skipped: messages of lines whose images cannot be opened, or that the reference cannot read.
        reference_s: seconds that the reference took; opening files is not in it.
        candidate_s: seconds that the candidate took.
    """

    lines: tuple[TwoReadings, ...]
    skipped: tuple[str, ...]
    reference_s: float
    candidate_s: float


def read_twice(
    reference: Reader,
    candidate: Reader,
    source: LineSource,
    *,
    batch_size: int,
    progress: Callable[[], None] | None = None,
    **options: Any,
) -> TwiceRead:
    """Read all lines of a source with two readers.

    Args:
        reference: the first.
        candidate: the second. Who begins changes from turn to turn.
        source: the lines.
        batch_size: lines that go through a model together.
        progress: called after each line.
        options: of `Reader.read`, for both.
    """
    found: dict[int, TwoReadings] = {}
    skipped: list[str] = []
    seconds = [0.0, 0.0]
    for turn, opened in enumerate(open_sorted(source, skipped, BATCHES_AHEAD * batch_size)):
        images = [image for _, _, image in opened]
        read: dict[int, tuple[dict[int, Line], dict[int, str]]] = {}
        for who in (0, 1) if turn % 2 == 0 else (1, 0):
            started = time.perf_counter()
            read[who] = _read((reference, candidate)[who], images, batch_size=batch_size, **options)
            seconds[who] += time.perf_counter() - started
        for place, (number, record, _) in enumerate(opened):
            if place in read[0][0]:
                found[number] = TwoReadings(
                    name=record.name,
                    target=record.text,
                    group=record.group,
                    reference=read[0][0][place],
                    candidate=read[1][0].get(place, UNREAD),
                )
            else:
                skipped.append(f"{record.name}: {read[0][1][place]}")
            if progress is not None:
                progress()
    return TwiceRead(
        lines=tuple(found[number] for number in sorted(found)),
        skipped=tuple(skipped),
        reference_s=seconds[0],
        candidate_s=seconds[1],
    )


def _read(
    reader: Reader, images: Sequence[Image.Image], **options: Any
) -> tuple[dict[int, Line], dict[int, str]]:
    """Lines by place, and what is wrong with the other images."""
    places = {f"images[{place}]": place for place in range(len(images))}
    wrong: dict[int, str] = {}

    def note(source: str, error: ImageError) -> None:
        wrong[places[source]] = str(error)

    lines = {places[line.source]: line for line in reader.read(images, on_error=note, **options)}
    return lines, wrong
