"""Tiny random models of the reference implementation, one per decoder family, for the conversion tests."""

import contextlib
import io
import logging
from pathlib import Path

import torch
import transformers

ENCODER = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "image_size": 16,
    "patch_size": 8,
}
DECODER = {
    "vocab_size": 40,
    "d_model": 12,
    "decoder_layers": 2,
    "decoder_attention_heads": 3,
    "decoder_ffn_dim": 20,
    "max_position_embeddings": 30,
    "cross_attention_hidden_size": 16,
}
FAMILIES = {
    "learned": {},
    "sinusoidal": {
        "activation_function": "relu",
        "scale_embedding": True,
        "use_learned_position_embeddings": False,
        "layernorm_embedding": False,
        "tie_word_embeddings": False,
    },
    "unilm": {"activation_function": "relu", "scale_embedding": True, "tie_word_embeddings": False},
}


def encoder_config(kind: str, **changes):
    values = {**ENCODER, **changes}
    return transformers.DeiTConfig(**values) if kind == "deit" else transformers.ViTConfig(**values)


def pair(family: str, *, encoder: dict | None = None, decoder: dict | None = None):
    """A VisionEncoderDecoderModel of `transformers` with random weights large enough to matter."""
    kind = "deit" if family == "unilm" else "vit"
    config = transformers.VisionEncoderDecoderConfig.from_encoder_decoder_configs(
        encoder_config(kind, qkv_bias=family == "unilm", **(encoder or {})),
        transformers.TrOCRConfig(**{**DECODER, **FAMILIES[family], **(decoder or {})}),
    )
    torch.manual_seed(len(family))
    model = transformers.VisionEncoderDecoderModel(config)
    return shaken(model)


def shaken(model):
    """The same model with every parameter random, norms around one."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.2 + ("norm" in name and "weight" in name))
    return model.eval()


def save(model, directory: Path, **options) -> Path:
    """`save_pretrained` of the reference, without its progress bars and notes."""
    logging.getLogger("transformers").setLevel(logging.ERROR)
    with contextlib.redirect_stderr(io.StringIO()):
        model.save_pretrained(directory, **options)
    return directory
