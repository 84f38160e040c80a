"""Linear layers whose weights lie in memory as the processor's kernels want them: float32, bf16, int8.

A layer takes float32 and gives float32 or its own precision; what it computes is `x W^T + b`, an activation,
and, by `add`, a sum with something else. Kernels are those of PyTorch: oneDNN's with packed weights, and its
dynamic int8 products (fbgemm or oneDNN).

Source: original work; the oneDNN operators are those that `torch.compile` emits for linear layers.
"""

import warnings
from collections.abc import Callable
from functools import cache
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from trocr.nn.mlp import ACTIVATIONS

# by overload: looking one up takes as long as a small product
_POINTWISE: Any = getattr(getattr(torch.ops.mkldnn, "_linear_pointwise", None), "default", None)
_DYNAMIC = torch.ops.quantized.linear_dynamic.default

PACK_ROWS = 32
"""Rows that weights are packed for. oneDNN takes any number afterwards; a layout for one is slow for more."""

SMALL = 2**19
"""Weights up to which a single row goes to `F.linear`: starting oneDNN takes longer than such a product.

Microseconds, 256 to 1024 features, float32, one Zen 5 thread: one row 25 and 15, eight rows 36 and 61.
"""

FUSED = {
    "gelu": ("gelu", "none"),
    "gelu_new": ("gelu", "tanh"),
    "gelu_pytorch_tanh": ("gelu", "tanh"),
    "relu": ("relu", ""),
    "silu": ("swish", ""),
    "swish": ("swish", ""),
    "tanh": ("tanh", ""),
}
"""Activations that oneDNN computes while a product is in the cache -> its name and algorithm for them."""

LEVELS = 127
"""Largest int8 weight; -128 is left out, so that a row and its negative are stored alike."""


class FastLinear(Protocol):
    """A layer (..., in) to (..., out)."""

    def __call__(self, x: Tensor) -> Tensor:
        """Compute the activation of `x W^T + b`."""

    def add(self, x: Tensor, other: Tensor) -> Tensor:
        """Compute `other` plus what a call gives, in float32; `other` (..., out) may be overwritten."""

    def stored(self) -> dict[str, Tensor]:
        """Give the tensors that this layer can be made of again, by leaf name."""


def quantize_rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Round a weight (out, in) to int8, symmetric, one scale a row.

    Returns:
        (out, in) int8 and (out,) float32; a row of zeros has scale 1.
    """
    weight = weight.float()
    scale = weight.abs().amax(dim=1) / LEVELS
    scale = torch.where(scale > 0, scale, 1.0)
    return (weight / scale[:, None]).round().clamp(-LEVELS, LEVELS).to(torch.int8), scale


def rounded_rows(count: int, *, parts: int) -> int:
    """Round a number of rows up to one of `parts` numbers between a power of two and the next.

    oneDNN keeps what it has made for each number of rows that a layer has met, 0.3 to 0.5 MiB, a thousand
    times at most: the fewer numbers, the less memory.
    """
    step = max(1, 2 ** (count - 1).bit_length() // 2 // parts)
    return -(-count // step) * step


class PlainLinear:
    """A layer by `F.linear`, for devices and processors without packed kernels."""

    def __init__(self, weight: Tensor, bias: Tensor | None, activation: str | None = None) -> None:
        self.weight, self.bias = weight, bias
        self.activation = None if activation is None else ACTIVATIONS[activation]

    def __call__(self, x: Tensor) -> Tensor:
        """Compute the activation of `x W^T + b` in the weight's precision."""
        out = F.linear(x.to(self.weight.dtype), self.weight, self.bias)
        return out if self.activation is None else self.activation(out)

    def add(self, x: Tensor, other: Tensor) -> Tensor:
        """Add to `other`."""
        return other + self(x)

    def stored(self) -> dict[str, Tensor]:
        """Give weight and bias."""
        return _named(self.weight, self.bias)


class PackedLinear:
    """A layer by oneDNN with a packed weight, float32 or bf16; one row of a small one by `F.linear`."""

    def __init__(self, weight: Tensor, bias: Tensor | None, activation: str | None = None) -> None:
        self.dtype = weight.dtype
        self.bias = bias
        is_small = weight.dtype is torch.float32 and weight.numel() <= SMALL
        self.small = PlainLinear(weight.clone(), bias, activation) if is_small else None
        self.width = weight.shape[1]
        self.weight: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), PACK_ROWS)
        self.fused, self.algorithm, self.after = fused_activation(activation)

    def __call__(self, x: Tensor) -> Tensor:
        """Compute the activation of `x W^T + b` in the weight's precision."""
        if self.small is not None and x.numel() == self.width:
            return self.small(x)
        out: Tensor = _POINTWISE(x.to(self.dtype), self.weight, self.bias, self.fused, [], self.algorithm)
        return out if self.after is None else self.after(out)

    def add(self, x: Tensor, other: Tensor) -> Tensor:
        """Add to `other`."""
        if self.small is not None and x.numel() == self.width:
            return other.add_(self.small(x))
        if self.dtype is torch.float32 and self.fused == "none" and self.after is None:
            out: Tensor = torch.ops.mkldnn._linear_pointwise.binary(x, other, self.weight, self.bias, "add")
            return out
        return other.add_(self(x))

    def stored(self) -> dict[str, Tensor]:
        """Give weight and bias."""
        return _named(self.weight.to_dense(self.dtype), self.bias)


