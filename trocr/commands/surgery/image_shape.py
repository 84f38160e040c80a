"""`trocr surgery resize-images`: images of another size, patch or colour.

Source: original work.
"""

from typing import TYPE_CHECKING, Any

import click

from trocr.commands.surgery import common

if TYPE_CHECKING:
    from trocr.models import VisionEncoderDecoderModel
    from trocr.processor import TrOCRProcessor
    from trocr.surgery.report import SurgeryReport

_PIXELS = (int, int)


@click.command("resize-images")
@click.option("--image-size", type=_PIXELS, metavar="H W", help="Height and width in pixels.")
@click.option("--patch-size", type=_PIXELS, metavar="H W", help="Height and width of a patch in pixels.")
@click.option("--channels", "num_channels", type=int, metavar="N", help="1 (grey) or 3.")
@click.option(
    "--positions",
    type=click.Choice(["resample", "extend"]),
    default="resample",
    show_default=True,
    help="Interpolate the position table, or repeat its second half for longer lines.",
)
@common.operation
def resize_images(
    model: "VisionEncoderDecoderModel", processor: "TrOCRProcessor", **options: Any
) -> "SurgeryReport":
    """Let MODEL take images of another size, patch or colour, and write OUT."""
    from trocr.surgery import image_shape

    return image_shape.resize_images(model, processor=processor, **options)
