"""The feed-forward part of a Transformer block.

Source: arXiv:1706.03762 sec. 3.3; activation names of `transformers` 5.23 (`activations.py`).
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trocr.nn.linear import Linear


def _gelu_tanh(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


def _quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_new": _gelu_tanh,
    "gelu_pytorch_tanh": _gelu_tanh,
    "quick_gelu": _quick_gelu,
    "relu": F.relu,
    "silu": F.silu,
    "swish": F.silu,
    "tanh": torch.tanh,
}


class Activation(nn.Module):
    """An activation by name: one of `ACTIVATIONS`."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.function = ACTIVATIONS[name]

    def forward(self, x: Tensor) -> Tensor:
        """Apply element by element; shape and dtype stay."""
        return self.function(x)

    def extra_repr(self) -> str:
        """Name the activation in the module's printed form."""
        return self.name


class MLP(nn.Module):
    """Two linear layers with an activation between them.

    Args:
        width: D, features in and out.
        hidden: features between.
        activation: a name of `ACTIVATIONS`.
        dropout: probability after the activation.
    """

    def __init__(self, *, width: int, hidden: int, activation: str, dropout: float = 0.0) -> None:
        super().__init__()
        self.fc1 = Linear(width, hidden)
        self.act = Activation(activation)
        self.dropout = nn.Dropout(dropout)
        self.fc2 = Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., D) to (..., D)."""
        return self.fc2(self.dropout(self.act(self.fc1(x))))
