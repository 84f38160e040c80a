"""Logits processors: objects that take the rows so far and their scores, and return new scores.

A processor is any callable `(ids, scores) -> scores` with ids (R, T) and scores (R, V), so those written for
`transformers` work. Ours change neither argument. `build` puts them in the order of `transformers`.

Source: `transformers` 5.23, `generation/logits_process.py` and `_get_logits_processor` for behaviour and
order.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trocr.generation import filters
from trocr.generation.options import GenerationConfig, GenerationError
from trocr.generation.rules import as_ids

Processor = Callable[[Tensor, Tensor], Tensor]
AllowedTokens = Callable[[int, Tensor], Sequence[int]]


@dataclass(frozen=True, eq=False)
class Suppress:
    """Give tokens the score -inf while the row's length is at least `start` and below `end`."""

    tokens: Tensor
    start: int = 0
    end: float = math.inf

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        """Give the processed scores (R, V)."""
        if not self.start <= ids.shape[1] < self.end:
            return scores
        return scores.index_fill(1, self.tokens, -math.inf)


@dataclass(frozen=True, eq=False)
class Force:
    """Leave only the given tokens, each at score 0, when the row has `length` tokens."""

    tokens: Tensor
    length: int

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        """Give the processed scores (R, V)."""
        if ids.shape[1] != self.length:
            return scores
        return torch.full_like(scores, -math.inf).index_fill_(1, self.tokens, 0.0)


@dataclass(frozen=True, eq=False)
class AddBias:
    """Add a bias to a token's score where the tokens before it are those of a given sequence.

    Attributes:
        groups: sequences of one length n each: (N, n-1) tokens before, (N,) last tokens, (N,) biases.
    """

    groups: tuple[tuple[Tensor, Tensor, Tensor], ...]

    @classmethod
    def of(cls, biases: Iterable[tuple[Sequence[int], float]], device: torch.device) -> "AddBias":
        """Build from pairs of a token sequence and the bias of its last token; -inf bans it."""
        by_length: dict[int, dict[tuple[int, ...], float]] = {}
        for sequence, bias in biases:
            by_length.setdefault(len(sequence), {})[tuple(sequence)] = bias
        groups = []
        for group in by_length.values():
            tokens = torch.tensor(list(group), dtype=torch.long, device=device)  # (N, n)
            values = torch.tensor(list(group.values()), dtype=torch.float32, device=device)
            groups.append((tokens[:, :-1], tokens[:, -1], values))
        return cls(tuple(groups))

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        """Give the processed scores (R, V)."""
        total = torch.zeros_like(scores)
        for before, last, bias in self.groups:
            if before.shape[1] <= ids.shape[1]:
                context = ids[:, None, ids.shape[1] - before.shape[1] :]  # (R, 1, n-1)
                matches = (context == before).all(dim=2)  # (R, N)
                total.index_add_(1, last, torch.where(matches, bias, 0.0).to(scores.dtype))
        return scores + total


@dataclass(frozen=True, eq=False)
class PenalizeRepetition:
    """Divide the positive scores of tokens that the row has by `penalty`, and multiply the negative ones.

    Attributes:
        penalty: above 1 discourages, below 1 encourages.
        padding: (R,) tokens at the left of each row that do not count.
    """

    penalty: float
    padding: Tensor | None = None

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        """Give the processed scores (R, V)."""
        counted = torch.ones_like(ids, dtype=torch.bool)
        if self.padding is not None:
            counted = torch.arange(ids.shape[1], device=ids.device) >= self.padding[:, None]
        times = torch.zeros_like(scores, dtype=torch.int32).scatter_add_(1, ids, counted.int())
        weakened = torch.where(scores < 0, scores * self.penalty, scores / self.penalty)
        return torch.where(times > 0, weakened, scores)


@dataclass(frozen=True)
class BanRepeatedNgrams:
    """Ban every token that would complete an n-gram the row already has; the start token counts."""

    size: int

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        """Give the processed scores (R, V)."""
        if ids.shape[1] < self.size:
            return scores
        ngrams = ids.unfold(1, self.size, 1)  # (R, W, size): every n-gram of the row
        tail = ids[:, ids.shape[1] - self.size + 1 :]  # (R, size - 1): what the next token would complete
        repeats = (ngrams[:, :, :-1] == tail[:, None]).all(dim=2)  # (R, W)
        times = torch.zeros_like(scores, dtype=torch.int32).scatter_add_(1, ngrams[:, :, -1], repeats.int())
        return scores.masked_fill(times > 0, -math.inf)


