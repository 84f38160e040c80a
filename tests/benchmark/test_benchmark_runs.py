"""Pairing, spread, ratios: on candidates whose time is known."""

from types import SimpleNamespace

import pytest

from trocr.benchmark.errors import BenchmarkError
from trocr.benchmark.runs import (
    BlockRun,
    Chunk,
    Spread,
    agreement,
    alternate,
    line_seconds,
    percentile,
    ratios,
    run_block,
    run_in_turns,
    spread,
)


class Clock:
    """Seconds that pass only when somebody works."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class Reads:
    """A candidate that takes a known time a line and notes when its turn comes."""

    precision = "float32"

    def __init__(self, name, seconds, clock, turns, *, chunk=1, texts=None, lost=0):
        self.name, self.seconds, self.clock, self.turns = name, seconds, clock, turns
        self.chunk, self.texts, self.lost = chunk, texts or {}, lost

    def read(self, lines):
        self.turns.append((self.name, [line.name for line in lines]))
        lines = lines[: len(lines) - self.lost]
        for first in range(0, len(lines), self.chunk):
            part = lines[first : first + self.chunk]
            self.clock.now += self.seconds * len(part)
            yield Chunk(answers=tuple(self.texts.get(line.name, "text") for line in part))


def names(count):
    return [SimpleNamespace(name=str(number)) for number in range(count)]


def test_candidates_take_turns_over_the_same_blocks_and_the_order_turns_too():
    clock, turns = Clock(), []
    both = {"slow": Reads("slow", 3.0, clock, turns), "quick": Reads("quick", 1.0, clock, turns)}
    found = run_in_turns(both, names(5), block=2, runs=2, warm_up=0, clock=clock)
    assert [name for name, _ in turns] == ["slow", "quick", "quick", "slow"] * 3
    assert turns[0][1] == turns[1][1] == ["0", "1"]
    assert turns[4][1] == turns[5][1] == ["4"]
    assert [run.block for run in found["slow"]] == [0, 2, 4, 0, 2, 4]
    assert [run.seconds for run in found["quick"]] == [2.0, 2.0, 1.0] * 2
    assert ratios(found["slow"], found["quick"]) == [3.0] * 6
    assert ratios(found["slow"], found["slow"]) == [1.0] * 6


def test_warm_up_does_not_count():
    clock, turns = Clock(), []
    found = run_in_turns({"one": Reads("one", 1.0, clock, turns)}, names(4), block=0, warm_up=2, clock=clock)
    assert len(turns) == 3
    assert [run.lines for run in found["one"]] == [4]


def test_seconds_of_chunks():
    clock = Clock()
    run = run_block(Reads("one", 2.0, clock, [], chunk=2), names(3), clock=clock)
    assert run.first_s == 4.0
    assert run.chunks == ((2, 4.0), (1, 2.0))
    assert line_seconds([run]) == [2.0, 2.0, 2.0]
    assert run.encode_s is None


def test_a_candidate_that_measures_itself():
    class Slow:
        precision = "float32"

        def read(self, lines):
            clock.now += 100.0  # writing files for an engine must not count
            yield Chunk(answers=("a",) * len(lines), seconds=2.0)

    clock = Clock()
    run = run_block(Slow(), names(2), clock=clock)
    assert (run.seconds, run.first_s, run.peak_bytes) == (2.0, None, None)


def test_a_lost_answer_is_an_error():
    clock = Clock()
    with pytest.raises(BenchmarkError, match="2 answers for 3 lines"):
        run_block(Reads("one", 1.0, clock, [], lost=1), names(3), clock=clock)


@pytest.mark.parametrize(("lines", "options"), [(0, {}), (2, {"runs": 0}), (2, {"block": -1})])
def test_numbers_that_make_no_sense(lines, options):
    with pytest.raises(BenchmarkError, match="expected lines, a block of"):
        run_in_turns({}, names(lines), **{"block": 1, **options})


def test_ratios_need_the_same_blocks():
    clock = Clock()
    first = run_block(Reads("a", 1.0, clock, []), names(1), block=0, clock=clock)
    other = run_block(Reads("b", 1.0, clock, []), names(1), block=1, clock=clock)
    for pair in (([first], [other]), ([first], [first, other])):
        with pytest.raises(BenchmarkError, match="not over the same blocks"):
            ratios(*pair)


def block_of(*answers):
    return BlockRun(
        block=0,
        lines=len(answers),
        seconds=1.0,
        first_s=1.0,
        chunks=(),
        encode_s=None,
        peak_bytes=None,
        page_faults=None,
        answers=answers,
    )


def test_agreement_counts_lines_and_places():
    same = agreement([block_of((1, 2, 3), (4,))], [block_of((1, 2, 3), (4,))])
    assert same.text == "yes"
    other = agreement([block_of((1, 2, 3), (4,))], [block_of((1, 9, 3), (4, 5))])
    assert (other.lines, other.same, other.tokens, other.same_tokens) == (2, 0, 5, 3)
    assert other.text == "NO: 0 of 2 lines, 60.0% of places"


def test_percentile_lies_between_neighbours():
    values = [4.0, 1.0, 3.0, 2.0]
    assert [percentile(values, share) for share in (0.0, 0.5, 1.0)] == [1.0, 2.5, 4.0]
    assert percentile(values, 0.95) == pytest.approx(3.85)
    for wrong in ([], values):
        with pytest.raises(BenchmarkError, match="expected some, and 0 to 1"):
            percentile(wrong, 1.5)


def test_spread_shows_how_far_values_lie_apart():
    assert Spread.of([2.0]).text(1) == "2.0 (one run)"
    assert Spread.of([3.0, 1.0, 2.0]).text(1) == "2.0 (1.0 to 3.0)"
    assert Spread.of(range(9)).text(1) == "4.0 (2.0-6.0; 0.0 to 8.0)"
    assert Spread.of([1.0, 2.0]).text(0, scale=1000) == "1500 (1000 to 2000)"
    assert spread([3.0, 1.0, 2.0], 2) == "2.00 (1.00 to 3.00)"
    for wrong in ([], [1.0, float("nan")]):
        with pytest.raises(BenchmarkError, match="not all finite or none"):
            Spread.of(wrong)


def test_alternate_reverses_the_order_and_leaves_the_first_run_out():
    clock, order = Clock(), []

    def call(name, seconds):
        def work():
            order.append(name)
            clock.now += seconds

        return work

    assert alternate(call("a", 1.0), call("b", 5.0), 2, clock) == [(1.0, 5.0), (1.0, 5.0)]
    assert order == ["a", "b", "a", "b", "b", "a"]
