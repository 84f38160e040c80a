"""The layout of the original TrOCR files, written by fairseq for microsoft/unilm, and their configuration.

Source: microsoft/unilm trocr/trocr_models.py, unilm_models.py and deit.py; fairseq's TransformerDecoder.
Differs: `layer_norm_eps` of the encoder is 1e-12, as in the Hugging Face releases of the same weights;
the original has 1e-6.
"""

import argparse
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from weights_conversion import timm
from weights_conversion.configs import DerivationError, Shapes, decoder_config, encoder_config, without_prefix
from weights_conversion.hf import DECODER_STACK_RULES, SINUSOIDAL_DUMMY, prefixed, under
from weights_conversion.rename import Table

FAIRSEQ = Table(
    {
        **prefixed(timm.ENCODER_RULES, "encoder.deit.", "encoder."),
        **prefixed(DECODER_STACK_RULES, "decoder.", "decoder."),
        "decoder.output_projection": "decoder.output_projection",
    },
    ignored={
        **under(timm.ENCODER_IGNORED, "encoder.deit."),
        "decoder.version": "fairseq's mark of the layout",
        "decoder.embed_positions._float_tensor": SINUSOIDAL_DUMMY,
    },
    name="fairseq",
)

LAYER_NORM_EPS = 1e-12
OUTPUT, EMBEDDING = "decoder.output_projection.weight", "decoder.embed_tokens.weight"

FAMILIES: Mapping[str, Mapping[str, Any]] = {
    # decoder made from RoBERTa with its own settings (--decoder-pretrained roberta2)
    "learned": {
        "activation_function": "gelu",
        "scale_embedding": False,
        "use_learned_position_embeddings": True,
        "layernorm_embedding": True,
        "tie_word_embeddings": True,
    },
    # fairseq's default decoder with some tensors of RoBERTa (--decoder-pretrained roberta)
    "sinusoidal": {
        "activation_function": "relu",
        "scale_embedding": True,
        "use_learned_position_embeddings": False,
        "layernorm_embedding": False,
        "tie_word_embeddings": False,
    },
    # decoder made from MiniLM (--decoder-pretrained unilm)
    "unilm": {
        "activation_function": "relu",
        "scale_embedding": True,
        "use_learned_position_embeddings": True,
        "layernorm_embedding": True,
        "tie_word_embeddings": False,
    },
}
"""What the three decoder recipes of the official models have in common, as config.json keys."""

ENCODER_HEADS: Mapping[str, int] = {
    "beit_base_patch16_384": 12,
    "beit_large_patch16_384": 16,
    "deit_small_distilled_patch16_384": 6,
    "deit_small_distilled_patch16_224": 6,
    "deit_tiny_distilled_patch16_224": 3,
    "deit_base_distilled_patch16_224": 12,
    "deit_base_distilled_patch16_384": 12,
    "deit_base_distilled_patch16_custom_size": 12,
}
"""Heads of the encoders that unilm registers (`args.deit_arch`)."""

_UNSUPPORTED: Mapping[str, Any] = {
    "ape": False,
    "decoder_normalize_before": False,
    "no_token_positional_embeddings": False,
    "no_cross_attention": False,
    "cross_self_attention": False,
    "adaptive_input": False,
}
_DEFAULT_POSITIONS = 1024
_HOW = (
    "Name what the file does not say: an official model (--official NAME), or the decoder recipe "
    f"(--family {'|'.join(FAMILIES)}) and the heads (--encoder-heads, --decoder-heads), "
    "or give a config.json (--config)."
)


def settings_of(extra: Mapping[str, Any]) -> dict[str, Any] | None:
    """The training arguments in a fairseq file: `args`, or the model part of `cfg`; None without either."""
    cfg = extra.get("cfg")
    for found in (extra.get("args"), cfg.get("model") if isinstance(cfg, Mapping) else None):
        if isinstance(found, argparse.Namespace):
            return vars(found)
        if isinstance(found, Mapping):
            return dict(found)
    return None


