"""A linear layer that takes the quickest of PyTorch's kernels for what it is given.

In decoding, a layer's time is the way of its weights through memory, and PyTorch's kernels differ in it. GB/s
of weights read, 4096 x 1024 float32 weights out of cache, PyTorch 2.14; two AVX2 cores, and one Zen 5 thread:

| rows | `F.linear` | weight times input | oneDNN | Zen 5: `F.linear` | weight times input | oneDNN |
|---|---|---|---|---|---|---|
| 1 | 18 | 19 | 32 | 18 | 18 | 25 |
| 2 | 9 | 17 | 15 | 9 | 5 | 18 |
| 4 | 7 | 21 | 15 | 11 | 5 | 18 |
| 8 | 6 | 10 | 12 | 10 | 5 | 15 |
| 16 | 5 | 10 | 9 | 7 | 6 | 12 |

With many rows arithmetic counts. There `F.linear` goes to MKL, which runs AVX2 code on AMD's processors that
have AVX-512; oneDNN does not. GFLOP/s, one Zen 5 thread, 4616 rows, 768 to 3072 features: forward 94 and 178,
gradient of the input 103 and 210, of the weight 105 and 152.

Source: those measurements; the oneDNN operator is the one that `torch.compile` emits for linear layers.
"""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils._python_dispatch import _get_current_dispatch_mode

FEW_ROWS = 16
"""Up to so many rows an input counts as a decoding step."""

ONEDNN_MIN_WEIGHTS = 2**20
"""One row goes to oneDNN from so many weights on; below, starting it costs more than it saves."""

MANY_ROWS = 64
"""From so many rows on, oneDNN's arithmetic makes up for the weights that it sorts anew each time."""


def _find_onednn() -> Any:
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return None
    return getattr(torch.ops.mkldnn, "_linear_pointwise", None)


def _is_amd() -> bool:
    try:
        return "AuthenticAMD" in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False


_ONEDNN = _find_onednn()
_CAPABILITY = torch.backends.cpu.get_cpu_capability()
ONEDNN_FOR_ONE_ROW = _ONEDNN is not None and _CAPABILITY == "AVX2"
ONEDNN_FOR_FEW_ROWS = _ONEDNN is not None and _CAPABILITY == "AVX512"
_HAS_MKL = torch.backends.mkl.is_available()  # type: ignore[no-untyped-call]
ONEDNN_FOR_MANY_ROWS = ONEDNN_FOR_FEW_ROWS and _HAS_MKL and _is_amd()


class Linear(nn.Linear):
    """`torch.nn.Linear`, with float32 on a CPU computed by whichever kernel is quickest there."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in_features) to (..., out_features)."""
        if (
            torch.compiler.is_compiling()
            or x.dtype != torch.float32
            or self.weight.dtype != torch.float32
            or x.device.type != "cpu"
            or torch.is_autocast_enabled("cpu")
        ):
            return F.linear(x, self.weight, self.bias)
        rows = x.numel() // self.in_features
        # What watches operators, such as PyTorch's counter of FLOPs, does not know oneDNN's.
        if ONEDNN_FOR_MANY_ROWS and rows >= MANY_ROWS and _get_current_dispatch_mode() is None:
            return onednn_linear(x, self.weight, self.bias)
        if rows > FEW_ROWS or torch.is_grad_enabled():
            return F.linear(x, self.weight, self.bias)
        return self._few_rows(x)

    def _few_rows(self, x: Tensor) -> Tensor:
        one = x.numel() <= self.in_features
        if ONEDNN_FOR_ONE_ROW if one else ONEDNN_FOR_FEW_ROWS:
            large = self.weight.numel() >= ONEDNN_MIN_WEIGHTS
            return _forward(x, self.weight, self.bias) if large else F.linear(x, self.weight, self.bias)
        if one or ONEDNN_FOR_FEW_ROWS:
            return F.linear(x, self.weight, self.bias)
        rows = x.reshape(-1, self.in_features).t()  # (in_features, R)
        if self.bias is None:
            out = torch.mm(self.weight, rows)
        else:
            out = torch.addmm(self.bias[:, None], self.weight, rows)
        return out.t().reshape(*x.shape[:-1], self.out_features)


def onednn_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Compute `F.linear` of float32 tensors on a CPU by oneDNN, with gradients of first order.

    Args:
        x: (..., in).
        weight: (out, in).
        bias: (out,) or None.
    Returns:
        (..., out).
    """
    if not torch.is_grad_enabled():
        return _forward(x, weight, bias)
    out: Tensor = _OneDNNLinear.apply(x, weight, bias)
    return out


class _OneDNNLinear(torch.autograd.Function):
    """Each of the three products of a linear layer by oneDNN."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return _forward(x, weight, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, weight, _ = inputs
        ctx.save_for_backward(x, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        wants_x, wants_weight, wants_bias = ctx.needs_input_grad
        rows, states = grad.reshape(-1, grad.shape[-1]), x.reshape(-1, x.shape[-1])
        of_x = _forward(grad, weight.t().contiguous(), None) if wants_x else None
        of_weight = None
        if wants_weight:
            of_weight = _forward(rows.t().contiguous(), states.t().contiguous(), None)
        return of_x, of_weight, rows.sum(dim=0) if wants_bias else None


def _forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    out: Tensor = _ONEDNN(x, weight, bias, "none", [], "")
    return out
