"""`trocr evaluate`: readings compared with what the lines say.

Source: original work.
"""

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from trocr.commands.console import Console, check_outputs, open_output, to_bytes

if TYPE_CHECKING:
    from PIL import Image

    from trocr.data.records import LineSource
    from trocr.evaluation.report import Reading, Report
    from trocr.evaluation.texts import Normalisation
    from trocr.reader import Reader

_POSITIVE = click.IntRange(min=1)
_OUTPUTS = ("json_file", "html_file", "write_predictions")

Part = dict[str, Any]
"""A data set and what was found: data (where it is), source, readings, skipped, lines_per_s, report."""


@click.command()
@click.option("--model", default="tiny-printed", show_default=True, help="Shipped name, folder or Hub id.")
@click.option("--data", "sources", multiple=True, required=True, help="Lines with their texts; repeatable.")
@click.option("--kind", default="auto", show_default=True, help="Format of the data.")
@click.option("--predictions", type=click.Path(exists=True, dir_okay=False), help="Score this file instead.")
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

    A line whose image cannot be read is left out, named on standard error, and costs exit status 1. A file of
    predictions has rows of name, TAB, text.
    """
    from trocr.evaluation.predictions import predictions_text
    from trocr.evaluation.table import report_text
    from trocr.evaluation.texts import Normalisation

    console = Console()
    check_outputs(*(options[name] for name in _OUTPUTS))
    normalisation = Normalisation(
        form=options["unicode_form"],
        ignore_case=options["ignore_case"],
        ignore_punctuation=options["ignore_punctuation"],
        spaces=options["spaces"],
    )
    parts = _open(options, normalisation)
    measured = _take(parts, options, console) if options["predictions"] else _read(parts, options, console)
    for part in parts:
        for message in part["skipped"]:
            console.fail(message)
        part["report"] = _report(part["readings"], options, normalisation, options["resamples"])
        title = f"{part['data']}, read by {options['predictions'] or options['model']}"
        text = report_text(part["report"], title=title, lines_per_s=part["lines_per_s"])
        click.echo(to_bytes(text))
    manifest = _manifest(parts, measured, options)
    if options["json_file"]:
        _write_json(options["json_file"], parts, manifest)
    if options["html_file"]:
        _write_html(options["html_file"], parts, manifest, normalisation, options["worst"])
    if options["write_predictions"]:
        rows = predictions_text([(part["data"], part["readings"]) for part in parts])
        _write(options["write_predictions"], rows.encode("utf-8", "surrogatepass"))
    if console.failed:
        click.get_current_context().exit(1)


def _open(options: dict[str, Any], normalisation: "Normalisation") -> list[Part]:
    """Open the data, and find out what cannot be scored before anything is read.

    Raises:
        EvaluationError: targets as their own readings cannot be scored, or a data set is given twice.
    """
    from trocr.data.sources import open_source
    from trocr.evaluation.distance import EvaluationError
    from trocr.evaluation.report import Reading

    parts: list[Part] = []
    for place in options["sources"]:
        if options["sources"].count(place) > 1:
            raise EvaluationError(f"--data {place} is given more than once; give it once")
        source = open_source(place, kind=options["kind"])
        records = (source[number] for number in range(len(source)))
        perfect = [Reading(name=r.name, target=r.text, reading=r.text, group=r.group) for r in records]
        try:
            _report(perfect, options, normalisation, 1)
        except EvaluationError as error:
            raise EvaluationError(f"{place}: {error}") from error
        parts.append({"data": place, "source": source, "skipped": (), "lines_per_s": None})
    return parts


def _report(
    readings: "Sequence[Reading]",
    options: dict[str, Any],
    normalisation: "Normalisation",
    num_resamples: int,
) -> "Report":
    from trocr.evaluation.report import evaluate_readings

    return evaluate_readings(
        readings,
        normalisation=normalisation,
        conventions=options["conventions"] or None,
        num_resamples=num_resamples,
    )


def _take(parts: list[Part], options: dict[str, Any], console: Console) -> dict[str, Any]:
    """Take readings from a file; returns what was measured, for the manifest."""
    from trocr.evaluation.manifest import file_hash
    from trocr.evaluation.predictions import load_predictions

    path = options["predictions"]
    with console.progress(sum(len(part["source"]) for part in parts)):
        places = [(part["data"], part["source"]) for part in parts]
        found = load_predictions(Path(path), places, progress=console.advance)
    for part, readings in zip(parts, found, strict=True):
        part["readings"] = readings
    return {"predictions": path, "sha256": file_hash(path)}


def _read(parts: list[Part], options: dict[str, Any], console: Console) -> dict[str, Any]:
    """Read the lines; returns what was measured and how, for the manifest."""
    import torch

    from trocr.evaluation.manifest import folder_hashes
    from trocr.evaluation.reading import read_source
    from trocr.hub import locate
    from trocr.reader import Reader

    if options["threads"]:
        torch.set_num_threads(options["threads"])
    reader = Reader(options["model"], device=options["device"], dtype=options["dtype"])
    for part in parts:
        with console.progress(len(part["source"])), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".* rows were cut at")  # counted in the report
            lines = read_source(
                reader,
                part["source"],
                batch_size=options["batch_size"],
                num_beams=options["beams"],
                max_new_tokens=options["max_new_tokens"],
                native_width=options["native_width"],
                progress=console.advance,
            )
        part |= {"readings": lines.readings, "skipped": lines.skipped, "lines_per_s": lines.lines_per_s}
    return {
        "name": options["model"],
        "sha256": folder_hashes(locate(options["model"])),
        "read_with": _settings(reader, options),
    }


def _settings(reader: "Reader", options: dict[str, Any]) -> dict[str, Any]:
    """What the options came to, with the defaults of the machine and of the model."""
    model = reader.model
    asked = {"num_beams": options["beams"], "max_new_tokens": options["max_new_tokens"]}
    chosen = model.generation_config.update(**{k: v for k, v in asked.items() if v is not None})
    return {
        "device": str(model.device),
        "dtype": str(model.dtype).removeprefix("torch."),
        "num_beams": chosen.num_beams or 1,
        "max_new_tokens": chosen.max_new_tokens,
        "max_length": chosen.max_length,
    }


def _manifest(parts: list[Part], measured: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    from trocr.evaluation.manifest import images_hash, machine, targets_hash, versions
    from trocr.evaluation.report import SEED

    elsewhere = (*_OUTPUTS, "sources", "model")
    return {
        "model": measured,
        "data": [
            {
                "path": part["data"],
                "lines": len(part["readings"]),
                "lines_in_the_data": len(part["source"]),
                "sha256_of_targets": targets_hash(part["readings"]),
                "sha256_of_images": images_hash(part["readings"]),
            }
            for part in parts
        ],
        "bootstrap": {"resamples": options["resamples"], "seed": SEED},
        "options": {name: value for name, value in options.items() if name not in elsewhere},
        "versions": versions(),
        "machine": machine(),
    }


def _write_json(path: str, parts: list[Part], manifest: dict[str, Any]) -> None:
    from dataclasses import asdict

    results = [
        {
            "data": part["data"],
            "lines_per_s": part["lines_per_s"],
            "skipped": list(part["skipped"]),
            "report": part["report"].to_dict(),
            "readings": [asdict(reading) for reading in part["readings"]],
        }
        for part in parts
    ]
    text = json.dumps({"manifest": manifest, "results": results}, indent=1, ensure_ascii=False)
    _write(path, to_bytes(text + "\n"))  # a broken character becomes its JSON escape


def _write_html(
    path: str, parts: list[Part], manifest: dict[str, Any], normalisation: "Normalisation", count: int
) -> None:
    from trocr.evaluation.html import Section, report_html, worst_lines
    from trocr.evaluation.report import compared

    sections = []
    for part in parts:
        worst = worst_lines(compared(part["readings"], normalisation), count)
        images = _images(part["source"], {reading.name for reading in worst})
        sections.append(
            Section(
                title=part["data"],
                report=part["report"],
                worst=[(reading, images.get(reading.name)) for reading in worst],
                lines_per_s=part["lines_per_s"],
                skipped=part["skipped"],
            )
        )
    _write(path, to_bytes(report_html(sections, manifest)))


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


def _write(path: str, content: bytes) -> None:
    with open_output(path) as file:
        click.echo(content, file=file, nl=False)
