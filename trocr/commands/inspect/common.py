"""What the commands of `trocr inspect` share.

Source: original work.
"""

import json
from collections.abc import Iterable
from typing import Any

import click

from trocr.commands.console import Console, to_bytes
from trocr.commands.paths import PathError, expand

JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
BEAMS = click.option(
    "--beams", type=click.IntRange(min=1), help="Alternatives that are searched.  [default: the model's]"
)

NATIVE_WIDTH = click.option("--native-width", is_flag=True, help="Leave out the padding on the right.")


def reading_options(beams: int | None, *, native_width: bool) -> dict[str, Any]:
    """Options of reading for what was given on the command line."""
    options: dict[str, Any] = {} if beams is None else {"num_beams": beams}
    return {**options, "native_width": True} if native_width else options


def image_paths(arguments: Iterable[str], console: Console) -> list[str]:
    """Files that arguments mean; what cannot be found is told."""
    found: list[str] = []
    for argument in arguments:
        try:
            found += expand(argument)
        except PathError as error:
            console.fail(str(error))
    return found


def show(table: str, values: Any, *, as_json: bool) -> None:
    """Print a table, or its values as JSON."""
    click.echo(to_bytes(json.dumps(values, indent=1, ensure_ascii=False) if as_json else table))
