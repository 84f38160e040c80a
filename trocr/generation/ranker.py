"""The ranker of beam search: scores finished results, keeps each image's best, says when to give up hope.

Source: `transformers` 5.23 (`_update_finished_beams`, `_check_early_stop_heuristic`); the length penalty is
that of arXiv:1609.08144 in its simple form, summed log-probability / length ** penalty. The order of
operations, and with it the order of results whose scores are equal, is that of `transformers`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

WORST = -1.0e9
"""Score of a place that nothing has taken yet; added to scores that must not be taken."""


@dataclass(frozen=True)
class Rules:
    """How results are scored and when the search ends.

    Attributes:
        length_penalty: power of the number of new tokens that a summed log-probability is divided by.
        early_stopping: see `GenerationConfig`.
        max_new_tokens: most new tokens a row may have, the length that "never" reckons with.
    """

    length_penalty: float
    early_stopping: bool | Literal["never"]
    max_new_tokens: int

    def score(self, log_probs: Tensor, num_tokens: int) -> Tensor:
        """Score summed log-probabilities of rows with so many new tokens, the end token counted."""
        return log_probs / num_tokens**self.length_penalty

    def best_possible(self, log_probs: Tensor, num_tokens: int) -> Tensor:
        """Score that running rows might reach; right for `length_penalty` 0, an estimate for others."""
        longest = self.early_stopping == "never" and self.length_penalty > 0.0
        return self.score(log_probs, self.max_new_tokens if longest else num_tokens)


@dataclass
class Finished:
    """The best finished results of every image, best first.

    Attributes:
        sequences: (B, n, L) ids, padded; L is the longest a row may become.
        rows: (B, n, L') the row that every new token came from, -1 where there is none.
        scores: (B, n).
        taken: (B, n) whether the place holds a result.
        hopeful: (B, 1) whether a running row might still be better than these.
    """

    rules: Rules
    sequences: Tensor
    rows: Tensor
    scores: Tensor
    taken: Tensor
    hopeful: Tensor

    @classmethod
    def empty(cls, rules: Rules, sequences: Tensor, rows: Tensor) -> "Finished":
        """Make a place for each of `sequences` (B, n, L), which hold the start and padding."""
        images, places, _ = sequences.shape
        return cls(
            rules=rules,
            sequences=sequences,
            rows=rows,
            scores=torch.full((images, places), WORST, device=sequences.device),
            taken=torch.zeros((images, places), dtype=torch.bool, device=sequences.device),
            hopeful=torch.ones((images, 1), dtype=torch.bool, device=sequences.device),
        )

    @property
    def full(self) -> Tensor:
        """(B, 1) whether all places are taken and early stopping takes no better results."""
        return self.taken.all(dim=1, keepdim=True) & (self.rules.early_stopping is True)

    def offer(
        self, sequences: Tensor, rows: Tensor, log_probs: Tensor, ended: Tensor, num_tokens: int
    ) -> None:
        """Take those candidates that ended and are better than what is held.

        Args:
            sequences: (B, K, T) candidates.
            rows: (B, K, T') the rows their new tokens came from.
            log_probs: (B, K) summed log-probabilities.
            ended: (B, K) which of them are results.
            num_tokens: new tokens of every candidate.
        """
        scores = self.rules.score(log_probs, num_tokens)
        for closed in (self.full, ~self.hopeful, ~ended):
            scores = scores + closed.float() * WORST
        best = torch.cat((self.scores, scores), dim=1).topk(self.scores.shape[1]).indices
        length, steps = sequences.shape[2], rows.shape[2]
        self.sequences[:, :, :length] = _take(self.sequences[:, :, :length], sequences, best)
        self.rows[:, :, :steps] = _take(self.rows[:, :, :steps], rows, best)
        self.scores = _take(self.scores, scores, best)
        self.taken = _take(self.taken, ended, best)

    def lose_hope(self, log_probs: Tensor, num_tokens: int) -> None:
        """Note the images whose running rows, with summed log-probabilities (B, n), cannot become better."""
        possible = self.rules.best_possible(log_probs[:, :1], num_tokens)
        worst = torch.where(self.taken, self.scores.amin(dim=1, keepdim=True), WORST)
        self.hopeful = self.hopeful & (possible > worst).any(dim=1, keepdim=True)

    @property
    def hopeless(self) -> Tensor:
        """(B,) whether an image's results will not change any more."""
        return (self.full | ~self.hopeful).squeeze(1)

    def of_images(self, images: Tensor) -> "Finished":
        """Give the results of some images, or of all in another order."""
        held = (self.sequences, self.rows, self.scores, self.taken, self.hopeful)
        return Finished(self.rules, *(values[images] for values in held))

    @classmethod
    def join(cls, parts: Sequence["Finished"]) -> "Finished":
        """Put the results of several groups of images one after the other."""
        held = [(part.sequences, part.rows, part.scores, part.taken, part.hopeful) for part in parts]
        return cls(parts[0].rules, *(torch.cat(values) for values in zip(*held, strict=True)))

    @property
    def open(self) -> Tensor:
        """() whether any image may still get a better result."""
        return self.hopeful.any() & ~(self.taken.all() & (self.rules.early_stopping is True))


def _take(held: Tensor, offered: Tensor, places: Tensor) -> Tensor:
    return take(torch.cat((held, offered), dim=1), places)


def take(values: Tensor, places: Tensor) -> Tensor:
    """Pick entries of (B, n, ...) by places (B, k), as (B, k, ...)."""
    index = places.view(*places.shape, *[1] * (values.dim() - 2))
    return values.take_along_dim(index, dim=1)
