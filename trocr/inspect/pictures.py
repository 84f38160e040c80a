"""Attention maps as pictures: laid over the image, or alone for a page to lay them over it.

Source: original work.
"""

import base64
import io

import numpy as np
from PIL import Image

from trocr.inspect.attention_maps import AttentionMaps
from trocr.inspect.geometry import Floats

COLOUR = (214, 40, 0)
"""Red, green and blue of attention."""

STRENGTH = 0.75
"""How far the strongest patch of a token covers the image: 1 would hide it."""


def overlay(maps: AttentionMaps, token: int) -> Image.Image:
    """Lay the map of a token over its image, in the image's own size; the strongest patch is the reddest.

    Args:
        maps: the average is drawn where there are several for a token; of rollout, `AttentionMaps.distinct`.
        token: 0 to N - 1; negative numbers count from the end.
    Raises:
        SurgeryError: no such token.
    """
    maps.check(token)
    cover = maps.geometry.to_pixels(strengths(maps)[token]) * STRENGTH  # (height, width)
    pixels = np.asarray(maps.picture, dtype=np.float64)
    mixed = pixels + (np.asarray(COLOUR) - pixels) * cover[..., None]
    return Image.fromarray(np.rint(mixed).astype(np.uint8))


def strengths(maps: AttentionMaps) -> Floats:
    """Scale maps for the eye: (N, rows, columns), 1 for each token's strongest patch on the image."""
    found = (maps.distinct() if maps.is_rollout else maps.maps).mean(axis=1)
    found = found * maps.geometry.on_image()
    scaled: Floats = found / np.maximum(found.max(axis=(1, 2), keepdims=True), np.finfo(np.float32).tiny)
    return scaled


def patches_picture(strength: Floats) -> Image.Image:
    """Draw (rows, columns) of 0..1 as an image with a pixel for each patch, transparent at 0."""
    tinted = np.empty((*strength.shape, 4), np.uint8)
    tinted[..., :3] = COLOUR
    tinted[..., 3] = np.rint(strength * (255 * STRENGTH))
    return Image.fromarray(tinted)


def png(image: Image.Image) -> bytes:
    """Encode as PNG."""
    content = io.BytesIO()
    image.save(content, "PNG", optimize=True)
    return content.getvalue()


def data_url(image: Image.Image) -> str:
    """Encode as an address that holds the image itself."""
    return "data:image/png;base64," + base64.b64encode(png(image)).decode("ascii")
