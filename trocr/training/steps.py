"""The training loop as a generator: each item is one optimizer step that has been taken.

The caller owns logging, evaluation and saving, in plain Python around `for step in train_steps(...)`.

Source: the flat loop of nanoGPT's `train.py`; the mean over all tokens of a step, whatever their distribution
over micro-batches and processes, is fairseq's.
"""

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from trocr.training.batches import Batch
from trocr.training.ctc import CTCHead
from trocr.training.objective import Losses

MIN_SCALE = 1e-4
"""Smallest factor of float16 losses; what overflows below it is not finite at all. As fairseq's."""


class TrainingError(ValueError):
    """Training cannot go on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What an optimizer step did.

    Attributes:
        step: steps taken so far, this one included.
        loss: what was minimised: `token_loss` plus the weighted `ctc_loss`, plus `distillation_loss`.
        token_loss: cross-entropy per token, in nats, over all processes; with a teacher, times its weight.
        ctc_loss: CTC loss per character, in nats, or None without a head.
        lr: learning rate of the first parameter group in this step.
        grad_norm: 2-norm of the gradient before clipping.
        num_lines: lines of this step, over all processes.
        num_tokens: tokens of their labels.
        lines_per_s: `num_lines` by the seconds that the step took, waiting for data included.
        data_share: share of those seconds in which this process waited for data, 0..1.
        skipped: messages of this process's lines that could not be read.
        too_long: names of this process's lines whose labels were cut.
        distillation_loss: what a teacher adds per token, weighted, or None without one.
    """

    step: int
    loss: float
    token_loss: float
    ctc_loss: float | None
    lr: float
    grad_norm: float
    num_lines: int
    num_tokens: int
    lines_per_s: float
    data_share: float
    skipped: tuple[str, ...]
    too_long: tuple[str, ...]
    distillation_loss: float | None = None


