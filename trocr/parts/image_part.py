"""The encoder from an image model: timm's ViT, DeiT and BEiT, or the encoder of a checkpoint.

Source: arXiv:2109.10282 sec. 2.3 (encoders start from DeiT and BEiT).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trocr.checkpoint import choose_table
from trocr.config import DeiTConfig, VisionEncoderDecoderConfig, ViTConfig
from trocr.config_read import ConfigError, read_json
from trocr.hub import MODEL_FILES, locate
from trocr.models import ENCODERS, VisionEncoderDecoderModel, ViTModel
from trocr.parts.report import PartsError, plan_tensors
from trocr.parts.timm_structure import check_structure
from weights_conversion import timm as names
from weights_conversion.files import open_weights
from weights_conversion.rename import Table

TIMM = "timm:"


@dataclass(frozen=True, kw_only=True)
class ImagePart:
    """An encoder's configuration and weights, by our names.

    Attributes:
        origin: where it is from, for the report.
        config: of the encoder; its image size is the source's.
        weights: our name -> tensor.
        sources: our name -> names of the tensors that it was made of, as the source has them; empty for a
            new one.
        notes: our name -> what was done, where it is no plain copy.
        left_out: (the source's name, reason).
        losses: why the encoder does not compute what the source computes; empty where it does.
    """

    origin: str
    config: ViTConfig
    weights: Mapping[str, Tensor]
    sources: Mapping[str, tuple[str, ...]]
    notes: Mapping[str, str]
    left_out: tuple[tuple[str, str], ...]
    losses: tuple[str, ...] = ()

    @property
    def is_exact(self) -> bool:
        """Whether the encoder computes what the source computes."""
        return not self.losses


def load_image_part(source: str, *, weights: Path | None = None) -> ImagePart:
    """Load an encoder.

    Args:
        source: "timm:NAME", whose weights timm fetches, or a checkpoint: folder, shipped name or Hub id of a
            ViT, a DeiT or a TrOCR in the Hugging Face layout.
        weights: for "timm:NAME": a file with its state dict, instead of fetching it.
    Raises:
        PartsError: timm has no such model, it is no plain vision transformer, or the file is not its.
        HubError: the files are neither here nor reachable.
    """
    if source.startswith(TIMM):
        return _from_timm(source.removeprefix(TIMM), weights)
    if weights is not None:
        raise PartsError(f"a file of weights is for an encoder of timm ({TIMM}NAME); {source} has its own")
    return _from_checkpoint(source)


def _from_checkpoint(source: str) -> ImagePart:
    folder = locate(source, want=MODEL_FILES)
    try:
        kind = read_json(folder / "config.json").get("model_type")
    except ConfigError as error:
        raise PartsError(str(error)) from error
    is_whole = kind == VisionEncoderDecoderConfig.model_type
    if not is_whole and kind not in ENCODERS:
        raise PartsError(
            f"{source}: model_type is {kind!r}, expected {', '.join(ENCODERS)} or "
            f"{VisionEncoderDecoderConfig.model_type}; BEiT can be had from timm (timm:NAME)"
        )
    model = VisionEncoderDecoderModel if is_whole else ENCODERS[str(kind)]
    loaded = model.from_pretrained(folder, dtype=torch.float32)
    encoder = loaded.encoder if isinstance(loaded, VisionEncoderDecoderModel) else loaded
    if not isinstance(encoder, ViTModel):
        raise PartsError(
            f"{source}: its encoder is a {type(encoder).__name__}; a decoder is put to a ViT or DeiT here, "
            "to others by `trocr surgery replace-decoder`"
        )
    with open_weights(folder) as file:
        table = choose_table(list(file.shapes), model.tables)
        sources, left_out = _names_in_file(list(file.shapes), table, "encoder." if is_whole else "")
    return ImagePart(
        origin=source,
        config=encoder.config,
        weights={n: p.detach() for n, p in encoder.named_parameters() if n in sources},
        sources=sources,
        notes={},
        left_out=left_out,
    )


def _names_in_file(
    found: Sequence[str], table: Table, prefix: str
) -> tuple[dict[str, tuple[str, ...]], tuple[tuple[str, str], ...]]:
    """Names of an encoder's parameters -> the file's names; the others of the file, with the reason."""
    sources: dict[str, tuple[str, ...]] = {}
    left_out = []
    targets = table.forward(found)
    for name in found:
        ours = [target for target in targets.get(name, ()) if target.startswith(prefix)]
        if not ours:
            ignored = next((table.ignored[stem] for stem in table.matches(name) if stem in table.ignored), "")
            left_out.append((name, ignored or "not of the encoder"))
        elif ours[0].startswith(f"{prefix}pooler."):
            left_out.append((name, "the pooler of the first token"))
        else:
            sources |= {target.removeprefix(prefix): (name,) for target in ours}
    return sources, tuple(left_out)


def _from_timm(name: str, weights: Path | None) -> ImagePart:
    import timm

    if name.split(".")[0] not in timm.list_models():
        raise PartsError(f"timm has no model {name!r}; see timm.list_models('*vit*')")
    try:
        model = timm.create_model(name, pretrained=False)
    except RuntimeError as error:  # there is no such tag
        raise PartsError(f"timm:{name}: {error}; see timm.list_pretrained({name.split('.')[0]!r})") from error
    check_structure(model, f"timm:{name}")
    if weights is None:
        return from_timm_model(_fetch(name), origin=f"timm {name}")
    with open_weights(weights) as file:
        state = {key: file.tensor(key) for key in file.shapes}
    _check_state(state, model, f"{weights}: not the weights of {name}")
    return from_timm_model(model, state=state, origin=f"timm {name}, {weights}")


def _fetch(name: str) -> Any:
    import timm
    from huggingface_hub.errors import HfHubHTTPError

    # Which client the library uses, and so what it raises, depends on its release.
    failures: tuple[type[Exception], ...] = (OSError, RuntimeError, *HfHubHTTPError.__bases__)
    try:
        return timm.create_model(name, pretrained=True)
    except failures as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise PartsError(
            f"timm:{name}: its weights cannot be fetched ({reason}); give a file of them (--encoder-weights)"
        ) from error


def _check_state(state: Mapping[str, Tensor], model: Any, complaint: str) -> None:
    """Compare a file with the named architecture.

    Raises:
        PartsError: tensors are missing, of another shape, or there are some that the architecture has not and
            the encoder would need.
    """
    wanted = {key: tuple(value.shape) for key, value in model.state_dict().items() if _is_needed(key)}
    lacking = [key for key in wanted if key not in state]
    extra = [key for key in state if key not in wanted and _is_needed(key)]
    other = [
        f"{key} is {tuple(state[key].shape)} instead of {shape}"
        for key, shape in wanted.items()
        if key in state and tuple(state[key].shape) != shape
    ]
    for found, what in ((lacking, "missing"), (extra, "there, and the model has none"), (other, "")):
        if found:
            more = f" and {len(found) - 3} more" if len(found) > 3 else ""
            raise PartsError(f"{complaint}: {', '.join(found[:3])}{more} {what and f'are {what}'}".rstrip())


def _is_needed(name: str) -> bool:
    return name.endswith(names.RELATIVE) or not names.reason_to_leave(name)


def from_timm_model(
    model: Any, *, state: Mapping[str, Tensor] | None = None, origin: str = "a timm model"
) -> ImagePart:
    """Take an encoder out of a timm model.

    Args:
        model: a VisionTransformer, VisionTransformerDistilled or Beit.
        state: its tensors; None takes those that it holds.
        origin: for the report.
    Raises:
        PartsError: it is no plain vision transformer.
    """
    check_structure(model, origin)
    state = model.state_dict() if state is None else state
    plain = names.plain(
        {name: tensor.detach().float() for name, tensor in state.items()},
        num_patches=model.patch_embed.num_patches,
    )
    block = model.blocks[0]
    config = (DeiTConfig if "dist_token" in plain.tensors else ViTConfig)(
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
    with torch.device("meta"):
        skeleton = ENCODERS[config.model_type](config, add_pooling_layer=False)
    expected = {
        name: tuple(parameter.shape)
        for name, parameter in skeleton.named_parameters()
        if "norm.weight" in plain.tensors or not name.startswith("norm.")
    }
    plan = plan_tensors(names.TIMM, plain.tensors, expected, origin)
    origins = {move.target: plain.origin(move.source, move.part) for move in plan.items}
    return ImagePart(
        origin=origin,
        config=config,
        weights={move.target: move.take(plain.tensors[move.source]) for move in plan.items},
        sources={target: found.names for target, found in origins.items()},
        notes={target: found.note for target, found in origins.items() if found.note},
        left_out=plain.left_out,
        losses=plain.losses,
    )
