"""The encoder from an image model: timm's ViT, DeiT and BEiT, or the encoder of a checkpoint.

Source: arXiv:2109.10282 sec. 2.3 (encoders start from DeiT and BEiT).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trocr.config import DeiTConfig, VisionEncoderDecoderConfig, ViTConfig
from trocr.hub import MODEL_FILES, locate
from trocr.models import ENCODERS, VisionEncoderDecoderModel, ViTModel
from trocr.parts.report import PartsError
from weights_conversion import timm as names
from weights_conversion.files import open_weights

TIMM = "timm:"


@dataclass(frozen=True, kw_only=True)
class ImagePart:
    """An encoder's configuration and weights, by our names.

    Attributes:
        origin: where it is from, for the report.
        config: of the encoder; its image size is the source's.
        weights: our name -> tensor.
        sources: our name -> the source's name.
        notes: our name or the source's -> what was done.
        left_out: (the source's name, reason).
        is_exact: whether the encoder computes what the source computes.
    """

    origin: str
    config: ViTConfig
    weights: Mapping[str, Tensor]
    sources: Mapping[str, str]
    notes: Mapping[str, str]
    left_out: tuple[tuple[str, str], ...]
    is_exact: bool = True


def load_image_part(source: str, *, weights: Path | None = None) -> ImagePart:
    """Load an encoder.

    Args:
        source: "timm:NAME", whose weights timm fetches, or a checkpoint: folder, shipped name or Hub id of a
            ViT, a DeiT or a TrOCR in the Hugging Face layout.
        weights: for "timm:NAME": a file with its state dict, instead of fetching it.
    Raises:
        PartsError: timm has no such model, or it is no plain vision transformer.
        HubError: the files are neither here nor reachable.
    """
    if source.startswith(TIMM):
        return _from_timm(source.removeprefix(TIMM), weights)
    model = _from_checkpoint(source)
    weights_by_name = {n: p.detach() for n, p in model.named_parameters() if not n.startswith("pooler.")}
    return ImagePart(
        origin=source,
        config=model.config,
        weights=weights_by_name,
        sources={name: name for name in weights_by_name},
        notes={},
        left_out=(),
    )


def _from_checkpoint(source: str) -> ViTModel:
    folder = locate(source, want=MODEL_FILES)
    kind = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
    if kind == VisionEncoderDecoderConfig.model_type:
        encoder = VisionEncoderDecoderModel.from_pretrained(folder, dtype=torch.float32).encoder
        assert isinstance(encoder, ViTModel)
        return encoder
    if kind not in ENCODERS:
        raise PartsError(
            f"{source}: model_type is {kind!r}, expected {', '.join(ENCODERS)} or "
            f"{VisionEncoderDecoderConfig.model_type}; BEiT can be had from timm (timm:NAME)"
        )
    return ENCODERS[kind].from_pretrained(folder, dtype=torch.float32)


def _from_timm(name: str, weights: Path | None) -> ImagePart:
    import timm

    if name.split(".")[0] not in timm.list_models():
        raise PartsError(f"timm has no model {name!r}; see timm.list_models('*vit*')")
    model = timm.create_model(name, pretrained=weights is None, num_classes=0)
    if weights is not None:
        with open_weights(weights) as file:
            state = {key: file.tensor(key) for key in file.shapes}
        wanted = set(model.state_dict())
        lacking = sorted(wanted - state.keys() - {"fc_norm.weight", "fc_norm.bias"})
        if lacking:
            raise PartsError(f"{weights}: not the weights of {name}: {', '.join(lacking[:3])} are missing")
        model.load_state_dict({key: value for key, value in state.items() if key in wanted})
    return from_timm_model(model, origin=f"timm {name}" + (f", {weights}" if weights else ""))


def from_timm_model(model: Any, *, origin: str = "a timm model") -> ImagePart:
    """Take an encoder out of a timm model.

    Args:
        model: a VisionTransformer, VisionTransformerDistilled or Beit.
        origin: for the report.
    Raises:
        PartsError: it is no plain vision transformer.
    """
    kind = type(model).__name__
    if kind not in ("VisionTransformer", "VisionTransformerDistilled", "Beit"):
        raise PartsError(f"{origin} is a {kind}; expected a ViT, DeiT or BEiT of timm")
    block = model.blocks[0]
    activation = type(getattr(block.mlp, "act", None)).__name__
    if activation != "GELU" or getattr(block.mlp, "gate", None) is not None:
        raise PartsError(f"{origin} has {activation} in its feed-forward part; only GELU can be taken over")
    try:
        plain = names.plain({name: tensor.detach() for name, tensor in model.state_dict().items()})
    except names.ImageModelError as error:
        raise PartsError(f"{origin}: {error}") from error
    is_distilled = "dist_token" in plain.tensors
    if "cls_token" not in plain.tensors:
        raise PartsError(f"{origin} has no cls token; take a model with one")
    config = (DeiTConfig if is_distilled else ViTConfig)(
        hidden_size=model.embed_dim,
        num_hidden_layers=len(model.blocks),
        num_attention_heads=block.attn.num_heads,
        intermediate_size=block.mlp.fc1.out_features,
        layer_norm_eps=block.norm1.eps,
        image_size=tuple(model.patch_embed.img_size),
        patch_size=tuple(model.patch_embed.patch_size),
        num_channels=plain.tensors["patch_embed.proj.weight"].shape[1],
        qkv_bias="blocks.0.attn.qkv.bias" in plain.tensors,
    )
    tensors = dict(plain.tensors)
    if "pos_embed" not in tensors:
        rows = model.patch_embed.num_patches + config.num_prefix_tokens
        tensors["pos_embed"] = tensors["cls_token"].new_zeros((1, rows, config.hidden_size))
    return _renamed(origin, config, tensors, plain)


def _renamed(
    origin: str, config: ViTConfig, tensors: Mapping[str, Tensor], plain: names.PlainImage
) -> ImagePart:
    model = ENCODERS[config.model_type](config, add_pooling_layer=False)
    expected = {
        name: tuple(parameter.shape)
        for name, parameter in model.named_parameters()
        if name in _given(tensors) or not name.startswith("norm.")
    }
    plan = names.TIMM.plan(
        {name: tuple(tensor.shape) for name, tensor in tensors.items()}, expected, origin=origin
    )
    return ImagePart(
        origin=origin,
        config=config,
        weights={move.target: move.take(tensors[move.source]) for move in plan.items},
        sources={move.target: move.source for move in plan.items},
        notes=dict(plain.notes),
        left_out=(*plain.left_out, *plan.ignored),
        is_exact=plain.is_exact and "norm.weight" in tensors,
    )


def _given(tensors: Mapping[str, Tensor]) -> set[str]:
    """The last norm, where the source has one: models that pool by the mean have another instead."""
    return {"norm.weight", "norm.bias"} if "norm.weight" in tensors else set()
