"""`trocr inspect sizes`: parameters, bytes and multiply-adds by module.

Source: original work.
"""

import click

from trocr.commands.inspect import common


@click.command()
@click.argument("checkpoint", metavar="MODEL")
@click.option("--tokens", type=click.IntRange(min=1), help="Length of a line.  [default: 32]")
@common.JSON
def sizes(checkpoint: str, tokens: int | None, as_json: bool) -> None:
    """Count the parameters of MODEL and the multiply-adds for an image, a token and a line of text."""
    from trocr.commands.surgery.common import load
    from trocr.inspect.sizes import measure_sizes

    model, _ = load(checkpoint)
    found = measure_sizes(model, tokens=tokens)
    common.show(found.table(), found.to_dict(), as_json=as_json)
