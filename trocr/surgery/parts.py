"""Put another encoder or another decoder into a model.

Source: arXiv:2109.10282 sec. 2.3 (parts of other models with new attention between them);
`VisionEncoderDecoderModel` of `transformers` 5.23 for the projection between widths; timm 1.0 for backbones.
"""

import dataclasses
from collections.abc import Container, Iterator, Mapping, Sequence
from os import PathLike
from typing import Any, cast

import torch
from torch import nn

from trocr.config import VisionEncoderDecoderConfig
from trocr.config_read import ConfigError
from trocr.image import ImageProcessor
from trocr.models import TrOCRForCausalLM, VisionEncoderDecoderModel, ViTModel
from trocr.nn.attention import Attention, set_attention
from trocr.processor import TrOCRProcessor
from trocr.surgery.blocks import forget_adapter, refuse_adapter
from trocr.surgery.memory import MemoryPlan, check_decoder, make_projection, plan_memory, read_memory
from trocr.surgery.pairing import expect_processor
from trocr.surgery.part_sources import (
    TIMM,
    EncoderSource,
    encoder_of_checkpoint,
    encoder_of_module,
    encoder_of_timm,
    load_decoder,
)
from trocr.surgery.patterns import SurgeryError
from trocr.surgery.report import Action, Change, SurgeryReport, report
from trocr.timm_model import TimmModel
from trocr.tokenizers import Tokenizer