@dataclass(frozen=True)
class AllowOnly:
    """Allow only the tokens that a function names for a row.

    Where all tokens named for the rows of an image are banned already, they get score 0, so that the
    function wins.

    Attributes:
        allowed: called with the number of the image (of the row, where `group` is 1) and the row's ids (T,).
        group: rows of one image that are searched together: the number of beams.
    Raises:
        GenerationError: the function names no token, or one outside the vocabulary.
    """

    allowed: AllowedTokens
    group: int = 1

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        """Give the processed scores (R, V)."""
        mask = torch.full_like(scores, -math.inf)
        for row, row_ids in enumerate(ids):
            named = self.allowed(row // self.group, row_ids)
            tokens = [] if named is None else [int(token) for token in named]
            if not tokens:
                raise GenerationError(
                    f"prefix_allowed_tokens_fn named no token for image {row // self.group} after "
                    f"{row_ids.tolist()}; it must name at least one, the end token for instance"
                )
            if min(tokens) < 0 or max(tokens) >= scores.shape[1]:
                raise GenerationError(
                    f"prefix_allowed_tokens_fn named tokens from {min(tokens)} to {max(tokens)}, the "
                    f"vocabulary has ids 0 to {scores.shape[1] - 1}"
                )
            mask[row, tokens] = 0.0
        constrained = scores + mask
        hopeless = constrained.amax(dim=1).isneginf().view(-1, self.group).all(dim=1)
        return torch.where(hopeless.repeat_interleave(self.group)[:, None], mask, constrained)


@dataclass(frozen=True)
class ReplaceInvalid:
    """Replace nan by 0 and infinities by the largest and smallest finite numbers."""

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        """Give the processed scores (R, V)."""
        return torch.nan_to_num(scores)


@dataclass(frozen=True, eq=False)
class FavourEnd:
    """Raise the end tokens' scores, ever faster, once a row is longer than `start` tokens."""

    tokens: Tensor
    start: int
    factor: float

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        """Give the processed scores (R, V)."""
        steps = ids.shape[1] - self.start
        if steps <= 0:
            return scores
        ends = scores[:, self.tokens]
        raised = ends + (ends.abs() * (self.factor**steps - 1)).masked_fill(~ends.isfinite(), 0.0)
        return scores.index_copy(1, self.tokens, raised)


@dataclass(frozen=True)
class Renormalize:
    """Make the scores log-probabilities."""

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        """Give the processed scores (R, V)."""
        return scores.log_softmax(dim=-1)


@dataclass(frozen=True)
class Chain:
    """Processors applied one after the other."""

    steps: tuple[Processor, ...]

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        """Give the processed scores (R, V)."""
        for step in self.steps:
            scores = step(ids, scores)
        return scores


def build(
    options: GenerationConfig,
    *,
    prefix: int,
    max_length: int,
    device: torch.device,
    padding: Tensor | None = None,
    allowed: AllowedTokens | None = None,
    custom: Iterable[Processor] = (),
) -> Chain:
    """Build the processors that the options ask for, in the order of `transformers`.

    Args:
        options: all options, completed.
        prefix: tokens of a row before the first new one.
        max_length: tokens of the longest row.
        device: where the scores are.
        padding: (R,) padding at the left of each row.
        allowed: prefix constraint, see `AllowOnly`.
        custom: the caller's processors; they come after those of the options and before the sampling filters.
    """
    steps = list(_history(options, device, padding))
    steps += _positions(options, prefix, max_length, device, allowed)
    steps += custom
    if options.do_sample:
        ends = len(as_ids(options.eos_token_id))
        # a beam needs one token to go on with when all end tokens are among those kept
        keep = (ends + 1 if ends else 2) if (options.num_beams or 1) > 1 else 1
        steps += filters.build(options, keep=keep)
    if options.renormalize_logits:
        steps.append(Renormalize())
    return Chain(tuple(steps))


def _history(options: GenerationConfig, device: torch.device, padding: Tensor | None) -> Iterator[Processor]:
    """Processors that look at the tokens of the row."""
    if options.sequence_bias:
        yield AddBias.of(options.sequence_bias, device)  # type: ignore[arg-type]
    if options.repetition_penalty not in (None, 1.0):
        yield PenalizeRepetition(options.repetition_penalty, padding)
    if options.no_repeat_ngram_size:
        yield BanRepeatedNgrams(options.no_repeat_ngram_size)
    if options.bad_words_ids:
        ends = [(end,) for end in as_ids(options.eos_token_id)]  # the end itself cannot be banned
        yield AddBias.of([(word, -math.inf) for word in options.bad_words_ids if word not in ends], device)


def _positions(
    options: GenerationConfig,
    prefix: int,
    max_length: int,
    device: torch.device,
    allowed: AllowedTokens | None,
) -> Iterator[Processor]:
    """Processors that look at the length of the row, and the prefix constraint, which comes among them."""

    def tensor(tokens: int | Sequence[int]) -> Tensor:
        return torch.tensor(as_ids(tokens), dtype=torch.long, device=device)

    ends = None if options.eos_token_id is None else tensor(options.eos_token_id)
    if options.min_length and ends is not None:
        yield Suppress(ends, end=options.min_length)
    if options.min_new_tokens and ends is not None:
        yield Suppress(ends, end=prefix + options.min_new_tokens)
    if allowed is not None:
        yield AllowOnly(allowed, options.num_beams or 1)
    if options.forced_bos_token_id is not None:
        yield Force(tensor(options.forced_bos_token_id), length=1)
    if options.forced_eos_token_id is not None:
        yield Force(tensor(options.forced_eos_token_id), length=max_length - 1)
    if options.remove_invalid_values:
        yield ReplaceInvalid()
    if options.exponential_decay_length_penalty is not None and ends is not None:
        start, factor = options.exponential_decay_length_penalty
        yield FavourEnd(ends, prefix + start, factor)
    if options.suppress_tokens:
        yield Suppress(tensor(options.suppress_tokens))
    if options.begin_suppress_tokens:
        # a forced first token moves the beginning on by one
        begin = prefix if prefix > 1 or options.forced_bos_token_id is None else prefix + 1
        yield Suppress(tensor(options.begin_suppress_tokens), start=begin, end=begin + 1)
