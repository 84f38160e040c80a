"""Int8 for an encoder, measured on images: ranges of what its products read, and features made alike.

A norm gives some features ten times the range of others, and one scale for all leaves few levels to the many.
So features are divided by part of their range in the norm, and multiplied by it in the weight that reads
them, which changes nothing but what rounding costs.

The shipped model, relative error of the encoder's states against float32, dynamic ranges / fixed ones / fixed
ones after smoothing: book lines 0.027 / 0.029 / 0.020, receipts 0.021 / 0.023 / 0.016, whether the lines for
calibration are of the same kind or of another. Ranges narrower than the smallest and largest value
(percentiles, least squared error) gained nothing on lines of the same kind and lost on others.

Source: post-training static quantization as in arXiv:1712.05877 sec. 3, with the smallest and largest value;
arXiv:2211.10438 (SmoothQuant) sec. 4.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from trocr.config import ViTConfig
from trocr.fast.encoder import FastEncoder
from trocr.fast.layers import Kernels
from trocr.fast.linear import FastLinear
from trocr.fast.weights import OptimizeError, Tensors

LAYERS = ("qkv", "out", "fc1", "fc2")

NORMS = {"qkv": "attn_norm", "fc1": "mlp_norm"}
"""Layers that read what a norm gives, and nothing else does."""

STRENGTH = 0.75
"""How much of a feature's range goes into the weight; 0 is none, 1 all. 0.5 to 1 differ little."""

LEAST = 1e-5
"""Ranges and weights that are smaller count as so large."""


class Watched:
    """A layer that notes the range of each feature of its inputs."""

    def __init__(self, layer: FastLinear) -> None:
        self.layer = layer
        self.low: Tensor | None = None  # (D,)
        self.high: Tensor | None = None

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
        low, high = torch.aminmax(x.flatten(0, -2), dim=0)
        self.low = low if self.low is None else torch.minimum(self.low, low)
        self.high = high if self.high is None else torch.maximum(self.high, high)


class WatchingKernels(Kernels):
    """Kernels whose layers note the range of their inputs."""

    def linear(self, tensors: Tensors, activation: str | None = None) -> FastLinear:
        """Make a layer; see `Kernels.linear`."""
        return Watched(super().linear(tensors, activation))


@torch.no_grad()
def calibrate(
    config: ViTConfig, tensors: Tensors, images: Iterable[Tensor], *, packed: bool = False
) -> dict[str, Tensor]:
    """Read images with an encoder in float32, and make its tensors ready for int8.

    Args:
        config: of the encoder.
        tensors: see `trocr.fast.weights.collect_encoder`.
        images: batches (B, C, height, width) as the processor gives them, or narrower, as lines at their
            native width are; some hundred lines are enough.
        packed: see `Kernels`.
    Returns:
        "blocks.0.qkv.range" ... -> (2,) smallest and largest value; and the norms and weights that take the
        place of those given.
    Raises:
        OptimizeError: there are no images, or the model gives values that are not finite for them.
    """
    found: dict[str, Tensor] = {}
    for name, (low, high) in _watch(config, tensors, images, packed=packed).items():
        block, _, layer = name.rpartition(".")
        if layer in NORMS:
            weight, norm = tensors[f"{name}.weight"].float(), f"{block}.{NORMS[layer]}"
            scale = smoothing(weight, torch.maximum(low.abs(), high.abs()))
            found[f"{name}.weight"] = weight * scale
            found.update({f"{norm}.{leaf}": tensors[f"{norm}.{leaf}"] / scale for leaf in ("weight", "bias")})
            low, high = low / scale, high / scale
        found[f"{name}.range"] = torch.stack((low.min(), high.max()))
    return found


def smoothing(weight: Tensor, reach: Tensor) -> Tensor:
    """Give what features are divided by, and the columns of their weight multiplied.

    Args:
        weight: (out, in).
        reach: (in,) the largest absolute value of each feature.
    Returns:
        (in,), around 1.
    """
    size = weight.abs().amax(dim=0).clamp(min=LEAST)
    scale = reach.clamp(min=LEAST) ** STRENGTH / size ** (1 - STRENGTH)
    return scale / scale.log().mean().exp()


def _watch(
    config: ViTConfig, tensors: Tensors, images: Iterable[Tensor], *, packed: bool
) -> Mapping[str, tuple[Tensor, Tensor]]:
    """Give "blocks.0.qkv" ... -> smallest and largest value of each feature (D,) that the layer has read."""
    encoder = FastEncoder(config, tensors, WatchingKernels(dtype=torch.float32, packed=packed))
    count = 0
    for pixels in images:
        encoder(pixels, crop_pos_encoding=True)
        count += len(pixels)
    if not count:
        raise OptimizeError("no images to measure ranges on: give batches of pixel values as `calibration`")
    found = {}
    for number, block in enumerate(encoder.blocks):
        for name in LAYERS:
            low, high = _range(getattr(block, name))
            if not bool((low.isfinite() & high.isfinite()).all()):
                raise OptimizeError(f"encoder.blocks.{number}.{name} reads values that are not finite")
            found[f"blocks.{number}.{name}"] = (low, high)
    return found


def _range(layer: Watched) -> tuple[Tensor, Tensor]:
    assert layer.low is not None
    assert layer.high is not None
    return layer.low, layer.high
