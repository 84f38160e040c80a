"""Learning rates by step: warm-up and decay, as pure functions.

Step 0 is the first update.

Source: fairseq's `inverse_square_root_schedule.py` and arXiv:1706.03762 sec. 5.3; the cosine is
arXiv:1608.03983.
"""

import math
from collections.abc import Callable

from trocr.training.option_fields import OptionsError
from trocr.training.option_tables import OptimizerOptions, ScheduleOptions


def warmup(step: int, *, lr: float, warmup_steps: int, init_lr: float = 0.0) -> float:
    """Rise in a line from `init_lr` at step 0 to `lr` at step `warmup_steps`."""
    return init_lr + (lr - init_lr) * step / warmup_steps


def inverse_sqrt(step: int, *, lr: float, warmup_steps: int) -> float:
    """Fall with the root of the step from `lr` at `warmup_steps`: half of it at four times as many.

    Differs: fairseq's rate without warm-up is 0; here it falls from `lr` at step 1.
    """
    return lr * math.sqrt(max(warmup_steps, 1) / max(step, 1))


def cosine(step: int, *, lr: float, min_lr: float, start: int, end: int) -> float:
    """Fall in half a cosine from `lr` at step `start` to `min_lr` at step `end`, and stay there."""
    return min_lr + (lr - min_lr) * (1 + math.cos(math.pi * _share(step, start, end))) / 2


def linear(step: int, *, lr: float, min_lr: float, start: int, end: int) -> float:
    """Fall in a line from `lr` at step `start` to `min_lr` at step `end`, and stay there."""
    return lr + (min_lr - lr) * _share(step, start, end)


def _share(step: int, start: int, end: int) -> float:
    """How much of the way from `start` to `end` is gone at a step, 0..1."""
    return min(1.0, (step - start) / max(1, end - start))


def build_schedule(
    schedule: ScheduleOptions, optimizer: OptimizerOptions, *, total_steps: int
) -> Callable[[int], float]:
    """Make the function from step to learning rate that options describe.

    Args:
        schedule: its kind and steps.
        optimizer: has the highest rate.
        total_steps: of the run.
    Raises:
        OptionsError: the warm-up is not over when the decay ends.
    """
    lr, min_lr, first = optimizer.lr, schedule.min_lr, schedule.warmup_steps
    end = schedule.decay_steps or total_steps
    if schedule.kind in ("cosine", "linear") and first >= end:
        raise OptionsError(
            [
                f"schedule.warmup_steps={first} must be below the {end} steps after which the "
                f"{schedule.kind} schedule ends: shorten it, or train longer"
            ]
        )

    def rate(step: int) -> float:
        if step < first:
            return warmup(step, lr=lr, warmup_steps=first, init_lr=schedule.warmup_init_lr)
        match schedule.kind:
            case "inverse_sqrt":
                return inverse_sqrt(step, lr=lr, warmup_steps=first)
            case "cosine":
                return cosine(step, lr=lr, min_lr=min_lr, start=first, end=end)
            case "linear":
                return linear(step, lr=lr, min_lr=min_lr, start=first, end=end)
            case "constant":
                return lr

    return rate
