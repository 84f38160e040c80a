"""What happens to a line on its way to an image file: each a function from image to image.

All take the image (mode "L"), random numbers, and the grey levels of paper and ink.

Source: original work; the operations are the usual ones of document degradation models (Baird, "The state of
the art of document image degradation modelling", 2007).
"""

import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

BICUBIC, BILINEAR, BOX = Image.Resampling.BICUBIC, Image.Resampling.BILINEAR, Image.Resampling.BOX

LEAST_LIGHT = 0.3
"""Brightness, as a share of the paper's, below which a place counts as ink rather than as shade."""

EVEN_LIGHT = 0.95
"""Brightness from which no place is in the shade."""

PLANE_FITS = 4


@dataclass(frozen=True, slots=True)
class Tone:
    """Grey levels of a line, 0..255.

    Attributes:
        paper: of the background.
        ink: of the letters, darker.
    """

    paper: int
    ink: int


Degradation = Callable[[Image.Image, np.random.Generator, Tone], Image.Image]


def _array(image: Image.Image) -> np.ndarray:
    return np.asarray(image, dtype=np.float32)


def _image(values: np.ndarray) -> Image.Image:
    return Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))


def rule(image: Image.Image, rng: np.random.Generator, tone: Tone) -> Image.Image:
    """A ruled line under, over or through the text, or a frame's side."""
    values = _array(image).copy()
    width = int(rng.integers(1, 3))
    if rng.random() < 0.85:
        is_below = rng.random() < 0.7
        top = image.height - int(rng.integers(1, 5)) if is_below else int(rng.integers(0, image.height))
        values[max(0, top) : top + width, :: int(rng.integers(1, 3))] = tone.ink
    else:
        left = int(rng.integers(0, 4))
        values[:, left : left + width] = tone.ink
    return _image(values)


def stretch(image: Image.Image, rng: np.random.Generator, tone: Tone) -> Image.Image:
    """Wider or narrower letters."""
    return image.resize((max(4, int(image.width * rng.uniform(0.7, 1.3))), image.height), BILINEAR)


def slant(image: Image.Image, rng: np.random.Generator, tone: Tone) -> Image.Image:
    """Letters that lean, as a shear."""
    lean = rng.uniform(-0.25, 0.25)
    matrix = (1, lean, -lean * image.height / 2, 0, 1, 0)
    return image.transform(image.size, Image.Transform.AFFINE, matrix, BILINEAR, fillcolor=tone.paper)


def rotation(image: Image.Image, rng: np.random.Generator, tone: Tone) -> Image.Image:
    """A line that is not level; long lines turn less, so that they stay in the image."""
    angle = rng.uniform(-1.2, 1.2) * min(1.0, 12 * image.height / image.width)
    return image.rotate(angle, BILINEAR, fillcolor=tone.paper)


def thicken(image: Image.Image, rng: np.random.Generator, tone: Tone) -> Image.Image:
    """Ink that has run: the minimum of 3 x 3 pixels."""
    return Image.fromarray(_of_neighbours(np.minimum, np.asarray(image)))


def thin(image: Image.Image, rng: np.random.Generator, tone: Tone) -> Image.Image:
    """Worn type: the maximum of 3 x 3 pixels, where strokes are wide enough to leave something."""
    if image.height <= 34:
        return image
    values = np.asarray(image)
    worn = _of_neighbours(np.maximum, values)
    regrown = _of_neighbours(np.minimum, worn)  # as before, but for strokes that were lost
    is_lost = regrown - values.astype(np.float32) > 0.3 * (tone.paper - tone.ink)
    return Image.fromarray(np.where(is_lost, values, worn))


def _of_neighbours(choose: np.ufunc, values: np.ndarray) -> np.ndarray:
    """Minimum or maximum of 3 x 3 pixels; at the edges, of those that are there."""
    rows = values.copy()
    choose(rows[1:], values[:-1], out=rows[1:])
    choose(rows[:-1], values[1:], out=rows[:-1])
    found = rows.copy()
    choose(found[:, 1:], rows[:, :-1], out=found[:, 1:])
    choose(found[:, :-1], rows[:, 1:], out=found[:, :-1])
    return found


def dots(image: Image.Image, rng: np.random.Generator, tone: Tone) -> Image.Image:
    """A dot-matrix or coarse thermal printer: letters on a grid of dots."""
    pitch = image.height / rng.uniform(9, 16)
    if pitch < 1.6:
        return image
    coarse = image.resize((max(2, round(image.width / pitch)), max(2, round(image.height / pitch))), BOX)
    values = _array(coarse.resize(image.size, Image.Resampling.NEAREST))
    y = np.cos(np.arange(image.height, dtype=np.float32) * (2 * np.pi / pitch))[:, None]
    x = np.cos(np.arange(image.width, dtype=np.float32) * (2 * np.pi / pitch))[None, :]
    holes = np.clip(0.5 - 0.35 * (x + y), 0, 1) ** 0.5
    return _image(tone.paper - (tone.paper - values) * (0.35 + 0.65 * holes))


