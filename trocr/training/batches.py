"""Batches of lines, the same for a seed whatever the number of workers and processes.

Lines are taken in windows: one window is shuffled lines that are opened, augmented, sorted by width and
length, and cut into batches of like shape, which come in random order. A *lane* is an endless row of windows;
there are as many lanes as micro-batches in an optimizer step, and step k takes micro-batch k of every lane.
Processes share the lanes, or the rows of batches where there is one lane: a step sees the same lines however
many processes there are. The position in the data is one number, the step.

Source: original work; windows sorted by length are the bucketing of arXiv:1409.3215 sec. 3.4.
"""

import multiprocessing
import multiprocessing.connection
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import cycle, islice

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from trocr.data.records import DataError, LineRecord, LineSource
from trocr.image import ImageError
from trocr.processor import TrOCRProcessor

Augment = Callable[[Image.Image, np.random.Generator], Image.Image]

_ORDER, _AUGMENT, _CUT = 1, 2, 3
"""Streams of random numbers of one seed: order of lines, augmentation, order and width of batches."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Lines of like shape, ready for the model.

    Attributes:
        pixel_values: (B, 3, height, width) float32; narrower than the model's images where padding was cut.
        labels: (B, T) ids, ended by the end token, -100 after it.
        texts: the B texts.
        names: the B names, for messages.
        skipped: messages of lines that were left out, each with the line's name.
        too_long: names of lines whose labels were cut to the longest that the decoder can take.
        teacher_pixel_values: the same images for a teacher that sees them in another way, or None.
    """

    pixel_values: Tensor
    labels: Tensor
    texts: tuple[str, ...]
    names: tuple[str, ...]
    skipped: tuple[str, ...] = ()
    too_long: tuple[str, ...] = ()
    teacher_pixel_values: Tensor | None = None

    @property
    def num_tokens(self) -> int:
        """Tokens of the labels, end tokens included."""
        return int((self.labels != -100).sum())


@dataclass(frozen=True, kw_only=True)
class BatchSettings:
    """How lines become batches.

    Attributes:
        size: lines of a micro-batch.
        lanes: micro-batches of an optimizer step, over all processes.
        window: micro-batches that are sorted and cut together; more of them waste less on padding, and need
            more memory.
        seed: of order and augmentation.
        width_buckets: widths in pixels that a batch may be cut to, for processors that pad lines on the
            right; a batch takes the smallest that holds its lines, else the full width. Empty: always the
            full width.
        full_width_share: share of batches that keep the full width in spite of buckets: the model reads
            padded lines in use.
        length_multiple: the labels' length is rounded up to a multiple of it, at most to `max_label_tokens`.
        max_label_tokens: the longest label, end token included.
        shuffle: take lines in random order, another one each epoch.
    """

    size: int
    lanes: int = 1
    window: int = 16
    seed: int = 0
    width_buckets: tuple[int, ...] = ()
    full_width_share: float = 0.1
    length_multiple: int = 8
    max_label_tokens: int = 512
    shuffle: bool = True


@dataclass(frozen=True, slots=True)
class _Sample:
    name: str
    text: str
    image: Image.Image
    ids: list[int]
    width: int