def train_steps(
    objective: nn.Module,
    batches: Iterable[Sequence[Batch]],
    optimizer: torch.optim.Optimizer,
    *,
    schedule: Callable[[int], float],
    start_step: int = 0,
    ctc_weight: float = 0.0,
    clip_norm: float | None = None,
    autocast_dtype: torch.dtype | None = None,
    scaler: GradScaler | None = None,
    after_step: Callable[[], None] | None = None,
) -> Iterator[Step]:
    """Take one optimizer step for each item of `batches`, without end while there are any.

    The gradient is that of the mean over all tokens of the step (and, for CTC, all characters), over
    micro-batches and processes.

    Args:
        objective: an `Objective`, or DDP or FSDP around one.
        batches: the micro-batches of each step, of this process; see `training_batches`.
        optimizer: its groups may have a "scale": the share of the learning rate that they take.
        schedule: learning rate of step 0, 1, 2 ...
        start_step: steps taken before, by an earlier run.
        ctc_weight: factor of the CTC loss.
        clip_norm: longest gradient, or None.
        autocast_dtype: bfloat16 or float16 for the products; None computes in the weights' precision.
        scaler: for float16.
        after_step: called when the weights have changed (averages of weights).
    Yields:
        A `Step` for each.
    Raises:
        TrainingError: a loss or the gradient is not finite; the message names the lines. In float16 a step
            whose gradient is not is left out and the scale lowered, until that no longer helps.
    """
    loop = _Loop(objective, optimizer, ctc_weight, clip_norm, autocast_dtype, scaler)
    before = time.perf_counter()
    for step, micro_batches in enumerate(batches, start=start_step):
        arrived = time.perf_counter()
        lr = set_learning_rate(optimizer, schedule(step))
        done = loop.take(step, micro_batches)
        if after_step is not None:
            after_step()
        now = time.perf_counter()
        yield Step(
            step=step + 1,
            loss=done.token_loss + ctc_weight * (done.ctc_loss or 0.0) + (done.distillation_loss or 0.0),
            token_loss=done.token_loss,
            ctc_loss=done.ctc_loss,
            distillation_loss=done.distillation_loss,
            lr=lr,
            grad_norm=done.grad_norm,
            num_lines=done.num_lines,
            num_tokens=done.num_tokens,
            lines_per_s=done.num_lines / (now - before),
            data_share=(arrived - before) / (now - before),
            skipped=tuple(message for batch in micro_batches for message in batch.skipped),
            too_long=tuple(name for batch in micro_batches for name in batch.too_long),
        )
        before = time.perf_counter()


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> float:
    """Set the learning rate of all groups, each times its "scale"; returns the first group's."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("scale", 1.0)
    return float(optimizer.param_groups[0]["lr"])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Done:
    token_loss: float
    ctc_loss: float | None
    distillation_loss: float | None
    grad_norm: float
    num_lines: int
    num_tokens: int


class _Loop:
    """Forward, backward and update of one step."""

    def __init__(
        self,
        objective: nn.Module,
        optimizer: torch.optim.Optimizer,
        ctc_weight: float,
        clip_norm: float | None,
        autocast_dtype: torch.dtype | None,
        scaler: GradScaler | None,
    ) -> None:
        self.objective = objective
        inner: Any = getattr(objective, "module", objective)  # DDP holds what it wraps there
        self.ctc: CTCHead | None = inner.ctc if ctc_weight else None
        self.optimizer = optimizer
        self.ctc_weight = ctc_weight
        self.clip_norm = clip_norm
        self.autocast_dtype = autocast_dtype
        self.scaler = scaler
        self.device = next(objective.parameters()).device

    def take(self, step: int, micro_batches: Sequence[Batch]) -> _Done:
        self.objective.train()
        targets = [None if self.ctc is None else self.ctc.targets(b.texts) for b in micro_batches]
        num_tokens, num_characters, num_lines = self._total(
            sum(batch.num_tokens for batch in micro_batches),
            sum(len(row) for rows in targets for row in rows or ()),
            sum(len(batch.names) for batch in micro_batches),
        )
        token_sum = character_sum = distilled_sum = 0.0
        has_teacher = False
        for place, (batch, rows) in enumerate(zip(micro_batches, targets, strict=True)):
            with _gradient_sync(self.objective, place == len(micro_batches) - 1):
                losses = self._forward(batch, rows)
                loss = losses.tokens / num_tokens
                if losses.characters is not None:
                    loss = loss + losses.characters * (self.ctc_weight / max(num_characters, 1))
                if losses.distilled is not None:
                    loss = loss + losses.distilled / num_tokens
                self._backward(loss, step, batch)
            token_sum += float(losses.tokens.detach())
            if losses.characters is not None:
                character_sum += float(losses.characters.detach())
            if losses.distilled is not None:
                has_teacher = True
                distilled_sum += float(losses.distilled.detach())
        norm = self._update(step, micro_batches)
        token_sum, character_sum, distilled_sum = self._total(token_sum, character_sum, distilled_sum)
        return _Done(
            token_loss=token_sum / num_tokens,
            ctc_loss=None if self.ctc is None else character_sum / max(num_characters, 1),
            distillation_loss=distilled_sum / num_tokens if has_teacher else None,
            grad_norm=norm,
            num_lines=int(num_lines),
            num_tokens=int(num_tokens),
        )

    def _forward(self, batch: Batch, targets: list[list[int]] | None) -> Losses:
        dtype = self.autocast_dtype
        teacher = {}
        if batch.teacher_pixel_values is not None:
            teacher["teacher_pixel_values"] = batch.teacher_pixel_values.to(self.device, non_blocking=True)
        with torch.autocast(self.device.type, dtype, enabled=dtype is not None):
            losses: Losses = self.objective(
                batch.pixel_values.to(self.device, non_blocking=True),
                batch.labels.to(self.device, non_blocking=True),
                targets,
                **teacher,
            )
        return losses

    def _backward(self, loss: Tensor, step: int, batch: Batch) -> None:
        if not torch.isfinite(loss):
            raise TrainingError(
                f"step {step + 1}: the loss is {float(loss.detach())}; the lines are {_names([batch])}. "
                "Look at them with `trocr data inspect`; if they are in order, lower the learning rate or "
                "train in float32"
            )
        # DDP and FSDP give the mean over processes; the sum of their parts is the mean over tokens.
        loss = loss * _world_size()
        if self.scaler is not None:
            loss = self.scaler.scale(loss)
        loss.backward()  # type: ignore[no-untyped-call]

    def _update(self, step: int, micro_batches: Sequence[Batch]) -> float:
        """Clip, update and clear the gradients; returns their norm before clipping."""
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)
        parameters = [p for p in self.objective.parameters() if p.grad is not None]
        norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        if hasattr(norm, "full_tensor"):  # FSDP: each process holds a part
            norm = norm.full_tensor()
        if self.scaler is None and not torch.isfinite(norm):
            raise TrainingError(
                f"step {step + 1}: the gradient's norm is {float(norm)}, of a finite loss; the lines are "
                f"{_names(micro_batches)}. Lower the learning rate, clip the gradient, or train in float32"
            )
        if self.clip_norm is not None:
            nn.utils.clip_grads_with_norm_(parameters, self.clip_norm, norm)
        if self.scaler is not None:
            self.scaler.step(self.optimizer)
            self.scaler.update()
            self._check_scale(step, micro_batches, self.scaler.get_scale())
        else:
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return float(norm)

    def _check_scale(self, step: int, micro_batches: Sequence[Batch], scale: float) -> None:
        if scale < MIN_SCALE:
            raise TrainingError(
                f"step {step + 1}: the gradient overflowed in float16 so often that the loss is scaled by "
                f"{scale:.0e}; the last lines are {_names(micro_batches)}. Train in bfloat16 or float32, or "
                "lower the learning rate"
            )

    def _total(self, *numbers: float) -> list[float]:
        """Sums over all processes."""
        if _world_size() == 1:
            return list(numbers)
        summed = torch.tensor(numbers, dtype=torch.float64, device=self.device)
        dist.all_reduce(summed)
        return [float(number) for number in summed]


def _world_size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def _gradient_sync(objective: nn.Module, is_last: bool) -> contextlib.AbstractContextManager[object]:
    """Let processes exchange gradients after the last micro-batch only."""
    if isinstance(objective, nn.parallel.DistributedDataParallel) and not is_last:
        return objective.no_sync()
    sync: Any = getattr(objective, "set_requires_gradient_sync", None)  # FSDP
    if sync is not None:
        sync(is_last)
    return contextlib.nullcontext()


def _names(batches: Iterable[Batch]) -> str:
    return ", ".join(name for batch in batches for name in batch.names)