def blur(image: Image.Image, rng: np.random.Generator, tone: Tone) -> Image.Image:
    """A lens out of focus."""
    return image.filter(ImageFilter.GaussianBlur(rng.uniform(0.2, 1.1) * image.height / 40))


def fading(image: Image.Image, rng: np.random.Generator, tone: Tone) -> Image.Image:
    """Ink that fades in patches, or paper with stains."""
    height, width = image.height, image.width
    patches = rng.normal(0, 1, (max(2, height // 6), max(2, width // 6))).astype(np.float32)
    patches = np.asarray(Image.fromarray(patches).resize((width, height), BILINEAR))
    values = _array(image)
    if rng.random() < 0.4:
        return _image(values + patches * rng.uniform(3, 18))
    is_ink = values < (tone.paper + tone.ink) / 2
    strength = 0.5 * (315 - tone.paper) * rng.uniform(0.2, 1.0)
    return _image(values + strength * np.maximum(0, patches) * is_ink)


def gradient(image: Image.Image, rng: np.random.Generator, tone: Tone) -> Image.Image:
    """Light that falls off from one side, or from top to bottom."""
    fall = rng.uniform(0.35, 0.95)
    ends = (fall, 1.0) if rng.random() < 0.5 else (1.0, fall)
    if rng.random() < 0.7:
        light = np.linspace(*ends, image.width, dtype=np.float32)[None, :]
    else:
        light = np.linspace(*ends, image.height, dtype=np.float32)[:, None]
    return _image(_array(image) * light)


def noise(image: Image.Image, rng: np.random.Generator, tone: Tone) -> Image.Image:
    """A sensor's noise, or grains of dirt."""
    values = _array(image)
    if rng.random() < 0.85:
        grain = rng.standard_normal(values.shape, dtype=np.float32)
        return _image(values + grain * np.float32(rng.uniform(1, 18)))
    chance = rng.random(values.shape, dtype=np.float32)
    share = rng.uniform(0.002, 0.03)
    return _image(np.where(chance < share / 2, tone.ink, np.where(chance > 1 - share / 2, 255, values)))


def binarise(image: Image.Image, rng: np.random.Generator, tone: Tone) -> Image.Image:
    """Black and white, by a threshold between ink and paper that follows the light."""
    threshold = tone.ink + (tone.paper - tone.ink) * rng.uniform(0.35, 0.65)
    is_paper = np.asarray(image) > threshold * _light(image, tone.paper)
    return Image.fromarray(is_paper.astype(np.uint8) * np.uint8(255))


def _light(image: Image.Image, paper: int) -> np.ndarray:
    """Brightness of the paper as a share of what it was: a plane through what is not ink, (H, W), or 1.

    Blocks of 3 x 3 pixels are fitted; those that are clearly below the plane are ink, and left out the next
    time.
    """
    blocks = np.asarray(image.reduce(3), dtype=np.float64)
    y, x = np.indices(blocks.shape).reshape(2, -1)
    terms, values = np.stack([np.ones_like(x), x, y]), blocks.ravel()
    plane, is_paper = np.zeros(3), np.ones(len(values), dtype=bool)
    for _ in range(PLANE_FITS):
        chosen = terms * is_paper
        plane = np.asarray(np.linalg.lstsq(chosen @ terms.T, chosen @ values, rcond=None)[0])
        is_paper = values > 0.95 * (plane @ terms)
    plane = plane / max(paper, 1)
    across = plane[0] + plane[1] * (np.arange(image.width) - 1) / 3
    down = plane[2] * (np.arange(image.height) - 1) / 3
    if across.min() + down.min() > EVEN_LIGHT:
        return np.ones((1, 1))
    return np.clip(across[None, :] + down[:, None], LEAST_LIGHT, 1)


def jpeg(image: Image.Image, rng: np.random.Generator, tone: Tone) -> Image.Image:
    """Traces of lossy compression."""
    stored = io.BytesIO()
    image.save(stored, "JPEG", quality=int(rng.integers(25, 92)))
    found = Image.open(stored)
    found.load()
    return found


def inverse(image: Image.Image, rng: np.random.Generator, tone: Tone) -> Image.Image:
    """Bright letters on dark ground."""
    return image.point([255 - level for level in range(256)])


ON_IMAGE: dict[str, Degradation] = {
    "rule": rule,
    "stretch": stretch,
    "slant": slant,
    "rotation": rotation,
    "thicken": thicken,
    "thin": thin,
    "dots": dots,
    "blur": blur,
    "fading": fading,
    "gradient": gradient,
    "noise": noise,
    "binarise": binarise,
    "jpeg": jpeg,
    "inverse": inverse,
}
"""Degradations by name; those that draw text, and the change of resolution, are in `synthetic/drawing.py`."""
