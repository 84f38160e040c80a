"""`trocr inspect compare`: how far two checkpoints are apart.

Source: original work.
"""

import click

from trocr.commands.console import Console
from trocr.commands.inspect import common


@click.command()
@click.argument("first", metavar="A")
@click.argument("second", metavar="B")
@click.option("--images", multiple=True, metavar="PATH", help="Compare activations on these; repeatable.")
@click.option("--rows", type=click.IntRange(min=0), default=20, show_default=True, help="Tensors shown.")
@common.JSON
def compare(first: str, second: str, images: tuple[str, ...], rows: int, as_json: bool) -> None:
    """Compare the weights of two checkpoints tensor by tensor, and with --images their activations (CKA).

    Distances are relative to A. The tensors that are furthest apart come first; --json has all of them.
    """
    from trocr.commands.surgery.common import load
    from trocr.inspect.comparison import compare_weights
    from trocr.inspect.similarity import compare_activations

    console = Console()
    paths = common.image_paths(images, console)
    if console.failed:
        click.get_current_context().exit(1)
    (a, processor), (b, other) = load(first), load(second)
    weights = compare_weights(a, b)
    tables, values = [weights.table(rows)], {"weights": weights.to_dict()}
    if paths:
        alike = compare_activations(a, b, paths, processor=processor, other_processor=other)
        tables.append(alike.table())
        values["activations"] = alike.to_dict()
    common.show("\n\n".join(tables), values, as_json=as_json)
