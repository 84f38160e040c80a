"""`trocr synth`: write generated lines, or a sheet of them to look at.

Source: original work.
"""

import io
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from trocr.commands.console import Console, check_outputs, open_output, to_bytes

if TYPE_CHECKING:
    from trocr.data.synthetic import SyntheticLines, SyntheticSettings

_POSITIVE = click.IntRange(min=1)

MOST_ON_SHEET = 40
"""Lines that a sheet has room for."""


class SettingsError(ValueError):
    """A file with settings cannot be read."""


@click.command()
@click.argument("output", metavar="OUT", required=False)
@click.option("--config", type=click.Path(exists=True), help="TOML with [synthetic], or a training file.")
@click.option("--num", type=_POSITIVE, default=1000, show_default=True, help="Lines to write.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the lines.")
@click.option("--start", type=click.IntRange(min=0), default=0, show_default=True, help="First line.")
@click.option("--format", "form", type=click.Choice(["folder", "tar"]), default="folder", show_default=True)
@click.option("--preview", metavar="PNG", help="Write a sheet with lines and their texts.")
def synth(
    output: str | None, config: str | None, num: int, seed: int, start: int, form: str, preview: str | None
) -> None:
    """Write generated lines into OUT: images and labels.tsv, or tar shards.

    Line number N of a seed is always the same: --start goes on where another call ended.
    """
    from trocr.data.sources import Subset
    from trocr.data.synthetic import SyntheticLines

    if output is None and preview is None:
        raise click.UsageError("name a folder OUT, or --preview sheet.png, or both")
    check_outputs(preview)
    lines = SyntheticLines(_settings(config), seed=seed)
    if preview is not None:
        _draw_sheet(lines, range(start, start + min(num, MOST_ON_SHEET)), preview)
        click.echo(to_bytes(f"{min(num, MOST_ON_SHEET)} lines on {preview}"))
    if output is None:
        return
    chosen = Subset(lines, range(start, start + num))
    if form == "tar":
        from trocr.data.packing import write_shards

        packed = write_shards(chosen, output)
        click.echo(to_bytes(f"{packed.num_lines} lines in {len(packed.files)} shards in {output}"))
        return
    _write_folder(chosen, Path(output))
    click.echo(to_bytes(f"{num} lines in {output}"))


def _draw_sheet(lines: "SyntheticLines", numbers: range, preview: str) -> None:
    from trocr.data.synthetic.sheet import draw_sheet

    records = [lines[number] for number in numbers]
    font = lines.artist.fonts.best_for("".join(record.text for record in records))
    content = io.BytesIO()
    draw_sheet(records, font=font).save(content, "PNG")
    with open_output(preview) as file:
        click.echo(content.getvalue(), file=file, nl=False)


def _settings(config: str | None) -> "SyntheticSettings":
    from trocr.data.synthetic import SyntheticSettings

    if config is None:
        return SyntheticSettings()
    try:
        values = tomllib.loads(Path(config).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"{config}: cannot be read ({error})") from error
    table = values.get("synthetic", values.get("data", {}).get("synthetic"))
    if not isinstance(table, dict):
        raise SettingsError(f"{config}: no table [synthetic] or [data.synthetic]")
    return SyntheticSettings.from_dict(table)


def _write_folder(lines: Any, folder: Path) -> None:
    from trocr.data.packing import staged

    if (folder / "labels.tsv").exists():
        raise SettingsError(f"{folder}: holds a labels.tsv already; choose an empty folder")
    console = Console()
    rows = []
    with staged(folder) as stage, console.progress(len(lines)):
        for record in lines:
            name = f"{record.name}.png"
            record.open().save(stage / name)
            rows.append(f"{name}\t{record.text}\n")
            console.advance()
        (stage / "labels.tsv").write_bytes("".join(rows).encode("utf-8"))
