"""`trocr data`: look at lines, pack them, split them.

Source: original work.
"""

import json
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from trocr.commands.console import Console, to_bytes

if TYPE_CHECKING:
    from trocr.data.packing import Packed
    from trocr.data.records import LineSource

_KIND = click.option("--kind", default="auto", show_default=True, help="Format of the data.")
_SKIP_EMPTY = click.option("--skip-empty", is_flag=True, help="Leave lines without text out.")


@click.group()
def data() -> None:
    """Look at lines with their texts, pack them, split them."""


@data.command()
@click.argument("source", metavar="SRC")
@_KIND
@_SKIP_EMPTY
@click.option("--model", help="Check texts against its tokenizer and positions too.")
@click.option("--json", "as_json", is_flag=True, help="All of it as JSON.")
def inspect(source: str, kind: str, skip_empty: bool, model: str | None, as_json: bool) -> None:
    """Print counts, characters, shapes, and lines that will make trouble.

    Exit status 1 when an image cannot be read.
    """
    from trocr.data.inspection import inspect_source, inspection_text

    console = Console()
    lines = _open(source, kind, skip_empty)
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
@_SKIP_EMPTY
@click.option("--format", "form", type=click.Choice(["tar", "lmdb"]), default="tar", show_default=True)
@click.option("--lines-per-shard", type=click.IntRange(min=1), default=10_000, show_default=True)
def pack(source: str, destination: str, kind: str, skip_empty: bool, form: str, lines_per_shard: int) -> None:
    """Write lines as tar shards (WebDataset) or as an LMDB.

    A line whose image cannot be read is left out, named, and costs exit status 1.
    """
    from trocr.data.packing import write_shards

    _check_destination(source, destination)
    lines = _open(source, kind, skip_empty)
    if form == "tar":
        packed = write_shards(lines, destination, lines_per_shard=lines_per_shard)
    else:
        from trocr.data.lmdb_source import write_lmdb

        packed = write_lmdb(lines, destination)
    _tell(packed)
    if packed.skipped:
        click.get_current_context().exit(1)


@data.command()
@click.argument("source", metavar="SRC")
@click.argument("destination", metavar="DST")
@_KIND
@_SKIP_EMPTY
@click.option("--shares", required=True, help="Such as train=0.8,val=0.1,test=0.1.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
def split(source: str, destination: str, kind: str, skip_empty: bool, shares: str, seed: int) -> None:
    """Split lines by writer, receipt or document into folders of shards, with a manifest.

    DST gets a folder for each part, and split.json with counts, groups and hashes. A line whose image cannot
    be read is left out, named there and here, and costs exit status 1.
    """
    from trocr.data.split import split_by_group, write_parts

    wanted = _shares(shares)
    _check_destination(source, destination)
    parts = split_by_group(_open(source, kind, skip_empty), wanted, seed=seed)
    written = write_parts(parts, destination, origin=source, seed=seed)
    for part, packed in zip(parts, written, strict=True):
        click.echo(to_bytes(f"{part.name}: {len(part.groups)} groups"))
        _tell(packed)
    if any(packed.skipped for packed in written):
        click.get_current_context().exit(1)


def _open(source: str, kind: str, skip_empty: bool) -> "LineSource":
    from trocr.data.sources import open_source

    return open_source(source, kind=kind, **({"on_empty": "skip"} if skip_empty else {}))


def _check_destination(source: str, destination: str) -> None:
    sources = {Path(source).resolve(), Path(source.partition("#")[0]).resolve()}
    if Path(destination).resolve() in sources:
        raise click.BadParameter(f"{destination} is SRC itself; name another folder", param_hint="DST")


def _shares(text: str) -> dict[str, float]:
    shares: dict[str, float] = {}
    for item in text.split(","):
        name, equals, number = (part.strip() for part in item.partition("="))
        try:
            share = float(number)
        except ValueError:
            share = math.nan
        if not equals or not name or math.isnan(share):
            wrong = "is not NAME=NUMBER"
        elif not re.fullmatch(r"\w[\w.-]*", name):
            wrong = "has a name that is no folder's; expected letters, digits and -"
        elif name in shares:
            wrong = f"gives {name} a second time"
        elif not 0 < share < math.inf:
            wrong = "must be a number above 0"
        else:
            shares[name] = share
            continue
        raise click.BadParameter(f"{item!r} {wrong}", param_hint="--shares")
    return shares


def _tell(packed: "Packed") -> None:
    files = ", ".join(str(file) for file in packed.files[:3]) + (" ..." if len(packed.files) > 3 else "")
    click.echo(to_bytes(f"{packed.num_lines} lines in {files}"))
    for message in packed.skipped:
        click.echo(to_bytes(message), err=True)
