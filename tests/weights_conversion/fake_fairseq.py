"""Files in the original layout, made from models of the reference by hand, not by our tables."""

import argparse

import torch

RECIPES = {
    "learned": {"decoder_pretrained": "roberta2", "activation_fn": "relu", "no_scale_embedding": False},
    "sinusoidal": {
        "decoder_pretrained": "roberta",
        "activation_fn": "relu",
        "no_scale_embedding": False,
        "decoder_learned_pos": False,
        "layernorm_embedding": False,
        "max_target_positions": 30,
    },
    "unilm": {
        "decoder_pretrained": "unilm",
        "activation_fn": "relu",
        "no_scale_embedding": False,
        "decoder_learned_pos": True,
        "layernorm_embedding": True,
    },
}
"""Training arguments as the three recipes of unilm leave them."""


def arguments(family: str, **more) -> argparse.Namespace:
    return argparse.Namespace(
        arch="trocr", decoder_normalize_before=False, ape=False, **{**RECIPES[family], **more}
    )


def _block(name: str) -> str:
    for theirs, here in (
        ("layernorm_before", "norm1"),
        ("layernorm_after", "norm2"),
        ("attention.o_proj", "attn.proj"),
    ):
        name = name.replace(theirs, here)
    return name.replace("encoder.layers.", "encoder.deit.blocks.")


def weights(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rename the state of a `transformers` 5 model, stack q, k and v, and add what is dropped."""
    made: dict[str, torch.Tensor] = {}
    plain = {
        "encoder.embeddings.cls_token": "encoder.deit.cls_token",
        "encoder.embeddings.distillation_token": "encoder.deit.dist_token",
        "encoder.embeddings.position_embeddings": "encoder.deit.pos_embed",
        "encoder.embeddings.patch_embeddings.projection.weight": "encoder.deit.patch_embed.proj.weight",
        "encoder.embeddings.patch_embeddings.projection.bias": "encoder.deit.patch_embed.proj.bias",
        "encoder.layernorm.weight": "encoder.deit.norm.weight",
        "encoder.layernorm.bias": "encoder.deit.norm.bias",
    }
    for name, tensor in state.items():
        if name.startswith("decoder."):
            made[name.replace("decoder.model.decoder.", "decoder.")] = tensor
        elif name in plain:
            made[plain[name]] = tensor
        elif ".q_proj." in name:
            stacked = [state[name.replace("q_proj", part)] for part in ("q_proj", "k_proj", "v_proj")]
            made[_block(name.replace("attention.q_proj", "attn.qkv"))] = torch.cat(stacked)
        elif ".k_proj." not in name and ".v_proj." not in name and "pooler" not in name:
            made[_block(name)] = tensor
    width = state["encoder.layernorm.weight"].shape[0]
    made["encoder.deit.head.weight"] = torch.zeros(7, width)
    made["encoder.deit.head.bias"] = torch.zeros(7)
    if "encoder.deit.dist_token" in made:
        made["encoder.deit.head_dist.weight"] = torch.zeros(7, width)
        made["encoder.deit.head_dist.bias"] = torch.zeros(7)
    made["decoder.version"] = torch.tensor([3.0])
    if "decoder.embed_positions.weight" not in made:
        made["decoder.embed_positions._float_tensor"] = torch.zeros(1)
    return made
