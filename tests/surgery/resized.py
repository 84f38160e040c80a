"""What the tests of images of other sizes share."""

import numpy as np
from families import Pair
from PIL import Image
from proofs import image_processor

from trocr import TrOCRProcessor, VisionEncoderDecoderModel
from trocr.surgery.image_shape import resize_images

EQUAL = 1e-5
"""Largest difference where two computations are equal but for rounding, relative to the largest number."""


def changed(pair: Pair, **options) -> tuple[VisionEncoderDecoderModel, TrOCRProcessor]:
    model = pair.fresh()
    found = image_processor(model)
    resize_images(model, processor=found, **options)
    return model, found


def grey_image(seed: int = 0, size: tuple[int, int] = (40, 300)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8))
