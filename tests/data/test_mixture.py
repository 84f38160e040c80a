import pickle
from collections import Counter

import pytest

from trocr.data.mixture import BLOCK, MixedSource, Part, quotas
from trocr.data.records import DataError, LineRecord


class Named(list):
    def __init__(self, name, count):
        super().__init__(
            LineRecord(name=f"{name}{i}", text=name, opener=BLOCK.__index__) for i in range(count)
        )


class Endless:
    def __len__(self):
        return 2**40

    def __getitem__(self, index):
        return LineRecord(name=f"made{index}", text="made", opener=BLOCK.__index__)


def mixture(seed=0):
    parts = [
        Part(source=Named("a", 7), share=1),
        Part(source=Named("b", 300), share=3),
        Part(source=Endless(), share=6, endless=True),
    ]
    return MixedSource(parts, seed=seed)


def test_shares_are_exact_in_every_block():
    mixed = mixture()
    for block in (0, 3):
        texts = Counter(mixed[i].text for i in range(block * BLOCK, (block + 1) * BLOCK))
        assert texts == {"a": 100, "b": 300, "made": 600}


def test_each_line_comes_once_before_any_comes_again():
    mixed = mixture()
    names = [mixed[i].name for i in range(2 * BLOCK) if mixed[i].text == "b"]
    assert sorted(names[:300]) == sorted(f"b{i}" for i in range(300))
    assert sorted(names[300:]) == sorted(f"b{i}" for i in range(300))
    assert names[:300] != names[300:]
    few = [mixed[i].name for i in range(BLOCK) if mixed[i].text == "a"]
    assert all(len(set(few[start : start + 7])) == 7 for start in range(0, 98, 7))


def test_generated_lines_are_never_repeated():
    mixed = mixture()
    made = [mixed[i].name for i in range(2 * BLOCK) if mixed[i].text == "made"]
    assert made == [f"made{i}" for i in range(1200)]


def test_a_line_does_not_depend_on_what_was_read_before():
    forwards, other = mixture(), pickle.loads(pickle.dumps(mixture()))
    names = [forwards[i].name for i in range(3000)]
    assert [other[i].name for i in reversed(range(3000))] == names[::-1]
    assert [mixture(seed=1)[i].name for i in range(50)] != names[:50]


def test_an_epoch_counts_the_lines_that_end():
    assert len(mixture()) == 307


@pytest.mark.parametrize(
    ("shares", "found"), [([1, 1, 1], [334, 333, 333]), ([5], [BLOCK]), ([0.001, 0.999], [1, 999])]
)
def test_quotas(shares, found):
    assert quotas(shares) == found


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([], "no sources"),
        ([Part(source=[], share=1)], "source 0 has no lines"),
        ([Part(source=Named("a", 1), share=0)], "must be above 0"),
        ([Part(source=Named("a", 1), share=1), Part(source=Named("b", 1), share=1e5)], "below a thousandth"),
    ],
)
def test_mistakes_are_named(parts, message):
    with pytest.raises(DataError, match=message):
        MixedSource(parts)
