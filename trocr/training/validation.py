"""Read the validation lines with the model as it is, and count the errors.

Source: original work.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from trocr.data.records import LineSource
from trocr.data.sources import Subset
from trocr.evaluation.distance import corpus_cer
from trocr.evaluation.reading import read_source
from trocr.evaluation.report import Reading
from trocr.models import VisionEncoderDecoderModel
from trocr.processor import TrOCRProcessor
from trocr.reader import Reader

_CHOICE = 21
"""Stream of random numbers: which lines are read where not all are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A line with its reading.

    Attributes:
        name: of the line.
        text: what it says.
        reading: what the model reads.
        image: as on disk.
    """

    name: str
    text: str
    reading: str
    image: Image.Image


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation:
    """What a validation found.

    Attributes:
        cer: character error rate of all lines together, 0 and up.
        exact: share of lines without an error, 0..1.
        num_lines: lines that were read.
        skipped: messages of lines that could not be opened, each with the line's name.
        samples: some lines with their readings, the same ones each time.
    """

    cer: float
    exact: float
    num_lines: int
    skipped: tuple[str, ...]
    samples: tuple[Sample, ...]


def validate(
    model: VisionEncoderDecoderModel,
    processor: TrOCRProcessor,
    source: LineSource,
    *,
    batch_size: int = 16,
    max_lines: int = 0,
    num_samples: int = 0,
    autocast_dtype: torch.dtype | None = None,
) -> Validation:
    """Read lines greedily and compare them with their texts.

    Args:
        model: put into evaluation mode.
        processor: its own.
        source: the lines.
        batch_size: lines that are read together.
        max_lines: lines that are read, a fixed random choice; 0 is all.
        num_samples: lines that come back with their readings.
        autocast_dtype: of the products; None computes in the weights' precision.
    Raises:
        DataError: no line can be opened.
    """
    numbers = np.arange(len(source))
    if 0 < max_lines < len(numbers):
        rng = np.random.default_rng(_CHOICE)
        numbers = np.sort(rng.choice(len(numbers), size=max_lines, replace=False))
    chosen = Subset(source, [int(number) for number in numbers])
    with torch.autocast(model.device.type, autocast_dtype, enabled=autocast_dtype is not None):
        lines = read_source(
            Reader(model, processor),
            chosen,
            batch_size=batch_size,
            num_beams=1,
            native_width=processor.image_processor.pad_to_aspect_ratio,
        )
    readings = lines.readings
    return Validation(
        cer=corpus_cer([r.target for r in readings], [r.reading for r in readings]),
        exact=sum(r.target == r.reading for r in readings) / len(readings),
        num_lines=len(readings),
        skipped=lines.skipped,
        samples=_samples(chosen, readings[:num_samples]),
    )


def _samples(source: LineSource, readings: Sequence[Reading]) -> tuple[Sample, ...]:
    """The first readings with their images; they are in the order of the source."""
    waiting = list(readings)
    samples = []
    for number in range(len(source)):
        if not waiting:
            break
        record = source[number]
        if record.name == waiting[0].name:
            found = waiting.pop(0)
            image = record.open()
            samples.append(Sample(name=found.name, text=found.target, reading=found.reading, image=image))
    return tuple(samples)
