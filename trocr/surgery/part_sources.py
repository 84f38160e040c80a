"""Where another encoder or decoder comes from: a checkpoint, timm, or a model that is loaded already.

Source: original work.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from trocr.config import TrOCRConfig, VisionEncoderDecoderConfig
from trocr.config_read import ConfigError, read_json
from trocr.config_timm import TimmConfig
from trocr.generation import GenerationConfig
from trocr.hub import MODEL_FILES, PROCESSOR_FILES, locate
from trocr.image import ImageError, ImageProcessor, load_image_processor
from trocr.models import ENCODERS, TrOCRForCausalLM, VisionEncoderDecoderModel, ViTModel
from trocr.processor import TrOCRProcessor
from trocr.surgery.image_shape import resize_images
from trocr.surgery.patterns import SurgeryError
from trocr.timm_backbone import BackboneError, choose_arguments, create_backbone
from trocr.timm_model import TimmModel
from trocr.tokenizers import Tokenizer, load_tokenizer
from weights_conversion.files import open_weights

TIMM = "timm:"
ADDED = ("positions.weight",)
"""Parameters that no backbone of timm has."""

_WRAPPED = "timm_model."


@dataclass(frozen=True, kw_only=True)
class EncoderSource:
    """An encoder that is to be put into a model.

    Attributes:
        module: the encoder.
        origin: where it is from, in words.
        images: image processor that goes with it.
        new: parameters with random values.
        details: parameter -> what was done to it.
        notes: what else one must know.
    """

    module: ViTModel | TimmModel
    origin: str
    images: ImageProcessor
    new: frozenset[str] = frozenset()
    details: Mapping[str, str] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class DecoderSource:
    """A decoder that is to be put into a model.

    Attributes:
        module: the decoder.
        origin: where it is from, in words.
        tokenizer: of it.
        ids: token ids of its model: start, padding, end, begin.
        generation: its generation settings.
    """

    module: TrOCRForCausalLM
    origin: str
    tokenizer: Tokenizer
    ids: Mapping[str, Any]
    generation: GenerationConfig


def encoder_of_module(
    module: Any, images: ImageProcessor, tokenizer: Tokenizer, image_hw: tuple[int, int] | None
) -> EncoderSource:
    """Take an encoder that is loaded already, for images of its size or another.

    Raises:
        SurgeryError: it is none of this library, or a timm backbone that is made for another size.
    """
    if not isinstance(module, ViTModel | TimmModel):
        raise SurgeryError(
            f"encoder is a {type(module).__name__}, expected a ViTModel, DeiTModel or TimmModel of trocr, "
            '"timm:NAME", or where a checkpoint is'
        )
    origin = f"a {type(module).__name__}"
    return _resized(module, origin, images, tokenizer, image_hw or module.config.image_hw)


def encoder_of_checkpoint(
    source: str | PathLike[str],
    images: ImageProcessor,
    tokenizer: Tokenizer,
    image_hw: tuple[int, int] | None,
) -> EncoderSource:
    """Load the encoder of a checkpoint with its image processor.

    Args:
        source: folder, shipped name or Hub id of a TrOCR, ViT, DeiT or `TimmModel`.
        images: taken where the checkpoint has no image processor.
        tokenizer: any.
        image_hw: (height, width) in pixels, or None for the checkpoint's.
    Raises:
        HubError: the files are neither here nor reachable.
        SurgeryError: they are of another kind of model, or damaged, or the size does not fit.
    """
    folder = locate(source, want=(*MODEL_FILES, *PROCESSOR_FILES))
    try:
        module = _load_encoder(folder)
    except ValueError as error:
        raise SurgeryError(f"{fspath(source)}: {error}") from error
    notes: tuple[str, ...] = ()
    try:
        images = load_image_processor(folder)
    except ImageError as error:
        notes = (f"the image processor stays, but for the size of images: {error}",)
    found = _resized(module, fspath(source), images, tokenizer, image_hw or module.config.image_hw)
    return dataclasses.replace(found, notes=notes)


def _load_encoder(folder: Path) -> ViTModel | TimmModel:
    kind = read_json(folder / "config.json").get("model_type")
    if kind == VisionEncoderDecoderConfig.model_type:
        return cast(ViTModel | TimmModel, VisionEncoderDecoderModel.from_pretrained(folder).encoder)
    if kind == TimmConfig.model_type:
        return TimmModel.from_pretrained(folder)
    if kind not in ENCODERS:
        known = ", ".join((VisionEncoderDecoderConfig.model_type, *ENCODERS, TimmConfig.model_type))
        raise ConfigError(f"model_type is {kind!r}, expected one of {known}; a model of timm is timm:NAME")
    return ENCODERS[str(kind)].from_pretrained(folder)


def _resized(
    module: ViTModel | TimmModel,
    origin: str,
    images: ImageProcessor,
    tokenizer: Tokenizer,
    image_hw: tuple[int, int],
) -> EncoderSource:
    """Let an encoder take images of a size, and make the settings of a processor for it."""
    images = set_images(images, image_hw)
    details: dict[str, str] = {}
    if image_hw != module.config.image_hw:
        if isinstance(module, TimmModel):
            height, width = module.config.image_hw
            raise SurgeryError(
                f"{origin} is a timm backbone for images of {height} x {width} pixels (height x width), "
                "which cannot be changed; make it anew with timm:NAME, and weights of a file where it has any"
            )
        tiny = TrOCRConfig(
            vocab_size=4,
            d_model=4,
            decoder_layers=0,
            decoder_attention_heads=1,
            decoder_ffn_dim=1,
            max_position_embeddings=1,
        )
        pair = VisionEncoderDecoderModel(encoder=module, decoder=TrOCRForCausalLM(tiny))
        done = resize_images(pair, processor=TrOCRProcessor(images, tokenizer), image_size=image_hw)
        details = {change.name.removeprefix("encoder."): change.detail for change in done.changes}
    return EncoderSource(module=module, origin=origin, images=images, details=details)


def set_images(images: ImageProcessor, image_hw: tuple[int, int], **settings: Any) -> ImageProcessor:
    """Copy an image processor, for images of another size and with other settings."""
    size = {"height": image_hw[0], "width": image_hw[1]}
    if images.do_center_crop:
        settings["crop_size"] = size
    return dataclasses.replace(images, size=size, **settings)


def encoder_of_timm(
    name: str,
    images: ImageProcessor,
    *,
    image_hw: tuple[int, int],
    pretrained: bool,
    weights: str | PathLike[str] | None,
    model_args: Mapping[str, Any],
    positions: str | None,
) -> EncoderSource:
    """Make a backbone of timm for images of a size.

    Args:
        name: of timm, with a tag where weights are wanted.
        images: what is kept of it are all settings but size and normalisation, which timm tells.
        image_hw: (height, width) in pixels.
        pretrained: let timm fetch weights.
        weights: a file with timm's weights, instead.
        model_args: what the backbone is made with; see `choose_arguments`.
        positions: "learned", "none", or None: learned for a map of features.
    Raises:
        SurgeryError: timm cannot make it so, or the file is not of it.
    """
    if weights is not None and pretrained:
        raise SurgeryError(
            "pretrained and weights exclude each other: weights are fetched, or read from a file"
        )
    architecture, channels = name.partition(".")[0], images.num_channels
    try:
        arguments, states, unused = choose_arguments(
            architecture, model_args, image_hw=image_hw, channels=channels
        )
        config = TimmConfig(
            architecture=architecture,
            hidden_size=states.width,
            image_size=image_hw,
            num_channels=channels,
            model_args=arguments,
            position_embeddings=positions or ("learned" if states.is_map else "none"),
        )
        if weights is not None:
            backbone = _from_file(name, config, weights)
        else:
            backbone = create_backbone(
                name if pretrained else architecture, config.model_args, pretrained=pretrained
            )
    except (BackboneError, ConfigError) as error:
        raise SurgeryError(str(error)) from error
    module = TimmModel(config, backbone=backbone)
    for unneeded in unused:
        module.backbone.get_parameter(unneeded).requires_grad_(False)
    notes = [f"frozen, as the features do not need them: {', '.join(unused)}"] if unused else []
    if states.count == 1:
        notes.append("the backbone gives one state for an image, which is too little to read lines from")
    is_random = not pretrained and weights is None
    how = f", weights of {fspath(weights)}" if weights is not None else ""
    return EncoderSource(
        module=module,
        origin=f"timm {name}{how or (', weights of timm' if pretrained else '')}",
        images=set_images(images, image_hw, **_normalisation(backbone, channels)),
        new=frozenset(name for name, _ in module.named_parameters() if is_random or name in ADDED),
        notes=tuple(notes),
    )


def _normalisation(backbone: Any, channels: int) -> dict[str, Any]:
    """Settings of a processor from what timm says of a backbone's pixels; grey takes the colours' means."""
    told = getattr(backbone, "pretrained_cfg", None) or {}
    found = {}
    for name, ours in (("mean", "image_mean"), ("std", "image_std")):
        values = [float(value) for value in told.get(name) or (0.5,)]
        if len(values) != channels:
            values = [sum(values) / len(values)] * channels
        found[ours] = values
    return found


def _from_file(name: str, config: TimmConfig, weights: str | PathLike[str]) -> Any:
    """Make a backbone with the weights of a file, which timm fits to the size and channels of images."""
    import timm

    try:
        with open_weights(Path(weights)) as file:
            state = {key: file.tensor(key).clone() for key in file.shapes}
    except ValueError as error:
        raise SurgeryError(str(error)) from error
    told = timm.get_pretrained_cfg(config.architecture, allow_unregistered=True)
    state = _without_head(state, getattr(told, "classifier", None))
    with torch.device("meta"):
        wanted = create_backbone(config.architecture, config.model_args).state_dict()
    for leaf, start in (("weight", torch.ones), ("bias", torch.zeros)):
        pooled = state.get(f"fc_norm.{leaf}")  # of models that pool: another norm than that of states
        if pooled is not None and f"fc_norm.{leaf}" not in wanted:
            del state[f"fc_norm.{leaf}"]
            if f"norm.{leaf}" in wanted:
                state.setdefault(f"norm.{leaf}", start(pooled.shape))
    try:
        backbone = create_backbone(
            name,
            config.model_args,
            pretrained=True,
            pretrained_cfg_overlay={"state_dict": state, "num_classes": 0},  # 0: all names must fit
        )
    except BackboneError as error:
        reason = " ".join(str(error.__cause__).split())
        raise SurgeryError(
            f"{fspath(weights)}: not weights of {config.architecture} in timm's format ({reason})"
        ) from error
    backbone.pretrained_cfg.pop("state_dict", None)
    return backbone


def _without_head(state: dict[str, Tensor], classifier: Any) -> dict[str, Tensor]:
    """Weights without the classifier's, by timm's names also where a file of `transformers` has a prefix."""
    if all(name.startswith(_WRAPPED) for name in state):
        state = {name.removeprefix(_WRAPPED): tensor for name, tensor in state.items()}
    heads = (classifier,) if isinstance(classifier, str) else tuple(classifier or ())
    return {name: tensor for name, tensor in state.items() if name.rpartition(".")[0] not in heads}


def load_decoder(
    source: str | PathLike[str] | TrOCRForCausalLM, tokenizer: Tokenizer | str | PathLike[str] | None
) -> DecoderSource:
    """Load a decoder with its tokenizer.

    Args:
        source: folder, shipped name or Hub id of a TrOCR or a `TrOCRForCausalLM`; or such a module.
        tokenizer: or where its files are; None looks where the decoder is.
    Raises:
        HubError: the files are neither here nor reachable.
        SurgeryError: they are of another kind of model or damaged, or there is no tokenizer.
    """
    if tokenizer is None:
        if isinstance(source, TrOCRForCausalLM):
            raise SurgeryError("a decoder that is loaded already needs tokenizer=")
        tokenizer = source
    origin = f"a {type(source).__name__}" if isinstance(source, TrOCRForCausalLM) else fspath(source)
    try:
        if not isinstance(tokenizer, Tokenizer):
            tokenizer = load_tokenizer(locate(tokenizer, want=PROCESSOR_FILES))
        owner = source if isinstance(source, TrOCRForCausalLM) else _load_decoder(source)
    except (ValueError, TypeError) as error:
        raise SurgeryError(f"{origin}: {error}") from error
    names = ("decoder_start_token_id", "pad_token_id", "eos_token_id", "bos_token_id")
    return DecoderSource(
        module=owner if isinstance(owner, TrOCRForCausalLM) else cast(TrOCRForCausalLM, owner.decoder),
        origin=origin,
        tokenizer=tokenizer,
        ids={name: getattr(owner.config, name) for name in names},
        generation=owner.generation_config,
    )


def _load_decoder(source: str | PathLike[str]) -> TrOCRForCausalLM | VisionEncoderDecoderModel:
    folder = locate(source)
    kind = read_json(folder / "config.json").get("model_type")
    if kind == VisionEncoderDecoderConfig.model_type:
        return VisionEncoderDecoderModel.from_pretrained(folder)
    if kind != TrOCRConfig.model_type:
        raise ConfigError(
            f"model_type is {kind!r}, expected {VisionEncoderDecoderConfig.model_type} or "
            f"{TrOCRConfig.model_type}; `trocr assemble` makes a decoder of a BERT or RoBERTa"
        )
    return TrOCRForCausalLM.from_pretrained(folder)
