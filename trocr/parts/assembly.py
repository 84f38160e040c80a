"""Put an encoder and a decoder together into a model that can be trained.

Source: arXiv:2109.10282 sec. 2.3; `VisionEncoderDecoderModel.from_encoder_decoder_pretrained` of transformers
does the same for whole models, and leaves the report to the reader.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trocr.config import TrOCRConfig, VisionEncoderDecoderConfig
from trocr.image import DeiTImageProcessor, ViTImageProcessor
from trocr.models import VisionEncoderDecoderModel
from trocr.parts.image_part import ImagePart, load_image_part
from trocr.parts.report import PartsError, PartsReport, Taken
from trocr.parts.text_part import DECODER_EPS, TextPart, load_text_part
from trocr.processor import TrOCRProcessor
from trocr.surgery.image_shape import resize_images
from trocr.surgery.patterns import SurgeryError
from trocr.tokenizers import Tokenizer, load_tokenizer


@dataclass(frozen=True, kw_only=True)
class Assembled:
    """A model of parts.

    Attributes:
        model: in training mode, in float32.
        processor: its images and tokens.
        report: where its parameters are from.
    """

    model: VisionEncoderDecoderModel
    processor: TrOCRProcessor
    report: PartsReport

    def save(self, folder: Path) -> None:
        """Write model and processor as a checkpoint in the Hugging Face layout."""
        self.model.save_pretrained(folder)
        self.processor.save_pretrained(folder)


def assemble(
    encoder: str | ImagePart,
    decoder: str | TextPart,
    *,
    tokenizer: str | Tokenizer | None = None,
    layers: str | Sequence[int] = "all",
    image_size: tuple[int, int] | None = None,
    max_positions: int | None = None,
    encoder_weights: Path | None = None,
    seed: int = 0,
) -> Assembled:
    """Make a model of an image model and a text model.

    The decoder's attention to the image is new, and so is what neither source has. The position table follows
    the image size.

    Args:
        encoder: see `load_image_part`; or a part.
        decoder: see `load_text_part`; or a part.
        tokenizer: or where its files are; None looks where the decoder is.
        layers: of the text model; see `load_text_part`.
        image_size: (height, width) in pixels; None is the image model's own.
        max_positions: longest text in tokens; None takes all positions of the text model.
        encoder_weights: see `load_image_part`.
        seed: of new parameters.
    Raises:
        PartsError: parts cannot be read or do not fit one another.
        HubError: files are neither here nor reachable.
    """
    image = load_image_part(encoder, weights=encoder_weights) if isinstance(encoder, str) else encoder
    text = decoder
    if isinstance(text, str):
        text = load_text_part(text, layers=layers, max_positions=max_positions)
    if tokenizer is None:
        if not isinstance(decoder, str):
            raise PartsError("a decoder that is loaded already needs tokenizer=")
        tokenizer = decoder
    if isinstance(tokenizer, str):
        from trocr.hub import PROCESSOR_FILES, locate

        tokenizer = load_tokenizer(locate(tokenizer, want=PROCESSOR_FILES))
    text = dataclasses.replace(text, config=_with_ids(text.config, tokenizer))
    config = VisionEncoderDecoderConfig(
        encoder=image.config,
        decoder=dataclasses.replace(
            text.config,
            is_decoder=True,
            add_cross_attention=True,
            cross_attention_hidden_size=image.config.hidden_size,
        ),
        decoder_start_token_id=text.config.decoder_start_token_id,
        pad_token_id=text.config.pad_token_id,
        eos_token_id=text.config.eos_token_id,
        bos_token_id=text.config.bos_token_id,
    )
    processor = _processor(image, tokenizer)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = VisionEncoderDecoderModel(config)
    longest = text.config.max_position_embeddings - 1
    model.generation_config = model.generation_config.update(max_length=None, max_new_tokens=longest)
    taken = tuple(_fill(model, image, text))
    notes = list(_notes(image, text))
    if image_size is not None and tuple(image_size) != tuple(model.encoder.embeddings.image_hw):
        notes.append(_resize(model, processor, image_size))
        taken = tuple(dataclasses.replace(t, shape=tuple(model.get_parameter(t.name).shape)) for t in taken)
    report = PartsReport(
        encoder=image.origin,
        decoder=text.origin,
        taken=taken,
        left_out={"encoder": image.left_out, "decoder": text.left_out},
        notes=tuple(notes),
    )
    return Assembled(model=model, processor=processor, report=report)


def _with_ids(config: TrOCRConfig, tokenizer: Tokenizer) -> TrOCRConfig:
    """Take special tokens from the tokenizer.

    Raises:
        PartsError: the tokenizer has more tokens than the embedding has rows, or lacks special tokens.
    """
    if len(tokenizer) > config.vocab_size:
        raise PartsError(
            f"the tokenizer has {len(tokenizer)} tokens, the decoder's embedding {config.vocab_size} rows: "
            "they are not of the same model"
        )
    end = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.sep_token_id
    begin = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.cls_token_id
    if end is None or tokenizer.pad_token_id is None or begin is None:
        raise PartsError("the tokenizer lacks a token for the start, the end or padding of texts")
    start = end if tokenizer.eos_token_id is not None else begin
    return dataclasses.replace(
        config,
        decoder_start_token_id=start,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=begin,
        eos_token_id=end,
    )


def _fill(model: VisionEncoderDecoderModel, image: ImagePart, text: TextPart) -> Iterator[Taken]:
    """Copy weights into the model; tells for every parameter where it is from."""
    parts: tuple[tuple[str, ImagePart | TextPart], ...] = (("encoder.", image), ("decoder.", text))
    given: dict[str, tuple[Tensor, tuple[str, ...], str]] = {}
    for prefix, part in parts:
        for name, tensor in part.weights.items():
            given[prefix + name] = (tensor, part.sources[name], part.notes.get(name, ""))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            shape = tuple(parameter.shape)
            if name not in given:
                yield Taken(name=name, shape=shape, note=_how(name))
                continue
            tensor, sources, note = given[name]
            parameter.copy_(tensor)
            yield Taken(name=name, shape=shape, sources=sources, note=note)


def _how(name: str) -> str:
    """How a new parameter was made."""
    if "norm" in name:
        return "ones" if name.endswith("weight") else "zeros"
    return "normal, of the configuration's deviation" if name.endswith("weight") else "zeros"


def _processor(image: ImagePart, tokenizer: Tokenizer) -> TrOCRProcessor:
    channels = image.config.num_channels
    if channels not in (1, 3):
        raise PartsError(f"{image.origin}: its images have {channels} channels, expected 1 (grey) or 3")
    height, width = image.config.image_hw
    options: dict[str, Any] = {
        "size": {"height": height, "width": width},
        "image_mean": [0.5] * channels,
        "image_std": [0.5] * channels,
        "do_convert_rgb": None if channels == 3 else False,
    }
    if image.config.num_prefix_tokens == 1:
        return TrOCRProcessor(ViTImageProcessor(**options), tokenizer)
    return TrOCRProcessor(DeiTImageProcessor(**options, do_center_crop=False), tokenizer)


def _resize(model: VisionEncoderDecoderModel, processor: TrOCRProcessor, size: tuple[int, int]) -> str:
    old = model.encoder.embeddings.image_hw
    try:
        resize_images(model, processor=processor, image_size=size)
    except SurgeryError as error:
        raise PartsError(str(error)) from error
    return (
        f"images of {size[0]} x {size[1]} pixels (height x width) instead of {old[0]} x {old[1]}: the "
        "position table is interpolated"
    )


def _notes(image: ImagePart, text: TextPart) -> Iterator[str]:
    if not image.is_exact:
        yield f"the encoder does not compute what its source computes: {'; '.join(image.losses)}"
    if text.norm_eps != DECODER_EPS:
        yield (
            f"norms of the decoder add {DECODER_EPS:g} to the variance, those of the source "
            f"{text.norm_eps:g}: states differ slightly from the source's"
        )
    yield "pixels are normalised to -1..1, as official models' are, whatever the image model was trained on"
