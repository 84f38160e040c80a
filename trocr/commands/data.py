"""`trocr data`: look at lines, pack them, split them.

Source: original work.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from trocr.commands.console import Console, to_bytes

if TYPE_CHECKING:
    from trocr.data.shards import Packed

_KIND = click.option("--kind", default="auto", show_default=True, help="Format of the data.")


@click.group()
def data() -> None:
    """Look at lines with their texts, pack them, split them."""


@data.command()
@click.argument("source", metavar="SRC")
@_KIND
@click.option("--model", help="Check texts against its tokenizer and positions too.")
@click.option("--json", "as_json", is_flag=True, help="All of it as JSON.")
def inspect(source: str, kind: str, model: str | None, as_json: bool) -> None:
    """Print counts, characters, shapes, and lines that will make trouble.

    Exit status 1 when an image cannot be read.
    """
    from trocr.data.inspection import inspect_source, inspection_text
    from trocr.data.sources import open_source

    console = Console()
    lines = open_source(source, kind=kind)
    checks: dict[str, Any] = {}
    if model is not None:
        from trocr.config import VisionEncoderDecoderConfig
        from trocr.hub import PROCESSOR_FILES, locate
        from trocr.processor import TrOCRProcessor

        folder = locate(model, want=("config.json", *PROCESSOR_FILES))
        config = VisionEncoderDecoderConfig.from_pretrained(folder)
        checks["tokenizer"] = TrOCRProcessor.from_pretrained(folder).tokenizer
        checks["max_tokens"] = config.decoder.max_position_embeddings
    with console.progress(len(lines)):
        found = inspect_source(lines, progress=console.advance, **checks)
    if as_json:
        click.echo(to_bytes(json.dumps(found.to_dict(), ensure_ascii=False, indent=1)))
    else:
        click.echo(to_bytes(inspection_text(found, title=source)))
    if found.unreadable:
        click.get_current_context().exit(1)


@data.command()
@click.argument("source", metavar="SRC")
@click.argument("destination", metavar="DST")
@_KIND
@click.option("--format", "form", type=click.Choice(["tar", "lmdb"]), default="tar", show_default=True)
@click.option("--lines-per-shard", type=click.IntRange(min=1), default=10_000, show_default=True)
def pack(source: str, destination: str, kind: str, form: str, lines_per_shard: int) -> None:
    """Write lines as tar shards (WebDataset) or as an LMDB.

    A line whose image cannot be read is left out, named, and costs exit status 1.
    """
    from trocr.data.sources import open_source

    lines = open_source(source, kind=kind)
    if form == "tar":
        from trocr.data.shards import write_shards

        _tell(write_shards(lines, destination, lines_per_shard=lines_per_shard))
    else:
        from trocr.data.lmdb_source import write_lmdb

        _tell(write_lmdb(lines, destination))


@data.command()
@click.argument("source", metavar="SRC")
@click.argument("destination", metavar="DST")
@_KIND
@click.option("--shares", required=True, help="Such as train=0.8,val=0.1,test=0.1.")
@click.option("--seed", default=0, show_default=True)
def split(source: str, destination: str, kind: str, shares: str, seed: int) -> None:
    """Split lines by writer, receipt or document into folders of shards, with a manifest.

    DST gets a folder for each part, and split.json with counts, groups and hashes.
    """
    from trocr.data.shards import write_shards
    from trocr.data.sources import open_source
    from trocr.data.split import manifest, split_by_group, write_manifest

    lines = open_source(source, kind=kind)
    parts = split_by_group(lines, _shares(shares), seed=seed)
    described = manifest(parts, origin=source, seed=seed)
    for part in parts:
        packed = write_shards(part.lines, Path(destination) / part.name)
        click.echo(to_bytes(f"{part.name}: {len(part.groups)} groups"))
        _tell(packed)
    write_manifest(Path(destination), described)


def _shares(text: str) -> dict[str, float]:
    shares = {}
    for item in text.split(","):
        name, equals, number = item.partition("=")
        try:
            shares[name.strip()] = float(number)
        except ValueError as error:
            raise click.BadParameter(f"{item!r} is not NAME=NUMBER", param_hint="--shares") from error
        if not equals or not name.strip():
            raise click.BadParameter(f"{item!r} is not NAME=NUMBER", param_hint="--shares")
    return shares


def _tell(packed: "Packed") -> None:
    files = ", ".join(str(file) for file in packed.files[:3]) + (" ..." if len(packed.files) > 3 else "")
    click.echo(to_bytes(f"{packed.num_lines} lines in {files}"))
    for message in packed.skipped:
        click.echo(to_bytes(message), err=True)
    if packed.skipped:
        click.get_current_context().exit(1)
