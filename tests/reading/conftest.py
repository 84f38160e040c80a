"""What the tests of reading share: tiny models of each family, the shipped reader, lines drawn here."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "parity"))

from family_fixtures import pair, pair_of
from line_images import draw_line

from trocr import Reader

__all__ = ["lines", "pair", "pair_of", "plain_reader", "reader"]


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
