"""What generation starts from: encoder states, and the tokens that every row begins with.

Source: `transformers` 5.23 (`_prepare_decoder_input_ids_for_generation` and
`_prepare_attention_mask_for_generation`).
"""

from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from trocr.config import TrOCRConfig
from trocr.generation.options import GenerationConfig, GenerationError
from trocr.generation.rules import as_ids
from trocr.generation.session import Decoder
from trocr.outputs import BaseModelOutput


class ImageModel(Protocol):
    """What generation asks of a model that reads images; `trocr.models.VisionEncoderDecoderModel` has it."""

    generation_config: GenerationConfig
    decoder: Any

    def encode(self, pixel_values: Tensor, **options: Any) -> BaseModelOutput:
        """Encode images (B, C, height, width)."""

    def memory(self, encoded: BaseModelOutput) -> Tensor:
        """Give what cross-attention reads."""


@dataclass(frozen=True)
class Start:
    """Where rows begin.

    Attributes:
        ids: (B, T) start token and prefix.
        keep_mask: (B, T), 1 = attend, or None where all of it counts.
        memory: (B, S, D) for cross-attention, or None.
        encoded: what the image encoder gave, or None.
    """

    ids: Tensor
    keep_mask: Tensor | None
    memory: Tensor | None
    encoded: BaseModelOutput | None

    @property
    def padding(self) -> Tensor | None:
        """(B,) tokens at the left that do not count, or None."""
        return None if self.keep_mask is None else (self.keep_mask != 0).int().argmax(dim=1)


@dataclass(frozen=True)
class ImageInputs:
    """Inputs of a model that reads images; `read` turns them into a `Start`.

    Attributes:
        pixel_values: (B, C, height, width).
        encoder_outputs: of the same images; goes before `pixel_values`, which only a draft model looks at
            then.
        decoder_input_ids: (B, T) tokens to begin with; the start token goes before them unless a row has it.
        decoder_attention_mask: (B, T), 1 = attend.
        interpolate_pos_encoding: accept other image sizes.
        crop_pos_encoding: accept images without their padding on the right; see `ImageEncoder.forward`.
    """

    pixel_values: Tensor | None = None
    encoder_outputs: Any = None
    decoder_input_ids: Tensor | None = None
    decoder_attention_mask: Tensor | None = None
    interpolate_pos_encoding: bool = False
    crop_pos_encoding: bool = False

    def tokens(self, model: Any, options: GenerationConfig) -> tuple[Tensor, Tensor | None]:
        """Give ids and mask that rows begin with.

        Raises:
            GenerationError: no images, no start token, ids outside the vocabulary, or sizes that do not fit.
        """
        source = self.pixel_values if self.encoder_outputs is None else _encoded(self.encoder_outputs)[0]
        if not isinstance(source, Tensor):
            raise GenerationError(
                f"pixel_values is {type(source).__name__}, expected (images, channels, height, width) as in "
                'processor(images, return_tensors="pt").pixel_values'
            )
        images, device = source.shape[0], source.device
        if source.dim() < 3 or images == 0:
            raise GenerationError(f"pixel_values has shape {tuple(source.shape)}, expected a batch of images")
        start = _start_tokens(options, images, device)
        given = self.decoder_input_ids
        if given is None:
            return start, None
        ids = check_ids("decoder_input_ids", given, model.decoder.config.vocab_size, device)
        if ids.shape[0] != images:
            raise GenerationError(f"decoder_input_ids has {ids.shape[0]} rows, there are {images} images")
        mask = self.decoder_attention_mask
        if ids.shape[1] == 0 or bool((ids[:, :1] != start).all()):
            ids = torch.cat((start, ids), dim=1)
            mask = None if mask is None else torch.cat((torch.ones_like(mask[:, :1]), mask), dim=1)
        return ids, check_mask("decoder_attention_mask", mask, ids)

    def read(
        self, model: ImageModel, options: GenerationConfig, tokens: tuple[Tensor, Tensor | None]
    ) -> Start:
        """Encode the images, if nobody did."""
        if self.encoder_outputs is not None:
            encoded = _encoded(self.encoder_outputs)
        else:
            encoded = self._encode(
                model,
                output_attentions=options.output_attentions is True,
                output_hidden_states=options.output_hidden_states is True,
            )
        return Start(*tokens, memory=model.memory(encoded), encoded=encoded)

    def memory_of(self, other: ImageModel) -> Tensor:
        """Give the memory (B, S', D_mem') that another model makes of the same images."""
        return other.memory(self._encode(other))

    def _encode(self, model: ImageModel, **wanted: bool) -> BaseModelOutput:
        if self.crop_pos_encoding:  # an encoder need not know the word otherwise
            wanted["crop_pos_encoding"] = True
        pixels = cast(Tensor, self.pixel_values)
        return model.encode(pixels, interpolate_pos_encoding=self.interpolate_pos_encoding, **wanted)


