"""Small backbones of timm, one of each kind, and models that read with them."""

import functools
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from trocr.config import TrOCRConfig, VisionEncoderDecoderConfig
from trocr.config_timm import TimmConfig
from trocr.models import VisionEncoderDecoderModel
from trocr.timm_backbone import choose_arguments
from trocr.timm_model import TimmModel

IMAGE_HW = (64, 96)
VOCAB_SIZE = 60


@dataclass(frozen=True)
class Case:
    """A backbone: its name, how it is made small, and what it should give for images of `IMAGE_HW`."""

    name: str
    grid: tuple[int, int]
    width: int
    num_prefix: int = 0
    is_map: bool = True
    model_args: dict[str, Any] = field(default_factory=dict)


_TINY = {"embed_dim": 16, "depth": 2, "num_heads": 2}
CASES = {
    "vit": Case("vit_tiny_patch16_224", (4, 6), 16, 1, False, _TINY),
    "deit": Case("deit_tiny_distilled_patch16_224", (4, 6), 16, 2, False, _TINY),
    "resnet": Case("test_resnet", (2, 3), 96),
    "early": Case("test_resnet", (8, 12), 48, model_args={"features_only": True, "out_indices": [2]}),
    "convnext": Case("convnext_atto", (2, 3), 16, model_args={"depths": [1] * 4, "dims": [8, 8, 8, 16]}),
    "swin": Case(
        "swin_tiny_patch4_window7_224",
        (8, 12),
        16,
        model_args={"embed_dim": 8, "depths": [2, 2], "num_heads": [1, 1], "window_size": 4},
    ),
    "efficientnet": Case("test_efficientnet", (2, 3), 256),
}


@functools.cache
def config_of(name: str) -> TimmConfig:
    case = CASES[name]
    arguments, states, unused = choose_arguments(case.name, case.model_args, image_hw=IMAGE_HW, channels=3)
    assert not unused
    return TimmConfig(
        architecture=case.name,
        hidden_size=states.width,
        image_size=IMAGE_HW,
        model_args=arguments,
        position_embeddings="learned" if states.is_map else "none",
    )


@torch.no_grad()
def stir(module: nn.Module, *, seed: int = 0) -> None:
    """Move all parameters and running statistics away from their starting values."""
    random = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.add_(torch.randn(parameter.shape, generator=random) * 0.05)
    for name, buffer in module.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            buffer.add_(torch.rand(buffer.shape, generator=random))


def encoder_of(name: str, *, seed: int = 0) -> TimmModel:
    torch.manual_seed(seed)
    model = TimmModel(config_of(name))
    stir(model, seed=seed)
    return model.eval()


def reader_of(name: str, *, seed: int = 0) -> VisionEncoderDecoderModel:
    """A model with such an encoder; its decoder has two blocks and no dropout."""
    encoder = encoder_of(name, seed=seed)
    decoder = TrOCRConfig(
        vocab_size=VOCAB_SIZE,
        d_model=16,
        decoder_layers=2,
        decoder_attention_heads=2,
        decoder_ffn_dim=32,
        max_position_embeddings=20,
        dropout=0.0,
        cross_attention_hidden_size=encoder.config.hidden_size,
    )
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder.config, decoder)
    model = VisionEncoderDecoderModel(config, encoder=encoder)
    stir(model.decoder, seed=seed)
    return model.eval()


def images(count: int = 2, *, seed: int = 1, hw: tuple[int, int] = IMAGE_HW) -> Tensor:
    return torch.randn(count, 3, *hw, generator=torch.Generator().manual_seed(seed))


def token_ids(rows: int = 2, length: int = 5) -> Tensor:
    return torch.randint(3, VOCAB_SIZE, (rows, length), generator=torch.Generator().manual_seed(2))
