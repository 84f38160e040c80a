"""Drafts: whoever guesses the next tokens cheaply, for the model to check several of them in one call.

Source: arXiv:2211.17192 and arXiv:2302.01318 (speculative decoding).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from trocr.generation.options import GenerationError
from trocr.generation.search import first_best
from trocr.generation.session import Session

NUM_TOKENS = 4
"""Tokens guessed at once where nobody says how many."""


class DraftError(ValueError):
    """A draft that cannot be made, read or written from what was given."""


@dataclass
class DraftCounts:
    """How well a draft guessed, over all calls since it was made.

    Attributes:
        calls: calls of the checking model's decoder.
        guessed: tokens that were given to it to check, counted once for a batch of rows.
        accepted: those of them that every row of the batch took.
    """

    calls: int = 0
    guessed: int = 0
    accepted: int = 0


@dataclass(frozen=True)
class DraftSource:
    """What a draft may look at.

    Attributes:
        prefix: tokens of a row before the first new one.
        vocab_size: ids that the checking model knows.
        end_tokens: ids that end a row.
        memory: (B, S, D) encoder states of the checking model, or None.
        keep_mask: (B, T) of the rows' start, 1 = attend, or None where all of it counts.
        encode: gives another model's own memory of the images; None where the images are not known.
    """

    prefix: int
    vocab_size: int
    end_tokens: frozenset[int]
    memory: Tensor | None = None
    keep_mask: Tensor | None = None
    encode: Callable[[Any], Tensor] | None = None


class Proposer(Protocol):
    """A draft at work on one batch."""

    def propose(self, ids: Tensor, most: int, rows: Sequence[int]) -> list[list[int]]:
        """Guess what follows.

        Args:
            ids: (R, T) all rows; those of the call before have grown by what was accepted, and one token.
            most: tokens to guess for a row, 1 or more.
            rows: which rows are wanted; what is given for the others is not looked at.
        Returns:
            For each of the R rows up to `most` tokens; none where nothing is likely enough.
        """

    def follow(self, rows: Tensor) -> None:
        """Keep the given rows (R',) of the R there were, in this order."""

    def finish(self, sequences: Tensor) -> None:
        """Learn what the rows (R, T) became, start included."""


@runtime_checkable
class Draft(Protocol):
    """What guesses for any number of batches: `ModelDraft`, `NGramDraft`, or one of the caller's own."""

    num_tokens: int
    counts: DraftCounts

    def start(self, source: DraftSource) -> Proposer:
        """Begin with a batch.

        Raises:
            GenerationError: the draft does not fit the model or the inputs.
        """


class ModelDraft:
    """A smaller model with the same vocabulary guesses, most probable token by most probable token.

    Args:
        model: a reading model, which encodes the same pixel values itself; or a decoder alone, which reads
            the encoder states of the checking model.
        num_tokens: most tokens guessed at once.
        min_prob: a guess ends before a token that is less probable than this.
        shares_encoder: let a reading model's decoder read the encoder states of the checking model instead
            of encoding the images again: for one whose encoder is that of the checking model.
    Raises:
        DraftError: numbers out of range, or not a model.
    """

    def __init__(
        self,
        model: Any,
        *,
        num_tokens: int = NUM_TOKENS,
        min_prob: float = 0.4,
        shares_encoder: bool = False,
    ) -> None:
        if not is_model(model):
            raise DraftError(
                f"a draft model is expected, {type(model).__name__} was given: load one with "
                "VisionEncoderDecoderModel.from_pretrained, or optimise one"
            )
        check_num_tokens(num_tokens)
        if not 0.0 <= min_prob <= 1.0:
            raise DraftError(f"min_prob is {min_prob}, expected a probability from 0 to 1")
        self.model = model
        self.num_tokens = num_tokens
        self.min_prob = min_prob
        self.shares_encoder = shares_encoder or not hasattr(model, "encode")
        self.counts = DraftCounts()

    def start(self, source: DraftSource) -> "ModelProposer":
        """Encode the images, or take the encoder states that there are.

        Raises:
            GenerationError: another vocabulary, no images, or encoder states of another width.
        """
        decoder = self.model.decoder if hasattr(self.model, "encode") else self.model
        if decoder.config.vocab_size != source.vocab_size:
            raise GenerationError(
                f"the draft model has a vocabulary of {decoder.config.vocab_size} tokens, the model one of "
                f"{source.vocab_size}; a draft needs the tokenizer of the model"
            )
        memory = source.memory
        if not self.shares_encoder:
            if source.encode is None:
                raise GenerationError(
                    "a draft model with an encoder needs the images: give pixel_values beside "
                    "encoder_outputs, or use ModelDraft(model, shares_encoder=True)"
                )
            memory = source.encode(self.model)
        width = getattr(decoder.config, "cross_attention_hidden_size", None)
        if memory is not None and width is not None and memory.shape[-1] != width:
            raise GenerationError(
                f"the draft model reads encoder states of width {width}, those of the model have "
                f"{memory.shape[-1]}; leave shares_encoder out, so that it encodes the images itself"
            )
        session = Session(decoder, memory=memory, keep_mask=source.keep_mask)
        return ModelProposer(session, source.end_tokens, self.min_prob)


class ModelProposer:
    """A draft model at work on one batch.

    Args:
        session: of the draft model, one row for each image.
        end_tokens: ids after which nothing more is guessed.
        min_prob: least probability of a guess.
    """

    def __init__(self, session: Session, end_tokens: frozenset[int], min_prob: float) -> None:
        self.session = session
        self.end_tokens = end_tokens
        self.min_prob = min_prob

    def propose(self, ids: Tensor, most: int, rows: Sequence[int]) -> list[list[int]]:
        """Guess with one call of the model for each token; see `Proposer`."""
        cache, positions = self.session.cache, self.session.decoder.config.max_position_embeddings
        if cache is not None:  # guesses that were not taken, and the last token, which is read again
            self.session.truncate(min(cache.length, ids.shape[1] - 1))
        guesses: list[list[int]] = [[] for _ in range(len(ids))]
        running = set(rows)
        while running and most > 0 and ids.shape[1] <= positions:
            logits = self.session.score(ids)[:, -1]
            tokens = first_best(logits)
            log_probs = logits.log_softmax(dim=-1).gather(1, tokens[:, None]).squeeze(1)
            numbers, probs = tokens.tolist(), log_probs.exp().tolist()
            if any(probs[row] < self.min_prob for row in running):
                break  # no row can be further ahead than the others
            for row in running:
                guesses[row].append(numbers[row])
            running = {row for row in running if numbers[row] not in self.end_tokens}
            ids = torch.cat((ids, tokens[:, None]), dim=1)
            most -= 1
        return guesses

    def follow(self, rows: Tensor) -> None:
        """Keep some rows."""
        self.session.follow(rows)

    def finish(self, sequences: Tensor) -> None:
        """Learn nothing."""


def is_model(value: Any) -> bool:
    """Whether something is a model that generates: a reading model, or a decoder alone."""
    if hasattr(value, "encode") and hasattr(value, "memory"):
        return hasattr(value, "decoder")
    return callable(value) and hasattr(value, "generation_config") and hasattr(value, "config")


def check_num_tokens(num_tokens: int) -> None:
    """Check how many tokens are to be guessed at once.

    Raises:
        DraftError: fewer than one, or not a whole number.
    """
    if isinstance(num_tokens, bool) or not isinstance(num_tokens, int) or num_tokens < 1:
        raise DraftError(f"num_tokens is {num_tokens!r}, expected a whole number, 1 or more")


def draft_of(given: Any) -> Draft:
    """Take what a caller gives as `draft`: a draft, or a model to make one of.

    Raises:
        GenerationError: something else.
    """
    if not isinstance(given, type) and isinstance(given, Draft):
        return given
    if is_model(given):
        return ModelDraft(given)
    raise GenerationError(
        f"draft is {given!r}, expected a model with the same vocabulary, ModelDraft(model, ...), or n-grams: "
        "NGramDraft.from_texts(texts, tokenizer), NGramDraft.load(file)"
    )
