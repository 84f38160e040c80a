"""The examination: a training file or a checkpoint, with lines, through all checks.

Source: original work.
"""

import json
import os
from collections.abc import Iterator

import numpy as np
import torch
from PIL import Image

from trocr.data.records import DataError, LineRecord, LineSource
from trocr.doctor.findings import DoctorError, Finding, ok, some
from trocr.doctor.images import check_images
from trocr.doctor.labels import check_labels
from trocr.doctor.tokens import check_processor, check_start, check_tokens, start_tokens
from trocr.doctor.trials import check_training, start_losses
from trocr.image import ImageError
from trocr.models import VisionEncoderDecoderModel
from trocr.processor import TrOCRProcessor
from trocr.training.batches import label_ids
from trocr.training.lines import training_lines, validation_lines
from trocr.training.option_tables import DataOptions
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
        kind: their format; that of the training file's own lines stands there.
        steps: of the trial on one batch; 0 leaves it out.
        seed: of the choice of lines.
    Yields:
        Findings, as they are made.
    Raises:
        DoctorError: there are no lines to look at.
        ValueError: options, checkpoint or data cannot be read; see `load_options`, `load_start` and
            `open_source`.
    """
    options, lines_options = _options(os.fspath(target), data, kind)
    is_new = options.model.init == "random"
    prepared = prepare(options)
    objective, processor = prepared.objective, prepared.processor
    model = objective.model
    assert isinstance(model, VisionEncoderDecoderModel)
    yield from check_tokens(model, processor)
    processor_findings = list(check_processor(model, processor))
    yield from processor_findings
    yield from _check_validation(options)
    lines = training_lines(lines_options)
    records = _choose(lines.source, seed, endless=lines.endless)
    limit = options.data.label_limit(model.config.decoder.max_position_embeddings)
    texts = [(record.name, record.text) for record in records]
    yield from check_labels(texts, model, processor, limit=limit, ctc=objective.ctc)
    opened, damaged = _open(records)
    if damaged:
        yield Finding(
            "warning" if opened else "error",
            "unreadable images",
            f"{len(damaged)} of {len(damaged) + len(opened)} images cannot be opened: {some(damaged)}",
            "training skips them, and says so each time",
            "repair them or take them out",
        )
    short = []
    if opened and not any(finding.severity == "error" for finding in processor_findings):
        yield from check_images(opened, processor, is_new=is_new)
        short = [line for line in opened if len(label_ids(processor, line[1])) <= limit][:NUM_TRIAL]
    if not _fits(short, model, processor):
        short = []
    losses = {}
    if short and not is_new:
        starts = {*start_tokens(processor), model.config.decoder_start_token_id}
        known = [start for start in starts if start is not None]
        losses = start_losses(objective, processor, short, known)
    yield from check_start(model, processor, losses, is_new=is_new)
    if short and model.config.decoder_start_token_id is not None:
        torch.manual_seed(seed)
        yield from check_training(objective, processor, short, is_new=is_new, steps=steps)
    yield ok("looked at", f"{len(records)} texts, {len(opened)} images, {len(short)} in the trial")


def _options(target: str, data: str | None, kind: str) -> tuple[TrainingOptions, DataOptions]:
    """The run, and the data options of the lines that are looked at: those of `data`, where it is given."""
    if target.endswith(".toml"):
        if data is None:
            options = load_options(target)
            return options, options.data
        path = json.dumps(data, ensure_ascii=False)  # as TOML writes it too
        only = [f"data.train=[{path}]", "data.shares=[]", "data.synthetic={}"]
        return load_options(target, only), load_options(target, [*only, f"data.kind={kind}"]).data
    if data is None:
        raise DoctorError("a checkpoint needs lines to be examined with: --data SRC")
    tables = {"model": {"checkpoint": target}, "data": {"train": [data], "kind": kind}, "run": {"steps": 1}}
    options = TrainingOptions.from_dict(tables)
    return options, options.data


def _check_validation(options: TrainingOptions) -> Iterator[Finding]:
    try:
        lines = validation_lines(options.data)
    except DataError as error:
        yield Finding(
            "error",
            "validation lines",
            str(error),
            "the run ends with this message before its first step",
            "correct data.val, or take it out to train without validation",
        )
        return
    if lines is not None:
        yield ok("validation lines", f"{len(lines)}")


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
