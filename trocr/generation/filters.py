"""Filters of sampling: they leave the scores of likely tokens as they are and give the others -inf.

Each is a pure object `(ids, scores) -> scores` like the processors, and keeps at least `keep` tokens.

Source: `transformers` 5.23, `generation/logits_process.py` (the former warpers). Papers: top-p
arXiv:1904.09751, min-p arXiv:2407.01082, typical arXiv:2202.00666, epsilon and eta arXiv:2210.15191.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from trocr.generation.options import GenerationConfig


@dataclass(frozen=True)
class Temperature:
    """Divide all scores: below 1 sharpens the distribution, above 1 flattens it."""

    temperature: float

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        """Give the filtered scores (R, V)."""
        return scores / self.temperature


@dataclass(frozen=True)
class TopK:
    """Keep the `k` highest scores, and those equal to the last of them."""

    k: int
    keep: int = 1

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        """Give the filtered scores (R, V)."""
        return scores.masked_fill(scores < _least_of_top(scores, max(self.k, self.keep)), -math.inf)


@dataclass(frozen=True)
class TopP:
    """Keep the most probable tokens that together have the probability `p`."""

    p: float
    keep: int = 1

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        """Give the filtered scores (R, V)."""
        ascending, order = scores.sort(dim=-1)
        below = ascending.softmax(dim=-1).cumsum(dim=-1) <= 1 - self.p
        below[:, -self.keep :] = False
        return scores.masked_fill(torch.empty_like(below).scatter_(1, order, below), -math.inf)


@dataclass(frozen=True)
class MinP:
    """Keep the tokens that are at least `p` times as probable as the most probable one."""

    p: float
    keep: int = 1

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        """Give the filtered scores (R, V)."""
        probabilities = scores.softmax(dim=-1)
        unlikely = probabilities < self.p * probabilities.amax(dim=-1, keepdim=True)
        best = probabilities.topk(min(self.keep, scores.shape[1]), dim=-1).indices
        return scores.masked_fill(unlikely.scatter(1, best, False), -math.inf)


@dataclass(frozen=True)
class Typical:
    """Keep the tokens whose surprise is nearest to the expected one, up to the probability `mass`."""

    mass: float
    keep: int = 1

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        """Give the filtered scores (R, V)."""
        log_probs = scores.log_softmax(dim=-1)
        entropy = -(log_probs * log_probs.exp()).nansum(dim=-1, keepdim=True)
        distance, order = (-log_probs - entropy).abs().sort(dim=-1)
        covered = scores.gather(1, order).softmax(dim=-1).cumsum(dim=-1)
        last = (covered < self.mass).sum(dim=1, keepdim=True).clamp(max=scores.shape[1] - 1)
        far = distance > distance.gather(1, last)
        far[:, : self.keep] = False
        return scores.masked_fill(torch.empty_like(far).scatter_(1, order, far), -math.inf)


@dataclass(frozen=True)
class EpsilonCutoff:
    """Keep the tokens of probability `epsilon` and more."""

    epsilon: float
    keep: int = 1

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        """Give the filtered scores (R, V)."""
        unlikely = scores.softmax(dim=-1) < self.epsilon
        return scores.masked_fill(unlikely & (scores < _least_of_top(scores, self.keep)), -math.inf)


@dataclass(frozen=True)
class EtaCutoff:
    """Keep the tokens above a threshold that falls where the distribution is flat."""

    epsilon: float
    keep: int = 1

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        """Give the filtered scores (R, V)."""
        # the entropy of -inf scores is taken at the smallest finite number, as torch's Categorical does
        log_probs = scores.log_softmax(dim=-1).clamp(min=torch.finfo(scores.dtype).min)
        entropy = -(log_probs * log_probs.softmax(dim=-1)).sum(dim=-1, keepdim=True)
        epsilon = torch.tensor(self.epsilon, device=scores.device)
        unlikely = scores.softmax(dim=-1) < torch.minimum(epsilon, epsilon.sqrt() * (-entropy).exp())
        return scores.masked_fill(unlikely & (scores < _least_of_top(scores, self.keep)), -math.inf)


def _least_of_top(scores: Tensor, count: int) -> Tensor:
    return scores.topk(min(count, scores.shape[1]), dim=-1).values[:, -1:]


def build(options: GenerationConfig, *, keep: int) -> list[Callable[[Tensor, Tensor], Tensor]]:
    """Build the filters that the options ask for, in the order of `transformers`.

    Args:
        options: all options, completed.
        keep: tokens that every filter leaves.
    """
    found: list[Callable[[Tensor, Tensor], Tensor]] = []
    if options.temperature not in (None, 1.0):
        found.append(Temperature(options.temperature))
    if options.top_k:
        found.append(TopK(options.top_k, keep))
    if options.top_p is not None and options.top_p < 1.0:
        found.append(TopP(options.top_p, keep))
    if options.min_p is not None:
        found.append(MinP(options.min_p, keep))
    if options.typical_p is not None and options.typical_p < 1.0:
        found.append(Typical(options.typical_p, keep))
    if options.epsilon_cutoff:
        found.append(EpsilonCutoff(options.epsilon_cutoff, keep))
    if options.eta_cutoff:
        found.append(EtaCutoff(options.eta_cutoff, keep))
    return found
