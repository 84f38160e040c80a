"""`python -m weights_conversion`: convert, inspect and verify checkpoints.

Source: original work.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])

STORAGE = ("float32", "float16", "bfloat16", "float64")


def _hints(command: Command) -> Command:
    """The options that say what a weight file alone does not."""
    options = (
        click.option("--official", metavar="NAME", help="It is this official model, say trocr-base-printed."),
        click.option(
            "--family",
            type=click.Choice(["learned", "sinusoidal", "unilm"]),
            help="Decoder recipe of a fairseq file without training arguments.",
        ),
        click.option(
            "--config",
            type=click.Path(exists=True, dir_okay=False, path_type=Path),
            help="A config.json to use instead of the source's.",
        ),
        click.option("--encoder-heads", type=click.IntRange(1), help="Attention heads, where no file says."),
        click.option("--decoder-heads", type=click.IntRange(1), help="Attention heads, where no file says."),
        click.option(
            "--image-size",
            nargs=2,
            type=click.IntRange(1),
            metavar="HEIGHT WIDTH",
            help="In pixels, where no file says and the patches form no square.",
        ),
        click.option("--offline", is_flag=True, help="Use the Hub's cache and never the network."),
    )
    for option in reversed(options):
        command = option(command)
    return command


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Convert, inspect and verify TrOCR checkpoints.

    SRC is a directory, a weight file (.safetensors, .bin, .pt), the name of a shipped model, or a Hub id.
    """


@main.command()
@click.argument("src")
@click.argument("dst", type=click.Path(file_okay=False, path_type=Path))
@click.option("--dtype", type=click.Choice(STORAGE), help="Precision of the weights written [as the source].")
@click.option(
    "--processor", metavar="SRC", help="Directory or Hub id to take tokenizer and image settings from."
)
@_hints
def convert(
    src: str, dst: Path, dtype: str | None, processor: str | None, offline: bool, **hints: Any
) -> None:
    """Write SRC as a Hugging Face directory DST."""
    import torch

    from weights_conversion.commands import convert as command
    from weights_conversion.commands.source import Hints, find_source

    source = find_source(src, local_files_only=offline)
    report = command.convert(
        source,
        dst,
        hints=Hints(**hints),
        storage=getattr(torch, dtype) if dtype else None,
        processor=processor,
    )
    for line in command.describe(source, dst, report):
        click.echo(line)


@main.command()
@click.argument("src")
@_hints
def inspect(src: str, offline: bool, **hints: Any) -> None:
    """Show configuration, dialect and parameters of SRC without loading it."""
    from weights_conversion.commands.source import Hints, find_source
    from weights_conversion.commands.summary import summarize

    lines, fits = summarize(find_source(src, local_files_only=offline), Hints(**hints))
    click.echo("\n".join(lines))
    if not fits:
        sys.exit(1)


@main.command()
@click.argument("src")
@click.option(
    "--image",
    "images",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Compare on this line image; may be repeated [random pixels].",
)
@click.option("--tokens", default=12, show_default=True, help="Tokens to read in the comparison.")
@_hints
def verify(src: str, images: tuple[Path, ...], tokens: int, offline: bool, **hints: Any) -> None:
    """Load SRC, rebuild it, round-trip it bit for bit, and compare it with transformers where installed."""
    from weights_conversion.commands.source import Hints, find_source
    from weights_conversion.commands.verify import verify as command

    passed = True
    for check in command(
        find_source(src, local_files_only=offline), Hints(**hints), images=images, tokens=tokens
    ):
        click.echo(check.line())
        passed = passed and check.passed is not False
    click.echo("passed" if passed else "FAILED")
    if not passed:
        sys.exit(1)


def run() -> None:
    """Run the command line; what is wrong with the input is one message on stderr and exit status 1."""
    try:
        main(prog_name="python -m weights_conversion")
    except (ValueError, OSError) as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    run()
