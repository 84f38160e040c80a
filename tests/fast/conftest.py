"""What the tests of fast reading share: one tiny model of each family, and models with other weights."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "parity"))

from families import FAMILIES, Pair, make_pair


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
