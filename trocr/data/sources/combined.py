"""Sources made of sources: several behind one another, and a choice of lines.

Source: original work.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate

from trocr.data.records import LineRecord, LineSource


class ConcatSource:
    """The lines of several sources, one source after the other.

    Args:
        sources: at least one.
    """

    def __init__(self, sources: Sequence[LineSource]) -> None:
        self.sources = list(sources)
        self._ends = list(accumulate(map(len, self.sources)))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: int, /) -> LineRecord:
        if not 0 <= index < len(self):
            raise IndexError(f"line {index} of {len(self)}")
        place = bisect_right(self._ends, index)
        return self.sources[place][index - (self._ends[place - 1] if place else 0)]

    def __iter__(self) -> Iterator[LineRecord]:
        return (self[index] for index in range(len(self)))


class Subset:
    """Some lines of a source.

    Args:
        source: where they are from.
        indices: their numbers there, in the order in which they come here.
    """

    def __init__(self, source: LineSource, indices: Sequence[int]) -> None:
        self.source = source
        self.indices = list(indices)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int, /) -> LineRecord:
        if not 0 <= index < len(self):
            raise IndexError(f"line {index} of {len(self)}")
        return self.source[self.indices[index]]

    def __iter__(self) -> Iterator[LineRecord]:
        return (self[index] for index in range(len(self)))
