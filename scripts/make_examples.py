"""Render the example lines of `examples/`, each degraded as by a scanner, a phone, a fax.

The fonts are Debian's (`apt-get install fonts-dejavu fonts-liberation`). Writes the images and `labels.tsv`
(file name, TAB, text); the same releases of Pillow and of the fonts give the same pixels.
"""

import argparse
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

FONTS = Path("/usr/share/fonts/truetype")
SEED = 3

Degrade = Callable[[Image.Image, np.random.Generator], Image.Image]


def render(text: str, font_file: str, size_px: int, *, ink: int = 25, paper: int = 245) -> Image.Image:
    """Draw one line of dark text with a margin around it; mode "L"."""
    font = ImageFont.truetype(str(FONTS / font_file), size_px)
    left, top, right, bottom = font.getbbox(text)
    margin = size_px // 4
    image = Image.new("L", (int(right - left) + 2 * margin, int(bottom - top) + 2 * margin), paper)
    ImageDraw.Draw(image).text((margin - left, margin - top), text, font=font, fill=ink)
    return image


def scan(image: Image.Image, random: np.random.Generator) -> Image.Image:
    """A flatbed scan: slight blur and sensor noise."""
    pixels = np.asarray(image.filter(ImageFilter.GaussianBlur(0.8)), dtype=np.float32)
    return Image.fromarray((pixels + random.normal(0, 7, pixels.shape)).clip(0, 255).astype(np.uint8))


def phone(image: Image.Image, random: np.random.Generator) -> Image.Image:
    """A phone photo: tinted paper, light falling off to one side, a small tilt."""
    tilted = image.rotate(0.7, resample=Image.Resampling.BICUBIC, expand=True, fillcolor=245)
    pixels = np.asarray(tilted.filter(ImageFilter.GaussianBlur(0.9)), dtype=np.float32)
    light = np.linspace(1.0, 0.62, pixels.shape[1])[None, :]
    noise = random.normal(0, 4, pixels.shape)
    channels = [pixels * light * tint + noise for tint in (1.0, 0.95, 0.84)]
    return Image.fromarray(np.stack(channels, axis=-1).clip(0, 255).astype(np.uint8))


def fax(image: Image.Image, random: np.random.Generator) -> Image.Image:
    """A fax: low resolution, black or white, with specks."""
    small = image.resize((image.width * 3 // 5, image.height * 3 // 5), Image.Resampling.BILINEAR)
    pixels = np.asarray(small, dtype=np.float32) + random.normal(0, 22, (small.height, small.width))
    return Image.fromarray(pixels > 140)


def web(image: Image.Image, random: np.random.Generator) -> Image.Image:
    """A thumbnail: 22 pixels high, squeezed hard by JPEG."""
    small = image.resize((round(image.width * 22 / image.height), 22), Image.Resampling.LANCZOS)
    data = io.BytesIO()
    small.save(data, "JPEG", quality=30)
    return Image.open(data).convert("L")


def sticker(image: Image.Image, random: np.random.Generator) -> Image.Image:
    """A cut-out with a transparent background: all the ink is in the alpha channel."""
    ink = Image.new("RGBA", image.size, (20, 40, 90, 255))
    ink.putalpha(image.point(lambda value: 255 - value))
    return ink


def receipt(image: Image.Image, random: np.random.Generator) -> Image.Image:
    """Thermal print: pale ink with missing dot rows."""
    pixels = np.asarray(image, dtype=np.float32)
    pixels = 232 - (232 - pixels).clip(0, 255) * 0.62
    pixels[random.random(len(pixels)) < 0.06] = 232
    blurred = Image.fromarray(pixels.astype(np.uint8)).filter(ImageFilter.GaussianBlur(0.7))
    return scan(blurred, random)


LINES: list[tuple[str, str, str, int, Degrade]] = [
    (
        "book.png",
        "The harbour was quiet when the last ferry came in.",
        "liberation/LiberationSerif-Regular.ttf",
        44,
        scan,
    ),
    ("letter.jpg", "Thank you for your letter of the 14th of March.", "dejavu/DejaVuSerif.ttf", 40, phone),
    (
        "typescript.png",
        "Please return both copies by Friday.",
        "liberation/LiberationMono-Regular.ttf",
        42,
        fax,
    ),
    ("heading.jpg", "Annual Report 1987", "dejavu/DejaVuSans-Bold.ttf", 52, web),
    ("label.png", "Keep in a cool, dry place", "liberation/LiberationSans-Italic.ttf", 40, sticker),
    ("receipt.png", "TOTAL 3 ITEMS 27.45", "dejavu/DejaVuSansMono.ttf", 36, receipt),
    ("address.jpg", "221 Baker Street, London NW1 6XE", "liberation/LiberationSans-Regular.ttf", 40, phone),
    ("number.png", "Invoice No. 4471-0932", "dejavu/DejaVuSansCondensed.ttf", 44, scan),
]


def main() -> None:
    """Write every image and the labels."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--output", type=Path, default=Path("examples"), help="folder to write (default: examples)"
    )
    folder = parser.parse_args().output
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(SEED)
    for name, text, font_file, size_px, degrade in LINES:
        degrade(render(text, font_file, size_px), random).save(folder / name)
    labels = "".join(f"{name}\t{text}\n" for name, text, *_ in sorted(LINES))
    (folder / "labels.tsv").write_text(labels, encoding="utf-8")


if __name__ == "__main__":
    main()
