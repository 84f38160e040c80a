"""Continuous batching: rows of one batch that belong to different images and begin at different times.

All rows share one time: at every step each row's newest token goes to the same place of the cache, and a mask
hides what was there before the row began. So a row that ends makes room for the next image at once, and no
row waits for the longest of its batch.

Source: iteration-level scheduling after Orca (Yu et al., OSDI 2022); the shared time is original work.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trocr.cache import DecoderCache
from trocr.fast.decoder import FastDecoder
from trocr.generation.search import first_best

HIDDEN = torch.finfo(torch.float32).min / 2
"""Added to scores that do not count; it stays finite in bf16, and beside other numbers."""


@dataclass
class Row:
    """One image's text as far as it is written.

    Attributes:
        key: the caller's name of the image.
        most: tokens that it may have.
        wanted: tokens after which it ends, whatever the model says (for timing models that have learned
            nothing); None lets the model say.
        ids: new tokens.
        log_probs: of each.
        finished: whether it has its end token.
    """

    key: Any
    most: int
    wanted: int | None = None
    ids: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)
    finished: bool = False


class Slots:
    """Rows that are decoded together, greedily.

    Args:
        decoder: of an optimized model.
        capacity: most rows.
        start_token_id: every row's first input.
        end_tokens: ids that end a row.
        num_states: encoder states of the largest image that is expected; more are taken too, by copying.
    """

    def __init__(
        self,
        decoder: FastDecoder,
        *,
        capacity: int,
        start_token_id: int,
        end_tokens: Sequence[int],
        num_states: int = 1,
    ) -> None:
        self.decoder = decoder
        self.capacity = capacity
        self.start_token_id = start_token_id
        self.end_tokens = list(end_tokens)
        self._ends = frozenset(end_tokens)
        self.rows: list[Row | None] = []
        self._num_states = num_states
        self._cross: list[tuple[Tensor, Tensor]] = []  # of each block, with room for rows and states
        self._cache = DecoderCache(len(decoder.blocks))
        self._newest = torch.zeros(0, dtype=torch.long)
        self._began = torch.zeros(0, dtype=torch.long)  # (R,) place in the cache where the row begins
        self._seen = torch.zeros(0, dtype=torch.long)  # (R,) encoder states of the row's image

    @property
    def active(self) -> int:
        """Rows that are being written."""
        return sum(row is not None for row in self.rows)

    @property
    def free(self) -> int:
        """Rows that could be added."""
        return self.capacity - self.active

    @torch.inference_mode()
    def admit(self, rows: Sequence[Row], memory: Sequence[Tensor]) -> None:
        """Add rows, at most `free`.

        Args:
            rows: nothing written yet.
            memory: (S, D_mem) encoder states of each; S may differ.
        """
        if not rows:
            return
        sizes = torch.tensor([len(states) for states in memory])
        padded = torch.nn.utils.rnn.pad_sequence(list(memory), batch_first=True)  # (n, S, D_mem)
        if self.active == 0:
            self._restart(len(rows))
        places = [place for place, row in enumerate(self.rows) if row is None][: len(rows)]
        places += range(len(self.rows), len(self.rows) + len(rows) - len(places))
        self._write(torch.tensor(places), padded)
        self.rows += [None] * (places[-1] + 1 - len(self.rows))
        index = torch.tensor(places)
        self._newest[index] = self.start_token_id
        self._began[index] = self._cache.length
        self._seen[index] = sizes
        for place, row in zip(places, rows, strict=True):
            self.rows[place] = row

    @torch.inference_mode()
    def step(self) -> list[Row]:
        """Write one token of every row, and give those that are complete."""
        decoder, cache = self.decoder, self._cache
        self._forget()
        self._show_images()
        steps = cache.length - self._began  # (R,)
        x = decoder.embed(self._newest[:, None], steps)
        x = decoder.run(x, cache, mask=self._mask(), cross_mask=self._cross_mask())
        logits = decoder.head(x[:, -1]).float()  # (R, V)
        if any(row is not None and row.wanted is not None for row in self.rows):
            logits[:, self.end_tokens] = HIDDEN
        tokens = first_best(logits)
        chosen = logits.gather(1, tokens[:, None]).squeeze(1) - logits.logsumexp(dim=1)
        self._newest = tokens
        return self._note(tokens.tolist(), chosen.tolist())

    def _note(self, tokens: list[int], log_probs: list[float]) -> list[Row]:
        complete = []
        for place, row in enumerate(self.rows):
            if row is None:
                continue
            token = tokens[place]
            if row.wanted is not None and len(row.ids) + 1 >= row.wanted:
                token = self.end_tokens[0]
            row.ids.append(token)
            row.log_probs.append(log_probs[place])
            row.finished = token in self._ends
            if row.finished or len(row.ids) >= row.most:
                complete.append(row)
                self.rows[place] = None
        for place in [place for place, row in enumerate(self.rows) if row is None]:
            self._newest[place] = self.start_token_id  # an id that exists, whatever the positions
            self._began[place] = self._cache.length
        return complete

    def clear(self) -> None:
        """Forget all rows, finished or not, and give back the room for their images."""
        self._restart(0)
        self._cross = []

    @torch.inference_mode()
    def compact(self) -> None:
        """Take vacant rows out of the batch, once they are half of it: all keys and values are copied."""
        kept = [place for place, row in enumerate(self.rows) if row is not None]
        if not kept or 2 * len(kept) > len(self.rows):
            return
        index = torch.tensor(kept)
        self._cache.select(index)
        for held in (tensor for pair in self._cross for tensor in pair):
            held[: len(kept)] = held[index]
        self._newest, self._began, self._seen = self._newest[index], self._began[index], self._seen[index]
        self.rows = [self.rows[place] for place in kept]

    def _restart(self, count: int) -> None:
        """Begin with nothing but `count` new rows."""
        self.rows = [None] * count
        self._cache = DecoderCache(len(self.decoder.blocks))
        self._newest, self._began, self._seen = (torch.zeros(count, dtype=torch.long) for _ in range(3))

    def _write(self, index: Tensor, memory: Tensor) -> None:
        """Put keys and values of new images (n, S, D_mem) at rows `index`, making room where need be."""
        more = max(0, int(index[-1]) + 1 - len(self.rows))
        size = memory.shape[1]
        self._make_room(len(self.rows) + more, size)
        spread = torch.arange(len(self.rows) + more).clamp(max=max(0, len(self.rows) - 1))
        for block, layer, held in zip(self.decoder.blocks, self._cache.layers, self._cross, strict=True):
            if more:
                layer.select(spread)  # new rows copy one; it is hidden
            keys, values = block.keys_values(memory)
            held[0][:, :, :size].index_copy_(0, index, keys)
            held[1][..., :size].index_copy_(0, index, values)
        if more:
            self._newest, self._began, self._seen = (
                torch.cat((t, t.new_zeros(more))) for t in (self._newest, self._began, self._seen)
            )

    def _make_room(self, count: int, size: int) -> None:
        """Make the buffers of the images' keys and values large enough, which they mostly are."""
        if self._cross and count <= self._cross[0][0].shape[0] and size <= self._cross[0][0].shape[2]:
            return
        held, self._cross = self._cross, []
        count, size = max(count, self.capacity), max(size, self._num_states)
        for number, block in enumerate(self.decoder.blocks):
            heads, width = block.cross_heads, block.head_dim
            pair = _zeros(count, heads, size, width), _zeros(count, heads, width, size)
            for new, old in zip(pair, held[number] if held else (), strict=False):
                new[tuple(slice(length) for length in old.shape)] = old
            self._cross.append(pair)
        self._num_states = size

    def _show_images(self) -> None:
        """Let the cache see as much of the buffers as the rows and their images take."""
        count, size = len(self.rows), max(1, int(self._seen.max()))
        for layer, (keys, values) in zip(self._cache.layers, self._cross, strict=True):
            layer.cross = keys[:count, :, :size], values[:count, ..., :size]

    def _forget(self) -> None:
        """Forget the places of the cache that no row needs any more."""
        first = int(self._began.min())
        if first > 0:
            self._cache.forget_first(first)
            self._began -= first

    def _mask(self) -> Tensor | None:
        """(R, 1, 1, T) for the scores of self-attention, or None where all rows began together."""
        if not bool(self._began.any()):
            return None
        places = torch.arange(self._cache.length + 1)
        hidden = places < self._began[:, None]  # (R, T)
        return torch.zeros(hidden.shape).masked_fill_(hidden, HIDDEN)[:, None, None]

    def _cross_mask(self) -> Tensor | None:
        """(R, 1, 1, S) for the scores of cross-attention, or None where all images have as many states."""
        cross = self._cache.layers[0].cross
        assert cross is not None
        size = cross[0].shape[2]
        if bool((self._seen == size).all()):
            return None
        hidden = torch.arange(size) >= self._seen[:, None]
        hidden[self._seen == 0] = False  # vacant rows read something
        return torch.zeros(hidden.shape).masked_fill_(hidden, HIDDEN)[:, None, None]


def _zeros(*shape: int) -> Tensor:
    """Zeros whose memory the system gives as it is written to; they keep what is hidden finite."""
    return torch.from_numpy(np.zeros(shape, np.float32))
