"""A text drawn as a line image: font, layout, neighbours, resolution, and the degradations in their order.

Source: original work.
"""

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from trocr.data.degradations import ON_IMAGE, Tone
from trocr.data.synthetic.fonts import Font, Fonts, at_size
from trocr.data.synthetic.legibility import Legibility
from trocr.data.synthetic.settings import SyntheticSettings
from trocr.data.synthetic.texts import Texts

PLAIN = str.maketrans({"‘": "'", "’": "'", "“": '"', "”": '"', "–": "-", "—": "-"})
"""What stands for typographic characters that a font lacks."""

FONT_TRIES = 6
"""Fonts that are drawn for a text before it is written plainly, or another one is drawn."""

TEXT_TRIES = 30
"""Texts that are drawn before a single character takes their place."""

FRAGILE = frozenset({"thin", "dots", "fading", "binarise"})
"""Degradations that fine strokes may not survive; those that leave no text are undone."""

_SCALERS = (
    Image.Resampling.NEAREST,
    Image.Resampling.BILINEAR,
    Image.Resampling.BILINEAR,
    Image.Resampling.BICUBIC,
    Image.Resampling.BOX,
    Image.Resampling.BOX,
)


class Artist:
    """Draws lines.

    Args:
        settings: sizes and probabilities.
        fonts: to draw with.
        texts: what lines and their neighbours say.
    """

    def __init__(self, settings: SyntheticSettings, fonts: Fonts, texts: Texts) -> None:
        self.settings = settings
        self.fonts = fonts
        self.texts = texts
        self.probabilities = settings.probabilities

    def draw(self, rng: np.random.Generator) -> tuple[str, Image.Image]:
        """Draw a line.

        Returns:
            Its text, and its image in mode "L".
        """
        font, text = self._font_and_text(rng)
        paper = int(rng.integers(150, 256)) if rng.random() < 0.7 else 255
        ink = int(rng.integers(0, max(1, min(150, paper - 60)))) if rng.random() < 0.7 else 0
        tone = Tone(paper, ink)
        happens = {name: rng.random() < chance for name, chance in self.probabilities.items()}
        image = self._line(text, font, tone, happens, rng)
        drawn = Legibility(image, 1 - tone.ink / tone.paper)
        for name in self.probabilities:
            if happens[name]:
                changed = self._degraded(name, image, rng, tone)
                low, high = changed.getextrema()
                is_whole = name not in FRAGILE or drawn.holds(changed, is_binary=name == "binarise")
                if low != high and is_whole:
                    image = changed
        return text, image

    def _degraded(self, name: str, image: Image.Image, rng: np.random.Generator, tone: Tone) -> Image.Image:
        if name == "low_resolution":
            return self._scaled(image, rng)
        return ON_IMAGE[name](image, rng, tone) if name in ON_IMAGE else image

    def _font_and_text(self, rng: np.random.Generator) -> tuple[Font, str]:
        """Draw a text, and a font that has its characters, or plain ones in place of typographic ones."""
        for _ in range(TEXT_TRIES):
            text = self.texts.draw(rng)
            for _ in range(FONT_TRIES):
                font = self.fonts.draw(rng)
                if not set(font.missing) & set(text):
                    return font, text
            text = text.translate(PLAIN)
            if set(text) <= self.texts.allowed - set(font.missing):
                return font, text
        known = [character for character in self.texts.characters if character not in font.missing]
        return font, known[rng.integers(len(known))]

    def _line(
        self, text: str, chosen: Font, tone: Tone, happens: dict[str, bool], rng: np.random.Generator
    ) -> Image.Image:
        size = int(rng.integers(self.settings.font_px[0], self.settings.font_px[1] + 1))
        font = at_size(chosen.path, size, chosen.index)
        gap = int(rng.integers(1, max(2, size // 2))) if rng.random() < 0.12 else 0
        left, top, right, bottom = font.getbbox(text)
        right += gap * text.count(" ")
        if rng.random() < 0.5:  # the crop follows the font's height, not the ink
            ascent, descent = font.getmetrics()
            top = min(top, 0) if rng.random() < 0.5 else top
            bottom = max(bottom, ascent + descent) if rng.random() < 0.5 else bottom
        margins = [
            int(rng.integers(0, size)) if rng.random() < 0.35 else int(rng.integers(0, 5)) for _ in "ltrb"
        ]
        margins[1], margins[3] = min(margins[1], size // 2), min(margins[3], size // 2)
        if rng.random() < 0.3:
            margins[0] = margins[2] = 0
        width = max(4, int(right - left) + margins[0] + margins[2] + 2)
        height = max(8, int(bottom - top) + margins[1] + margins[3] + 2)
        image = Image.new("L", (width, height), tone.paper)
        if happens["bleed_through"]:
            image = self._bled(image, font, tone, rng)
        brush = ImageDraw.Draw(image)
        x, y = margins[0] - left + 1, margins[1] - top + 1
        _write(brush, (x, y), text, font, tone.ink, gap)
        if happens["neighbours"]:
            reach = bottom - top
            above = (x + int(rng.integers(-20, 20)), y - reach - int(rng.integers(0, 6)) - int(size * 0.2))
            brush.text(above, self.texts.draw(rng)[:60], fill=tone.ink, font=font)
            if rng.random() < 0.5:
                below = (x, y + reach + int(rng.integers(0, 6)) + int(size * 0.1))
                brush.text(below, self.texts.draw(rng)[:60], fill=tone.ink, font=font)
        return image

    def _bled(
        self, image: Image.Image, font: ImageFont.FreeTypeFont, tone: Tone, rng: np.random.Generator
    ) -> Image.Image:
        """Print of the other side that shines through, mirrored and pale."""
        shade = tone.paper - int((tone.paper - tone.ink) * rng.uniform(0.05, 0.3))
        place = (int(rng.integers(-30, 10)), int(rng.integers(-image.height // 2, image.height // 2)))
        ImageDraw.Draw(image).text(place, self.texts.draw(rng)[:80], fill=shade, font=font)
        return ImageOps.mirror(image)

    def _scaled(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        """A scan at a lower resolution; lines are not scaled up."""
        low, high = self.settings.line_px
        height = int(rng.integers(low, high + 1))
        if image.height <= height:
            return image
        width = max(2, round(image.width * height / image.height))
        return image.resize((width, height), _SCALERS[rng.integers(len(_SCALERS))])


def _write(
    brush: ImageDraw.ImageDraw,
    place: tuple[float, float],
    text: str,
    font: ImageFont.FreeTypeFont,
    ink: int,
    gap: int,
) -> None:
    """Write a text, with `gap` pixels more between words."""
    x, y = place
    if not gap:
        brush.text((x, y), text, fill=ink, font=font)
        return
    for word in text.split(" "):
        brush.text((x, y), word, fill=ink, font=font)
        x += font.getlength(f"{word} ") + gap
