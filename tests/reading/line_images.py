"""Images of lines that the tests of reading make: drawn words, and random pixels with flat padding."""

import random

import numpy as np
import torch
from families import Family, images
from PIL import Image, ImageDraw, ImageFont

from trocr.reading.sorting import Numbered

WORDS = (
    "the",
    "Sale of",
    "12 boxes,",
    "Ltd.",
    "3.50",
    "No:",
    "a",
    "TOTAL (RM)",
    "from 1998;",
    "is",
    "Thank you",
)


def draw_line(seed: int) -> np.ndarray:
    """Draw a line (height, width) of words chosen by `seed`."""
    chance = random.Random(seed)
    text = " ".join(chance.choices(WORDS, k=1 + seed % 7))
    font = ImageFont.load_default(size=24)
    width = int(font.getlength(text)) + 16
    image = Image.new("L", (width, 36), 255)
    ImageDraw.Draw(image).text((8, 3), text, fill=chance.randrange(60), font=font)
    return np.asarray(image)


def padded(family: Family, count: int, *, seed: int = 1) -> list[Numbered]:
    """Numbered images (C, height, width) of a family whose right parts are flat, each from elsewhere on."""
    pixels = images(family, count, seed=seed)
    width, columns = pixels.shape[3], torch.arange(pixels.shape[3])
    for number, image in enumerate(pixels):
        image[:, :, columns >= max(1, width * (1 + number % 4) // 4 - 3)] = 1.0
    return list(enumerate(pixels))
