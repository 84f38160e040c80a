"""What the filters of sampling leave; `test_processors.py` compares them with the reference's."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trocr.generation import filters

IDS = torch.zeros(1, 1, dtype=torch.long)


def kept(step, probabilities: list[float]) -> list[int]:
    found = step(IDS, torch.tensor([probabilities]).log())
    return (found[0] > -math.inf).nonzero()[:, 0].tolist()


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (filters.TopK(2), [1, 3]),
        (filters.TopK(1), [3]),
        (filters.TopP(0.5), [3]),
        (filters.TopP(0.7), [1, 3]),
        (filters.TopP(1.0), [0, 1, 2, 3]),
        (filters.MinP(0.5), [1, 3]),
        (filters.MinP(0.1), [0, 1, 2, 3]),
        (filters.EpsilonCutoff(0.15), [1, 3]),
        (filters.EpsilonCutoff(0.9), [3]),
    ],
)
def test_what_is_kept(step, expected):
    assert kept(step, [0.1, 0.28, 0.12, 0.5]) == expected


def test_equal_scores_at_the_edge_are_all_kept():
    assert kept(filters.TopK(2), [0.2, 0.3, 0.2, 0.3]) == [1, 3]
    assert kept(filters.TopK(1), [0.2, 0.3, 0.2, 0.3]) == [1, 3]


def test_typical_drops_the_surprising_and_the_obvious():
    # entropy is 1.03 nats: 0.3 (1.2 nats) is nearest, 0.6 (0.51 nats) next, 0.01 (4.6 nats) far
    assert kept(filters.Typical(0.2), [0.6, 0.3, 0.09, 0.01]) == [1]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.floats(-20, 20, width=32), min_size=2, max_size=30),
    st.sampled_from(
        [
            lambda keep: filters.TopK(1, keep),
            lambda keep: filters.TopP(0.0, keep),
            lambda keep: filters.MinP(1.0, keep),
            lambda keep: filters.Typical(0.01, keep),
            lambda keep: filters.EpsilonCutoff(0.99, keep),
            lambda keep: filters.EtaCutoff(0.99, keep),
        ]
    ),
    st.integers(1, 4),
)
def test_enough_is_always_kept(values, make, keep):
    scores = torch.tensor([values])
    found = make(keep)(IDS, scores)
    assert int((found > -math.inf).sum()) >= min(keep, len(values))
    left = found > -math.inf
    assert torch.equal(found[left], scores[left]), "scores that are kept stay as they are"
