"""What the tests of pruning share."""

import torch
from torch import nn

from trocr.nn.attention import Attention
from trocr.nn.mlp import MLP

EQUAL = 1e-6
"""Largest difference between a head that is gone and one that counts zero times, relative to the largest
logit: shorter sums are added up in another order."""


def attentions(model: nn.Module) -> dict[str, Attention]:
    return {name: part for name, part in model.named_modules() if isinstance(part, Attention)}


def feed_forwards(model: nn.Module) -> dict[str, MLP]:
    return {name: part for name, part in model.named_modules() if isinstance(part, MLP)}


@torch.no_grad()
def silence_heads(model: nn.Module, heads: dict[str, list[int]]) -> None:
    for name, numbers in heads.items():
        part = attentions(model)[name]
        for head in numbers:
            part.out_proj.weight[:, head * part.head_dim : (head + 1) * part.head_dim] = 0


@torch.no_grad()
def silence_units(model: nn.Module, units: dict[str, list[int]]) -> None:
    for name, numbers in units.items():
        feed_forwards(model)[name].fc2.weight[:, list(numbers)] = 0
