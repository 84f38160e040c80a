"""What a model of timm may be made of, so that our encoder computes what it computes.

Source: timm 1.0 `VisionTransformer`, `VisionTransformerDistilled`, `Beit` and their blocks.
"""

import re
from collections.abc import Iterator
from typing import Any

from trocr.parts.report import PartsError
from weights_conversion import timm as names

KINDS = ("VisionTransformer", "VisionTransformerDistilled", "Beit")

PLACES: dict[str, tuple[str, ...]] = {
    "patch_embed": ("PatchEmbed",),
    "patch_embed.proj": ("Conv2d",),
    "blocks": ("Sequential", "ModuleList"),
    "blocks.*": ("Block",),
    "blocks.*.norm1": ("LayerNorm",),
    "blocks.*.attn": ("Attention",),
    "blocks.*.attn.qkv": ("Linear",),
    "blocks.*.attn.proj": ("Linear",),
    "blocks.*.ls1": ("LayerScale", "Identity"),
    "blocks.*.norm2": ("LayerNorm",),
    "blocks.*.mlp": ("Mlp",),
    "blocks.*.mlp.fc1": ("Linear",),
    "blocks.*.mlp.act": ("GELU",),
    "blocks.*.mlp.fc2": ("Linear",),
    "blocks.*.ls2": ("LayerScale", "Identity"),
    "norm": ("LayerNorm", "Identity"),
    "rel_pos_bias": ("RelativePositionBias",),
}
"""Place in the model, a block's number being *, -> classes of modules that are computed alike."""

IDLE = ("Identity", "Dropout", "DropPath", "PatchDropout")
"""Classes of modules that do nothing in evaluation; welcome anywhere else."""


def check_structure(model: Any, origin: str) -> None:
    """Refuse a model that is not a plain vision transformer; looks at modules and names, at no values.

    Args:
        model: of timm.
        origin: what to call it.
    Raises:
        PartsError: names what the model has, and where.
    """
    kind = type(model).__name__
    if kind not in KINDS:
        raise PartsError(f"{origin} is a {kind}; expected a ViT, DeiT or BEiT of timm")
    problem = next(_problems(model), None)
    if problem is not None:
        raise PartsError(f"{origin} has {problem}; take another model")


def _problems(model: Any) -> Iterator[str]:
    modules = [
        (path, module)
        for path, module in model.named_modules()
        if path and path.split(".")[0] not in names.BEHIND
    ]
    for path, module in modules:
        place, kind = re.sub(r"(?<=^blocks\.)\d+", "*", path), type(module).__name__
        allowed = PLACES.get(place, IDLE)
        if kind not in allowed:
            only = f", where only {' or '.join(allowed)} can be taken over" if place in PLACES else ""
            yield f"a {kind} as {path}{only}"
        if getattr(module, "approximate", "none") != "none":
            yield f"a {kind} that is approximated ({module.approximate}) as {path}"
    for path, module in modules:
        if getattr(module, "bias", path) is None and not path.endswith(".qkv"):
            yield f"a {type(module).__name__} without bias as {path}"
    unknown = [name for name in model.state_dict() if not names.is_known(name)]
    if unknown:
        yield f"{', '.join(unknown[:3])}, which a plain vision transformer has not"
    if getattr(model, "cls_token", None) is None:
        yield "no cls token"
    if not len(model.blocks):
        yield "no blocks"
    heads = {block.attn.num_heads for block in model.blocks}
    norms = [model.norm, *(norm for block in model.blocks for norm in (block.norm1, block.norm2))]
    epsilons = {norm.eps for norm in norms if hasattr(norm, "eps")}
    for what, found in (("numbers of heads", heads), ("epsilons in its norms", epsilons)):
        if len(found) > 1:
            yield f"several {what} ({', '.join(map(str, sorted(found)))})"
