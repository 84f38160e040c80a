"""Everything that a training run is made of, built from its options.

Source: original work.
"""

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.amp.grad_scaler import GradScaler
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

from trocr.data.augmentation import build_augmentation
from trocr.data.records import LineSource
from trocr.models import VisionEncoderDecoderModel
from trocr.processor import TrOCRProcessor
from trocr.surgery.adapters import merge_adapter, save_adapter
from trocr.training.batches import BatchSettings, Windows, training_batches
from trocr.training.distributed import Processes, from_main, unwrap, wrap
from trocr.training.ema import EMA
from trocr.training.lines import training_lines, validation_lines
from trocr.training.objective import Objective
from trocr.training.optimizer import build_optimizer
from trocr.training.options import TrainingOptions
from trocr.training.prepare import prepare
from trocr.training.schedule import build_schedule
from trocr.training.state import load_state, restore, save_state
from trocr.training.steps import Step, train_steps
from trocr.training.validation import Validation, validate

_DTYPES = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}

STATES = "states"
"""Folder of a run's states."""

ADAPTER = "adapter"
"""Folder of an adapter, within that of a checkpoint."""


class RunError(ValueError):
    """What a run makes cannot be written."""


@dataclass
class Run:
    """A training run: what its loop needs, and how to save and go on.

    Attributes:
        options: that it was built from.
        here: this process.
        processor: of the model.
        objective: the model with its losses, wrapped where several processes train.
        optimizer: of what is not frozen.
        schedule: learning rate by step.
        windows: batches of training lines.
        val: lines for validation, or None.
        num_steps: at which the run ends.
        ema: averages of weights, or None.
        scaler: for float16, or None.
        step: steps taken.
        progress: plain values that are saved with the state: the best CER and how long ago it was.
        previous: options of the run that is resumed; empty for a new one.
    """

    options: TrainingOptions
    here: Processes
    processor: TrOCRProcessor
    objective: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: Callable[[int], float]
    windows: Windows
    val: LineSource | None
    num_steps: int
    ema: EMA | None
    scaler: GradScaler | None
    step: int = 0
    progress: dict[str, Any] = field(default_factory=dict)
    previous: dict[str, Any] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """Where everything is written."""
        return Path(self.options.run.output)

    @property
    def autocast_dtype(self) -> torch.dtype | None:
        """Precision of the products, or None for the weights'."""
        return _DTYPES[self.options.model.autocast]

    def steps(self) -> Iterator[Step]:
        """Take optimizer steps up to the end of the run; see `train_steps`."""
        batches = training_batches(
            self.windows,
            start_step=self.step,
            rank=self.here.rank,
            world_size=self.here.world_size,
            workers=self.options.data.workers,
        )
        taken = train_steps(
            self.objective,
            batches,
            self.optimizer,
            schedule=self.schedule,
            start_step=self.step,
            ctc_weight=self.options.loss.ctc_weight,
            clip_norm=self.options.optimizer.clip_norm or None,
            autocast_dtype=self.autocast_dtype,
            scaler=self.scaler,
            after_step=None if self.ema is None else self.ema.update,
        )
        while self.step < self.num_steps:
            step = next(taken)
            self.step = step.step
            yield step

    def save(self) -> None:
        """Write a state. All processes must call it.

        Raises:
            StateError: it cannot be written.
        """
        save_state(
            self.folder / STATES,
            self.objective,
            self.optimizer,
            step=self.step,
            ema=self.ema,
            scaler=self.scaler,
            progress=self.progress,
            options=self.options.to_dict(),
            keep=self.options.run.keep,
        )

    def resume(self) -> bool:
        """Go on from the newest state of the folder, if there is one. All processes must call it.

        Raises:
            StateError: it is damaged or that of another model.
        """
        state = load_state(self.folder / STATES)
        if state is None:
            return False
        self.step = restore(state, self.objective, self.optimizer, ema=self.ema, scaler=self.scaler)
        self.progress = dict(state["progress"])
        self.previous = dict(state["options"])
        return True

    def export(self, name: str) -> None:
        """Write the model, averaged where there are averages, as a checkpoint with its processor.

        All processes must call it. The CTC head lies beside the model, in a file of its own; an adapter is
        merged into the weights, and saved alone in the folder "adapter" too.

        Args:
            name: folder within the run's.
        Raises:
            RunError: it cannot be written, in all processes.
        """
        problem = None
        with self.whole_model() as objective:
            if objective is not None:
                try:
                    self._write(objective, self.folder / name)
                except OSError as error:
                    problem = (
                        f"step {self.step}: {self.folder / name} is not written: {error}. The same command "
                        "then goes on from the newest state"
                    )
        problem = from_main(problem)
        if problem:
            raise RunError(problem)

    def _write(self, objective: Objective, folder: Path) -> None:
        model = objective.model
        assert isinstance(model, VisionEncoderDecoderModel)
        if self.options.adapters.modules:
            save_adapter(model, folder / ADAPTER, base=self.options.model.checkpoint)
            model = copy.deepcopy(model)  # training goes on with the adapter apart
            merge_adapter(model)
        model.save_pretrained(folder)
        self.processor.save_pretrained(folder)
        if objective.ctc is not None:
            objective.ctc.save(folder)

    def validate(self) -> Validation | None:
        """Read the validation lines, with averaged weights where there are averages.

        All processes must call it; the main one reads.

        Returns:
            What it found, in the main process; None in the others and without validation lines.
        """
        if self.val is None:
            return None
        options = self.options.run
        with self.whole_model() as objective:
            if objective is None:
                return None
            model = objective.model
            assert isinstance(model, VisionEncoderDecoderModel)
            return validate(
                model,
                self.processor,
                self.val,
                batch_size=options.eval_batch_size,
                max_lines=options.eval_lines,
                num_samples=options.sample_images,
                autocast_dtype=self.autocast_dtype,
            )

    @contextmanager
    def whole_model(self) -> Iterator[Objective | None]:
        """Give the main process the whole objective with averaged weights, and None to the others."""
        with ExitStack() as stack:
            if self.ema is not None:
                stack.enter_context(self.ema.applied())
            if self.here.world_size == 1 or self.options.run.parallel == "ddp":
                yield unwrap(self.objective) if self.here.is_main else None
                return
            weights = get_model_state_dict(
                self.objective, options=StateDictOptions(full_state_dict=True, cpu_offload=True)
            )
            whole = None
            if self.here.is_main:
                whole = prepare(self.options).objective
                whole.load_state_dict(weights)
                whole.to(self.here.device)
            yield whole


