"""What the tests of reading share: tiny models of each family, the shipped reader, lines drawn here."""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "parity"))

from families import FAMILIES, Pair, make_pair
from line_images import draw_line

from trocr import Reader


@pytest.fixture(scope="session")
def pair_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Pair]:
    """Give the pair of a family by name; built once. Tests change `pair.fresh()`, not its models."""
    made: dict[str, Pair] = {}

    def give(name: str) -> Pair:
        if name not in made:
            made[name] = make_pair(name, tmp_path_factory.mktemp(name))
        return made[name]

    return give


@pytest.fixture(params=list(FAMILIES))
def pair(request: pytest.FixtureRequest, pair_of: Callable[[str], Pair]) -> Pair:
    """Every family in turn."""
    return pair_of(request.param)


@pytest.fixture(scope="session")
def reader() -> Reader:
    """The shipped reader, optimized."""
    return Reader(device="cpu")


@pytest.fixture(scope="session")
def plain_reader() -> Reader:
    """The shipped reader as its model is."""
    return Reader(device="cpu", optimize=False)


@pytest.fixture(scope="session")
def lines() -> list[np.ndarray]:
    """A dozen drawn lines of one to seven words."""
    return [draw_line(seed) for seed in range(12)]
