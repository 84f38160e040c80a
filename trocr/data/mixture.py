"""An endless row of lines drawn from several sources by shares.

Source: original work.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count

import numpy as np

from trocr.data.records import DataError, LineRecord, LineSource

BLOCK = 1000
"""Lines among which the shares are kept exactly."""

_BLOCK, _ORDER = 11, 12
"""Streams of random numbers of one seed: places in a block, order of a source's lines."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """A source in a mixture.

    Attributes:
        source: its lines.
        share: how often it is drawn from, in the same unit as the other parts'.
        endless: it gives another line for any number (a generator); others are drawn in random order, each
            line once before any comes again.
    """

    source: LineSource
    share: float
    endless: bool = False


@dataclass
class MixedSource:
    """Lines of several sources by shares: line n is the same whatever was read before.

    In each thousand lines every part has its share, rounded, in random places.

    Args:
        parts: the sources.
        seed: of the places and orders.
    Raises:
        DataError: there is no part, one is empty, or a share is not positive or below a thousandth.
    """

    parts: Sequence[Part]
    seed: int = 0
    _blocks: dict[int, np.ndarray] = field(default_factory=dict, repr=False)
    _orders: dict[int, tuple[int, np.ndarray]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if not self.parts:
            raise DataError("there are no sources to draw lines from")
        for number, part in enumerate(self.parts):
            if not part.endless and len(part.source) == 0:
                raise DataError(f"source {number} has no lines; look at it with `trocr data inspect`")
        self.quotas = quotas([part.share for part in self.parts])

    def __len__(self) -> int:
        """An epoch: as many lines as the sources that end have together."""
        return sum(len(part.source) for part in self.parts if not part.endless)

    def __getitem__(self, index: int, /) -> LineRecord:
        """Give line `index`, any number from 0 on."""
        if index < 0:
            raise IndexError(index)
        block, place = divmod(index, BLOCK)
        owners = self._owners(block)
        number = int(owners[place])
        draw = block * self.quotas[number] + int((owners[:place] == number).sum())
        part = self.parts[number]
        return part.source[draw if part.endless else self._line(number, draw)]

    def __iter__(self) -> Iterator[LineRecord]:
        """Give lines without end."""
        return (self[index] for index in count())

    def _owners(self, block: int) -> np.ndarray:
        """Number of the part that each place of a block belongs to."""
        if block not in self._blocks:
            rng = np.random.default_rng((self.seed, _BLOCK, block))
            self._blocks = {block: rng.permutation(np.repeat(np.arange(len(self.quotas)), self.quotas))}
        return self._blocks[block]

    def _line(self, number: int, draw: int) -> int:
        epoch, place = divmod(draw, len(self.parts[number].source))
        known = self._orders.get(number)
        if known is None or known[0] != epoch:
            rng = np.random.default_rng((self.seed, _ORDER, number, epoch))
            known = (epoch, rng.permutation(len(self.parts[number].source)))
            self._orders[number] = known
        return int(known[1][place])


def quotas(shares: Sequence[float]) -> list[int]:
    """Places that each share has in a block, by largest remainder.

    Raises:
        DataError: a share is not positive, or too small for a place.
    """
    if min(shares) <= 0:
        raise DataError(f"shares {list(shares)} must be above 0: take a source out instead")
    exact = np.asarray(shares, dtype=float) * (BLOCK / sum(shares))
    found = np.floor(exact).astype(int)
    for place in np.argsort(found - exact, kind="stable")[: BLOCK - found.sum()]:
        found[place] += 1
    if not found.all():
        raise DataError(f"shares {list(shares)}: the smallest is below a thousandth of all")
    return [int(number) for number in found]
