"""Fixtures of one tiny model of each family, for the folders whose tests go through all of them."""

from collections.abc import Callable

import pytest
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
