"""Read the validation lines with the model as it is, and count the errors.

Source: original work.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from trocr.data.records import DataError, LineRecord, LineSource
from trocr.evaluation.distance import corpus_cer
from trocr.image import ImageError
from trocr.models import VisionEncoderDecoderModel
from trocr.processor import TrOCRProcessor
from trocr.reader import Reader

CHUNK = 256
"""Lines that are opened and sorted by shape together, so that batches hold little padding."""

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
    reader = Reader(model, processor)
    native_width = processor.image_processor.pad_to_aspect_ratio
    texts: list[str] = []
    readings: list[str] = []
    skipped: list[str] = []
    samples: list[Sample] = []
    autocast = torch.autocast(model.device.type, autocast_dtype, enabled=autocast_dtype is not None)
    for opened in _chunks(source, max_lines, skipped):
        images = [image for _, image in opened]
        with autocast:
            lines = reader.read(images, batch_size=batch_size, num_beams=1, native_width=native_width)
            for (record, image), line in zip(opened, lines, strict=True):
                texts.append(record.text)
                readings.append(line.text)
                if len(samples) < num_samples:
                    sample = Sample(name=record.name, text=record.text, reading=line.text, image=image)
                    samples.append(sample)
    if not texts:
        raise DataError(f"no line for validation can be opened: {'; '.join(skipped[:3])}")
    return Validation(
        cer=corpus_cer(texts, readings),
        exact=sum(text == reading for text, reading in zip(texts, readings, strict=True)) / len(texts),
        num_lines=len(texts),
        skipped=tuple(skipped),
        samples=tuple(samples),
    )


def _chunks(
    source: LineSource, max_lines: int, skipped: list[str]
) -> Iterator[list[tuple[LineRecord, Image.Image]]]:
    """Opened lines, each chunk sorted from narrow to wide."""
    numbers = np.arange(len(source))
    if 0 < max_lines < len(numbers):
        chosen = np.random.default_rng(_CHOICE).choice(len(numbers), size=max_lines, replace=False)
        numbers = np.sort(chosen)
    for start in range(0, len(numbers), CHUNK):
        opened = []
        for number in numbers[start : start + CHUNK]:
            record = source[int(number)]
            try:
                opened.append((record, record.open()))
            except ImageError as error:
                skipped.append(f"{record.name}: {error}")
        yield sorted(opened, key=lambda pair: pair[1].width / pair[1].height)
