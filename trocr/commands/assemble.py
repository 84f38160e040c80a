"""`trocr assemble`: a model of pretrained parts.

Source: original work.
"""

import json
from pathlib import Path

import click

from trocr.commands.console import OutputError, check_outputs, open_output, to_bytes


@click.command()
@click.argument("output", metavar="OUT")
@click.option("--encoder", required=True, help="timm:NAME, or folder or Hub id of a ViT, DeiT or TrOCR.")
@click.option("--encoder-weights", type=click.Path(exists=True, path_type=Path), help="File for timm:NAME.")
@click.option("--decoder", required=True, help="Folder or Hub id of a BERT or RoBERTa type model.")
@click.option("--layers", default="all", show_default=True, help="all, last:N, first:N, every:N, or 0,2,4.")
@click.option("--tokenizer", help="Folder or Hub id.  [default: the decoder's]")
@click.option("--image-size", nargs=2, type=click.IntRange(min=1), metavar="HEIGHT WIDTH", help="In pixels.")
@click.option("--max-positions", type=click.IntRange(min=1), help="Longest text in tokens.  [default: all]")
@click.option("--seed", default=0, show_default=True, help="Of what is new.")
@click.option("--json", "json_file", metavar="FILE", help="Write the report of all tensors.")
def assemble(
    output: str,
    encoder: str,
    encoder_weights: Path | None,
    decoder: str,
    layers: str,
    tokenizer: str | None,
    image_size: tuple[int, int] | None,
    max_positions: int | None,
    seed: int,
    json_file: str | None,
) -> None:
    """Make a checkpoint OUT whose encoder is an image model's and whose decoder is a text model's.

    The decoder's attention to the image is new, so it must be trained before it reads. Prints what was taken
    over from where, and what is new.
    """
    from trocr.parts import assemble as put_together

    if Path(output).exists() and not Path(output).is_dir():
        raise OutputError(f"{output}: is a file, expected a folder for the checkpoint; give another folder")
    check_outputs(json_file)
    made = put_together(
        encoder,
        decoder,
        tokenizer=tokenizer,
        layers=layers,
        image_size=image_size or None,
        max_positions=max_positions,
        encoder_weights=encoder_weights,
        seed=seed,
    )
    made.save(Path(output))
    click.echo(to_bytes(made.report.text()))
    if json_file:
        with open_output(json_file) as file:
            click.echo(to_bytes(json.dumps(made.report.to_dict(), indent=1)), file=file)
