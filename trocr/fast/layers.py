"""From tensors by name to layers: which kernel computes which layer in which precision.

Layers share no memory with the tensors that they are made of.

Source: original work.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from trocr.fast.linear import (
    DynamicInt8Linear,
    FastLinear,
    PackedLinear,
    PlainLinear,
    StaticInt8Linear,
    quantize_rows,
)


@dataclass(frozen=True)
class Kernels:
    """What the processor computes products with.

    Attributes:
        dtype: precision of the layers that are not int8.
        packed: whether oneDNN's packed float layers are used.
        int8: whether layers are int8.
        static: whether int8 layers with a measured range use it; it needs oneDNN and the processor's int8 dot
            products.
        reduce_range: see `DynamicInt8Linear`.
        by_head: see `trocr.fast.attention.encoder_attention`.
    """

    dtype: torch.dtype = torch.float32
    packed: bool = True
    int8: bool = False
    static: bool = False
    reduce_range: bool = False
    by_head: bool = False

    def few_queries(self, device: torch.device) -> torch.dtype:
        """Precision in which a few queries attend, as in decoding.

        On processors they are no faster in bf16, and several times slower over a growing cache.
        """
        return torch.float32 if device.type == "cpu" else self.dtype

    def linear(self, tensors: Mapping[str, Tensor], activation: str | None = None) -> FastLinear:
        """Make a layer of its tensors: a weight, which may be int8 with its scale, a bias and a range."""
        weight, bias = tensors["weight"], tensors.get("bias")
        if not self.int8:
            bias = None if bias is None else bias.to(self.dtype, copy=True)
            if self.packed:
                return PackedLinear(weight.to(self.dtype), bias, activation)
            return PlainLinear(weight.to(self.dtype, copy=True), bias, activation)
        scale = tensors.get("scale")
        if scale is None:
            weight, scale = quantize_rows(weight)
        bias = None if bias is None else bias.to(torch.float32, copy=True)
        if self.static and "range" in tensors:
            low, high = tensors["range"].tolist()
            return StaticInt8Linear(weight, scale, bias, activation, low=low, high=high)
        return DynamicInt8Linear(weight, scale, bias, activation, reduce_range=self.reduce_range)


class Norm:
    """A layer norm in float32."""

    def __init__(self, tensors: Mapping[str, Tensor], eps: float) -> None:
        self.weight, self.bias = (tensors[name].to(torch.float32, copy=True) for name in ("weight", "bias"))
        self.eps = eps

    def __call__(self, x: Tensor) -> Tensor:
        """Normalise (..., D)."""
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)

    def stored(self) -> dict[str, Tensor]:
        """Give weight and bias."""
        return {"weight": self.weight, "bias": self.bias}
