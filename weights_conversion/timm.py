"""timm's names of vision transformers, with and without a distillation token, and of BEiT; encoder only.

Source: timm 1.0 VisionTransformer and VisionTransformerDistilled. unilm's encoders have the same names.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

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


SCALES = {"ls1.gamma": "attn.proj", "ls2.gamma": "mlp.fc2", "gamma_1": "attn.proj", "gamma_2": "mlp.fc2"}
"""Factor on a branch (LayerScale, BEiT's gamma) -> the layer that it can be multiplied into."""

INEXPRESSIBLE = {
    "relative_position_bias": "relative positions, which this encoder has no place for: its outputs differ",
    "relative_position_index": "an index of relative positions",
    "fc_norm": "the norm of pooled features; the last norm of the states is new",
    "mask_token": "used in masked image modelling only",
}
"""Parts of names that a plain encoder cannot take over, with the reason."""


class ImageModelError(ValueError):
    """An image model cannot become an encoder."""


@dataclass(frozen=True, kw_only=True)
class PlainImage:
    """Tensors of an image model as the table above knows them.

    Attributes:
        tensors: name -> tensor.
        notes: (name, what was done with it) of those that are no plain copies.
        left_out: (name, reason).
        is_exact: whether an encoder with these tensors computes what the source computes.
    """

    tensors: dict[str, Any]
    notes: tuple[tuple[str, str], ...]
    left_out: tuple[tuple[str, str], ...]
    is_exact: bool


def plain(tensors: Mapping[str, Any]) -> PlainImage:
    """Turn a ViT, DeiT or BEiT of timm into a plain vision transformer.

    Factors on branches are multiplied into the layers before them, and BEiT's separate biases of queries and
    values are joined with a zero bias of keys: both exact.

    Args:
        tensors: a state dict of timm; torch tensors.
    Raises:
        ImageModelError: it has parts that no plain vision transformer has.
    """
    kept = {name: tensor for name, tensor in tensors.items() if not _part(name)}
    left_out = [(name, _part(name)) for name in tensors if _part(name)]
    notes = []
    for name in [name for name in kept if name.split(".", 2)[-1] in SCALES]:
        start, factor = name.rsplit(".", 2)[0] if "ls" in name else name.rpartition(".")[0], kept.pop(name)
        layer = f"{start}.{SCALES[name.split('.', 2)[-1]]}"
        kept[f"{layer}.weight"] = kept[f"{layer}.weight"] * factor[:, None]
        if f"{layer}.bias" in kept:
            kept[f"{layer}.bias"] = kept[f"{layer}.bias"] * factor
        notes.append((name, f"multiplied into {layer}"))
    for name in [name for name in kept if name.endswith("attn.q_bias")]:
        start = name.removesuffix("q_bias")
        query, value = kept.pop(name), kept.pop(f"{start}v_bias")
        kept.pop(f"{start}k_bias", None)
        joined = query.new_zeros(3 * len(query))
        joined[: len(query)], joined[2 * len(query) :] = query, value
        kept[f"{start}qkv.bias"] = joined
        notes.append((f"{start}qkv.bias", "queries' and values' bias with zeros between, for the keys"))
    if "pos_embed" not in kept and "cls_token" in kept:
        notes.append(("pos_embed", "zeros: the source has no absolute positions"))
    problem = next((name for name in kept if name.startswith(("norm_pre", "reg_token"))), None)
    if problem is not None:
        raise ImageModelError(f"{problem}: a plain vision transformer has no such part; take another model")
    is_exact = not any(name.endswith("bias_table") for name, _ in left_out)
    return PlainImage(tensors=kept, notes=tuple(notes), left_out=tuple(left_out), is_exact=is_exact)


def _part(name: str) -> str:
    """Why a tensor is left out; empty where it is not."""
    return next((reason for part, reason in INEXPRESSIBLE.items() if part in name), "")
