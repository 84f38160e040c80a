"""Room for what cross-attention reads of the images in slots: buffers that are made once and written to.

Source: original work.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from trocr.cache import DecoderCache
from trocr.fast import cross
from trocr.fast.attention import lay_out
from trocr.fast.cross import Remembered, centred
from trocr.fast.decoder import FastDecoder
from trocr.fast.linear import rounded_rows


class ImageRoom:
    """What the images in slots are remembered by; see `trocr.fast.cross`.

    Args:
        decoder: of an optimized model.
        capacity: most slots that are expected; more are taken too, by copying.
        num_states: encoder states of the largest image that is expected; likewise.
    """

    def __init__(self, decoder: FastDecoder, *, capacity: int, num_states: int) -> None:
        self.blocks = [block.cross for block in decoder.blocks]
        self.on_states = decoder.reads_states(capacity)
        self._slots, self._states = capacity, num_states
        self._held: list[Remembered] = []  # of each block, or one for all; with zeros where nothing is
        self._shown: Remembered | None = None  # what the states of the last step were

    def write(self, places: Sequence[int], memory: Sequence[Tensor]) -> None:
        """Remember images by their encoder states, each (S, D_mem), in the slots `places`."""
        self._shown = None
        self._make_room(1 + max(places), max(map(len, memory)), memory[0].shape[1])
        if self.on_states:
            for place, states in zip(places, memory, strict=True):
                less, mean = centred(states[None])
                self._held[0][0][place, : len(states)], self._held[0][1][place] = less[0], mean[0]
            return
        sizes = [len(states) for states in memory]
        spare = rounded_rows(sum(sizes), parts=2) - sum(sizes)
        below = F.pad(torch.cat(list(memory)), (0, 0, 0, spare))[None]  # (1, M, D_mem), image below image
        for block, (to_keys, to_values) in zip(self.blocks, self._held, strict=True):
            keys, values = (torch.split(projected[0], [*sizes, spare]) for projected in block.project(below))
            for number, (place, size) in enumerate(zip(places, sizes, strict=True)):
                lay_out(keys[number], values[number], to_keys[place, :, :size], to_values[place, ..., :size])

    def show(self, cache: DecoderCache, *, slots: int, states: int) -> None:
        """Let a cache see the first `slots` slots, and as many states of each."""
        if self.on_states:
            shared = self._shared(slots, states)
            for layer in cache.layers:
                layer.cross = shared
            return
        for layer, (keys, values) in zip(cache.layers, self._held, strict=True):
            layer.cross = keys[:slots, :, :states], values[:slots, ..., :states]

    def _shared(self, slots: int, states: int) -> Remembered:
        """Give states and means; oneDNN would copy a part of the buffer at every step, so it is done once."""
        if self._shown is None or self._shown[0].shape[:2] != (slots, states):
            held, mean = self._held[0]
            self._shown = held[:slots, :states].contiguous(), mean[:slots]
        return self._shown

    def keep(self, places: Tensor) -> None:
        """Move the slots `places` to the front, in this order."""
        self._shown = None
        for held in (tensor for pair in self._held for tensor in pair):
            held[: len(places)] = held[places]

    def clear(self) -> None:
        """Give the memory back."""
        self._held, self._shown = [], None

    def _make_room(self, slots: int, states: int, wide: int) -> None:
        """Make the buffers large enough, which they mostly are."""
        if self._held and slots <= self._slots and states <= self._states:
            return
        self._slots, self._states = max(slots, self._slots), max(states, self._states)
        old, self._held = self._held, self._empty(self._slots, self._states, wide)
        for before, now in zip(old, self._held, strict=False):
            for there, here in zip(before, now, strict=True):
                here[tuple(map(slice, there.shape))] = there

    def _empty(self, slots: int, states: int, wide: int) -> list[Remembered]:
        if self.on_states:
            return [(_zeros(slots, states, wide, on_states=True), _zeros(slots, 1, wide, on_states=True))]
        shapes = [(block.num_heads, block.head_dim) for block in self.blocks]
        return [
            (_zeros(slots, heads, states, width), _zeros(slots, heads, width, states))
            for heads, width in shapes
        ]


def _zeros(*shape: int, on_states: bool = False) -> Tensor:
    """Zeros whose memory the system gives as it is written to; they keep what is hidden finite."""
    dtype = cross.PRECISION if on_states else torch.float32
    return torch.from_numpy(np.zeros(shape, f"i{dtype.itemsize}")).view(dtype)
