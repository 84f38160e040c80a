"""Fixtures shared by all tests."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

# A busy machine is no failure.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")

REPO = Path(__file__).resolve().parents[1]


def reference_dir() -> Path:
    """Folder with real tokenizer and configuration files of the official models (not in the repository)."""
    return Path(os.environ.get("TROCR_REFERENCE", REPO.parent / "shared" / "reference"))


@pytest.fixture(scope="session")
def reference() -> Path:
    path = reference_dir()
    if not path.is_dir():
        pytest.skip(f"no reference files at {path}; set TROCR_REFERENCE to a folder that has them")
    return path


@pytest.fixture(scope="session")
def repo() -> Path:
    return REPO