def replace_encoder(
    model: VisionEncoderDecoderModel,
    encoder: str | PathLike[str] | ViTModel | TimmModel,
    *,
    processor: TrOCRProcessor,
    pretrained: bool = False,
    weights: str | PathLike[str] | None = None,
    image_size: Sequence[int] | None = None,
    projection: bool = False,
    positions: str | None = None,
    model_args: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> SurgeryReport:
    """Put another encoder into a model, in place; the processor follows it.

    Where cross-attention reads as many features as the new encoder gives, its weights stay; else its layers
    for keys and values are new, unless a projection between the two keeps them. A decoder whose
    `cross_attention_hidden_size` is null has such a projection always. The new encoder trains as it comes,
    whatever was frozen in the old one.

    Args:
        model: its decoder stays.
        encoder: "timm:NAME"; a folder, shipped name or Hub id of a TrOCR, ViT, DeiT or `TimmModel`, whose
            encoder is taken; or such a module, which becomes part of the model.
        processor: of the model. It gets the image processor of the encoder's checkpoint, or the size and the
            normalisation that timm tells; for a module the size only.
        pretrained: for "timm:NAME": let timm fetch weights; else they are random.
        weights: for "timm:NAME": a file with timm's weights. A tag in the name says of which kind.
        image_size: (height, width) in pixels. None is the encoder's own size; for "timm:NAME" that of the
            images that the model reads now.
        projection: keep cross-attention as it is, by a new linear layer before it that leads to the decoder's
            width. Where cross-attention reads fewer features than that, its weights get columns of zeros.
        positions: for "timm:NAME": "learned" adds a table of positions to the features, "none" does not; None
            adds one to maps of features, which tell of their place by padding at most.
        model_args: for "timm:NAME": arguments of `timm.create_model`, such as {"depth": 6}, or how features
            are taken, such as {"features_only": True, "out_indices": [2]} for an early stage; see
            `trocr.timm_backbone`.
        seed: of new parameters.
    Returns:
        The report; numbers: `states` that the encoder gives for an image.
    Raises:
        SurgeryError: the encoder cannot be had or made, or does not fit; a model or a part with an adapter.
        HubError: files are neither here nor reachable.
    """
    refuse_adapter(model)
    expect_processor(processor)
    check_decoder(model.decoder)
    timm_only = {
        "pretrained": pretrained,
        "weights": weights,
        "positions": positions,
        "model_args": model_args,
    }
    _check_options(encoder, timm_only)
    image_hw = _pair(image_size)
    images, tokenizer = processor.image_processor, processor.tokenizer
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if isinstance(encoder, nn.Module):
            refuse_adapter(encoder)
            if isinstance(encoder, ViTModel | TimmModel):  # before its images are resized
                _plan_encoder(model, encoder, images, projection=projection)
            source = encoder_of_module(encoder, images, tokenizer, image_hw)
        elif isinstance(encoder, str) and encoder.startswith(TIMM):
            source = encoder_of_timm(
                encoder.removeprefix(TIMM),
                images,
                image_hw=image_hw or model.config.encoder.image_hw,
                pretrained=pretrained,
                weights=weights,
                model_args=model_args or {},
                positions=positions,
            )
        else:
            source = encoder_of_checkpoint(encoder, images, tokenizer, image_hw)
        return _put_encoder(model, source, processor, projection=projection)


def _check_options(encoder: object, timm_only: Mapping[str, Any]) -> None:
    given = [name for name, value in timm_only.items() if value]
    is_timm = isinstance(encoder, str) and encoder.startswith(TIMM)
    if given and not is_timm:
        raise SurgeryError(
            f"{' and '.join(given)} can be given for timm:NAME only, the encoder is {encoder!r}"
        )
    if not isinstance(encoder, str | PathLike | nn.Module):
        raise SurgeryError(f"encoder is {encoder!r}, expected timm:NAME, a checkpoint or a module")


def _pair(image_size: Any) -> tuple[int, int] | None:
    if image_size is None:
        return None
    is_pair = isinstance(image_size, Sequence) and not isinstance(image_size, str) and len(image_size) == 2
    if not is_pair or any(type(number) is not int or number < 1 for number in image_size):
        raise SurgeryError(f"image_size={image_size!r}, expected (height, width) in pixels")
    return image_size[0], image_size[1]


def _put_encoder(
    model: VisionEncoderDecoderModel, source: EncoderSource, processor: TrOCRProcessor, *, projection: bool
) -> SurgeryReport:
    module, old = source.module, cast(ViTModel | TimmModel, model.encoder)
    plan = _plan_encoder(model, module, source.images, projection=projection)
    decoder = dataclasses.replace(
        model.config.decoder, cross_attention_hidden_size=plan.cross_attention_hidden_size
    )
    config = dataclasses.replace(model.config, encoder=module.config, decoder=decoder)
    notes = [*source.notes, *_follow_flags(module, old, model)]
    like = next(old.parameters())
    before = _shapes(old)
    model.encoder = module.to(like.device, like.dtype)
    changes = [
        *_described("encoder", module, before, source.origin, new=source.new, details=source.details),
        *_connect(model, plan, std=module.config.initializer_range),
    ]
    model.config = config
    processor.image_processor = source.images
    notes += forget_adapter(model)
    return report("replace_encoder", model, changes, numbers={"states": _count_states(module)}, notes=notes)


def _plan_encoder(
    model: VisionEncoderDecoderModel,
    module: ViTModel | TimmModel,
    images: ImageProcessor,
    *,
    projection: bool,
) -> MemoryPlan:
    """Decide how the decoder reads an encoder.

    Raises:
        SurgeryError: it cannot, or the processor makes other channels.
    """
    wanted, made = module.config.num_channels, images.num_channels
    if wanted != made:
        raise SurgeryError(f"the encoder takes images of {wanted} channels, the processor makes {made}")
    return plan_memory(model.config.decoder, encoder_width=module.config.hidden_size, projection=projection)


def _count_states(encoder: ViTModel | TimmModel) -> int:
    if isinstance(encoder, TimmModel):
        return encoder.num_states
    return encoder.config.num_patches + encoder.config.num_prefix_tokens


def _shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}


def _described(
    part: str,
    module: nn.Module,
    before: Mapping[str, tuple[int, ...]],
    origin: str,
    *,
    new: Container[str] = (),
    details: Mapping[str, str] | None = None,
) -> Iterator[Change]:
    """What became of each parameter of a part that was replaced as a whole."""
    shapes = _shapes(module)
    for name, shape in shapes.items():
        done = (details or {}).get(name, "")
        action: Action = "new" if name in new else "resampled" if done else "carried"
        old = before.get(name)
        yield Change(
            name=f"{part}.{name}",
            action=action,
            shape=shape,
            before=old if old != shape else None,
            detail=f"{origin}{f', {done}' if done else ''}",
        )
    for name, shape in before.items():
        if name not in shapes:
            yield Change(name=f"{part}.{name}", action="removed", shape=shape)


def _connect(model: VisionEncoderDecoderModel, plan: MemoryPlan, *, std: float) -> list[Change]:
    """Let the decoder read the encoder: what is between them, and its projections of keys and values."""
    like = next(model.decoder.parameters())
    model.enc_to_dec_proj, changes = make_projection(model.enc_to_dec_proj, plan, like=like, std=std)
    init_std = cast(TrOCRForCausalLM, model.decoder).config.init_std
    return [*changes, *read_memory(model.decoder, plan, std=init_std)]


