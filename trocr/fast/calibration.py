"""Ranges of what the encoder's products read, measured on images, for int8 with fixed ranges.

Source: post-training static quantization as in arXiv:1712.05877 sec. 3, with the smallest and largest value.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import cast

import torch
from torch import Tensor

from trocr.config import ViTConfig
from trocr.fast.encoder import FastEncoder
from trocr.fast.layers import Kernels
from trocr.fast.linear import FastLinear
from trocr.fast.weights import OptimizeError, Tensors

LAYERS = ("qkv", "out", "fc1", "fc2")


class Watched:
    """A layer that notes the range of its inputs."""

    def __init__(self, layer: FastLinear) -> None:
        self.layer = layer
        self.low, self.high = float("inf"), float("-inf")

    def __call__(self, x: Tensor) -> Tensor:
        """Compute as the layer does."""
        self._note(x)
        return self.layer(x)

    def add(self, x: Tensor, other: Tensor) -> Tensor:
        """Compute as the layer does."""
        self._note(x)
        return self.layer.add(x, other)

    def stored(self) -> dict[str, Tensor]:
        """Give the layer's tensors."""
        return self.layer.stored()

    def _note(self, x: Tensor) -> None:
        low, high = torch.aminmax(x)
        self.low, self.high = min(self.low, float(low)), max(self.high, float(high))


@dataclass(frozen=True)
class WatchingKernels(Kernels):
    """Kernels whose layers note the range of their inputs."""

    made: list[Watched] = field(default_factory=list, compare=False)

    def linear(self, tensors: Tensors, activation: str | None = None) -> FastLinear:
        """Make a layer; see `Kernels.linear`."""
        layer = Watched(super().linear(tensors, activation))
        self.made.append(layer)
        return layer


@torch.inference_mode()
def measure_ranges(
    config: ViTConfig, tensors: Tensors, images: Iterable[Tensor], *, crops: bool = True
) -> dict[str, Tensor]:
    """Read images with an encoder in float32, and note the ranges of the inputs of every product.

    Args:
        config: of the encoder.
        tensors: see `trocr.fast.weights.collect_encoder`.
        images: batches (B, C, height, width) as the processor gives them; some hundred lines are enough.
        crops: accept narrower images than the model's, as lines at their native width are.
    Returns:
        "blocks.0.qkv.range" ... -> (2,) smallest and largest value.
    Raises:
        OptimizeError: there are no images, or the model gives values that are not finite for them.
    """
    kernels = WatchingKernels(dtype=torch.float32, packed=False)
    encoder = FastEncoder(config, tensors, replace(kernels, made=kernels.made))
    count = 0
    for pixels in images:
        encoder(pixels, crop_pos_encoding=crops)
        count += len(pixels)
    if not count:
        raise OptimizeError("no images to measure ranges on: give batches of pixel values as `calibration`")
    found = {}
    for number, block in enumerate(encoder.blocks):
        for name in LAYERS:
            layer = cast(Watched, getattr(block, name))
            values = torch.tensor([layer.low, layer.high])
            if not bool(values.isfinite().all()):
                raise OptimizeError(f"encoder.blocks.{number}.{name} reads values that are not finite")
            found[f"blocks.{number}.{name}.range"] = values
    return found
