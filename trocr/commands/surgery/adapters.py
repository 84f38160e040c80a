"""`trocr surgery merge-adapter`: an adapter made part of a checkpoint.

Source: original work.
"""

from typing import TYPE_CHECKING

import click

from trocr.commands.surgery.common import operation

if TYPE_CHECKING:
    from trocr.models import VisionEncoderDecoderModel
    from trocr.processor import TrOCRProcessor
    from trocr.surgery.report import SurgeryReport


@click.command()
@operation
@click.option("--adapter", required=True, metavar="DIR", help="Adapter: a directory or a Hub id.")
def merge_adapter(
    model: "VisionEncoderDecoderModel", processor: "TrOCRProcessor", adapter: str
) -> "SurgeryReport":
    """Add the effect of an adapter, as `peft` saves it, to the weights of MODEL, its base, and write OUT."""
    from trocr.surgery.adapters import merge_adapter as merge

    return merge(model, adapter, keep_base=False)
