"""Fixtures of the parity tests: one saved pair of models for each family, shared by all tests."""

from collections.abc import Callable

import pytest
from families import FAMILIES, Family, Pair, make_pair


@pytest.fixture(scope="session")
def pair_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Pair]:
    """Give the pair of a family by name; built once. Tests leave its models as they found them."""
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


@pytest.fixture
def new_pair(tmp_path) -> Callable[[Family], Pair]:
    """Build a pair of an unusual family."""
    return lambda family, **options: make_pair(family, tmp_path / "model", **options)
