"""When a row is finished: at an end token, at the maximum length, out of time, or by the caller's criteria.

Source: `transformers` 5.23, `generation/stopping_criteria.py`.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

Criterion = Callable[[Tensor, Any], Any]
"""`(ids, scores) -> bool or (R,) bool`; scores of the steps so far where they are recorded, else None."""


class Stop:
    """Says which rows are finished.

    Args:
        end_tokens: ids that end a row; none means that only length, time and criteria do.
        max_length: tokens of the longest row.
        max_time_s: seconds after which all rows are finished; None is no limit. Time begins now.
        criteria: the caller's, any of which finishes a row.
        device: where the rows are.

    Attributes:
        ends: the end tokens as a set of numbers; `end_tokens` has them as a tensor.
    """

    def __init__(
        self,
        *,
        end_tokens: Sequence[int],
        max_length: int,
        max_time_s: float | None = None,
        criteria: Sequence[Criterion] = (),
        device: torch.device | None = None,
    ) -> None:
        self.ends = frozenset(end_tokens)
        self.end_tokens = torch.tensor(end_tokens, dtype=torch.long, device=device)
        self.max_length = max_length
        self.max_time_s = max_time_s
        self.criteria = tuple(criteria)
        self.started_s = time.monotonic()

    @property
    def pads_finished(self) -> bool:
        """Whether rows that are finished go on with padding; so it is where end tokens can finish them."""
        return len(self.end_tokens) > 0 or any(hasattr(c, "eos_token_id") for c in self.criteria)

    def ended(self, tokens: Tensor) -> Tensor:
        """Say which tokens (...) are end tokens, as bools (...)."""
        if len(self.end_tokens) == 1:
            return tokens == self.end_tokens
        return torch.isin(tokens, self.end_tokens)

    def __call__(self, ids: Tensor, scores: Sequence[Tensor] | None = None) -> Tensor:
        """Say which rows (R, T) are finished by their last token, as bools (R,)."""
        if self.is_over(ids.shape[1]):
            return torch.ones(ids.shape[0], dtype=torch.bool, device=ids.device)
        done = self.ended(ids[:, -1])
        stopped = self.by_criteria(ids, scores)
        return done if stopped is None else done | torch.tensor(stopped, device=ids.device)

    def is_over(self, num_tokens: int) -> bool:
        """Say whether rows of `num_tokens` tokens are all finished: full, or out of time."""
        if num_tokens >= self.max_length:
            return True
        return self.max_time_s is not None and time.monotonic() - self.started_s > self.max_time_s

    def by_criteria(self, ids: Tensor, scores: Sequence[Tensor] | None) -> list[bool] | None:
        """Say which rows (R, T) the caller's criteria finish; None where there are no criteria."""
        if not self.criteria:
            return None
        done = torch.zeros(ids.shape[0], dtype=torch.bool, device=ids.device)
        for criterion in self.criteria:
            done = done | torch.as_tensor(criterion(ids, scores), device=ids.device)
        return [bool(value) for value in done.tolist()]
