"""Paired runs: candidates take turns over the same lines, and every figure comes with its spread.

A block of lines is read by every candidate in turn, the order reversed from one block to the next; ratios are
taken block by block, so that a machine whose speed drifts does not decide them.

Source: original work.
"""

import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from trocr.benchmark.errors import BenchmarkError
from trocr.benchmark.lines import BenchmarkLine
from trocr.benchmark.memory import PeakMemory, page_faults

Answer = tuple[int, ...] | str
"""What a candidate wrote for a line: its ids without the start token, or its text."""


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """Lines that a candidate hands over together.

    Attributes:
        answers: one for each line, in order.
        encode_s: seconds of them that went into the image encoder, where the candidate can tell.
        seconds: that the candidate measured itself, for what starts with work that must not count.
    """

    answers: tuple[Answer, ...]
    encode_s: float | None = None
    seconds: float | None = None


class Candidate(Protocol):
    """What takes part: something that reads lines."""

    precision: str

    def read(self, lines: Sequence[BenchmarkLine]) -> Iterator[Chunk]:
        """Read lines, in order, giving chunks as they are done."""


@dataclass(frozen=True, kw_only=True)
class BlockRun:
    """One candidate on one block.

    Attributes:
        block: number of the block's lines within the workload: the first one's.
        lines: how many.
        seconds: from the start to the last answer.
        first_s: to the first answers; None where the candidate measured itself.
        chunks: (lines, seconds) of every chunk.
        encode_s: of `seconds`, in the image encoder; None where a candidate cannot tell.
        peak_bytes: most memory beyond what was resident before; None where the system does not tell.
        page_faults: minor ones.
        answers: of the block's lines.
    """

    block: int
    lines: int
    seconds: float
    first_s: float | None
    chunks: tuple[tuple[int, float], ...]
    encode_s: float | None
    peak_bytes: int | None
    page_faults: int | None
    answers: tuple[Answer, ...] = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Spread:
    """A median with how far the values lie apart."""

    median: float
    low: float
    lower_quartile: float
    upper_quartile: float
    high: float
    count: int

    @classmethod
    def of(cls, values: Iterable[float]) -> "Spread":
        """Sum up values.

        Raises:
            BenchmarkError: there is none, or one that is not finite.
        """
        found = sorted(values)
        if not found or not all(math.isfinite(value) for value in found):
            raise BenchmarkError(f"{len(found)} values, not all finite or none at all: {found[:5]}")
        return cls(
            median=statistics.median(found),
            low=found[0],
            lower_quartile=percentile(found, 0.25),
            upper_quartile=percentile(found, 0.75),
            high=found[-1],
            count=len(found),
        )

    def text(self, digits: int = 2, *, scale: float = 1.0) -> str:
        """Median, and minimum to maximum; quartiles too where there are enough values for them."""
        values = (self.median, self.low, self.lower_quartile, self.upper_quartile, self.high)
        middle, low, lower, upper, high = (f"{value * scale:.{digits}f}" for value in values)
        if self.count == 1:
            return f"{middle} (one run)"
        if self.count < 8:
            return f"{middle} ({low} to {high})"
        return f"{middle} ({lower}-{upper}; {low} to {high})"

    def to_dict(self) -> dict[str, float]:
        """Plain values, for JSON."""
        return asdict(self)


def percentile(values: Iterable[float], share: float) -> float:
    """Value below which a share of the values lies, interpolated between neighbours.

    Raises:
        BenchmarkError: no values, or a share outside 0 to 1.
    """
    found = sorted(values)
    if not found or not 0.0 <= share <= 1.0:
        raise BenchmarkError(f"{len(found)} values and a share of {share}; expected some, and 0 to 1")
    place = share * (len(found) - 1)
    below = math.floor(place)
    above = min(below + 1, len(found) - 1)
    return found[below] + (found[above] - found[below]) * (place - below)


def spread(values: Iterable[float], digits: int = 3) -> str:
    """Median with minimum and maximum."""
    found = Spread.of(values)
    return f"{found.median:.{digits}f} ({found.low:.{digits}f} to {found.high:.{digits}f})"


def alternate(
    first: Callable[[], object],
    second: Callable[[], object],
    runs: int,
    clock: Callable[[], float] = time.perf_counter,
) -> list[tuple[float, float]]:
    """Seconds of both, in turn, the order reversed each time; a first run of each does not count."""
    calls = (first, second)
    for call in calls:
        call()
    times = []
    for run in range(runs):
        found = [0.0, 0.0]
        for place in turn((0, 1), run):
            start = clock()
            calls[place]()
            found[place] = clock() - start
        times.append((found[0], found[1]))
    return times


def turn(names: Iterable[Any], number: int) -> list[Any]:
    """Order in which candidates come in a turn: as given, then the other way round."""
    ordered = list(names)
    return ordered if number % 2 == 0 else ordered[::-1]


