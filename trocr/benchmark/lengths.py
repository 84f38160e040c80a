"""Rows of random models that end where real lines end: the same lengths for every library.

`ForceLengths` is a logits processor for rows that keep their numbers (`transformers`, any `generate`).
`ForcedModel` wraps a reading model of ours instead, so that finished rows may be dropped and rows may move: a
row's length follows its image and its cache.

Source: original work.
"""

import dataclasses
import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trocr.benchmark.errors import BenchmarkError
from trocr.generation import generate
from trocr.generation.rules import as_ids
from trocr.outputs import BaseModelOutput

SAMPLED = 4096
"""Numbers of an image, or of its encoder states, by which it is known again."""


@dataclass(frozen=True, eq=False)
class ForceLengths:
    """A logits processor that ends row i after `lengths[i]` new tokens, and not before.

    Attributes:
        lengths: of the rows, the end token counted.
        end_tokens: ids that end a row; the first one is forced, all are forbidden before.
        prefix: tokens of a row before the first new one.
    Raises:
        BenchmarkError: no end token, or a length below 1; when it is called, other rows than lengths.
    """

    lengths: Tensor
    end_tokens: tuple[int, ...]
    prefix: int = 1

    @classmethod
    def of(cls, lengths: Sequence[int], end_tokens: Any, *, prefix: int = 1) -> "ForceLengths":
        """Build from plain numbers; `end_tokens` is one id or several."""
        ends = end_ids(end_tokens)
        if not ends:
            raise BenchmarkError("lengths cannot be forced: the model has no end token (eos_token_id)")
        if not lengths or min(lengths) < 1:
            raise BenchmarkError(f"lengths to force are {list(lengths)}, expected numbers from 1 on")
        return cls(torch.tensor(lengths), ends, prefix)

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        """Give the processed scores (R, V) of rows (R, T)."""
        if len(self.lengths) != len(ids):
            raise BenchmarkError(f"{len(self.lengths)} lengths for {len(ids)} rows, expected one for each")
        step = ids.shape[1] - self.prefix + 1  # number of the token that is chosen now
        return force(scores, self.lengths <= step, self.end_tokens)


def end_ids(end_tokens: Any) -> tuple[int, ...]:
    """End tokens as a tuple; configurations have one number, a list of them, or None."""
    return as_ids(tuple(end_tokens) if isinstance(end_tokens, list) else end_tokens)


def force(scores: Tensor, ends: Tensor, end_tokens: tuple[int, ...]) -> Tensor:
    """Leave the first end token alone in rows that end, and every other token in those that go on.

    Args:
        scores: (R, V); not changed.
        ends: (R,) which rows end.
        end_tokens: ids.
    """
    forced = scores.clone()
    forced[:, list(end_tokens)] = -math.inf
    forced[ends] = -math.inf
    forced[ends, end_tokens[0]] = 0.0
    return forced


