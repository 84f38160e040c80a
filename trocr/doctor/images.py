"""Images after preprocessing: contrast, polarity, and room for the characters.

Source: original work.
"""

from collections.abc import Iterator, Sequence

import torch
from PIL import Image

from trocr.doctor.findings import Finding, ok, some
from trocr.processor import TrOCRProcessor

FLAT = 0.02
"""Deviation of normalised pixels under which an image counts as blank; the whole range is 2."""

NARROW_PX = 4.0
"""Columns of the model's image for a character, under which letters run together."""

SQUEEZED = 4.0
"""Change of the aspect ratio from which on there is a warning."""


def check_images(
    lines: Sequence[tuple[str, str, Image.Image]], processor: TrOCRProcessor, *, is_new: bool = False
) -> Iterator[Finding]:
    """Look at images as the model gets them.

    Args:
        lines: (name, text, image).
        processor: makes pixels of them.
        is_new: the weights are random, and have seen neither polarity.
    """
    images = [image for _, _, image in lines]
    pixels = processor.image_processor(images, return_tensors="pt")["pixel_values"]
    flat = [name for (name, _, _), row in zip(lines, pixels, strict=True) if float(row.std()) < FLAT]
    if flat:
        yield Finding(
            "error" if len(flat) > len(lines) // 10 else "warning",
            "blank images",
            f"{len(flat)} of {len(lines)} images have no contrast: {some(flat)}",
            "there is nothing to read in them, and the decoder learns to guess",
            "look at these files; 16-bit and transparent images are often read as white or black by others",
        )
    low, high = float(pixels.min()), float(pixels.max())
    mean, deviation = float(pixels.mean()), float(pixels.std())
    yield ok("pixels", f"from {low:.2f} to {high:.2f}, mean {mean:.2f}, deviation {deviation:.2f}")
    dark = [name for (name, _, image) in lines if _is_inverse(image)]
    if dark and len(dark) < len(lines):
        yield Finding(
            "warning",
            "polarity",
            f"{len(dark)} of {len(lines)} images are bright on dark: {some(dark)}",
            "a mixture is learnt more slowly than one polarity",
            "invert them, or leave them if they will come in use too",
        )
    elif dark and not is_new:
        yield Finding(
            "warning",
            "polarity",
            f"all {len(lines)} images are bright on dark: {some(dark)}",
            "most checkpoints were trained on dark on bright, and read little else at first",
            "invert the images, here and in use, unless this checkpoint was trained on such lines",
        )
    yield from _room(lines, processor, pixels)


def _is_inverse(image: Image.Image) -> bool:
    grey = torch.frombuffer(bytearray(image.convert("L").tobytes()), dtype=torch.uint8).float()
    middle = (grey.min() + grey.max()) / 2
    return bool((grey < middle).float().mean() > 0.6)


def _room(
    lines: Sequence[tuple[str, str, Image.Image]], processor: TrOCRProcessor, pixels: torch.Tensor
) -> Iterator[Finding]:
    height, width = pixels.shape[2:]
    pads = processor.image_processor.pad_to_aspect_ratio
    narrow, squeezed = [], []
    for name, text, image in lines:
        natural = image.width * height / image.height
        columns = min(width, natural) if pads else width
        if text and columns / len(text) < NARROW_PX:
            narrow.append(f"{name} ({columns / len(text):.1f})")
        if natural / width > SQUEEZED or (not pads and width / natural > SQUEEZED * 4):
            squeezed.append(f"{name} ({image.width} x {image.height} becomes {width} x {height})")
    if narrow:
        yield Finding(
            "error" if len(narrow) > len(lines) // 4 else "warning",
            "room for characters",
            f"{len(narrow)} of {len(lines)} images leave under {NARROW_PX:.0f} columns for a character: "
            f"{some(narrow)}",
            "letters run together before the model sees them; are these whole pages or several lines?",
            "cut single lines, or take a wider image (model.image_size)",
        )
    elif squeezed:
        yield Finding(
            "warning",
            "aspect ratio",
            f"{len(squeezed)} of {len(lines)} images change their aspect ratio a lot: {some(squeezed)}",
            "letters become much thinner or wider than those of pre-training",
            "take an image size nearer to the lines' shape (model.image_size)",
        )
    else:
        yield ok("room for characters", f"{len(lines)} images fit into {width} x {height} pixels")