def run_block(
    candidate: Candidate,
    lines: Sequence[BenchmarkLine],
    *,
    block: int = 0,
    clock: Callable[[], float] = time.perf_counter,
) -> BlockRun:
    """Let one candidate read one block.

    Raises:
        BenchmarkError: it gave more or fewer answers than there are lines.
    """
    answers: list[Answer] = []
    chunks: list[tuple[int, float]] = []
    encode_s: float | None = 0.0
    measured_itself = False
    faults = page_faults()
    with PeakMemory() as memory:
        before = clock()
        for chunk in candidate.read(lines):
            now = clock()
            chunks.append((len(chunk.answers), now - before if chunk.seconds is None else chunk.seconds))
            answers += chunk.answers
            measured_itself = measured_itself or chunk.seconds is not None
            known = encode_s is not None and chunk.encode_s is not None
            encode_s = encode_s + chunk.encode_s if known else None  # type: ignore[operator]
            before = clock()
    if len(answers) != len(lines):
        raise BenchmarkError(f"{len(answers)} answers for {len(lines)} lines")
    after = page_faults()
    return BlockRun(
        block=block,
        lines=len(lines),
        seconds=sum(seconds for _, seconds in chunks),
        first_s=None if measured_itself else chunks[0][1],
        chunks=tuple(chunks),
        encode_s=encode_s,
        peak_bytes=None if measured_itself else memory.peak_bytes,
        page_faults=None if faults is None or after is None else after - faults,
        answers=tuple(answers),
    )


def run_in_turns(
    candidates: Mapping[str, Candidate],
    lines: Sequence[BenchmarkLine],
    *,
    block: int,
    runs: int = 1,
    warm_up: int = 1,
    clock: Callable[[], float] = time.perf_counter,
    tell: Callable[[str], None] | None = None,
) -> dict[str, list[BlockRun]]:
    """Let candidates read all blocks in turns.

    Args:
        candidates: by name.
        lines: of the workload.
        block: lines of a block; the last one may have fewer. 0 is all lines at once.
        runs: times that the workload is gone through.
        warm_up: blocks that every candidate reads before, which do not count.
        clock: seconds.
        tell: called with what is done, now and then.
    Returns:
        For each candidate its runs, in the same order for all.
    Raises:
        BenchmarkError: no lines, or a number below what makes sense.
    """
    if not lines or block < 0 or runs < 1 or warm_up < 0:
        raise BenchmarkError(
            f"{len(lines)} lines, block {block}, runs {runs}, warm_up {warm_up}: expected lines, a block of "
            "0 or more, at least one run and no negative warm_up"
        )
    size = block or len(lines)
    firsts = list(range(0, len(lines), size))
    for number in range(warm_up):
        first = firsts[number % len(firsts)]
        for candidate in candidates.values():
            run_block(candidate, lines[first : first + size], clock=clock)
    found: dict[str, list[BlockRun]] = {name: [] for name in candidates}
    for number, first in enumerate([first for _ in range(runs) for first in firsts]):
        part = lines[first : first + size]
        for name in turn(candidates, number):
            found[name].append(run_block(candidates[name], part, block=first, clock=clock))
        if tell is not None:
            tell(f"{number + 1} of {runs * len(firsts)} blocks")
    return found


def line_seconds(runs: Iterable[BlockRun]) -> list[float]:
    """Seconds a line of every chunk, once for each of its lines: with batch 1 the time of each line."""
    return [seconds / count for run in runs for count, seconds in run.chunks for _ in range(count)]


def ratios(reference: Sequence[BlockRun], runs: Sequence[BlockRun]) -> list[float]:
    """Seconds of the reference over those of another candidate, block by block: above 1 the other is faster.

    Raises:
        BenchmarkError: the runs are not over the same blocks.
    """
    pairs = list(zip(reference, runs, strict=False))
    if len(reference) != len(runs) or any(mine.block != theirs.block for theirs, mine in pairs):
        raise BenchmarkError("the runs are not over the same blocks; take both from one `run_in_turns`")
    return [theirs.seconds / mine.seconds for theirs, mine in pairs]


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How far two candidates wrote the same.

    Attributes:
        lines: compared, each of every run.
        same: of them, written alike.
        tokens: of the reference, or characters where the answers are texts.
        same_tokens: of them, equal at the same place.
    """

    lines: int
    same: int
    tokens: int
    same_tokens: int

    @property
    def text(self) -> str:
        """ "yes", or how many are not."""
        if self.same == self.lines:
            return "yes"
        share = self.same_tokens / max(self.tokens, 1)
        return f"NO: {self.same} of {self.lines} lines, {share:.1%} of places"


def agreement(reference: Sequence[BlockRun], runs: Sequence[BlockRun]) -> Agreement:
    """Compare all answers; places beyond the end of the shorter one count as different."""
    lines = same = tokens = same_tokens = 0
    for theirs, mine in zip(reference, runs, strict=True):
        for one, other in zip(theirs.answers, mine.answers, strict=True):
            lines += 1
            same += one == other
            tokens += max(len(one), len(other))
            same_tokens += sum(a == b for a, b in zip(one, other, strict=False))
    return Agreement(lines=lines, same=same, tokens=tokens, same_tokens=same_tokens)