def build_run(options: TrainingOptions, here: Processes) -> Run:
    """Build a run that has taken no step.

    Args:
        options: of the training file.
        here: this process; see `trocr.training.distributed.processes`.
    Raises:
        DataError: lines are missing.
        OptionsError: options contradict one another or the model.
        StartError: the model cannot start so.
        DistillationError: the teacher cannot teach this student.
    """
    torch.manual_seed(options.run.seed)
    prepared = prepare(options)
    objective, processor = prepared.objective.to(here.device), prepared.processor
    lines = training_lines(options.data)
    num_steps = options.run.steps or math.ceil(options.run.epochs * lines.epoch / options.batch.size)
    model = objective.model
    assert isinstance(model, VisionEncoderDecoderModel)
    limit = model.config.decoder.max_position_embeddings
    lanes = options.batch.lanes(here.world_size)
    settings = BatchSettings(
        size=options.batch.size // lanes,
        lanes=lanes,
        window=options.batch.window,
        seed=options.data.seed,
        width_buckets=options.batch.width_buckets,
        full_width_share=options.batch.full_width_share,
        length_multiple=options.batch.length_multiple,
        max_label_tokens=options.data.label_limit(limit),
    )
    wrapped = wrap(objective, here, options.run.parallel)
    torch.manual_seed(options.run.seed + 1 + here.rank)  # dropout differs among processes
    scaler = GradScaler(here.device.type) if options.model.autocast == "float16" else None
    return Run(
        options=options,
        here=here,
        processor=processor,
        objective=wrapped,
        optimizer=build_optimizer(wrapped, options.optimizer),
        schedule=build_schedule(options.schedule, options.optimizer, total_steps=num_steps),
        windows=Windows(
            source=lines.source,
            processor=processor,
            settings=settings,
            augment=build_augmentation(
                options.augmentation.preset,
                options.augmentation.settings,
                image_hw=model.encoder.embeddings.image_hw,
                keeps_aspect=processor.image_processor.pad_to_aspect_ratio,
            ),
            endless=lines.endless,
            teacher_processor=prepared.teacher_processor,
        ),
        val=validation_lines(options.data),
        num_steps=num_steps,
        ema=EMA(unwrap(wrapped), options.run.ema_decay) if options.run.ema_decay else None,
        scaler=scaler,
    )
