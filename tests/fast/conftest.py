"""What the tests of fast reading share: one tiny model of each family."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "parity"))

from family_fixtures import pair, pair_of

__all__ = ["pair", "pair_of"]
