"""`trocr evaluate`: readings compared with what the lines say.

Source: original work.
"""

import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from trocr.commands.console import Console, open_output, to_bytes

if TYPE_CHECKING:
    from PIL import Image

    from trocr.data.records import LineSource

_POSITIVE = click.IntRange(min=1)


@click.command()
@click.option("--model", default="tiny-printed", show_default=True, help="Shipped name, folder or Hub id.")
@click.option("--data", "sources", multiple=True, required=True, help="Lines with their texts; repeatable.")
@click.option("--kind", default="auto", show_default=True, help="Format of the data.")
@click.option("--predictions", type=click.Path(exists=True), help="Score this file (name TAB text) instead.")
@click.option("--convention", "conventions", multiple=True, help="Only these; repeatable.  [default: all]")
@click.option("--ignore-case", is_flag=True, help="Fold case first, as SROIE's upper-case labels need.")
@click.option("--ignore-punctuation", is_flag=True, help="Leave punctuation out first.")
@click.option("--spaces", default="keep", show_default=True, help="keep, strip, collapse or drop.")
@click.option("--unicode-form", default="none", show_default=True, help="none, NFC, NFD, NFKC or NFKD.")
@click.option("--beams", type=_POSITIVE, help="Alternatives that are searched.  [default: the model's]")
@click.option("--batch-size", type=_POSITIVE, default=16, show_default=True, help="Lines read together.")
@click.option("--max-new-tokens", type=_POSITIVE, help="Longest text, in tokens.  [default: the model's]")
@click.option("--native-width", is_flag=True, help="Leave out shared padding: faster for short lines.")
@click.option("--threads", type=_POSITIVE, help="Of the processor.  [default: torch's choice]")
@click.option("--device", help="cpu, cuda, cuda:1 ...  [default: cuda where there is any]")
@click.option("--dtype", type=click.Choice(["float32", "bfloat16", "float16"]), help="Precision.")
@click.option("--resamples", type=_POSITIVE, default=1000, show_default=True, help="Of the bootstrap.")
@click.option("--json", "json_file", metavar="FILE", help="Write all numbers and readings.")
@click.option("--html", "html_file", metavar="FILE", help="Write a page with the worst lines.")
@click.option(
    "--worst", type=click.IntRange(min=0), default=50, show_default=True, help="Lines on that page."
)
@click.option("--write-predictions", metavar="FILE", help="Write name TAB reading.")
def evaluate(**options: Any) -> None:
    """Compare readings of lines with their texts: error rates with intervals, by every convention.

    A line whose image cannot be read is left out, named on standard error, and costs exit status 1.
    """
    from trocr.data.sources import open_source

    console = Console()
    sources = [(path, open_source(path, kind=options["kind"])) for path in options["sources"]]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".* rows were cut at")  # counted in the report
        found = [_evaluate_one(path, source, options, console) for path, source in sources]
    manifest = _manifest(options, found)
    for part in found:
        click.echo(to_bytes(part["text"]))
    if options["json_file"]:
        _write_json(options["json_file"], found, manifest)
    if options["html_file"]:
        _write_html(options["html_file"], found, manifest, options["worst"])
    if options["write_predictions"]:
        from trocr.evaluation.reading import predictions_text

        _write(options["write_predictions"], "".join(predictions_text(part["readings"]) for part in found))
    if console.failed:
        click.get_current_context().exit(1)


def _evaluate_one(
    path: str, source: "LineSource", options: dict[str, Any], console: Console
) -> dict[str, Any]:
    from trocr.evaluation.conventions import CONVENTIONS
    from trocr.evaluation.report import evaluate_readings
    from trocr.evaluation.table import report_text
    from trocr.evaluation.texts import Normalisation

    normalisation = Normalisation(
        form=options["unicode_form"],
        ignore_case=options["ignore_case"],
        ignore_punctuation=options["ignore_punctuation"],
        spaces=options["spaces"],
    )
    speed = None
    skipped: tuple[str, ...] = ()
    if options["predictions"]:
        from trocr.evaluation.reading import load_predictions

        readings = load_predictions(Path(options["predictions"]), source)
    else:
        readings, skipped, speed = _read(source, options, console)
    for message in skipped:
        console.fail(message)
    report = evaluate_readings(
        readings,
        normalisation=normalisation,
        conventions=options["conventions"] or tuple(CONVENTIONS),
        num_resamples=options["resamples"],
    )
    title = f"{path}, read by {options['predictions'] or options['model']}"
    return {
        "data": path,
        "source": source,
        "readings": readings,
        "skipped": skipped,
        "lines_per_s": speed,
        "report": report,
        "text": report_text(report, title=title, lines_per_s=speed),
    }


def _read(source: "LineSource", options: dict[str, Any], console: Console) -> tuple[Any, Any, float]:
    import torch

    from trocr.evaluation.reading import read_source
    from trocr.reader import Reader

    if options["threads"]:
        torch.set_num_threads(options["threads"])
    reader = Reader(options["model"], device=options["device"], dtype=options["dtype"])
    with console.progress(len(source)):
        lines = read_source(
            reader,
            source,
            batch_size=options["batch_size"],
            num_beams=options["beams"],
            max_new_tokens=options["max_new_tokens"],
            native_width=options["native_width"],
            progress=console.advance,
        )
    return lines.readings, lines.skipped, lines.lines_per_s


def _manifest(options: dict[str, Any], found: list[dict[str, Any]]) -> dict[str, Any]:
    from trocr.evaluation.manifest import file_hash, folder_hashes, machine, targets_hash, versions
    from trocr.hub import locate

    if options["predictions"]:
        measured = {"predictions": options["predictions"], "sha256": file_hash(options["predictions"])}
    else:
        measured = {"name": options["model"], "sha256": folder_hashes(locate(options["model"]))}
    written = ("json_file", "html_file", "write_predictions", "sources", "model")
    return {
        "model": measured,
        "data": [
            {"path": p["data"], "lines": len(p["source"]), "sha256_of_targets": targets_hash(p["readings"])}
            for p in found
        ],
        "options": {name: value for name, value in options.items() if name not in written},
        "versions": versions(),
        "machine": machine(),
    }


def _write_json(path: str, found: list[dict[str, Any]], manifest: dict[str, Any]) -> None:
    from dataclasses import asdict

    parts = [
        {
            "data": part["data"],
            "lines_per_s": part["lines_per_s"],
            "skipped": list(part["skipped"]),
            "report": part["report"].to_dict(),
            "readings": [asdict(reading) for reading in part["readings"]],
        }
        for part in found
    ]
    _write(path, json.dumps({"manifest": manifest, "results": parts}, indent=1, ensure_ascii=False) + "\n")


def _write_html(path: str, found: list[dict[str, Any]], manifest: dict[str, Any], count: int) -> None:
    from trocr.evaluation.html import report_html, worst_lines

    sections = []
    for part in found:
        worst = worst_lines(part["readings"], count)
        images = _images(part["source"], {reading.name for reading in worst})
        shown = [(reading, images.get(reading.name)) for reading in worst]
        sections.append((part["data"], part["report"], shown))
    _write(path, report_html(sections, manifest))


def _images(source: "LineSource", names: set[str]) -> "dict[str, Image.Image]":
    from trocr.image import ImageError

    found = {}
    for number in range(len(source)):
        record = source[number]
        if record.name in names:
            try:
                found[record.name] = record.open()
            except ImageError:
                continue  # scored from a file of predictions; the page shows the texts alone
    return found


def _write(path: str, text: str) -> None:
    with open_output(path) as file:
        click.echo(text.encode("utf-8"), file=file, nl=False)