@dataclass
class Windows(Dataset[list[Batch]]):
    """Windows of batches, by number. Pickled into worker processes.

    Args:
        source: the lines; its order and length must not change.
        processor: image processor and tokenizer.
        settings: see `BatchSettings`.
        augment: called with the opened image and random numbers of its own, or None.
        share: (number, of how many): which rows of a batch are made; the shares together are all of its rows.
        endless: the source gives another line for any number (a generator): epochs never repeat.
        teacher_processor: of a teacher that sees images in another way, or None.
    Raises:
        DataError: the source is empty.
    """

    source: LineSource
    processor: TrOCRProcessor
    settings: BatchSettings
    augment: Augment | None = None
    share: tuple[int, int] = (0, 1)
    endless: bool = False
    teacher_processor: TrOCRProcessor | None = None
    _orders: dict[int, np.ndarray] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if not self.endless and len(self.source) == 0:
            raise DataError("there are no lines to train on; look at the data with `trocr data inspect`")

    @property
    def lines(self) -> int:
        """Lines of a window."""
        return self.settings.size * self.settings.window

    def __getitem__(self, number: int) -> list[Batch]:
        """Make window `number` of all lanes' windows: lane and place in it are `divmod` by the lanes.

        For lines that cannot be read, others of the window are taken again: batches are always full.

        Raises:
            DataError: no line of the window can be read.
        """
        first = number * self.lines
        samples, skipped, too_long = [], [], []
        for position in range(first, first + self.lines):
            index, epoch = self._locate(position)
            record = self.source[index]
            try:
                sample = self._sample(record, position, epoch)
            except ImageError as error:
                skipped.append(f"{record.name}: {error}")
                continue
            if len(sample.ids) > self.settings.max_label_tokens:
                sample.ids[self.settings.max_label_tokens - 1 :] = sample.ids[-1:]
                too_long.append(record.name)
            samples.append(sample)
        if not samples:
            raise DataError(f"none of {self.lines} lines in a row can be read: {'; '.join(skipped[:3])}")
        samples += list(islice(cycle(tuple(samples)), len(skipped)))
        return self._cut(samples, skipped, too_long, number)

    def _locate(self, position: int) -> tuple[int, int]:
        """Line and epoch of a position in the endless row of lines."""
        if self.endless:
            return position, 0
        epoch, place = divmod(position, len(self.source))
        if not self.settings.shuffle:
            return place, epoch
        if epoch not in self._orders:
            rng = np.random.default_rng((self.settings.seed, _ORDER, epoch))
            self._orders = {kept: order for kept, order in self._orders.items() if kept == epoch - 1}
            self._orders[epoch] = rng.permutation(len(self.source))
        return int(self._orders[epoch][place]), epoch

    def _sample(self, record: LineRecord, position: int, epoch: int) -> _Sample:
        image = record.open()
        if self.augment is not None:
            image = self.augment(image, np.random.default_rng((self.settings.seed, _AUGMENT, position)))
        size = self.processor.image_processor.size
        width = min(size["width"], max(1, round(image.width * size["height"] / image.height)))
        return _Sample(record.name, record.text, image, label_ids(self.processor, record.text), width)

    def _cut(
        self, samples: list[_Sample], skipped: list[str], too_long: list[str], number: int
    ) -> list[Batch]:
        rng = np.random.default_rng((self.settings.seed, _CUT, number))
        samples = sorted(samples, key=lambda sample: (self._bucket(sample.width), len(sample.ids)))
        count = self.settings.window
        bounds = [len(samples) * place // count for place in range(count + 1)]
        groups = [samples[bounds[place] : bounds[place + 1]] for place in range(count)]
        batches = []
        for order, place in enumerate(rng.permutation(count)):
            width = self.full_width
            if rng.random() >= self.settings.full_width_share:
                width = max(self._bucket(sample.width) for sample in groups[place])
            notes = (skipped, too_long) if order == 0 and self.share[0] == 0 else ((), ())
            rows = groups[place][self.share[0] :: self.share[1]]
            batches.append(self._batch(rows, width, *map(tuple, notes)))
        return batches

    @property
    def full_width(self) -> int:
        """Width of the processor's images, in pixels."""
        return int(self.processor.image_processor.size["width"])

    def _bucket(self, width: int) -> int:
        if not self.processor.image_processor.pad_to_aspect_ratio:
            return self.full_width
        return min((b for b in self.settings.width_buckets if b >= width), default=self.full_width)

    def _batch(
        self, samples: Sequence[_Sample], width: int, skipped: tuple[str, ...], too_long: tuple[str, ...]
    ) -> Batch:
        size = {"height": self.processor.image_processor.size["height"], "width": width}
        images = [sample.image for sample in samples]
        pixels = self.processor.image_processor(images, return_tensors="pt", size=size)["pixel_values"]
        seen = None
        if self.teacher_processor is not None:
            seen = self.teacher_processor.image_processor(images, return_tensors="pt")["pixel_values"]
        return Batch(
            pixel_values=pixels,
            teacher_pixel_values=seen,
            labels=pad_labels(
                [sample.ids for sample in samples],
                self.settings.length_multiple,
                most=self.settings.max_label_tokens,
            ),
            texts=tuple(sample.text for sample in samples),
            names=tuple(sample.name for sample in samples),
            skipped=skipped,
            too_long=too_long,
        )


def label_ids(processor: TrOCRProcessor, text: str) -> list[int]:
    """Token ids of a text, ended by the end token and without a start token, as the decoder is to write them.

    Source: unilm `trocr/data.py`: the target is the tokens and `</s>`.
    """
    tokenizer = processor.tokenizer
    end = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.sep_token_id
    if end is None:
        raise DataError(f"this {type(tokenizer).__name__} has no end token: set its eos_token")
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    return [*ids, end]


def pad_labels(rows: Sequence[Sequence[int]], multiple: int = 1, *, most: int | None = None) -> Tensor:
    """Stack labels as (B, T), -100 after their end; T is a multiple of `multiple`, but at most `most`."""
    longest = max(map(len, rows))
    length = -(-longest // multiple) * multiple
    if most is not None:
        length = max(longest, min(length, most))
    labels = torch.full((len(rows), length), -100, dtype=torch.long)
    for row, ids in zip(labels, rows, strict=True):
        row[: len(ids)] = torch.as_tensor(ids, dtype=torch.long)
    return labels


def training_batches(
    windows: Windows, *, start_step: int = 0, rank: int = 0, world_size: int = 1, workers: int = 0
) -> Iterator[list[Batch]]:
    """Give the micro-batches of each optimizer step, without end.

    Args:
        windows: where batches come from.
        start_step: the step to begin with, counted from 0.
        rank: of this process.
        world_size: processes; they share the lanes evenly, or the rows of a single lane.
        workers: processes that make windows ahead; 0 makes them here.
    Yields:
        The micro-batches of this process for one step.
    Raises:
        DataError: the lanes cannot be shared evenly; see also `Windows`.
    """
    lanes, size = windows.settings.lanes, windows.settings.size
    mine = range(rank, lanes, world_size)
    if lanes == 1 and size % world_size == 0:
        windows, mine = replace(windows, share=(rank, world_size)), range(1)
    elif lanes % world_size:
        raise DataError(
            f"{lanes} micro-batches of a step, of {size} lines, cannot be shared evenly by {world_size} "
            "processes; choose a batch size that is a multiple of micro_batch_size times the processes"
        )
    row, skip = divmod(start_step, windows.settings.window)
    loader = DataLoader(
        windows,
        batch_size=None,
        sampler=_Numbers(row, lanes, mine),
        num_workers=workers,
        prefetch_factor=2 if workers else None,
        multiprocessing_context="forkserver" if workers else None,
        worker_init_fn=_start_worker,
        generator=torch.Generator(),  # the global one is dropout's: a start must not move it
    )
    made = iter(loader)
    while True:
        rows = list(islice(made, len(mine)))
        for place in range(skip, windows.settings.window):
            yield [window[place] for window in rows]
        skip = 0


@dataclass
class _Numbers:
    """Endless numbers of the windows of some lanes."""

    row: int
    lanes: int
    mine: range

    def __iter__(self) -> Iterator[int]:
        row = self.row
        while True:
            yield from (row * self.lanes + lane for lane in self.mine)
            row += 1


def _start_worker(_: int) -> None:
    torch.set_num_threads(1)
    # A worker's parent is the fork server, which lives as long as a worker does: of a training process that
    # is killed, PyTorch's own watch sees nothing, and both would stay for ever.
    training = multiprocessing.parent_process()
    assert training is not None
    threading.Thread(target=_end_with, args=(training.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    """End this process when the one that it works for has ended."""
    multiprocessing.connection.wait([sentinel])
    os._exit(1)
