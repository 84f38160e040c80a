"""The lines of a benchmark: real images, and how many tokens a reader writes for each.

Source: original work.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from os import PathLike
from typing import TYPE_CHECKING, Any

from trocr.benchmark.errors import BenchmarkError
from trocr.data.records import DataError
from trocr.data.sources import open_source
from trocr.image import ImageError

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

CHARACTERS_PER_TOKEN = 4.2
"""On book print, of the tokenizers of the small models and of the others alike; 2.1 to 2.4 on receipts. It
stands in where the tokenizer's files are not given."""


@dataclass(frozen=True, kw_only=True)
class BenchmarkLine:
    """One line of the workload.

    Attributes:
        name: of the line in its source.
        text: its label.
        image: as it is on disk.
        pixels: (C, height, width) as the model takes it, or None before `with_pixels`.
        length: tokens to write, the end token with them, or None where the model decides.
    """

    name: str
    text: str
    image: "Image.Image"
    pixels: "Tensor | None" = None
    length: int | None = None


def load_lines(place: str | PathLike[str], count: int, *, seed: int = 0) -> list[BenchmarkLine]:
    """Take lines of a source, chosen at random where it has more; a smaller source is gone through again.

    Args:
        place: whatever `trocr.data.sources.open_source` opens.
        count: lines to take; 0 is all of them.
        seed: of the choice, which is the same for the same source, count and seed.
    Raises:
        BenchmarkError: the source is not there, is empty, or has an image that cannot be read.
    """
    if count < 0:
        raise BenchmarkError(f"lines is {count}, expected 0 (all) or more")
    try:
        source = open_source(place)
        size = len(source)
        if not size:
            raise BenchmarkError(f"{place}: no lines")
        order = list(range(size)) if not count else random.Random(seed).sample(range(size), min(count, size))
        numbers = [order[place % len(order)] for place in range(count or size)]
        records = {number: source[number] for number in set(numbers)}
        images = {number: record.open() for number, record in records.items()}
    except (DataError, ImageError) as error:
        raise BenchmarkError(f"the lines of --data cannot be read: {error}") from error
    return [BenchmarkLine(name=records[n].name, text=records[n].text, image=images[n]) for n in numbers]


def with_pixels(lines: Sequence[BenchmarkLine], image_processor: Any) -> list[BenchmarkLine]:
    """Prepare the images for a model, which the time of its encoder and decoder does not contain."""
    return [
        replace(line, pixels=image_processor(line.image, return_tensors="pt")["pixel_values"][0])
        for line in lines
    ]


def with_lengths(lines: Sequence[BenchmarkLine], *, most: int, tokenizer: Any = None) -> list[BenchmarkLine]:
    """Give each line the number of tokens that its label has.

    Args:
        lines: with labels.
        most: tokens that the model can write for a line.
        tokenizer: of the model; without it lengths are estimated, by `CHARACTERS_PER_TOKEN`.
    Raises:
        BenchmarkError: `most` is below 1.
    """
    if most < 1:
        raise BenchmarkError(f"the model can write {most} tokens, expected at least 1")
    return [replace(line, length=min(most, _num_tokens(line.text, tokenizer))) for line in lines]


def _num_tokens(text: str, tokenizer: Any) -> int:
    if tokenizer is None:
        return math.ceil(len(text) / CHARACTERS_PER_TOKEN) + 1
    return len(tokenizer(text, add_special_tokens=False).input_ids) + 1
