"""Continuous batching: rows of one batch that belong to different images and begin at different times.

All rows share one time: at every step each row's newest token goes to the same place of the cache, and a mask
hides what was there before the row began. So a row that ends makes room for the next image at once, and no
row waits for the longest of its batch.

Source: iteration-level scheduling after Orca (Yu et al., OSDI 2022); the shared time is original work.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from trocr.cache import DecoderCache
from trocr.fast.decoder import FastDecoder
from trocr.fast.image_room import ImageRoom
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
        self._images = ImageRoom(decoder, capacity=capacity, num_states=num_states)
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
        if self.active == 0:
            self._restart(len(rows))
        places = [place for place, row in enumerate(self.rows) if row is None][: len(rows)]
        places += range(len(self.rows), len(self.rows) + len(rows) - len(places))
        self._write(places, memory)
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
        size = max(1, int(self._seen.max()))
        self._images.show(cache, slots=len(self.rows), states=size)
        steps = cache.length - self._began  # (R,)
        x = decoder.embed(self._newest[:, None], steps)
        x = decoder.run(x, cache, mask=self._mask(), cross_mask=self._cross_mask(size))
        logits = decoder.head(x[:, -1]).float()  # (R, V)
        if any(row is not None and row.wanted is not None for row in self.rows):
            logits[:, self.end_tokens] = HIDDEN
        tokens = first_best(logits)
        chosen = logits.log_softmax(dim=1).gather(1, tokens[:, None]).squeeze(1)
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
        self._images.clear()

    @torch.inference_mode()
    def compact(self) -> None:
        """Take vacant rows out of the batch, once they are half of it: all keys and values are copied."""
        kept = [place for place, row in enumerate(self.rows) if row is not None]
        if not kept or 2 * len(kept) > len(self.rows):
            return
        index = torch.tensor(kept)
        self._cache.select(index)
        self._images.keep(index)
        self._newest, self._began, self._seen = self._newest[index], self._began[index], self._seen[index]
        self.rows = [self.rows[place] for place in kept]

    def _restart(self, count: int) -> None:
        """Begin with nothing but `count` new rows."""
        self.rows = [None] * count
        self._cache = DecoderCache(len(self.decoder.blocks))
        self._newest, self._began, self._seen = (torch.zeros(count, dtype=torch.long) for _ in range(3))

    def _write(self, places: Sequence[int], memory: Sequence[Tensor]) -> None:
        """Remember new images, each (S, D_mem), and make rows for them where need be."""
        self._images.write(places, memory)
        more = max(0, places[-1] + 1 - len(self.rows))
        if not more:
            return
        spread = torch.arange(len(self.rows) + more).clamp(max=max(0, len(self.rows) - 1))
        self._cache.select(spread)  # new rows copy one; it is hidden
        self._newest, self._began, self._seen = (
            torch.cat((t, t.new_zeros(more))) for t in (self._newest, self._began, self._seen)
        )

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

    def _cross_mask(self, size: int) -> Tensor | None:
        """(R, 1, 1, S) for the scores of cross-attention, or None where all images have as many states."""
        if bool((self._seen == size).all()):
            return None
        hidden = torch.arange(size) >= self._seen[:, None]
        hidden[self._seen == 0] = False  # vacant rows read something
        return torch.zeros(hidden.shape).masked_fill_(hidden, HIDDEN)[:, None, None]