@dataclass(frozen=True)
class TextInputs:
    """Inputs of a decoder alone.

    Attributes:
        input_ids: (B, T) tokens to continue; the start token alone where absent.
        attention_mask: (B, T), 1 = attend; where absent, padding does not count.
        encoder_hidden_states: (B, S, D) for cross-attention.
    """

    input_ids: Tensor | None = None
    attention_mask: Tensor | None = None
    encoder_hidden_states: Tensor | None = None

    def tokens(self, model: Any, options: GenerationConfig) -> tuple[Tensor, Tensor | None]:
        """Give ids and mask that rows begin with.

        Raises:
            GenerationError: no start token, ids outside the vocabulary, or sizes that do not fit.
        Differs: without `input_ids`, `transformers` begins with `bos_token_id`; TrOCR is trained to begin
            with `decoder_start_token_id`.
        """
        memory = self.encoder_hidden_states
        device = model.device
        if self.input_ids is None:
            return _start_tokens(options, 1 if memory is None else memory.shape[0], device), None
        ids = check_ids("input_ids", self.input_ids, model.config.vocab_size, device)
        if ids.shape[1] == 0:
            raise GenerationError("input_ids has no tokens; leave it out to begin with the start token")
        if memory is not None and memory.shape[0] != ids.shape[0]:
            raise GenerationError(
                f"encoder_hidden_states has {memory.shape[0]} rows, input_ids {ids.shape[0]}"
            )
        mask, pad = self.attention_mask, options.pad_token_id
        if mask is None and pad is not None and pad not in as_ids(options.eos_token_id):
            mask = (ids != pad).long()
        return ids, check_mask("attention_mask", mask, ids)

    def read(self, model: Any, options: GenerationConfig, tokens: tuple[Tensor, Tensor | None]) -> Start:
        """Give all of it."""
        return Start(*tokens, memory=self.encoder_hidden_states, encoded=None)


def decoder_of(model: Any) -> tuple[Decoder, TrOCRConfig]:
    """Give the decoder of a model, which may be the model itself, and its configuration."""
    decoder = model.decoder if hasattr(model, "encode") else model
    return decoder, decoder.config


def check_ids(name: str, ids: Tensor, vocab_size: int, device: torch.device) -> Tensor:
    """Give (B, T) ids as whole numbers on a device.

    Raises:
        GenerationError: not two dimensions, no rows, or an id outside the vocabulary.
    """
    if not isinstance(ids, Tensor) or ids.dim() != 2 or ids.shape[0] == 0 or ids.is_floating_point():
        found = f"shape {tuple(ids.shape)}, {ids.dtype}" if isinstance(ids, Tensor) else type(ids).__name__
        raise GenerationError(f"{name} is {found}, expected whole numbers of shape (rows, tokens)")
    ids = ids.to(device=device, dtype=torch.long)
    if ids.numel() and not (int(ids.min()) >= 0 and int(ids.max()) < vocab_size):
        raise GenerationError(
            f"{name} has ids from {int(ids.min())} to {int(ids.max())}, the model's vocabulary has ids 0 to "
            f"{vocab_size - 1}; does the tokenizer belong to this model?"
        )
    return ids


def check_mask(name: str, mask: Tensor | None, ids: Tensor) -> Tensor | None:
    """Give a mask on the ids' device, or None where it hides nothing.

    Raises:
        GenerationError: its shape is not that of the ids.
    """
    if mask is None:
        return None
    if mask.shape != ids.shape:
        raise GenerationError(
            f"{name} has shape {tuple(mask.shape)}, expected that of the ids, {tuple(ids.shape)}"
        )
    mask = mask.to(device=ids.device, dtype=torch.long)
    return None if bool((mask != 0).all()) else mask


def _start_tokens(options: GenerationConfig, rows: int, device: torch.device) -> Tensor:
    start = as_ids(options.decoder_start_token_id)
    if not start:
        raise GenerationError(
            "no start token: set decoder_start_token_id in the configuration or in model.generation_config, "
            "or pass it to generate"
        )
    if len(start) not in (1, rows):
        raise GenerationError(
            f"decoder_start_token_id has {len(start)} ids, expected 1 or {rows}, one per image"
        )
    return torch.tensor(start, dtype=torch.long, device=device)[:, None].expand(rows, 1).contiguous()


def _encoded(given: Any) -> BaseModelOutput:
    try:
        return BaseModelOutput.of(given)
    except ValueError as error:
        raise GenerationError(str(error)) from error
