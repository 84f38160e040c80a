"""Lines drawn by the tests themselves, and a small model to train on them."""

import dataclasses

import numpy as np
import torch
from PIL import Image, ImageDraw

from trocr import TrOCRProcessor, VisionEncoderDecoderModel
from trocr.data.records import LineRecord
from trocr.hub import PRETRAINED
from trocr.image import ImageError

SHIPPED = PRETRAINED / "tiny-printed"


@dataclasses.dataclass(frozen=True)
class Drawn:
    """An opener: a text drawn in Pillow's own font, on an image that is as wide as it."""

    text: str
    height: int = 24

    def __call__(self) -> Image.Image:
        image = Image.new("L", (8 + 7 * len(self.text), self.height), 235)
        ImageDraw.Draw(image).text((4, 4), self.text, fill=20)
        return image


@dataclasses.dataclass(frozen=True)
class Damaged:
    def __call__(self) -> Image.Image:
        raise ImageError("not an image")


class Lines(list[LineRecord]):
    """Any number of records."""


def drawn_lines(count: int, *, longest: int = 12) -> Lines:
    rng = np.random.default_rng(7)
    letters = list("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 .,")
    texts = [
        "".join(rng.choice(letters, size=rng.integers(1, longest + 1))).strip() or "x" for _ in range(count)
    ]
    return Lines(
        LineRecord(name=f"line{i:03}.png", text=text, group=f"g{i % 3}", opener=Drawn(text))
        for i, text in enumerate(texts)
    )


IMAGE_HW = (32, 640)


def processor() -> TrOCRProcessor:
    """The shipped one, for images of the small model."""
    found = TrOCRProcessor.from_pretrained(SHIPPED)
    found.image_processor.size = {"height": IMAGE_HW[0], "width": IMAGE_HW[1]}
    return found


def small_model(*, dropout: float = 0.0, seed: int = 0) -> VisionEncoderDecoderModel:
    """The shipped architecture, narrower and with random weights."""
    config = VisionEncoderDecoderModel.config_class.from_pretrained(SHIPPED)
    encoder = dataclasses.replace(
        config.encoder,
        image_size=IMAGE_HW,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        pooler_output_size=32,
    )
    decoder = dataclasses.replace(
        config.decoder,
        d_model=32,
        decoder_layers=2,
        decoder_attention_heads=2,
        decoder_ffn_dim=64,
        cross_attention_hidden_size=32,
        dropout=dropout,
    )
    torch.manual_seed(seed)
    return VisionEncoderDecoderModel(dataclasses.replace(config, encoder=encoder, decoder=decoder))
