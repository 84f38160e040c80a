"""Whether this machine has fonts that lines can be generated with."""

import pytest

from trocr.data.synthetic import SyntheticError, SyntheticSettings
from trocr.data.synthetic.fonts import load_fonts

try:
    load_fonts(SyntheticSettings())
    HAS_FONTS = True
except SyntheticError:
    HAS_FONTS = False

needs_fonts = pytest.mark.skipif(not HAS_FONTS, reason="no fonts on this machine")
