"""What the tests of surgery share: helpers of other folders, one tiny model of each family, and lines."""

import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS / folder) for folder in ("parity", "training")]

from drawn import drawn_lines  # noqa: E402
from family_fixtures import pair, pair_of  # noqa: E402

__all__ = ["lines", "pair", "pair_of"]


@pytest.fixture(scope="session")
def lines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with six lines and their texts, and a damaged image."""
    folder = tmp_path_factory.mktemp("lines")
    records = drawn_lines(6)
    for record in records:
        record.open().save(folder / record.name)
    rows = [f"{record.name}\t{record.text}" for record in records]
    (folder / "damaged.png").write_bytes(b"no image")
    (folder / "labels.tsv").write_text("\n".join([*rows, "damaged.png\ttext"]) + "\n")
    return folder