def derive_config(
    shapes: Shapes,
    extra: Mapping[str, Any],
    *,
    tied: bool,
    family: str | None = None,
    encoder_heads: int | None = None,
    decoder_heads: int | None = None,
    image_size: tuple[int, int] | None = None,
) -> dict[str, Any]:
    """Derive the config.json of a fairseq file from its tensors and its training arguments.

    Args:
        shapes: the file's keys -> shapes.
        extra: what the file holds beside the weights.
        tied: whether output projection and word embeddings are equal (see `is_tied`).
        family: the decoder recipe, where the file lacks arguments; a key of `FAMILIES`.
        encoder_heads: overrides what the arguments say.
        decoder_heads: overrides what the arguments say.
        image_size: (height, width); overrides what the arguments say.
    Returns:
        The dictionary of a config.json.
    Raises:
        DerivationError: something is neither in the file nor given, or contradicts the tensors, or is a
            variant that this library does not compute.
    """
    settings = settings_of(extra)
    for key, value in _UNSUPPORTED.items():
        if settings is not None and settings.get(key, value) not in (value, None):
            raise DerivationError(
                f"the model was trained with {key}={settings[key]!r}; only {value!r} is supported"
            )
    recipe = _recipe(settings, family)
    decoder_shapes = without_prefix(shapes, "decoder.")
    encoder = encoder_config(
        without_prefix(shapes, "encoder.deit."),
        num_attention_heads=encoder_heads or _encoder_heads(settings),
        layer_norm_eps=LAYER_NORM_EPS,
        image_size=image_size or _image_size(settings),
    )
    decoder = decoder_config(
        decoder_shapes,
        decoder_attention_heads=decoder_heads or _decoder_heads(settings),
        activation_function=recipe["activation_function"],
        scale_embedding=recipe["scale_embedding"],
        tie_word_embeddings=tied,
        max_position_embeddings=(settings or {}).get("max_target_positions") or _DEFAULT_POSITIONS,
    )
    clash = {key: value for key, value in recipe.items() if decoder[key] != value}
    if clash:
        found = ", ".join(f"{key}={decoder[key]!r} (recipe: {value!r})" for key, value in clash.items())
        raise DerivationError(f"the tensors contradict the decoder recipe: {found}. {_HOW}")
    return {
        "model_type": "vision-encoder-decoder",
        "architectures": ["VisionEncoderDecoderModel"],
        "is_encoder_decoder": True,
        "tie_word_embeddings": False,
        "dtype": "float32",
        "encoder": encoder,
        "decoder": decoder,
    }


def is_tied(shapes: Shapes, read: Callable[[str], Tensor]) -> bool:
    """Whether the output projection equals the word embeddings, or is left out because it is the same."""
    if OUTPUT not in shapes or EMBEDDING not in shapes:
        return OUTPUT not in shapes
    return shapes[OUTPUT] == shapes[EMBEDDING] and torch.equal(read(OUTPUT), read(EMBEDDING))


def to_fairseq(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our tensors under fairseq's names; q, k and v stacked, a tied output projection written out.

    Raises:
        KeyMapError: a tensor that a fairseq model does not have (pooler, enc_to_dec_proj).
    """
    full = dict(state)
    if EMBEDDING in full:
        full.setdefault(OUTPUT, full[EMBEDDING])
    packs = FAIRSEQ.pack(full)
    return {
        pack.source: torch.cat([full[name] for name in pack.targets])
        if len(pack.targets) > 1
        else full[pack.targets[0]]
        for pack in packs
    }


def _recipe(settings: Mapping[str, Any] | None, family: str | None) -> dict[str, Any]:
    """The decoder flags that are known: of the named family, of the recipe trained with, or the arguments."""
    if family is not None:
        if family not in FAMILIES:
            raise DerivationError(f"family {family!r} is not known; expected one of {', '.join(FAMILIES)}")
        return dict(FAMILIES[family])
    if settings is None:
        raise DerivationError(
            f"the file holds no training arguments, which tell the activation function. {_HOW}"
        )
    pretrained = str(settings.get("decoder_pretrained") or "")
    if pretrained.startswith("roberta2"):  # unilm's own test: RoBERTa's settings then replace the arguments
        return dict(FAMILIES["learned"])
    lacking = [key for key in ("activation_fn", "no_scale_embedding") if settings.get(key) is None]
    if lacking:
        raise DerivationError(f"the file's training arguments lack {' and '.join(lacking)}. {_HOW}")
    recipe = {
        "activation_function": settings["activation_fn"],
        "scale_embedding": not settings["no_scale_embedding"],
        "use_learned_position_embeddings": settings.get("decoder_learned_pos"),
        "layernorm_embedding": settings.get("layernorm_embedding"),
    }
    return {key: value for key, value in recipe.items() if value is not None}


def _encoder_heads(settings: Mapping[str, Any] | None) -> int:
    arch = str((settings or {}).get("deit_arch") or "")
    if arch not in ENCODER_HEADS:
        told = (
            f"deit_arch={arch!r} is not one of {', '.join(ENCODER_HEADS)}"
            if arch
            else "deit_arch is not given"
        )
        raise DerivationError(f"the encoder's heads cannot be derived: {told}. {_HOW}")
    return ENCODER_HEADS[arch]


def _decoder_heads(settings: Mapping[str, Any] | None) -> int:
    heads = (settings or {}).get("decoder_attention_heads")
    if not isinstance(heads, int):
        raise DerivationError(f"the decoder's heads cannot be derived: no decoder_attention_heads. {_HOW}")
    return heads


def _image_size(settings: Mapping[str, Any] | None) -> tuple[int, int] | None:
    """unilm's --input-size: one number, or height and width."""
    size = (settings or {}).get("input_size")
    if isinstance(size, list | tuple) and len(size) in (1, 2):
        return int(size[0]), int(size[-1])
    return (size, size) if isinstance(size, int) else None
