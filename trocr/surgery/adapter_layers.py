"""Linear layers with an adapter beside their weight.

Source: LoRA, arXiv:2106.09685 sec. 4.1; DoRA, arXiv:2402.09353 sec. 4; `peft` 0.21 (`tuners/lora`) for
starting values and order of operations.
"""

import math
from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trocr.nn.linear import Linear

Kind = Literal["lora", "dora"]


class AdaptedLinear(Linear):
    """A linear layer whose weight is frozen, with a low-rank adapter beside it.

    With weight W (out, in), LoRA computes with W + scale * B A. DoRA computes with m V / |V|, where V is that
    sum, |V| the length of each of its rows (one for each output feature), which gets no gradient, and m a
    trained length for each row. The layer starts as what it was, bit by bit: B is zero, m the lengths in W.

    Args:
        base: the linear layer; its parameters become those of this one.
        rank: rows of A.
        scale: what the product is multiplied by: alpha / rank.
        dropout: probability on the input of the adapter.
        kind: "lora" or "dora".
        tensors: values of the adapter's parameters, where it is one that was trained; None starts anew.

    Attributes:
        lora_a: A (rank, in), uniform random numbers at the start; float32 beside a weight in half precision.
        lora_b: B (out, rank).
        magnitude: m (out,) of DoRA, else None.

    Differs: a row of zeros stays zero with DoRA, where `peft` divides by its length and gives NaN.
    """

    magnitude: nn.Parameter | None

    def __init__(
        self,
        base: nn.Linear,
        *,
        rank: int,
        scale: float,
        dropout: float = 0.0,
        kind: Kind = "lora",
        tensors: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__(base.in_features, base.out_features, bias=base.bias is not None, device="meta")
        self.plain_class = type(base)
        self.weight, self.bias = base.weight, base.bias
        self.scale = scale
        self.dropout = nn.Dropout(dropout)
        dtype, device = torch.promote_types(base.weight.dtype, torch.float32), base.weight.device
        self.lora_a = nn.Parameter(torch.empty(rank, base.in_features, dtype=dtype, device=device))
        self.lora_b = nn.Parameter(torch.zeros(base.out_features, rank, dtype=dtype, device=device))
        self.register_parameter("magnitude", None)
        if kind == "dora":
            self.magnitude = nn.Parameter(_row_lengths(base.weight.to(dtype)))
        if tensors is None:
            nn.init.kaiming_uniform_(self.lora_a, a=math.sqrt(5))
        else:
            with torch.no_grad():
                for name, parameter in self.adapter_parameters().items():
                    parameter.copy_(tensors[name])
        self.train(base.training)

    @property
    def rank(self) -> int:
        """Rows of A."""
        return self.lora_a.shape[0]

    def adapter_parameters(self) -> dict[str, nn.Parameter]:
        """Name -> parameter of the adapter alone."""
        found = {"lora_a": self.lora_a, "lora_b": self.lora_b, "magnitude": self.magnitude}
        return {name: parameter for name, parameter in found.items() if parameter is not None}

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in) to (..., out), in the precision that the plain layer gives."""
        out = super().forward(x)
        wide = x.to(self.lora_a.dtype)  # where autocast is on, it takes the products down again
        if self.magnitude is None:
            change = self._low_rank(self.dropout(wide))
        else:
            change = self._rescaled(out, wide, self.magnitude)
        return (out + change).to(out.dtype)

    def merged_weight(self) -> Tensor:
        """Compute the weight (out, in) with the adapter's effect in float32, then round it as the weight."""
        with torch.no_grad():
            merged = self._sum()
            if self.magnitude is not None:
                merged = merged * (self.magnitude / _row_lengths(merged))[:, None]
            return merged.to(self.weight.dtype)

    def plain(self, weight: nn.Parameter | None = None) -> nn.Linear:
        """Make the layer without its adapter, of the class that it had, with its own weight or another."""
        linear = self.plain_class(
            self.in_features, self.out_features, bias=self.bias is not None, device="meta"
        )
        linear.weight = self.weight if weight is None else weight
        linear.bias = self.bias
        return linear.train(self.training)

    def extra_repr(self) -> str:
        """Name the sizes in the module's printed form."""
        kind = "lora" if self.magnitude is None else "dora"
        return f"{super().extra_repr()}, {kind}, rank={self.rank}, scale={self.scale:g}"

    def _low_rank(self, x: Tensor) -> Tensor:
        return F.linear(F.linear(x, self.lora_a), self.lora_b) * self.scale

    def _rescaled(self, out: Tensor, x: Tensor, magnitude: Tensor) -> Tensor:
        with torch.no_grad():
            lengths = _row_lengths(self._sum())
        ratio = magnitude / lengths
        if self.training and self.dropout.p > 0:
            x = self.dropout(x)
            product = F.linear(x, self.weight.to(x.dtype))
        else:
            product = out if self.bias is None else out - self.bias
        return (ratio - 1) * product + ratio * self._low_rank(x)

    def _sum(self) -> Tensor:
        """Compute W + scale * B A in float32, whatever autocast says."""
        with torch.autocast(self.weight.device.type, enabled=False):
            dtype = torch.promote_types(self.lora_a.dtype, torch.float32)
            return self.weight.to(dtype) + self.scale * (self.lora_b.to(dtype) @ self.lora_a.to(dtype))


def _row_lengths(weight: Tensor) -> Tensor:
    lengths = torch.linalg.vector_norm(weight.detach(), dim=1)
    return lengths.clamp_min(torch.finfo(lengths.dtype).tiny)
