"""Reading fast: packed weights, bf16 and int8 for this machine, saved and loaded.

Source: original work.
"""

from trocr.fast.files import is_optimized, load_optimized, save_optimized
from trocr.fast.model import FastModel, Settings
from trocr.fast.optimizing import optimize
from trocr.fast.weights import OptimizeError

__all__ = [
    "FastModel",
    "OptimizeError",
    "Settings",
    "is_optimized",
    "load_optimized",
    "optimize",
    "save_optimized",
]
