"""One image read for a closer look: its pixels, the encoder's states, and the tokens that the model writes.

Source: original work.
"""

from collections.abc import Iterator
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
from trocr.tokenizers import Tokenizer


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What a model made of one image.

    Attributes:
        source: the path that was given, or "image".
        picture: the image, upright, in RGB and of its own size.
        pixel_values: (1, C, height, width).
        memory: (1, S, D_mem) states that cross-attention reads.
        ids: (1, 1 + N) the start token and the N tokens that were written, the end token with them.
        text: without special tokens.
        tokens: N names of the tokens, for people.
        parts: N texts that the tokens add; joined they are `text`.
    """

    source: str
    picture: Image.Image
    pixel_values: Tensor
    memory: Tensor
    ids: Tensor
    text: str
    tokens: tuple[str, ...]
    parts: tuple[str, ...]


@torch.no_grad()
def read_image(
    model: VisionEncoderDecoderModel, processor: TrOCRProcessor, image: Any, **options: Any
) -> Reading:
    """Read one image; options are those of `generate`. The model is in evaluation mode meanwhile.

    Raises:
        ImageError: the image cannot be read.
        GenerationError: see `trocr.generation.generate`.
    """
    picture = open_image(image)
    is_array = getattr(image, "ndim", None) is not None
    pixels = processor.image_processor(image if is_array else picture, return_tensors="pt")["pixel_values"]
    with evaluating(model):
        pixels = pixels.to(model.device)
        encoded = BaseModelOutput.of(model.encode(pixels))
        output = model.generate(encoder_outputs=encoded, return_dict_in_generate=True, **options)
        memory = model.memory(encoded)
    assert isinstance(output, GenerateOutput)
    ids = output.sequences[0].tolist()
    new = ids[1:]
    if bool(output.finished[0]):
        ends = as_ids(options.get("eos_token_id", model.generation_config.eos_token_id))
        new = new[: 1 + next((place for place, id in enumerate(new) if id in ends), len(new))]
    tokenizer = processor.tokenizer
    text = tokenizer.decode(new, skip_special_tokens=True)
    return Reading(
        source=fspath(image) if isinstance(image, str | PathLike) else "image",
        picture=picture,
        pixel_values=pixels,
        memory=memory,
        ids=torch.tensor([[ids[0], *new]], device=model.device),
        text=text,
        tokens=tuple(token_name(tokenizer, id) for id in new),
        parts=tuple(token_texts(tokenizer, new, text)) if new else (),
    )


def token_name(tokenizer: Tokenizer, id: int) -> str:
    """Name a token for people: its text, or the tokenizer's own writing of a part of a character."""
    if id >= len(tokenizer):
        return f"<row {id}>"
    text = str(tokenizer.decode([id]))
    return text if text and "\ufffd" not in text else str(tokenizer.convert_ids_to_tokens(id))


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
