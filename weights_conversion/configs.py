"""Configuration dictionaries, in the keys of a Hugging Face config.json, derived from tensor shapes.

Source: the shapes of the modules of timm's VisionTransformer and fairseq's TransformerDecoder.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

Shapes = Mapping[str, tuple[int, ...]]


class DerivationError(ValueError):
    """A configuration cannot be derived from a file; says what is missing or contradicts itself."""


def encoder_config(
    shapes: Shapes,
    *,
    num_attention_heads: int,
    layer_norm_eps: float,
    image_size: Sequence[int] | None = None,
) -> dict[str, Any]:
    """Describe an image encoder from its tensors.

    Args:
        shapes: timm's names (`patch_embed.proj.weight`, `blocks.0.attn.qkv.weight`, ...) -> shape.
        num_attention_heads: not visible in the tensors.
        layer_norm_eps: not visible in the tensors.
        image_size: (height, width) in pixels; needed where the patches form no square.
    Returns:
        The `encoder` part of a config.json, model type vit or deit.
    Raises:
        DerivationError: a tensor that decides is missing, or image size, patches and heads do not fit.
    """
    width, channels, patch_height, patch_width = _shape(shapes, "patch_embed.proj.weight", 4)
    distilled = "dist_token" in shapes
    patches = _shape(shapes, "pos_embed", 3)[1] - 1 - distilled
    depth = _depth(shapes, "blocks.")
    if width % num_attention_heads:
        raise DerivationError(
            f"width {width} of the encoder cannot be split into {num_attention_heads} heads"
        )
    if image_size is None:
        side = math.isqrt(max(patches, 0))
        if side * side != patches:
            raise DerivationError(
                f"pos_embed has {patches} patch rows, which form no square; give the size (--image-size)"
            )
        image_size = (side * patch_height, side * patch_width)
    height, breadth = (int(length) for length in image_size)
    if (height // patch_height) * (breadth // patch_width) != patches:
        raise DerivationError(
            f"an image of {height} x {breadth} pixels in patches of {patch_height} x {patch_width} does not "
            f"give the {patches} patch rows of pos_embed"
        )
    return {
        "model_type": "deit" if distilled else "vit",
        "hidden_size": width,
        "num_hidden_layers": depth,
        "num_attention_heads": num_attention_heads,
        "intermediate_size": _shape(shapes, "blocks.0.mlp.fc1.weight", 2)[0],
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "layer_norm_eps": layer_norm_eps,
        "image_size": height if height == breadth else [height, breadth],
        "patch_size": patch_height if patch_height == patch_width else [patch_height, patch_width],
        "num_channels": channels,
        "qkv_bias": "blocks.0.attn.qkv.bias" in shapes,
    }


def decoder_config(
    shapes: Shapes,
    *,
    decoder_attention_heads: int,
    activation_function: str,
    scale_embedding: bool,
    tie_word_embeddings: bool,
    max_position_embeddings: int,
) -> dict[str, Any]:
    """Describe a text decoder from its tensors and from what they do not show.

    Args:
        shapes: fairseq's names without `decoder.` (`embed_tokens.weight`, `layers.0.fc1.weight`) -> shape.
        decoder_attention_heads: not visible in the tensors, like the next three.
        activation_function: between the two feed-forward layers.
        scale_embedding: whether token embeddings are multiplied by the root of the width.
        tie_word_embeddings: whether the output projection is the token embedding.
        max_position_embeddings: used for sinusoidal positions; a learned table says it itself.
    Returns:
        The `decoder` part of a config.json.
    Raises:
        DerivationError: a tensor that decides is missing, or the heads do not divide the width.
    """
    vocabulary, width = _shape(shapes, "embed_tokens.weight", 2)
    learned = "embed_positions.weight" in shapes
    if learned:
        max_position_embeddings = _shape(shapes, "embed_positions.weight", 2)[0] - 2
    if width % decoder_attention_heads:
        raise DerivationError(
            f"width {width} of the decoder cannot be split into {decoder_attention_heads} heads"
        )
    return {
        "model_type": "trocr",
        "is_decoder": True,
        "add_cross_attention": True,
        "vocab_size": vocabulary,
        "d_model": width,
        "decoder_layers": _depth(shapes, "layers."),
        "decoder_attention_heads": decoder_attention_heads,
        "decoder_ffn_dim": _shape(shapes, "layers.0.fc1.weight", 2)[0],
        "activation_function": activation_function,
        "max_position_embeddings": max_position_embeddings,
        "cross_attention_hidden_size": _shape(shapes, "layers.0.encoder_attn.k_proj.weight", 2)[1],
        "scale_embedding": scale_embedding,
        "use_learned_position_embeddings": learned,
        "layernorm_embedding": "layernorm_embedding.weight" in shapes,
        "tie_word_embeddings": tie_word_embeddings,
        "bos_token_id": 0,
        "pad_token_id": 1,
        "eos_token_id": 2,
        "decoder_start_token_id": 2,
    }


def without_prefix(shapes: Shapes, prefix: str) -> dict[str, tuple[int, ...]]:
    """The entries under a prefix, named without it."""
    return {name.removeprefix(prefix): shape for name, shape in shapes.items() if name.startswith(prefix)}


def _shape(shapes: Shapes, name: str, rank: int) -> tuple[int, ...]:
    if name not in shapes:
        raise DerivationError(f"there is no tensor {name!r}, which tells a size of the model")
    if len(shapes[name]) != rank:
        raise DerivationError(f"{name!r} has shape {shapes[name]}, expected {rank} dimensions")
    return shapes[name]


def _depth(shapes: Shapes, prefix: str) -> int:
    found = {name.removeprefix(prefix).split(".")[0] for name in shapes if name.startswith(prefix)}
    if found != {str(index) for index in range(len(found))} or not found:
        raise DerivationError(
            f"the blocks {prefix}N are {sorted(found)}, expected 0, 1, 2, ... without a gap"
        )
    return len(found)
