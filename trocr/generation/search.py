"""Choosers: they pick the next token of every row from its scores. Greedy and sampling; beams in `beam.py`.

Source: `transformers` 5.23 (`_sample`); whisper's `TokenDecoder` for the role.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from trocr.generation.stopping import Stop

LARGE = 16
"""Rows from which on it pays to drop finished ones; fewer cost little more than one does."""

WIDE, SPAN = 8192, 128
"""Scores of a row from which on it pays to look for the best by spans, and scores of a span.

`argmax` looks at one score at a time, `amax` at many: 16 rows of 50265, one AVX-512 core, PyTorch 2.15: 0.46
and 0.05 ms.
"""

DropRule = Callable[[int, int], bool]
"""`(rows that are computed, finished ones among them) -> whether to take those out of the batch`."""


def half_of_many(num_rows: int, num_finished: int) -> bool:
    """Drop finished rows once they are half of at least `LARGE`: keys and values are copied each time."""
    return num_rows >= LARGE and 2 * num_finished >= num_rows


def first_best(scores: Tensor) -> Tensor:
    """Find the highest score of every row (R, V), the first of equal ones, as `argmax` does; gives (R,)."""
    width = scores.shape[1]
    if width < WIDE or scores.device.type != "cpu":
        return scores.argmax(dim=-1)
    spans = scores[:, : width - width % SPAN].view(len(scores), -1, SPAN).amax(dim=2)  # (R, V / SPAN)
    last = scores[:, width - SPAN :].amax(dim=1, keepdim=True)  # may overlap the one before
    start = (torch.cat((spans, last), dim=1).argmax(dim=1, keepdim=True) * SPAN).clamp(max=width - SPAN)
    within = scores.gather(1, start + torch.arange(SPAN)).argmax(dim=1)
    return start.squeeze(1) + within


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


@dataclass
class _Stretch:
    """Steps in which the same rows were computed: a tensor (R',) of tokens and of log-probabilities each.

    Attributes:
        rows: (R',) which of all rows those are; None is all of them.
    """

    rows: Tensor | None
    tokens: list[Tensor] = field(default_factory=list)
    log_probs: list[Tensor] = field(default_factory=list)


class TokenChooser:
    """One token a row: the most probable, or one drawn by its probability.

    What is known of rows is kept in Python, with one transfer of the chosen tokens in each step: a handful of
    rows are quicker there than in tensors.

    Args:
        ids: (R, T) the rows' start.
        stop: says when a row is finished.
        pad_token_id: follows in rows that are finished.
        sample: draw instead of taking the most probable.
        generator: random numbers for drawing; None is torch's own.
        with_log_probs: follow the log-probabilities of the chosen tokens.
        may_drop: stop computing finished rows once `drops` says so. Not for sampling, where random numbers
            would then fall to other rows.
        drops: asked whenever a row is finished.

    Attributes:
        ids: (R', T) the rows that are computed.
        newest: their last tokens, as numbers.
        open: which of them are not finished.
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
        drops: DropRule = half_of_many,
    ) -> None:
        self.ids = ids
        self.newest: list[int] = []
        self.open = list(range(len(ids)))
        self.stop = stop
        self.pad_token_id = pad_token_id if stop.pads_finished else None
        self.sample = sample
        self.generator = generator
        self.with_log_probs = with_log_probs
        self.may_drop = may_drop and self.pad_token_id is not None
        self.drops = drops
        self._start = ids
        self._stretches = [_Stretch(rows=None)]
        self._names = list(range(len(ids)))  # which of all rows those that are computed are
        self._open_mask: Tensor | None = None  # (R',) of those; None while all are open
        self._num_tokens = 0
        self._lengths: dict[int, int] = {}  # new tokens of the rows that are finished
        self._ended: set[int] = set()
        self._cut: set[int] = set()

    def prepare(self, logits: Tensor) -> Tensor:
        """Give the logits as they are."""
        return logits

    def choose(self, scores: Tensor, earlier: Sequence[Tensor] | None) -> Choice:
        """Pick a token for every row that is open, padding for the others."""
        stretch = self._stretches[-1]
        tokens = self._pick(scores)
        if self.with_log_probs:
            stretch.log_probs.append(scores.log_softmax(dim=-1).gather(1, tokens[:, None]).squeeze(1))
        if self.pad_token_id is not None and self._open_mask is not None:
            tokens = torch.where(self._open_mask, tokens, self.pad_token_id)
        stretch.tokens.append(tokens)
        self.newest = tokens.tolist()
        self.ids = torch.cat((self.ids, tokens[:, None]), dim=1)
        self._num_tokens += 1
        rows = None
        if self._close(earlier) and self.open:
            if self.may_drop and self.drops(len(self.newest), len(self.newest) - len(self.open)):
                rows = self._drop_finished()
            else:
                self._open_mask = torch.zeros(len(self.newest), dtype=torch.bool, device=tokens.device)
                self._open_mask[self.open] = True
        return Choice(self._spread(tokens, stretch), rows, done=not self.open)

    def results(self) -> Hypotheses:
        """Give the rows."""
        device, total = self._start.device, len(self._start)
        tokens = self._join([(s.rows, s.tokens) for s in self._stretches], self.pad_token_id or 0)
        log_probs = None
        if self.with_log_probs:
            log_probs = self._join([(s.rows, s.log_probs) for s in self._stretches], 0.0)
            lengths = [self._lengths.get(row, self._num_tokens) for row in range(total)]
            steps = torch.arange(self._num_tokens, device=device)
            is_new = steps < torch.tensor(lengths, device=device)[:, None]  # (R, T')
            log_probs = torch.where(is_new, log_probs, 0.0)
        return Hypotheses(
            sequences=torch.cat((self._start, tokens), dim=1),
            token_log_probs=log_probs,
            finished=torch.tensor([row in self._ended for row in range(total)], device=device),
            cut=torch.tensor([row in self._cut for row in range(total)], device=device),
        )

    def _pick(self, scores: Tensor) -> Tensor:
        if not self.sample:
            return first_best(scores)
        probabilities = scores.softmax(dim=-1)
        return torch.multinomial(probabilities, num_samples=1, generator=self.generator).squeeze(1)

    def _close(self, earlier: Sequence[Tensor] | None) -> bool:
        """Note the rows that their newest token finishes, and say whether there are any."""
        num_tokens = self.ids.shape[1]
        is_over = self.stop.is_over(num_tokens)
        stopped = None if is_over else self.stop.by_criteria(self.ids, earlier)
        still_open = []
        for row in self.open:
            ended = self.newest[row] in self.stop.ends
            if ended:
                self._ended.add(self._names[row])
            elif num_tokens >= self.stop.max_length:
                self._cut.add(self._names[row])
            if ended or is_over or (stopped is not None and stopped[row]):
                self._lengths[self._names[row]] = self._num_tokens
            else:
                still_open.append(row)
        found = len(still_open) < len(self.open)
        self.open = still_open
        return found

    def _spread(self, tokens: Tensor, stretch: _Stretch) -> Tensor:
        """Put tokens of the rows that were computed (R',) at their places among all rows (R,)."""
        if stretch.rows is None:
            return tokens
        whole = tokens.new_full((len(self._start),), self.pad_token_id or 0)
        return whole.index_copy_(0, stretch.rows, tokens)

    def _join(self, parts: Sequence[tuple[Tensor | None, list[Tensor]]], fill: float) -> Tensor:
        """Join the steps of all stretches as (R, T'), filled where a row was no longer computed."""
        first = next(step for _, steps in parts for step in steps)
        whole = first.new_full((len(self._start), self._num_tokens), fill)
        begin = 0
        for rows, steps in parts:
            if steps:
                block, end = torch.stack(steps, dim=1), begin + len(steps)
                whole[slice(None) if rows is None else rows, begin:end] = block
                begin = end
        return whole

    def _drop_finished(self) -> Tensor:
        kept = torch.tensor(self.open, device=self.ids.device)
        self.ids = self.ids[kept]
        self.newest = [self.newest[row] for row in self.open]
        self._names = [self._names[row] for row in self.open]
        self._stretches.append(_Stretch(rows=torch.tensor(self._names, device=self.ids.device)))
        self.open = list(range(len(self._names)))
        self._open_mask = None
        return kept
