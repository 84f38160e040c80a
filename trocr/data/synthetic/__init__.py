"""Generated lines of text: the same for a seed and a number, whatever the number of processes."""

from trocr.data.synthetic.lines import SyntheticLines
from trocr.data.synthetic.settings import SyntheticError, SyntheticSettings

__all__ = ["SyntheticError", "SyntheticLines", "SyntheticSettings"]
