"""One image read for a closer look: its pixels, the encoder's states, and the tokens that the model writes.

Source: original work.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from os import PathLike, fspath
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from trocr.generation import GenerateOutput
from trocr.generation.rules import as_ids
from trocr.image import open_image
from trocr.line import token_texts
from trocr.models import VisionEncoderDecoderModel
from trocr.outputs import BaseModelOutput
from trocr.processor import TrOCRProcessor
from trocr.reading.images import without_padding
from trocr.surgery.patterns import SurgeryError
from trocr.tokenizers import Tokenizer

OWN_OPTIONS = (
    "encoder_outputs",
    "inputs",
    "num_return_sequences",
    "pixel_values",
    "return_dict_in_generate",
)
"""Options of `generate` that are set here."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What a model made of one image.

    Attributes:
        source: the path that was given, or "image".
        picture: the image, upright, in RGB and of its own size.
        pixel_values: (1, C, height, width), as the encoder got them.
        encoding: options that it got.
        memory: (1, S, D_mem) states that cross-attention reads.
        ids: (1, 1 + N) the start token and the N tokens that were written, the end token with them.
        text: without special tokens.
        tokens: N names of the tokens, for people.
        parts: N texts that the tokens add; joined they are `text`.
    """

    source: str
    picture: Image.Image
    pixel_values: Tensor
    encoding: Mapping[str, bool]
    memory: Tensor
    ids: Tensor
    text: str
    tokens: tuple[str, ...]
    parts: tuple[str, ...]


@torch.no_grad()
def read_image(
    model: VisionEncoderDecoderModel,
    processor: TrOCRProcessor,
    image: Any,
    *,
    native_width: bool = False,
    interpolate_pos_encoding: bool = False,
    **options: Any,
) -> Reading:
    """Read one image. The model is in evaluation mode meanwhile.

    Args:
        model: the model.
        processor: the model's own.
        image: whatever `trocr.image.open_image` takes.
        native_width: leave out the padding on the right, as `Reader.read` does.
        interpolate_pos_encoding: read an image of another size than the model is made for.
        options: of `generate`.
    Raises:
        SurgeryError: an option that is set here, or `native_width` for a processor that does not pad lines.
        ImageError: the image cannot be read.
        GenerationError: see `trocr.generation.generate`.
    """
    own = [name for name in OWN_OPTIONS if name in options]
    if own:
        raise SurgeryError(
            f"{', '.join(own)} cannot be given: one image is read, the one that is given as `image`, and the "
            "first text of it"
        )
    if native_width and not processor.image_processor.pad_to_aspect_ratio:
        raise SurgeryError(
            "native_width is for processors that pad lines (pad_to_aspect_ratio); this one scales every "
            "image to the full size"
        )
    asked = {"crop_pos_encoding": native_width, "interpolate_pos_encoding": interpolate_pos_encoding}
    encoding = {name: True for name, wanted in asked.items() if wanted}
    picture = open_image(image)
    is_array = getattr(image, "ndim", None) is not None
    pixels = processor.image_processor(image if is_array else picture, return_tensors="pt")["pixel_values"]
    if native_width:
        pixels = without_padding(pixels, multiple=model.encoder.embeddings.patch_hw[1])
    with evaluating(model):
        pixels = pixels.to(model.device)
        encoded = BaseModelOutput.of(model.encode(pixels, **encoding))
        output = model.generate(
            encoder_outputs=encoded, return_dict_in_generate=True, num_return_sequences=1, **options
        )
        memory = model.memory(encoded)
    assert isinstance(output, GenerateOutput)
    ids = output.sequences[0].tolist()
    new = ids[1:]
    if bool(output.finished[0]):
        ends = _ends(model, options)
        new = new[: 1 + next((place for place, id in enumerate(new) if id in ends), len(new))]
    tokenizer = processor.tokenizer
    text = tokenizer.decode(new, skip_special_tokens=True)
    return Reading(
        source=fspath(image) if isinstance(image, str | PathLike) else "image",
        picture=picture,
        pixel_values=pixels,
        encoding=encoding,
        memory=memory,
        ids=torch.tensor([[ids[0], *new]], device=model.device),
        text=text,
        tokens=tuple(token_name(tokenizer, id) for id in new),
        parts=tuple(token_texts(tokenizer, new, text)) if new else (),
    )


def _ends(model: VisionEncoderDecoderModel, options: Mapping[str, Any]) -> tuple[int, ...]:
    """End tokens of a reading that ended."""
    given = options.get("eos_token_id")
    if given is None:
        given = getattr(options.get("generation_config"), "eos_token_id", None)
    if given is None:
        given = model.generation_config.eos_token_id
    return as_ids(tuple(given) if isinstance(given, list) else given)


def token_name(tokenizer: Tokenizer, id: int) -> str:
    """Name a token for people: its text, or the tokenizer's own writing of a part of a character."""
    if id >= len(tokenizer):
        return f"<row {id}>"
    text = str(tokenizer.decode([id]))
    if text and "\ufffd" not in text:
        return text
    return tokenizer.convert_ids_to_tokens(id) or f"<row {id}>"


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model in evaluation mode and each of its modules back into its own afterwards."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
