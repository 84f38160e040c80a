"""A linear layer that is quick for the few rows of a decoding step.

In decoding, a layer's time is the way of its weights through memory, and PyTorch's kernels differ in it. GB/s
of weights read, 4096 x 1024 float32 weights out of cache, two AVX2 cores, PyTorch 2.14:

| rows | `F.linear` | weight times input | oneDNN |
|---|---|---|---|
| 1 | 18 | 19 | 32 |
| 2 | 9 | 17 | 15 |
| 4 | 7 | 21 | 15 |
| 8 | 6 | 10 | 12 |
| 16 | 5 | 10 | 9 |

Source: those measurements; the oneDNN operator is the one that `torch.compile` emits for linear layers.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FEW_ROWS = 16
"""Up to so many rows, from two on, the product is taken as weight times input."""

ONEDNN_MIN_WEIGHTS = 2**20
"""One row goes to oneDNN from so many weights on; below, starting it costs more than it saves."""


def _onednn_linear() -> object:
    # Measured with AVX2 only; with other instruction sets one row stays with `F.linear`.
    if torch.backends.cpu.get_cpu_capability() != "AVX2":
        return None
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return None
    return getattr(torch.ops.mkldnn, "_linear_pointwise", None)


_ONEDNN_LINEAR = _onednn_linear()


class Linear(nn.Linear):
    """`torch.nn.Linear`; without gradients, float32 inputs of up to 16 rows on a CPU take a quicker way."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in_features) to (..., out_features)."""
        if (
            torch.compiler.is_compiling()
            or torch.is_grad_enabled()
            or x.dtype != torch.float32
            or self.weight.dtype != torch.float32
            or x.device.type != "cpu"
            or x.numel() > FEW_ROWS * self.in_features
            or torch.is_autocast_enabled("cpu")
        ):
            return F.linear(x, self.weight, self.bias)
        return self._few_rows(x)

    def _few_rows(self, x: Tensor) -> Tensor:
        if x.numel() <= self.in_features:
            if callable(_ONEDNN_LINEAR) and self.weight.numel() >= ONEDNN_MIN_WEIGHTS:
                return _ONEDNN_LINEAR(x, self.weight, self.bias, "none", [], "")
            return F.linear(x, self.weight, self.bias)
        rows = x.reshape(-1, self.in_features).t()  # (in_features, R)
        if self.bias is None:
            out = torch.mm(self.weight, rows)
        else:
            out = torch.addmm(self.bias[:, None], self.weight, rows)
        return out.t().reshape(*x.shape[:-1], self.out_features)
