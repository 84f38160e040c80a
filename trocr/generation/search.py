"""Choosers: they pick the next token of every row from its scores. Greedy and sampling; beams in `beam.py`.

Source: `transformers` 5.23 (`_sample`); whisper's `TokenDecoder` for the role.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from trocr.generation.stopping import Stop


@dataclass(frozen=True)
class Choice:
    """What a chooser decided in one step.

    Attributes:
        rows: (R,) the row that each row continues, or None where each continues itself.
        done: whether nothing is left to choose.
    """

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
    ) -> None:
        self.ids = ids
        self.stop = stop
        self.pad_token_id = pad_token_id
        self.sample = sample
        self.generator = generator
        self.with_log_probs = with_log_probs
        self._open = torch.ones(ids.shape[0], dtype=torch.bool, device=ids.device)
        self._ended = torch.zeros_like(self._open)
        self._cut = torch.zeros_like(self._open)
        self._log_probs: list[Tensor] = []

    def prepare(self, logits: Tensor) -> Tensor:
        """Give the logits as they are."""
        return logits

    def choose(self, scores: Tensor, earlier: Sequence[Tensor] | None) -> Choice:
        """Pick a token for every row that is open, padding for the others."""
        if self.sample:
            drawn = torch.multinomial(scores.softmax(dim=-1), num_samples=1, generator=self.generator)
            tokens = drawn.squeeze(1)
        else:
            tokens = scores.argmax(dim=-1)
        if self.with_log_probs:
            picked = scores.gather(1, tokens[:, None]) - scores.logsumexp(dim=-1, keepdim=True)
            self._log_probs.append(torch.where(self._open, picked.squeeze(1), 0.0))
        if self.stop.pads_finished and self.pad_token_id is not None:
            tokens = torch.where(self._open, tokens, self.pad_token_id)
        self._ended = self._ended | (self._open & self.stop.ended(tokens))
        self.ids = torch.cat((self.ids, tokens[:, None]), dim=1)
        if self.ids.shape[1] >= self.stop.max_length:
            self._cut = self._open & ~self._ended
        self._open = self._open & ~self.stop(self.ids, earlier)
        return Choice(rows=None, done=not bool(self._open.any()))

    def results(self) -> Hypotheses:
        """Give the rows."""
        log_probs = torch.stack(self._log_probs, dim=1) if self.with_log_probs else None
        return Hypotheses(sequences=self.ids, token_log_probs=log_probs, finished=self._ended, cut=self._cut)
