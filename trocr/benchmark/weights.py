"""Random models of the official shapes, whose tokens vary from step to step.

Source: original work; shapes from `trocr.official`.
"""

import math
from dataclasses import replace
from os import PathLike
from typing import Any

import torch
from torch import nn

from trocr.benchmark.errors import BenchmarkError
from trocr.config import VisionEncoderDecoderConfig
from trocr.image import DeiTImageProcessor, ImageProcessor, ViTImageProcessor
from trocr.models import VisionEncoderDecoderModel
from trocr.nearest import nearest
from trocr.nn.embeddings import TokenEmbedding
from trocr.official import OFFICIAL_MODELS

SHAPES = {
    "small": "microsoft/trocr-small-printed",
    "base": "microsoft/trocr-base-printed",
    "large": "microsoft/trocr-large-handwritten",
}
"""Shape -> release. All have learned positions: `transformers` 5.23 cannot load the sinusoidal ones."""

TINY = "tiny"
"""A shape for trying the benchmark out, in seconds; its figures say nothing."""

BRANCH = 0.5
"""Size of what all branches of one kind add together in a decoder, relative to what they are added to: with
more, all tokens of a row are alike; with less, the image makes no difference."""


def shape_config(shape: str) -> VisionEncoderDecoderConfig:
    """Configuration of a shape.

    Raises:
        BenchmarkError: there is no such shape.
    """
    if shape == TINY:
        config = OFFICIAL_MODELS[SHAPES["base"]].config
        encoder: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
        encoder |= {"intermediate_size": 64, "image_size": 32, "patch_size": 8}
        decoder: dict[str, Any] = {"d_model": 48, "decoder_layers": 2, "decoder_attention_heads": 4}
        return replace(
            config,
            encoder=replace(config.encoder, **encoder),
            decoder=replace(
                config.decoder, **decoder, decoder_ffn_dim=64, vocab_size=99, cross_attention_hidden_size=32
            ),
        )
    if shape not in SHAPES:
        raise BenchmarkError(f"there is no shape {shape!r}{nearest(shape, (*SHAPES, TINY))}")
    return OFFICIAL_MODELS[SHAPES[shape]].config


def image_processor_of(shape: str) -> ImageProcessor:
    """Image processor of a shape.

    Raises:
        BenchmarkError: there is no such shape.
    """
    if shape == TINY:
        return ViTImageProcessor(size=32)
    shape_config(shape)
    settings = OFFICIAL_MODELS[SHAPES[shape]].image_processor
    kinds = {"ViTFeatureExtractor": ViTImageProcessor, "DeiTFeatureExtractor": DeiTImageProcessor}
    return kinds[str(settings["feature_extractor_type"])].from_dict(settings)


def save_random(shape: str, folder: str | PathLike[str], *, seed: int = 0) -> None:
    """Write a random model of a shape as a checkpoint directory, for both libraries to load.

    Raises:
        BenchmarkError: there is no such shape.
    """
    model = VisionEncoderDecoderModel(shape_config(shape))
    draw_weights(model, seed=seed)
    model.save_pretrained(folder)


@torch.no_grad()
def draw_weights(model: nn.Module, *, seed: int = 0) -> None:
    """Draw every parameter so that it matters: matrices keep the size of what they multiply."""
    random = torch.Generator().manual_seed(seed)
    scale = next((module.scale for module in model.modules() if isinstance(module, TokenEmbedding)), 1.0)
    depth = sum(module is not None for path, module in model.named_modules() if path.endswith("cross_attn"))
    drawn: set[int] = set()  # a tied output projection is the embedding
    for path, module in model.named_modules():
        branch = BRANCH / math.sqrt(max(depth, 1)) if path.endswith(("out_proj", "fc2")) else 1.0
        for name, parameter in module.named_parameters(recurse=False):
            if id(parameter) in drawn:
                continue
            drawn.add(id(parameter))
            if isinstance(module, nn.LayerNorm):
                parameter.normal_(1.0 if name == "weight" else 0.0, 0.2, generator=random)
                if path.startswith("decoder.") and name == "weight":
                    parameter.mul_(torch.randint(0, 2, parameter.shape, generator=random) * 2 - 1)
            elif isinstance(module, nn.Embedding):
                size = 1.0 if isinstance(module, TokenEmbedding) else scale  # positions are not scaled
                parameter.normal_(0.0, size * parameter.shape[1] ** -0.5, generator=random)
            else:
                is_matrix = parameter.dim() in (2, 4)
                std = branch * (parameter[0].numel() ** -0.5 if is_matrix else 0.2)
                parameter.normal_(0.0, std, generator=random)
