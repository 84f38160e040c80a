"""Choosers: they pick the next token of every row from its scores. Greedy and sampling; beams in `beam.py`.

Source: `transformers` 5.23 (`_sample`); whisper's `TokenDecoder` for the role.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from trocr.generation.stopping import Stop

LARGE = 16
"""Rows from which on it pays to drop finished ones; fewer cost little more than one does."""


@dataclass(frozen=True)
class Choice:
    """What a chooser decided in one step.

    Attributes:
        tokens: (R,) the newest token of every row that there was at the beginning; of beams, of the rows that
            run on.
        rows: (R',) the row that each row of the next step continues, or None where each continues itself.
        done: whether nothing is left to choose.
    """

    tokens: Tensor
    rows: Tensor | None
    done: bool


@dataclass(frozen=True)
class Hypotheses:
    """What a chooser found.

    Attributes:
        sequences: (N, T) ids, padded.
        token_log_probs: (N, T') log-probability of every new token, 0 after the end; None unless followed.
        finished: (N,) whether the row ended by an end token.
        cut: (N,) whether it reached the maximum length without one.
        scores: (N,) what they are ranked by, or None.
        rows: (N, T') the row of the step that every new token came from, -1 after the end; or None.
    """

    sequences: Tensor
    token_log_probs: Tensor | None
    finished: Tensor
    cut: Tensor
    scores: Tensor | None = None
    rows: Tensor | None = None


class Chooser(Protocol):
    """The role: hold the rows, and make them longer."""

    ids: Tensor

    def prepare(self, logits: Tensor) -> Tensor:
        """Turn logits (R, V) into the scores that processors see."""

    def choose(self, scores: Tensor, earlier: Sequence[Tensor] | None) -> Choice:
        """Make every row one token longer, from processed scores (R, V)."""

    def results(self) -> Hypotheses:
        """Give what was found."""


class TokenChooser:
    """One token a row: the most probable, or one drawn by its probability.

    Args:
        ids: (R, T) the rows' start.
        stop: says when a row is finished.
        pad_token_id: follows in rows that are finished.
        sample: draw instead of taking the most probable.
        generator: random numbers for drawing; None is torch's own.
        with_log_probs: follow the log-probabilities of the chosen tokens.
        may_drop: stop computing finished rows once they are half of at least `LARGE` rows. Not for sampling,
            where random numbers would then fall to other rows.
    """

    def __init__(
        self,
        ids: Tensor,
        stop: Stop,
        *,
        pad_token_id: int | None,
        sample: bool = False,
        generator: torch.Generator | None = None,
        with_log_probs: bool = False,
        may_drop: bool = False,
    ) -> None:
        self.ids = ids
        self.stop = stop
        self.pad_token_id = pad_token_id if stop.pads_finished else None
        self.sample = sample
        self.generator = generator
        self.with_log_probs = with_log_probs
        self.may_drop = may_drop and self.pad_token_id is not None
        self._start = ids
        self._rows: Tensor | None = None  # which of all rows are still computed; None is all of them
        self._open = torch.ones(ids.shape[0], dtype=torch.bool, device=ids.device)  # of those
        self._ended = torch.zeros_like(self._open)
        self._cut = torch.zeros_like(self._open)
        self._tokens: list[Tensor] = []
        self._log_probs: list[Tensor] = []

    def prepare(self, logits: Tensor) -> Tensor:
        """Give the logits as they are."""
        return logits

    def choose(self, scores: Tensor, earlier: Sequence[Tensor] | None) -> Choice:
        """Pick a token for every row that is open, padding for the others."""
        tokens = self._pick(scores)
        if self.with_log_probs:
            picked = scores.gather(1, tokens[:, None]) - scores.logsumexp(dim=-1, keepdim=True)
            self._log_probs.append(self._spread(torch.where(self._open, picked.squeeze(1), 0.0), 0.0))
        if self.pad_token_id is not None:
            tokens = torch.where(self._open, tokens, self.pad_token_id)
        self._tokens.append(self._spread(tokens, self.pad_token_id or 0))
        ended = self._open & self.stop.ended(tokens)
        self._ended = self._ended | self._spread(ended, False)
        self.ids = torch.cat((self.ids, tokens[:, None]), dim=1)
        if self.ids.shape[1] >= self.stop.max_length:
            self._cut = self._spread(self._open & ~ended, False)
        self._open = self._open & ~self.stop(self.ids, earlier)
        num_open, num_rows = int(self._open.sum()), len(self._open)
        rows = None
        if self.may_drop and num_rows >= LARGE and 0 < num_open <= num_rows // 2:
            rows = self._drop_finished()
        return Choice(self._tokens[-1], rows, done=num_open == 0)

    def results(self) -> Hypotheses:
        """Give the rows."""
        return Hypotheses(
            sequences=torch.cat((self._start, torch.stack(self._tokens, dim=1)), dim=1),
            token_log_probs=torch.stack(self._log_probs, dim=1) if self.with_log_probs else None,
            finished=self._ended,
            cut=self._cut,
        )

    def _pick(self, scores: Tensor) -> Tensor:
        if not self.sample:
            return scores.argmax(dim=-1)
        probabilities = scores.softmax(dim=-1)
        return torch.multinomial(probabilities, num_samples=1, generator=self.generator).squeeze(1)

    def _spread(self, values: Tensor, fill: float) -> Tensor:
        """Put values of the rows that are computed (R',) at their places among all rows (R,)."""
        if self._rows is None:
            return values
        return values.new_full((len(self._start),), fill).index_copy_(0, self._rows, values)

    def _drop_finished(self) -> Tensor:
        kept = self._open.nonzero().squeeze(1)
        self._rows = kept if self._rows is None else self._rows[kept]
        self.ids = self.ids[kept]
        self._open = self._open[kept]
        return kept
