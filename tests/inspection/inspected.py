"""Small models of every family with random weights, made by this package alone."""

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn

from trocr import DeiTConfig, TrOCRConfig, VisionEncoderDecoderConfig, VisionEncoderDecoderModel, ViTConfig

VOCAB_SIZE = 61
START, END = 2, 3

_VIT: dict[str, Any] = {
    "image_size": 32,
    "patch_size": 8,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 40,
    "qkv_bias": False,
}
_LEARNED: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "d_model": 36,
    "decoder_layers": 2,
    "decoder_attention_heads": 3,
    "decoder_ffn_dim": 56,
    "max_position_embeddings": 30,
    "cross_attention_hidden_size": 24,
    "dropout": 0.0,
    "eos_token_id": END,
    "decoder_start_token_id": START,
}
_SINUSOIDAL = {
    **_LEARNED,
    "activation_function": "relu",
    "scale_embedding": True,
    "use_learned_position_embeddings": False,
    "layernorm_embedding": False,
    "tie_word_embeddings": False,
}
FAMILIES: dict[str, tuple[type[ViTConfig], dict[str, Any], dict[str, Any]]] = {
    "learned": (ViTConfig, _VIT, _LEARNED),
    "sinusoidal": (ViTConfig, _VIT, _SINUSOIDAL),
    "unilm": (DeiTConfig, {**_VIT, "qkv_bias": True}, {**_LEARNED, "tie_word_embeddings": False}),
    "non_square": (ViTConfig, {**_VIT, "image_size": (32, 64), "patch_size": (16, 4)}, _LEARNED),
    "projection": (ViTConfig, _VIT, {**_LEARNED, "cross_attention_hidden_size": None}),
}


def make_model(family: str, *, seed: int = 0, **decoder: Any) -> VisionEncoderDecoderModel:
    """Build a model in evaluation mode whose weights, biases and norms all matter."""
    kind, of_encoder, of_decoder = FAMILIES[family]
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(
        kind(**of_encoder), TrOCRConfig(**{**of_decoder, **decoder})
    )
    torch.manual_seed(seed)
    model = VisionEncoderDecoderModel(dataclasses.replace(config, pad_token_id=1))
    with torch.no_grad():
        for module in model.modules():
            for parameter in module.parameters(recurse=False):
                if isinstance(module, nn.LayerNorm):
                    parameter.add_(0.3 * torch.randn_like(parameter))
                else:
                    std = 1.5 * parameter[0].numel() ** -0.5 if parameter.dim() == 2 else 0.3
                    parameter.copy_(std * torch.randn_like(parameter))
    return model.eval()


def images(model: VisionEncoderDecoderModel, count: int = 2, *, seed: int = 1) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, *model.config.encoder.image_hw, generator=random)


def ids(rows: int = 2, length: int = 5, *, seed: int = 2) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    tokens = torch.randint(4, VOCAB_SIZE, (rows, length), generator=random)
    tokens[:, 0] = START
    return tokens


def hooks(model: nn.Module) -> int:
    """Number of hooks that are left on a model."""
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
