"""The shipped checkpoint reads what `transformers` reads from the same files and pixels."""

import numpy as np
import pytest
import torch
import transformers as hf
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from trocr import Reader
from trocr.hub import locate

TEXTS = (
    "The quick brown fox jumps over the lazy dog.",
    "TOTAL EUR 1,284.50",
    "2026-11-23 14:05",
    "a",
    "What?! No -- never (again); \"quoted\" 'text' & more",
    "0123456789 0123456789 0123456789",
    "e-mail: someone@example.org",
    "x = (y + 3) * z / 7 % 5 ^ 2",
    "A line that is a good deal longer than most of the others in this list, to squeeze it.",
    "mmmmmmmmmmmmmmmmmmmmmmmm",
    "",
    "IlIlIl1|1| O0O0O0",
)
LEVELS = ((0.0, 0.0), (0.8, 12.0), (1.6, 40.0))
"""(blur, noise): clean, worn, and past what the model can read, where its text is long and doubtful."""


def render(text: str, size_px: int, blur: float, noise: float, random: np.random.Generator) -> Image.Image:
    font = ImageFont.load_default(size_px)
    left, top, right, bottom = (int(edge) for edge in font.getbbox(text or " "))
    margin = size_px // 4
    image = Image.new("L", (max(right - left, 30) + 2 * margin, max(bottom - top, size_px) + 2 * margin), 240)
    ImageDraw.Draw(image).text((margin - left, margin - top), text, font=font, fill=30)
    pixels = np.asarray(image.filter(ImageFilter.GaussianBlur(blur)), dtype=np.float32)
    return Image.fromarray((pixels + random.normal(0, noise, pixels.shape)).clip(0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def images(repo):
    random = np.random.default_rng(0)
    lines = [
        render(text, 18 + 6 * i % 30, *level, random) for level in LEVELS for i, text in enumerate(TEXTS)
    ]
    paths = [path for path in sorted((repo / "examples").iterdir()) if path.suffix in (".png", ".jpg")]
    assert len(paths) == 8
    return [*paths, *lines]


@pytest.fixture(scope="module")
def reader():
    return Reader("tiny-printed", device="cpu")


@pytest.fixture(scope="module")
def reference_model():
    return hf.VisionEncoderDecoderModel.from_pretrained(locate("tiny-printed")).eval()


@pytest.fixture(scope="module")
def reference_tokenizer():
    return hf.RobertaTokenizer.from_pretrained(locate("tiny-printed"))


@pytest.mark.parametrize("num_beams", [1, 4])
@torch.inference_mode()
def test_same_text_for_every_image(reader, reference_model, reference_tokenizer, images, num_beams):
    lines = list(reader.read(images, num_beams=num_beams))
    assert len(lines) == len(images) == 44
    assert len({line.text for line in lines}) > 30
    for start in range(0, len(images), 8):
        pixels = reader.processor(images[start : start + 8], return_tensors="pt").pixel_values
        ids = reference_model.generate(pixels, num_beams=num_beams)
        texts = reference_tokenizer.batch_decode(ids, skip_special_tokens=True)
        for line, row, text in zip(lines[start : start + 8], ids.tolist(), texts, strict=True):
            assert line.text == text
            assert [token.id for token in line.tokens] == row[1 : 1 + len(line.tokens)]
            assert set(row[1 + len(line.tokens) :]) <= {1}
