"""Look into a model: taps to read and replace activations, attention maps, logit lens, sizes, comparisons.

    from trocr.inspect import attention_maps, capture, logit_lens
    maps = attention_maps(model, processor, "line.png")

Source: original work; each module names its own.
"""

from trocr.inspect.attention_maps import AttentionMaps, attention_maps
from trocr.inspect.comparison import WeightComparison, compare_weights
from trocr.inspect.hooks import Captured, capture, patch
from trocr.inspect.lens import Lens, logit_lens
from trocr.inspect.page import attention_page
from trocr.inspect.pictures import overlay
from trocr.inspect.rollout import attention_rollout
from trocr.inspect.similarity import ActivationComparison, compare_activations, linear_cka
from trocr.inspect.sizes import Sizes, measure_sizes
from trocr.inspect.taps import Tap, list_taps

__all__ = [
    "ActivationComparison",
    "AttentionMaps",
    "Captured",
    "Lens",
    "Sizes",
    "Tap",
    "WeightComparison",
    "attention_maps",
    "attention_page",
    "attention_rollout",
    "capture",
    "compare_activations",
    "compare_weights",
    "linear_cka",
    "list_taps",
    "logit_lens",
    "measure_sizes",
    "overlay",
    "patch",
]
