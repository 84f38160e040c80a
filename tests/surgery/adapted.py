"""What the tests of adapters share."""

import json
from pathlib import Path
from typing import Any

import torch
from families import Pair, ids, images
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from trocr.surgery.adapter_files import CONFIG_NAME, WEIGHTS_NAME
from trocr.surgery.adapter_layers import AdaptedLinear

EVERYWHERE = "*.blocks.*"
"""All linear layers of all blocks."""

MERGED = 1e-5
"""Largest difference of logits of a merged model, relative to the largest: the bound that the issue sets."""


def parameters(model: nn.Module) -> dict[str, Tensor]:
    """Copies of all parameters."""
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def flags(model: nn.Module) -> dict[str, bool]:
    return {name: parameter.requires_grad for name, parameter in model.named_parameters()}


def is_adapters(name: str) -> bool:
    return name.rpartition(".")[2] in ("lora_a", "lora_b", "magnitude")


def look(model: nn.Module) -> dict[str, object]:
    """What a refused operation must leave as it was."""
    found: dict[str, object] = {name: (id(part), type(part)) for name, part in model.named_modules()}
    return {**found, **flags(model), "config": model.config, "training": model.training}


@torch.no_grad()
def disturb(model: nn.Module, *, seed: int = 5) -> None:
    """Give every adapter an effect that is as large as that of training, or larger."""
    random = torch.Generator().manual_seed(seed)
    for part in model.modules():
        if isinstance(part, AdaptedLinear):
            size = float(part.weight.abs().mean())
            part.lora_a.copy_(torch.rand(part.lora_a.shape, generator=random) * 2 - 1)
            part.lora_a.mul_(part.in_features**-0.5)
            part.lora_b.copy_(torch.randn(part.lora_b.shape, generator=random) * size)
            if part.magnitude is not None:
                part.magnitude.mul_(1 + 0.2 * torch.randn(part.magnitude.shape, generator=random))


@torch.no_grad()
def logits(model: nn.Module, pair: Pair) -> Tensor:
    """Logits (2, 7, V) of two images."""
    return model(pixel_values=images(pair.family, 2), decoder_input_ids=ids(2, 7)).logits


def adapted_linears(model: nn.Module) -> list[AdaptedLinear]:
    return [part for part in model.modules() if isinstance(part, AdaptedLinear)]


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(tensor, other[name]) for name, tensor in one.items()
    )


def rewrite(
    directory: Path,
    *,
    config: dict[str, Any] | None = None,
    tensors: dict[str, Tensor] | None = None,
    metadata: dict[str, str] | None = None,
) -> None:
    """Change the files of an adapter."""
    path = directory / CONFIG_NAME
    path.write_text(json.dumps({**json.loads(path.read_text()), **(config or {})}))
    found = load_file(directory / WEIGHTS_NAME)
    with safe_open(directory / WEIGHTS_NAME, "pt") as file:
        kept = file.metadata()
    save_file(
        {**found, **(tensors or {})},
        directory / WEIGHTS_NAME,
        metadata=kept if metadata is None else metadata,
    )
