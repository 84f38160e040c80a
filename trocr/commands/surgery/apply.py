"""`trocr surgery apply`: all operations of a recipe.

Source: original work.
"""

import click

from trocr.commands.surgery import common


@click.command()
@click.argument("recipe", type=click.Path(exists=True, dir_okay=False))
@click.argument("checkpoint", metavar="MODEL")
@click.argument("output", metavar="OUT")
def apply(recipe: str, checkpoint: str, output: str) -> None:
    """Do the operations of the TOML file RECIPE on MODEL, and write OUT when all are done."""
    from trocr.surgery.recipe import apply_recipe, read_recipe

    operations = read_recipe(recipe)
    model, processor = common.load(checkpoint)
    reports = apply_recipe(model, operations, processor=processor)
    common.save(model, processor, output)
    for report in reports:
        common.show(report, None)
