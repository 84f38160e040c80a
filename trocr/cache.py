"""Keys and values of earlier tokens, as an explicit argument of the decoder.

The decoder zips `DecoderCache.layers` with its blocks, so a block never knows its index.

Source: original work; the idea of an explicit cache object is nanochat's `engine.py`.
"""

from collections.abc import Iterator

import torch
import torch.utils._pytree as pytree
from torch import Tensor

GROWTH = 32
"""Tokens by which the room of a cache grows; a line has 10 to 40."""


class LayerCache:
    """Keys and values of one block: its self-attention's, which grow, and its cross-attention's, which stay.

    Attributes:
        length: tokens held.
        cross: keys and values (images, H, S, K) of the encoder states, or None before the first step. What an
            optimized decoder keeps here is of other shapes, see `trocr.fast.cross`.
    """

    __slots__ = ("_keys", "_values", "cross", "length")

    def __init__(self) -> None:
        self._keys: Tensor | None = None
        self._values: Tensor | None = None
        self.length = 0
        self.cross: tuple[Tensor, Tensor] | None = None

    @property
    def is_empty(self) -> bool:
        """Whether no token is held yet."""
        return self._keys is None

    @property
    def keys(self) -> Tensor | None:
        """(B, H, T, K), or None while empty."""
        return None if self._keys is None else self._keys[:, :, : self.length]

    @property
    def values(self) -> Tensor | None:
        """(B, H, T, K), or None while empty."""
        return None if self._values is None else self._values[:, :, : self.length]

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Add the keys and values of new tokens, each (B, H, t, K), and return all, each (B, H, T, K).

        With gradients the old tensors are left as they are; without, room for more tokens is kept and reused.

        Raises:
            ValueError: the new rows are not as many as those held.
        """
        if self._keys is not None and self._keys.shape[0] != keys.shape[0]:
            raise ValueError(
                f"the cache holds {self._keys.shape[0]} rows, the new tokens have {keys.shape[0]}; "
                "use cache.select(rows) first, or a new cache"
            )
        start, self.length = self.length, self.length + keys.shape[2]
        self._keys = _extend(self._keys, keys, start)
        self._values = _extend(self._values, values, start)
        return self._keys[:, :, : self.length], self._values[:, :, : self.length]

    def select(self, rows: Tensor) -> None:
        """Keep the given decoder rows, in this order; an index may occur more than once."""
        if self._keys is not None and self._values is not None:
            self._keys = self._keys[:, :, : self.length].index_select(0, rows)
            self._values = self._values[:, :, : self.length].index_select(0, rows)

    def truncate(self, length: int) -> None:
        """Forget all tokens but the first `length`; the cross-attention part stays, and so does the room."""
        if self._keys is not None and self._values is not None and self._keys.shape[2] == self.length:
            # without room beyond the tokens they may be the caller's tensors, which nothing is written into
            self._keys, self._values = self._keys[:, :, :length], self._values[:, :, :length]
        if length == 0:
            self._keys = self._values = None
        self.length = length

    def forget_first(self, count: int) -> None:
        """Forget the first `count` tokens; those after them move to the front."""
        if self._keys is not None and self._values is not None:
            self._keys, self._values = self._keys[:, :, count:], self._values[:, :, count:]
            self.length -= count

    def keep_images(self, rows: Tensor) -> None:
        """Keep the given rows of the cross-attention part, in this order."""
        if self.cross is not None:
            self.cross = self.cross[0].index_select(0, rows), self.cross[1].index_select(0, rows)


def _extend(held: Tensor | None, new: Tensor, start: int) -> Tensor:
    if held is None:
        return new
    if torch.compiler.is_compiling() or torch.is_grad_enabled():
        return torch.cat((held[:, :, :start], new), dim=2)
    if held.is_inference() != torch.is_inference_mode_enabled():
        return torch.cat((held[:, :, :start], new), dim=2)
    end = start + new.shape[2]
    if end > held.shape[2]:
        batch, heads, _, width = held.shape
        room = held.new_empty(batch, heads, end + GROWTH - end % GROWTH, width)
        room[:, :, :start] = held[:, :, :start]
        held = room
    held[:, :, start:end] = new
    return held


class DecoderCache:
    """Keys and values of a whole decoder.

    Args:
        num_layers: blocks of the decoder.
    """

    def __init__(self, num_layers: int) -> None:
        self.layers = [LayerCache() for _ in range(num_layers)]

    @property
    def length(self) -> int:
        """Tokens held: the position of the next one."""
        return self.layers[0].length if self.layers else 0

    def get_seq_length(self) -> int:
        """Second name of `length`."""
        return self.length

    def select(self, rows: Tensor) -> None:
        """Reorder, drop or repeat decoder rows in place, for instance to follow the beams that survive.

        Args:
            rows: (B',) indices of rows held. The cross-attention part, one row an image, stays as it is.
        """
        for layer in self.layers:
            layer.select(rows)

    def keep_images(self, rows: Tensor) -> None:
        """Reorder or drop images in place: the cross-attention part alone; `select` does the decoder rows.

        What layers share they share afterwards too.
        """
        kept: dict[int, tuple[Tensor, Tensor] | None] = {}
        before = [layer.cross for layer in self.layers]
        for layer, cross in zip(self.layers, before, strict=True):
            if id(cross) not in kept:
                layer.keep_images(rows)
                kept[id(cross)] = layer.cross
            layer.cross = kept[id(cross)]

    def truncate(self, length: int) -> None:
        """Forget all tokens but the first `length`, in place: those that speculation guessed wrong.

        The cross-attention part stays as it is.

        Args:
            length: tokens to keep of every row, from 0 to `self.length`.
        Raises:
            ValueError: there are not as many tokens.
        """
        if not 0 <= length <= self.length:
            raise ValueError(
                f"the cache holds {self.length} tokens and cannot be cut to {length}; expected 0 to "
                f"{self.length}"
            )
        for layer in self.layers:
            layer.truncate(length)

    def forget_first(self, count: int) -> None:
        """Forget the first `count` tokens of every row in place, for rows that began later.

        Raises:
            ValueError: there are not as many tokens.
        """
        if not 0 <= count <= self.length:
            raise ValueError(f"the cache holds {self.length} tokens, {count} cannot be forgotten")
        for layer in self.layers:
            layer.forget_first(count)

    def __len__(self) -> int:
        return len(self.layers)

    def __iter__(self) -> Iterator[LayerCache]:
        return iter(self.layers)


def _flatten(cache: DecoderCache) -> tuple[list[object], object]:
    return [(layer.keys, layer.values, layer.cross) for layer in cache.layers], len(cache.layers)


def _unflatten(parts: object, context: object) -> DecoderCache:
    cache = DecoderCache(0)
    for keys, values, cross in parts:  # type: ignore[attr-defined]
        layer = LayerCache()
        layer._keys, layer._values, layer.cross = keys, values, cross
        layer.length = 0 if keys is None else keys.shape[2]
        cache.layers.append(layer)
    return cache


pytree.register_pytree_node(
    DecoderCache, _flatten, _unflatten, serialized_type_name="trocr.cache.DecoderCache"
)
