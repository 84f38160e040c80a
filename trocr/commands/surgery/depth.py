"""`trocr surgery keep-blocks` and `trocr surgery drop-blocks`.

Source: original work.
"""

from typing import TYPE_CHECKING, Any

import click

from trocr.commands.surgery import common

if TYPE_CHECKING:
    from trocr.models import VisionEncoderDecoderModel
    from trocr.processor import TrOCRProcessor
    from trocr.surgery.report import SurgeryReport

_STACK = click.option(
    "--stack", type=click.Choice(["encoder", "decoder"]), required=True, help="Whose blocks."
)
_BLOCKS = click.option(
    "--blocks",
    required=True,
    help="all, last:N, first:N, every:N, or numbers from 0 on such as 0,2,4-6.",
)


@click.command("keep-blocks")
@_STACK
@_BLOCKS
@common.operation
def keep_blocks(
    model: "VisionEncoderDecoderModel", processor: "TrOCRProcessor", **options: Any
) -> "SurgeryReport":
    """Keep some blocks of MODEL, in the order given, and write OUT; one given twice is copied."""
    from trocr.surgery import depth

    return depth.keep_blocks(model, **options)


@click.command("drop-blocks")
@_STACK
@_BLOCKS
@common.operation
def drop_blocks(
    model: "VisionEncoderDecoderModel", processor: "TrOCRProcessor", **options: Any
) -> "SurgeryReport":
    """Take some blocks out of MODEL, and write OUT."""
    from trocr.surgery import depth

    return depth.drop_blocks(model, **options)
