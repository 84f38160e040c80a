"""`trocr read`: line images in, one line of text each out.

Source: original work.
"""

import json
import warnings
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import click

from trocr.commands.console import Console, open_output, to_bytes
from trocr.commands.paths import STANDARD_INPUT, PathError, expand

if TYPE_CHECKING:
    from trocr.line import Line

_POSITIVE = click.IntRange(min=1)


@click.command()
@click.argument("paths", metavar="PATH...", nargs=-1, required=True)
@click.option("--model", default="tiny-printed", show_default=True, help="Shipped name, folder or Hub id.")
@click.option("--json", "as_json", is_flag=True, help="JSON lines: path, text, score, finished, tokens.")
@click.option("--names", is_flag=True, help="Begin each line with the path and a tab.")
@click.option("--output", metavar="FILE", help="Write a file instead of standard output.")
@click.option("--beams", type=_POSITIVE, help="Alternatives that are searched.  [default: the model's]")
@click.option("--batch-size", type=_POSITIVE, default=8, show_default=True, help="Images read together.")
@click.option("--max-new-tokens", type=_POSITIVE, help="Longest text, in tokens.  [default: the model's]")
@click.option("--native-width", is_flag=True, help="Leave out shared padding: faster for short lines.")
@click.option("--native-aspect", is_flag=True, help="Do not squeeze images into a square; changes texts.")
@click.option("--device", help="cpu, cuda, cuda:1 ...  [default: cuda where there is any]")
@click.option("--dtype", type=click.Choice(["float32", "bfloat16", "float16"]), help="Precision.")
@click.option(
    "--quantize", type=click.Choice(["int8"]), help="Round the weights: faster, see docs/performance.md."
)
@click.option("--no-optimize", is_flag=True, help="Read with the model as it is trained; slower.")
@click.option("--revision", help="Branch, tag or commit of a Hub model.")
@click.pass_context
def read(
    ctx: click.Context,
    paths: tuple[str, ...],
    model: str,
    as_json: bool,
    names: bool,
    output: str | None,
    beams: int | None,
    batch_size: int,
    max_new_tokens: int | None,
    native_width: bool,
    native_aspect: bool,
    device: str | None,
    dtype: str | None,
    quantize: str | None,
    no_optimize: bool,
    revision: str | None,
) -> None:
    """Print the text of line images, one line each, in order.

    PATH is an image, a folder (searched with its subfolders), a pattern such as 'scans/*.png', or - for a
    list of files on standard input. A file that cannot be read costs a line on standard error and exit
    status 1 at the end. It has no line in the output: --names and --json say which line is whose.
    """
    if as_json and names:
        raise click.UsageError("--json has the path in every line: leave --names out")
    console = Console()
    images: Iterable[str] = _images(paths, console)
    total = None
    if STANDARD_INPUT not in paths:
        images = list(images)
        total = len(images)
    if total == 0:
        ctx.exit(1)

    from trocr.reader import Reader

    with open_output(output) as file, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".* rows were cut at")  # each is named below
        reader = Reader(
            model,
            device=device,
            dtype=dtype,
            quantize=quantize,
            optimize=not no_optimize,
            revision=revision,
        )

        def skip(source: str, error: ValueError) -> None:
            console.fail(str(error))
            console.advance()

        with console.progress(total):
            for line in reader.read(
                images,
                batch_size=batch_size,
                num_beams=beams,
                max_new_tokens=max_new_tokens,
                native_width=native_width,
                native_aspect=native_aspect,
                on_error=skip,
            ):
                with console.aside():
                    click.echo(to_bytes(_json_line(line) if as_json else _text_line(line, names)), file=file)
                console.advance()
                if not line.finished:
                    console.say(
                        f"{line.source}: the text is cut after {len(line.tokens)} tokens, before its end; "
                        "--max-new-tokens sets the limit"
                    )
    if console.failed:
        ctx.exit(1)


def _images(paths: tuple[str, ...], console: Console) -> Iterator[str]:
    for path in paths:
        try:
            yield from expand(path)
        except PathError as error:
            console.fail(str(error))


def _json_line(line: "Line") -> str:
    return json.dumps(line.to_dict(), ensure_ascii=False)


def _text_line(line: "Line", names: bool) -> str:
    text = " ".join(line.text.splitlines())
    return f"{line.source}\t{text}" if names else text
