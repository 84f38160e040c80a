"""What the tests of taps share."""

import torch
from inspected import ids, images
from torch import Tensor

from trocr.inspect import capture
from trocr.nn.attention import Attention

ROUNDING = 2e-6
"""Relative: the fused and the plain attention, and products of other shapes, add in other orders."""


@torch.no_grad()
def forward(model, **options):
    return model(pixel_values=images(model), decoder_input_ids=ids(), use_cache=False, **options)


def taps_of(model) -> dict[str, Tensor]:
    with capture(model) as captured:
        forward(model)
    return {name: calls[0] for name, calls in captured.items()}


@torch.no_grad()
def close(a: Tensor, b: Tensor, tolerance: float = ROUNDING) -> bool:
    return a.shape == b.shape and float((a - b).abs().max()) <= tolerance * float(b.abs().max())


def cores(model) -> set[str]:
    return {m.core for m in model.modules() if isinstance(m, Attention)}
