"""`trocr surgery apply`: all operations of a recipe.

Source: original work.
"""

import click

from trocr.commands.surgery import common


@click.command()
@click.argument("recipe", type=click.Path(exists=True, dir_okay=False))
@click.argument("checkpoint", metavar="MODEL")
@click.argument("output", metavar="OUT")
@common.JSON
def apply(recipe: str, checkpoint: str, output: str, json_file: str | None) -> None:
    """Do the operations of the TOML file RECIPE on MODEL, and write OUT when all are done."""
    from trocr.surgery.recipe import apply_recipe, read_recipe

    common.check_places(output, json_file)
    operations = read_recipe(recipe)
    model, processor = common.load(checkpoint)
    reports = apply_recipe(model, operations, processor=processor)
    common.save(model, processor, output)
    common.show_all(reports, json_file)
