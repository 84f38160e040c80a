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

BIASES = ("attn.q_bias", "attn.k_bias", "attn.v_bias")
"""BEiT's biases of queries, keys (a constant of zeros, in few files) and values."""

BEHIND = {
    "head": "an image classifier's head",
    "head_dist": "the head of the distillation token",
    "fc_norm": "the norm of pooled features",
    "attn_pool": "pools the states, for a classifier",
}
"""First part of the names of what comes after an encoder's states, with the reason to leave it out."""

UNUSED = {
    "relative_position_index": "an index of relative positions",
    "mask_token": "used in masked image modelling only",
}
"""Last part of the names of tensors that no state depends on, with the reason to leave them out."""

RELATIVE = "relative_position_bias_table"
RELATIVE_LOSS = "relative positions, which this encoder has no place for: its outputs differ"
NORM_LOSS = "its last norm is new: the source has none of its states"


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where a tensor, or a part of a fused one, is from.

    Attributes:
        names: of the tensors in the file that it was made of; empty for a new one.
        note: what was done, where it is no plain copy.
    """

    names: tuple[str, ...]
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class PlainImage:
    """Tensors of an image model as the table above knows them.

    Attributes:
        tensors: name -> tensor.
        origins: the same names -> where they are from; several for a fused tensor whose parts differ in that.
        left_out: (name in the file, reason).
        losses: why an encoder with these tensors does not compute what the source computes; empty where it
            does.
    """

    tensors: dict[str, Any]
    origins: dict[str, tuple[Origin, ...]]
    left_out: tuple[tuple[str, str], ...]
    losses: tuple[str, ...]

    def origin(self, name: str, part: int) -> Origin:
        """Where a part of a tensor is from."""
        found = self.origins[name]
        return found[part] if len(found) > 1 else found[0]


def reason_to_leave(name: str) -> str:
    """Why a plain encoder has no use for a tensor; empty for one that it takes over."""
    parts = name.split(".")
    if parts[-1] == RELATIVE:
        return RELATIVE_LOSS
    return BEHIND.get(parts[0]) or UNUSED.get(parts[-1], "")


def is_known(name: str) -> bool:
    """Whether `plain` knows what to do with a tensor of this name."""
    inner = name.split(".", 2)[-1]
    return bool(TIMM.matches(name) or inner in SCALES or inner in BIASES or reason_to_leave(name))


def plain(tensors: Mapping[str, Any], *, num_patches: int) -> PlainImage:
    """Turn a ViT, DeiT or BEiT of timm into a plain vision transformer.

    Factors on branches are multiplied into the layers before them, BEiT's separate biases of queries and
    values are joined with a zero bias of keys, and a position table without rows for the prefix tokens gets
    rows of zeros: all exact.

    Args:
        tensors: a state dict of timm with names that `is_known` knows; torch tensors.
        num_patches: rows of the position table that are patches.
    """
    kept = {name: tensor for name, tensor in tensors.items() if not reason_to_leave(name)}
    left_out = [(name, reason_to_leave(name)) for name in tensors if reason_to_leave(name)]
    origins: dict[str, tuple[Origin, ...]] = {name: (Origin(names=(name,)),) for name in kept}
    _fold_scales(kept, origins)
    _join_biases(kept, origins)
    if "cls_token" in kept:
        _complete_positions(kept, origins, num_patches)
    losses = sorted({why for _, why in left_out if why == RELATIVE_LOSS})
    if "norm.weight" not in kept:
        losses.append(NORM_LOSS)
    return PlainImage(tensors=kept, origins=origins, left_out=tuple(left_out), losses=tuple(losses))


def _fold_scales(kept: dict[str, Any], origins: dict[str, tuple[Origin, ...]]) -> None:
    for name in [name for name in kept if name.split(".", 2)[-1] in SCALES]:
        block, number, inner = name.split(".", 2)
        factor = kept.pop(name)
        del origins[name]
        for leaf in ("weight", "bias"):
            layer = f"{block}.{number}.{SCALES[inner]}.{leaf}"
            if layer in kept:
                kept[layer] = kept[layer] * (factor[:, None] if leaf == "weight" else factor)
                origins[layer] = (Origin(names=(layer, name), note="multiplied with each other"),)


def _join_biases(kept: dict[str, Any], origins: dict[str, tuple[Origin, ...]]) -> None:
    for name in [name for name in kept if name.endswith(BIASES[0])]:
        start = name.removesuffix(BIASES[0])
        width = len(kept[name])
        joined = kept[name].new_zeros(3 * width)
        parts = []
        for place, bias in enumerate(BIASES):
            part = kept.pop(start + bias, None)
            origins.pop(start + bias, None)
            if part is None:
                parts.append(Origin(names=(), note="zeros: the source has no such bias"))
            else:
                joined[place * width : (place + 1) * width] = part
                parts.append(Origin(names=(start + bias,)))
        kept[f"{start}attn.qkv.bias"] = joined
        origins[f"{start}attn.qkv.bias"] = tuple(parts)


def _complete_positions(
    kept: dict[str, Any], origins: dict[str, tuple[Origin, ...]], num_patches: int
) -> None:
    num_prefix = 1 + ("dist_token" in kept)
    table = kept.get("pos_embed")
    if table is not None and table.shape[1] != num_patches:
        return
    full = kept["cls_token"].new_zeros((1, num_prefix + num_patches, kept["cls_token"].shape[-1]))
    if table is None:
        origin = Origin(names=(), note="zeros: the source has no absolute positions")
    else:
        full[:, num_prefix:] = table
        origin = Origin(
            names=("pos_embed",), note="zeros before it: the source gives prefix tokens no position"
        )
    kept["pos_embed"], origins["pos_embed"] = full, (origin,)