class DynamicInt8Linear:
    """A layer whose inputs are rounded to eight bits by the range that they have at the moment.

    The range is that of all rows together, so that a row's result depends a little on the others'.

    Args:
        weight: (out, in) int8.
        scale: (out,) of the weight's rows.
        bias: (out,) float32, or None.
        activation: a name of `trocr.nn.mlp.ACTIVATIONS`, or None.
        reduce_range: seven bits for the inputs, where the processor's products of eight could overflow.
    """

    def __init__(
        self,
        weight: Tensor,
        scale: Tensor,
        bias: Tensor | None,
        activation: str | None = None,
        *,
        reduce_range: bool,
    ) -> None:
        _hear_once()
        zeros = torch.zeros(len(scale), dtype=torch.long)
        rows = torch._make_per_channel_quantized_tensor(weight.contiguous(), scale, zeros, 0)
        self.packed = torch.ops.quantized.linear_prepack(rows, bias)
        self.reduce_range = reduce_range
        self.activation = None if activation is None else ACTIVATIONS[activation]

    def __call__(self, x: Tensor) -> Tensor:
        """Compute the activation of `x W^T + b`, in float32."""
        out: Tensor = _DYNAMIC(x.float(), self.packed, self.reduce_range)
        return out if self.activation is None else self.activation(out)

    def add(self, x: Tensor, other: Tensor) -> Tensor:
        """Add to `other`."""
        return other.add_(self(x))

    def stored(self) -> dict[str, Tensor]:
        """Give weight, scale and bias."""
        weight, bias = torch.ops.quantized.linear_unpack(self.packed)
        return _named(weight.int_repr(), bias, scale=weight.q_per_channel_scales().float())


class StaticInt8Linear:
    """A layer whose inputs are rounded to eight bits by a range that was measured before.

    Args:
        weight: (out, in) int8.
        scale: (out,) of the weight's rows.
        bias: (out,) float32, or None.
        activation: a name of `trocr.nn.mlp.ACTIVATIONS`, or None.
        low, high: range of the inputs; what is outside is cut.
        dtype: of the result.
    """

    def __init__(
        self,
        weight: Tensor,
        scale: Tensor,
        bias: Tensor | None,
        activation: str | None = None,
        *,
        low: float,
        high: float,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        _hear_once()
        self.weight, self.scale, self.bias = weight.contiguous(), scale, bias
        low, high = min(low, 0.0), max(high, 0.0)
        self.range = torch.tensor([low, high])
        self.in_scale = max(high - low, 1e-12) / 255
        self.in_zero = round(-low / self.in_scale)
        self.packed: Tensor = torch.ops.onednn.qlinear_prepack(self.weight, None)
        self.zeros = torch.zeros(len(scale), dtype=torch.int32)
        self.fused, self.algorithm, self.after = fused_activation(activation)
        self.dtype = dtype
        self.out_scale, self.out_zero = 1.0, 0

    def feed(self, after: "StaticInt8Linear") -> None:
        """Give results as the eight bits that the layer `after` reads."""
        if self.after is None:
            self.dtype, self.out_scale, self.out_zero = torch.uint8, after.in_scale, after.in_zero

    def __call__(self, x: Tensor) -> Tensor:
        """Compute the activation of `x W^T + b`; `x` is floating point, or the eight bits of `feed`."""
        if x.dtype is not torch.uint8:
            x = round_to_bytes(x, self.in_scale, self.in_zero)
        out: Tensor = torch.ops.onednn.qlinear_pointwise(
            x, self.in_scale, self.in_zero, self.packed, self.scale, self.zeros, self.bias,
            self.out_scale, self.out_zero, self.dtype, self.fused, [], self.algorithm,
        )  # fmt: skip
        return out if self.after is None else self.after(out)

    def add(self, x: Tensor, other: Tensor) -> Tensor:
        """Add to `other`."""
        return other.add_(self(x))

    def stored(self) -> dict[str, Tensor]:
        """Give weight, scale, bias and the range of the inputs."""
        return _named(self.weight, self.bias, scale=self.scale, range=self.range)


def round_to_bytes(x: Tensor, scale: float, zero: int) -> Tensor:
    """Round to the nearest of 256 levels, as uint8."""
    return torch.quantize_per_tensor(x.float(), scale, zero, torch.quint8).int_repr()


@cache
def _hear_once() -> None:
    """Let PyTorch say, once and unheard, that quantized tensors will go; then this needs another way.

    It says so once in a process. Filters of warnings belong to all threads, so they are not touched again.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.quantize_per_tensor(torch.zeros(1), 1.0, 0, torch.quint8)


def fused_activation(name: str | None) -> tuple[str, str, Callable[[Tensor], Tensor] | None]:
    """Give oneDNN's name and algorithm of an activation, and what is to be called after the product."""
    if name is None:
        return "none", "", None
    if name in FUSED:
        return (*FUSED[name], None)
    return "none", "", ACTIVATIONS[name]


def _named(weight: Tensor, bias: Tensor | None, **more: Tensor) -> dict[str, Tensor]:
    return {"weight": weight, **({} if bias is None else {"bias": bias}), **more}
