"""`trocr surgery replace-encoder` and `replace-decoder`: parts of other models.

Source: original work.
"""

import json
from typing import TYPE_CHECKING, Any

import click

from trocr.commands.surgery import common

if TYPE_CHECKING:
    from trocr.models import VisionEncoderDecoderModel
    from trocr.processor import TrOCRProcessor
    from trocr.surgery.report import SurgeryReport

_PROJECTION = click.option(
    "--projection",
    is_flag=True,
    help="Where widths differ, keep what cross-attention has learned, by a linear layer before it.",
)
_SEED = click.option("--seed", default=0, show_default=True, help="Of what is new.")


def _arguments(context: click.Context, option: click.Parameter, values: tuple[str, ...]) -> dict[str, Any]:
    """KEY=VALUE, the value in JSON, or a word."""
    found = {}
    for text in values:
        key, sign, value = text.partition("=")
        if not sign or not key:
            raise click.BadParameter(f"{text!r}, expected KEY=VALUE")
        try:
            found[key] = json.loads(value)
        except ValueError:
            found[key] = value
    return found


@click.command("replace-encoder")
@click.option("--encoder", required=True, help="timm:NAME, or folder, shipped name or Hub id of a model.")
@click.option("--pretrained", is_flag=True, help="Let timm fetch weights.  [default: random ones]")
@click.option(
    "--weights", type=click.Path(exists=True, dir_okay=False), help="File with weights for timm:NAME."
)
@click.option(
    "--image-size",
    nargs=2,
    type=int,
    metavar="H W",
    help="In pixels.  [default: the encoder's own; for timm:NAME that of MODEL]",
)
@click.option(
    "--positions",
    type=click.Choice(["learned", "none"]),
    help="A table of positions for timm:NAME.  [default: learned, for a map of features]",
)
@click.option(
    "--model-arg",
    "model_args",
    multiple=True,
    metavar="KEY=VALUE",
    callback=_arguments,
    help="Argument of timm.create_model, its value in JSON; repeatable.",
)
@_PROJECTION
@_SEED
@common.operation
def replace_encoder(
    model: "VisionEncoderDecoderModel", processor: "TrOCRProcessor", encoder: str, **options: Any
) -> "SurgeryReport":
    """Put another encoder into MODEL, and write OUT.

    It is the encoder of a checkpoint, with its image processor, or a backbone of timm. What is new between
    encoder and decoder must be trained before the model reads.
    """
    from trocr.surgery import parts

    return parts.replace_encoder(model, encoder, processor=processor, **options)


@click.command("replace-decoder")
@click.option("--decoder", required=True, help="Folder, shipped name or Hub id of a TrOCR or its decoder.")
@click.option("--tokenizer", help="Folder or Hub id.  [default: the decoder's]")
@_PROJECTION
@_SEED
@common.operation
def replace_decoder(
    model: "VisionEncoderDecoderModel", processor: "TrOCRProcessor", decoder: str, **options: Any
) -> "SurgeryReport":
    """Put the decoder of a checkpoint, with its tokenizer, into MODEL, and write OUT."""
    from trocr.surgery import parts

    return parts.replace_decoder(model, decoder, processor=processor, **options)
