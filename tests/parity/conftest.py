"""Fixtures of the parity tests: one saved pair of models for each family, shared by all tests."""

from collections.abc import Callable

import pytest
from families import Family, Pair, make_pair
from family_fixtures import pair, pair_of

__all__ = ["new_pair", "pair", "pair_of"]


@pytest.fixture
def new_pair(tmp_path) -> Callable[[Family], Pair]:
    """Build a pair of an unusual family."""
    return lambda family, **options: make_pair(family, tmp_path / "model", **options)
