"""timm's names of plain vision transformers, with and without a distillation token; encoder only.

Source: timm 1.0 VisionTransformer and VisionTransformerDistilled. unilm's encoders have the same names.
"""

from collections.abc import Mapping

from weights_conversion.rename import Stems, Table

ENCODER_RULES: dict[str, Stems] = {
    "cls_token": "embeddings.cls_token",
    "dist_token": "embeddings.distillation_token",
    "pos_embed": "embeddings.position_embeddings",
    "patch_embed.proj": "embeddings.patch_embeddings",
    "blocks.{i}.norm1": "blocks.{i}.attn_norm",
    "blocks.{i}.attn.qkv": (
        "blocks.{i}.self_attn.q_proj",
        "blocks.{i}.self_attn.k_proj",
        "blocks.{i}.self_attn.v_proj",
    ),
    "blocks.{i}.attn.proj": "blocks.{i}.self_attn.out_proj",
    "blocks.{i}.norm2": "blocks.{i}.mlp_norm",
    "blocks.{i}.mlp.fc1": "blocks.{i}.mlp.fc1",
    "blocks.{i}.mlp.fc2": "blocks.{i}.mlp.fc2",
    "norm": "norm",
}
ENCODER_IGNORED: Mapping[str, str] = {
    "head": "an image classifier's head",
    "head_dist": "the head of the distillation token",
}

TIMM = Table(ENCODER_RULES, ignored=ENCODER_IGNORED, name="timm")

LAYER_NORM_EPS = 1e-6
"""timm's default; it is not in the tensors, and Hugging Face's default is 1e-12."""
