"""From configurations to modules. Nothing else reads a model's configuration.

Everything here works under ``torch.device("meta")``, where it costs no memory.

Source: initial values after `transformers` 5.23 (`_init_weights` of ViT, DeiT and TrOCR).
"""

import math
from typing import Any

import torch
from torch import nn

from trocr.config import TrOCRConfig, VisionEncoderDecoderConfig, ViTConfig
from trocr.config_read import ConfigError
from trocr.config_shapes import DecoderBlockShape, EncoderBlockShape
from trocr.config_timm import TimmConfig
from trocr.decoder import DecoderBlock
from trocr.encoder import EncoderBlock, Pooler
from trocr.nn.attention import Attention
from trocr.nn.embeddings import ImageEmbeddings, LearnedPositions, SinusoidalPositions, TokenEmbedding
from trocr.nn.linear import Linear
from trocr.nn.mlp import MLP
from trocr.timm_backbone import BackboneError, create_backbone, measure


def encoder_parts(config: ViTConfig, *, with_pooler: bool = False) -> dict[str, Any]:
    """Build what `ImageEncoder` is made of; a DeiT configuration gives a second prefix token."""
    embeddings = ImageEmbeddings(
        width=config.hidden_size,
        channels=config.num_channels,
        image_hw=config.image_hw,
        patch_hw=config.patch_hw,
        has_distillation_token=config.num_prefix_tokens == 2,
        dropout=config.hidden_dropout_prob,
    )
    pooler = None
    if with_pooler:
        pooler = Pooler(
            width=config.hidden_size,
            out_width=config.pooler_output_size or config.hidden_size,
            activation=config.pooler_act,
        )
    return {
        "embeddings": embeddings,
        "blocks": [build_encoder_block(config, shape) for shape in config.shapes],
        "norm": nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps),
        "pooler": pooler,
    }


def timm_parts(config: TimmConfig, *, backbone: nn.Module | None = None) -> dict[str, Any]:
    """Build what `trocr.timm_encoder.TimmEncoder` is made of; a backbone may be there already.

    Raises:
        ConfigError: timm has no such backbone, or its features are not what the configuration says.
    """
    try:
        states = measure(
            config.architecture, config.model_args, image_hw=config.image_hw, channels=config.num_channels
        )
        if backbone is None:
            backbone = create_backbone(config.architecture, config.model_args)
    except BackboneError as error:
        raise ConfigError(f"TimmConfig: {error}") from error
    if states.width != config.hidden_size:
        raise ConfigError(
            f"TimmConfig: hidden_size={config.hidden_size} must be the width of the features of "
            f"{config.architecture}, {states.width}"
        )
    return {
        "backbone": backbone,
        "architecture": config.architecture,
        "model_args": config.model_args,
        "states": states,
        "image_hw": config.image_hw,
        "channels": config.num_channels,
        "has_positions": config.position_embeddings == "learned",
    }


def build_encoder_block(config: ViTConfig, shape: EncoderBlockShape) -> EncoderBlock:
    """Build one block of the image encoder."""
    width = config.hidden_size
    return EncoderBlock(
        self_attn=Attention(
            width=width,
            num_heads=shape.num_heads,
            head_dim=config.head_dim,
            qkv_bias=config.qkv_bias,
            dropout=config.attention_probs_dropout_prob,
        ),
        mlp=MLP(width=width, hidden=shape.intermediate_size, activation=config.hidden_act),
        width=width,
        norm_eps=config.layer_norm_eps,
        dropout=config.hidden_dropout_prob,
    )


def decoder_parts(config: TrOCRConfig, *, with_cross_attention: bool) -> dict[str, Any]:
    """Build what `trocr.decoder.TextDecoder` is made of."""
    width = config.d_model
    positions: LearnedPositions | SinusoidalPositions
    if config.use_learned_position_embeddings:
        positions = LearnedPositions(config.max_position_embeddings, width)
    else:
        assert config.pad_token_id is not None  # the configuration says so
        positions = SinusoidalPositions(
            config.max_position_embeddings, width, padding_idx=config.pad_token_id
        )
    return {
        "embed_tokens": TokenEmbedding(
            config.vocab_size,
            width,
            scale=math.sqrt(width) if config.scale_embedding else 1.0,
            padding_idx=config.pad_token_id,
        ),
        "embed_positions": positions,
        "embed_norm": nn.LayerNorm(width) if config.layernorm_embedding else nn.Identity(),
        "blocks": [
            build_decoder_block(config, shape, with_cross_attention=with_cross_attention)
            for shape in config.shapes
        ],
        "dropout": config.dropout,
        "layerdrop": config.decoder_layerdrop,
        "use_cache": config.use_cache,
    }


def build_decoder_block(
    config: TrOCRConfig, shape: DecoderBlockShape, *, with_cross_attention: bool = True
) -> DecoderBlock:
    """Build one block of the text decoder."""
    width, head_dim, dropout = config.d_model, config.head_dim, config.attention_dropout
    cross_attn = None
    if with_cross_attention:
        cross_attn = Attention(
            width=width,
            num_heads=shape.cross_attn_heads,
            head_dim=head_dim,
            kv_width=config.cross_attention_hidden_size,
            dropout=dropout,
        )
    return DecoderBlock(
        self_attn=Attention(width=width, num_heads=shape.self_attn_heads, head_dim=head_dim, dropout=dropout),
        cross_attn=cross_attn,
        mlp=MLP(
            width=width,
            hidden=shape.ffn_dim,
            activation=config.activation_function,
            dropout=config.activation_dropout,
        ),
        width=width,
        dropout=config.dropout,
    )


def build_output_projection(config: TrOCRConfig) -> nn.Linear:
    """Build the linear layer from decoder states to vocabulary scores."""
    return Linear(config.d_model, config.vocab_size, bias=False)


def build_projection(config: VisionEncoderDecoderConfig) -> nn.Module:
    """Build the layer between encoder and decoder: linear where their widths differ, else the identity."""
    if config.needs_projection:
        return Linear(config.encoder.hidden_size, config.decoder.d_model)
    return nn.Identity()


@torch.no_grad()
def init_weights(module: nn.Module, *, std: float) -> None:
    """Give a module its starting values for training from scratch.

    Linear, convolution and embedding weights are normal with deviation `std`, biases zero, padding rows zero;
    ViT's class token and positions are a truncated normal, DeiT's prefix tokens and positions zero.
    Parameters on the meta device stay as they are: to fill them, torch would import its compiler, which takes
    seconds.
    """
    if any(parameter.is_meta for parameter in module.parameters()):
        return
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Conv2d):
            part.weight.normal_(0.0, std)
            if part.bias is not None:
                part.bias.zero_()
        elif isinstance(part, nn.Embedding):
            part.weight.normal_(0.0, std)
            if part.padding_idx is not None:
                part.weight[part.padding_idx].zero_()
        elif isinstance(part, ImageEmbeddings) and part.distillation_token is None:
            nn.init.trunc_normal_(part.cls_token, std=std)
            nn.init.trunc_normal_(part.position_embeddings, std=std)