def key_of(row: Tensor) -> bytes:
    """What an image or its states are known by: some of its numbers, spread over all of it."""
    flat = row.detach().reshape(-1)
    sampled = flat[:: max(1, flat.numel() // SAMPLED)].contiguous()
    return hashlib.blake2b(sampled.view(torch.uint8).numpy().tobytes(), digest_size=16).digest()


class ForcedModel:
    """A reading model whose rows have the lengths of their images' lines.

    It has what `generate` and `Reader` ask of a model, and hands everything else through.

    Args:
        model: a reading model; its results change in nothing but their length.
        images: pixels (C, height, width) of every line that will be read, as the model is given them.
        lengths: of the lines, the end token counted.
    Raises:
        BenchmarkError: no end token, a length below 1, or one image with two lengths; when it reads, an image
            that is not among those given.
    """

    def __init__(self, model: Any, images: Iterable[Tensor], lengths: Iterable[int]) -> None:
        self._model = model
        self._ends = end_ids(model.generation_config.eos_token_id)
        if not self._ends:
            raise BenchmarkError("lengths cannot be forced: the model has no end token (eos_token_id)")
        self._lengths: dict[bytes, int] = {}
        for image, length in zip(images, lengths, strict=True):
            if length < 1:
                raise BenchmarkError(f"a length to force is {length}, expected a number from 1 on")
            key = key_of(image.to(model.dtype))
            if self._lengths.setdefault(key, length) != length:
                raise BenchmarkError(f"one image has the lengths {self._lengths[key]} and {length}")
        self.decoder = _ForcedDecoder(self, model.decoder)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def encode(self, pixel_values: Tensor, **options: Any) -> BaseModelOutput:
        """Encode images (B, C, height, width), each known from the beginning."""
        lengths = self.lengths_of(pixel_values)
        encoded: BaseModelOutput = self._model.encode(pixel_values, **options)
        self._remember(encoded.last_hidden_state, lengths)
        return encoded

    def memory(self, encoded: BaseModelOutput) -> Tensor:
        """Give what cross-attention reads, and remember the length of every row of it."""
        states: Tensor = self._model.memory(encoded)
        if states is not encoded.last_hidden_state:
            self._remember(states, self.lengths_of(encoded.last_hidden_state))
        return states

    def lengths_of(self, rows: Tensor) -> Tensor:
        """Lengths (B,) of images, or of rows of what was computed from them.

        Raises:
            BenchmarkError: one of them was never seen.
        """
        keys = [key_of(row) for row in rows]
        if not all(key in self._lengths for key in keys):
            raise BenchmarkError(
                "an image is not one of those whose lengths are known; prepare it as those were"
            )
        return torch.tensor([self._lengths[key] for key in keys])

    def _remember(self, rows: Tensor, lengths: Tensor) -> None:
        self._lengths.update(zip(map(key_of, rows), lengths.tolist(), strict=True))

    def generate(self, pixel_values: Tensor | None = None, **options: Any) -> Any:
        """Read images (B, C, height, width); options as in `trocr.generation.generate`."""
        return generate(self, pixel_values, **options)


class _ForcedDecoder:
    """A decoder whose last scores end its rows; each row's length is kept beside the cache."""

    def __init__(self, model: ForcedModel, decoder: Any) -> None:
        self._model = model
        self._decoder = decoder

    def __getattr__(self, name: str) -> Any:
        return getattr(self._decoder, name)

    def __call__(self, *, past_key_values: "ForcedCache | None" = None, **options: Any) -> Any:
        """Score the next token, as the decoder does."""
        held = past_key_values
        inner = None if held is None else held.cache
        out = self._decoder(past_key_values=inner, **options)
        lengths = self._model.lengths_of(options["encoder_hidden_states"]) if held is None else held.lengths
        if out.past_key_values is None:
            raise BenchmarkError("lengths can be forced with a cache only; leave use_cache=True")
        ends = lengths <= out.past_key_values.length
        logits = force(out.logits[:, -1], ends, self._model._ends)[:, None]
        return dataclasses.replace(
            out, logits=logits, past_key_values=ForcedCache(out.past_key_values, lengths)
        )


class ForcedCache:
    """A cache and the length of each of its rows."""

    def __init__(self, cache: Any, lengths: Tensor) -> None:
        self.cache = cache
        self.lengths = lengths

    def __getattr__(self, name: str) -> Any:
        return getattr(self.cache, name)

    def select(self, rows: Tensor) -> None:
        """Reorder, drop or repeat rows."""
        self.cache.select(rows)
        self.lengths = self.lengths.index_select(0, rows)


def new_tokens(
    sequences: Iterable[Iterable[int]], end_tokens: Any, *, prefix: int = 1
) -> list[tuple[int, ...]]:
    """Rows of ids without their prefix and without what follows their first end token."""
    ends = frozenset(end_ids(end_tokens))
    rows = []
    for sequence in sequences:
        ids = list(sequence)[prefix:]
        stop = next((place for place, token in enumerate(ids) if token in ends), len(ids) - 1)
        rows.append(tuple(ids[: stop + 1]))
    return rows
