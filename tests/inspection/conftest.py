"""Fixtures of the tests of inspection."""

import pytest
from inspected import FAMILIES, make_model


@pytest.fixture(params=FAMILIES)
def model(request):
    """Each family in turn, made anew."""
    return make_model(request.param)
