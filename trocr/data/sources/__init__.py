"""Lines on disk, whatever their format; `open_source` is the door."""

from trocr.data.sources.combined import ConcatSource, Subset
from trocr.data.sources.opening import KINDS, open_source

__all__ = ["KINDS", "ConcatSource", "Subset", "open_source"]