def _follow_flags(
    new: ViTModel | TimmModel | TrOCRForCausalLM,
    old: ViTModel | TimmModel | TrOCRForCausalLM,
    model: VisionEncoderDecoderModel,
) -> list[str]:
    """Give a part the mode, attention core and checkpointing of the one that it replaces; returns notes."""
    new.train(model.training)
    cores = [part.core for part in model.modules() if isinstance(part, Attention)]
    if cores and not isinstance(new, TimmModel):
        set_attention(new, cores[0])
    try:
        new.gradient_checkpointing = old.gradient_checkpointing
    except ValueError as error:
        return [str(error)]
    return []


def replace_decoder(
    model: VisionEncoderDecoderModel,
    decoder: str | PathLike[str] | TrOCRForCausalLM,
    *,
    processor: TrOCRProcessor,
    tokenizer: Tokenizer | str | PathLike[str] | None = None,
    projection: bool = False,
    seed: int = 0,
) -> SurgeryReport:
    """Put another decoder with its tokenizer into a model, in place.

    Cross-attention is treated as in `replace_encoder`.

    Args:
        model: its encoder stays. It gets the token ids and the generation settings of the decoder's.
        decoder: a folder, shipped name or Hub id of a TrOCR or of a `TrOCRForCausalLM`; or such a module,
            which becomes part of the model.
        processor: of the model; its tokenizer is replaced.
        tokenizer: or where its files are; None looks where the decoder is.
        projection: see `replace_encoder`.
        seed: of new parameters.
    Returns:
        The report; numbers: `vocab_size` of the new decoder.
    Raises:
        SurgeryError: the decoder cannot be had or does not fit, or its tokenizer is not its; a model or a
            part with an adapter.
        HubError: files are neither here nor reachable.
    """
    refuse_adapter(model)
    expect_processor(processor)
    if isinstance(decoder, nn.Module):
        refuse_adapter(decoder)
    elif not isinstance(decoder, str | PathLike):
        raise SurgeryError(f"decoder is {decoder!r}, expected a checkpoint or a TrOCRForCausalLM")
    source = load_decoder(decoder, tokenizer)
    module, old = source.module, cast(TrOCRForCausalLM, model.decoder)
    check_decoder(module)
    _check_tokenizer(source.tokenizer, module.config.vocab_size, source.ids)
    encoder = model.config.encoder
    plan = plan_memory(module.config, encoder_width=encoder.hidden_size, projection=projection)
    part = dataclasses.replace(
        module.config,
        is_decoder=True,
        add_cross_attention=True,
        cross_attention_hidden_size=plan.cross_attention_hidden_size,
    )
    try:
        config = VisionEncoderDecoderConfig(
            encoder=encoder, decoder=part, dtype=model.config.dtype, **source.ids
        )
    except ConfigError as error:
        raise SurgeryError(f"{source.origin}: {error}") from error
    notes = _follow_flags(module, old, model)
    like, before = next(old.parameters()), _shapes(old)
    model.decoder = module.to(like.device, like.dtype)
    module.tie_weights()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        changes = [
            *_described("decoder", module, before, source.origin),
            *_connect(model, plan, std=encoder.initializer_range),
        ]
    model.config = config
    model.generation_config = source.generation
    processor.tokenizer = source.tokenizer
    notes += forget_adapter(model)
    numbers = {"vocab_size": float(part.vocab_size)}
    return report("replace_decoder", model, _last_of(changes), numbers=numbers, notes=notes)


def _last_of(changes: Sequence[Change]) -> list[Change]:
    """One change for a parameter: what was done last."""
    return list({change.name: change for change in changes}.values())


def _check_tokenizer(tokenizer: Tokenizer, vocab_size: int, ids: Mapping[str, Any]) -> None:
    problems = []
    if len(tokenizer) > vocab_size:
        problems.append(f"it has {len(tokenizer)} tokens, the decoder {vocab_size} rows")
    for name in ("pad_token_id", "eos_token_id"):
        found, wanted = getattr(tokenizer, name), ids[name]
        ends = wanted if isinstance(wanted, tuple) else (wanted,)
        if found is not None and wanted is not None and found not in ends:
            problems.append(f"its {name} is {found}, the decoder's {wanted}")
    if problems:
        raise SurgeryError(
            f"the {type(tokenizer).__name__} is not the decoder's: {'; '.join(problems)}; give the one "
            "that it was trained with"
        )
