"""The examination: a training file or a checkpoint, with lines, through all checks.

Source: original work.
"""

import os
from collections.abc import Iterator

import numpy as np
import torch
from PIL import Image

from trocr.data.records import LineRecord, LineSource
from trocr.doctor.findings import DoctorError, Finding, ok, some
from trocr.doctor.images import check_images
from trocr.doctor.labels import check_labels
from trocr.doctor.tokens import check_processor, check_tokens
from trocr.doctor.trials import check_training
from trocr.image import ImageError
from trocr.models import VisionEncoderDecoderModel
from trocr.processor import TrOCRProcessor
from trocr.training.lines import training_lines
from trocr.training.options import TrainingOptions, load_options
from trocr.training.prepare import prepare

NUM_TEXTS = 2000
NUM_IMAGES = 64
NUM_TRIAL = 8


def examine(
    target: str | os.PathLike[str],
    data: str | None = None,
    *,
    kind: str = "auto",
    steps: int = 30,
    seed: int = 0,
) -> Iterator[Finding]:
    """Examine a training run before it starts.

    Args:
        target: a training file (.toml), or a checkpoint: shipped name, folder or Hub id.
        data: lines to train on; None takes those of the training file.
        kind: their format.
        steps: of the trial on one batch; 0 leaves it out.
        seed: of the choice of lines.
    Yields:
        Findings, as they are made.
    Raises:
        DoctorError: there are no lines to look at.
        ValueError: options, checkpoint or data cannot be read; see `load_options`, `load_start` and
            `open_source`.
    """
    options = _options(os.fspath(target), data, kind)
    prepared = prepare(options)
    objective, processor = prepared.objective, prepared.processor
    model = objective.model
    assert isinstance(model, VisionEncoderDecoderModel)
    yield from check_tokens(model, processor)
    processor_findings = list(check_processor(model, processor))
    yield from processor_findings
    lines = training_lines(options.data)
    records = _choose(lines.source, seed, endless=lines.endless)
    yield from check_labels([(record.name, record.text) for record in records], model, processor)
    opened, damaged = _open(records)
    if damaged:
        yield Finding(
            "warning" if opened else "error",
            "unreadable images",
            f"{len(damaged)} of {len(damaged) + len(opened)} images cannot be opened: {some(damaged)}",
            "training skips them, and says so each time",
            "repair them or take them out",
        )
    if not opened:
        return
    if any(finding.severity == "error" for finding in processor_findings):
        return  # the model cannot take these images
    yield from check_images(opened, processor)
    limit = model.config.decoder.max_position_embeddings
    tokens = processor.tokenizer
    short = [line for line in opened if len(tokens(line[1])["input_ids"]) < limit][:NUM_TRIAL]
    if short and _fits(short, model, processor):
        torch.manual_seed(seed)
        is_new = options.model.init == "random"
        yield from check_training(objective, processor, short, is_new=is_new, steps=steps)
    yield ok("looked at", f"{len(records)} texts, {len(opened)} images, {len(short)} in the trial")


def _options(target: str, data: str | None, kind: str) -> TrainingOptions:
    if target.endswith(".toml"):
        override = [f'data.train=["{data}"]', f'data.kind="{kind}"', "data.shares=[]"] if data else []
        return load_options(target, override)
    if data is None:
        raise DoctorError("a checkpoint needs lines to be examined with: --data SRC")
    tables = {"model": {"checkpoint": target}, "data": {"train": [data], "kind": kind}, "run": {"steps": 1}}
    return TrainingOptions.from_dict(tables)


def _choose(source: LineSource, seed: int, *, endless: bool) -> list[LineRecord]:
    """Lines at random, the same for a seed."""
    if endless:
        return [source[number] for number in range(NUM_TEXTS // 8)]
    count = len(source)
    numbers = np.random.default_rng(seed).permutation(count)[:NUM_TEXTS]
    return [source[int(number)] for number in numbers]


def _open(records: list[LineRecord]) -> tuple[list[tuple[str, str, Image.Image]], list[str]]:
    opened, damaged = [], []
    for record in records[:NUM_IMAGES]:
        try:
            opened.append((record.name, record.text, record.open()))
        except ImageError as error:
            damaged.append(f"{record.name}: {error}")
    return opened, damaged


def _fits(
    lines: list[tuple[str, str, Image.Image]], model: VisionEncoderDecoderModel, processor: TrOCRProcessor
) -> bool:
    """Whether all tokens have a row in the embedding."""
    rows = model.config.decoder.vocab_size
    return all(max(processor.tokenizer(text)["input_ids"], default=0) < rows for _, text, _ in lines)
