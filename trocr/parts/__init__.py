"""Start from pretrained parts: an image model's weights in the encoder, a text model's in the decoder."""

from trocr.parts.assembly import Assembled, assemble
from trocr.parts.report import PartsError, PartsReport

__all__ = ["Assembled", "PartsError", "PartsReport", "assemble"]
