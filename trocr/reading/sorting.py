"""Images that wait, and leave in groups that are read together.

Source: original work.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Protocol

from torch import Tensor

Numbered = tuple[int, Tensor]
"""An image's number and its pixels (C, height, width)."""

WINDOW = 4
"""Batches of lines that are sorted by width together."""


class Division(Protocol):
    """The role: say how images of several sizes go together."""

    def sizes(self, images: Sequence[Tensor]) -> Sequence[int]:
        """Give the number of images (C, height, width) of each full group, in order; others are left over."""


class Sorter:
    """Images that wait, and leave in groups, of one shape where nothing else is said.

    Args:
        batch_size: most images of a group of one shape.
        waits: whether some batches are collected, since images differ in size.
        division: makes groups of several sizes; a group leaves once it is full.
    """

    def __init__(self, *, batch_size: int, waits: bool, division: Division | None = None) -> None:
        self.batch_size = batch_size
        self.waits = waits
        self.division = division
        self._waiting: list[Numbered] = []

    def push(self, images: Sequence[Numbered]) -> Iterator[list[Numbered]]:
        """Take images, and give groups once enough wait; nothing but what waits is held."""
        self._waiting.extend(images)
        if not self.waits or len(self._waiting) >= WINDOW * self.batch_size:
            return self.drain()
        return self._leave(self._full())

    def drain(self) -> Iterator[list[Numbered]]:
        """Give all that waits; without a division, narrow images first."""
        if self.division is None:
            self._waiting.sort(key=_size)
            return self._leave(self._alike())
        full = self._full()
        return self._leave([*full, len(self._waiting) - sum(full)])

    def _leave(self, sizes: Sequence[int]) -> Iterator[list[Numbered]]:
        """Give groups of so many images each; one that has left is not held."""
        for size in filter(None, sizes):
            yield self._take(size)

    def _take(self, size: int) -> list[Numbered]:
        """Let the first images leave, sorted by size."""
        group, self._waiting[:size] = self._waiting[:size], []
        return sorted(group, key=_size)

    def _full(self) -> Sequence[int]:
        """Sizes of the groups that a division makes already."""
        return [] if self.division is None else self.division.sizes([pixels for _, pixels in self._waiting])

    def _alike(self) -> list[int]:
        """Divide sorted images into groups of one shape."""
        sizes = []
        for _, alike in groupby(self._waiting, key=_size):
            count = len(list(alike))
            sizes += [min(self.batch_size, count - first) for first in range(0, count, self.batch_size)]
        return sizes


def _size(image: Numbered) -> tuple[int, ...]:
    return tuple(image[1].shape)
