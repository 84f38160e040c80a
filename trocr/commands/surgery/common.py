"""What all commands of `trocr surgery` share: load, change, save, report.

Source: original work.
"""

import json
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from trocr.commands.console import OutputError, check_outputs, open_output, to_bytes

if TYPE_CHECKING:
    from trocr.models import VisionEncoderDecoderModel
    from trocr.processor import TrOCRProcessor
    from trocr.surgery.report import SurgeryReport

Operation = Callable[..., "SurgeryReport"]

JSON = click.option("--json", "json_file", metavar="FILE", help="Write the report of all tensors.")


def operation(function: Operation) -> Callable[..., None]:
    """Make a command of a function that changes a model and its processor in place.

    The command has the arguments MODEL and OUT and the option --json; the function gets the loaded model, its
    processor, and the command's own options.
    """

    @click.argument("checkpoint", metavar="MODEL")
    @click.argument("output", metavar="OUT")
    @JSON
    @wraps(function)
    def command(checkpoint: str, output: str, json_file: str | None, **options: Any) -> None:
        check_places(output, json_file)
        model, processor = load(checkpoint)
        report = function(model, processor, **options)
        save(model, processor, output)
        show(report, json_file)

    return command


def check_places(output: str, json_file: str | None) -> None:
    """Find out before the work whether the checkpoint and the report can be written after it.

    Raises:
        OutputError: one cannot.
    """
    if Path(output).exists() and not Path(output).is_dir():
        raise OutputError(f"{output}: is a file, expected a folder for the checkpoint; give another folder")
    check_outputs(json_file)


def load(checkpoint: str) -> tuple["VisionEncoderDecoderModel", "TrOCRProcessor"]:
    """Load a model and its processor from a shipped name, a directory or a Hub id."""
    from trocr.hub import MODEL_FILES, PROCESSOR_FILES, locate
    from trocr.models import VisionEncoderDecoderModel
    from trocr.processor import TrOCRProcessor

    folder = locate(checkpoint, want=(*MODEL_FILES, *PROCESSOR_FILES))
    return VisionEncoderDecoderModel.from_pretrained(folder), TrOCRProcessor.from_pretrained(folder)


def save(model: "VisionEncoderDecoderModel", processor: "TrOCRProcessor", output: str) -> None:
    """Write both as one checkpoint."""
    model.save_pretrained(output)
    processor.save_pretrained(output)


def show(report: "SurgeryReport", json_file: str | None) -> None:
    """Print a report, and write all of it where that is asked for."""
    _show([report], report.to_dict(), json_file)


def show_all(reports: "Sequence[SurgeryReport]", json_file: str | None) -> None:
    """Print several reports, and write them as a list where that is asked for."""
    _show(reports, [report.to_dict() for report in reports], json_file)


def _show(reports: "Sequence[SurgeryReport]", values: Any, json_file: str | None) -> None:
    for report in reports:
        click.echo(to_bytes(report.text()))
    if json_file:
        with open_output(json_file) as file:
            click.echo(json.dumps(values, indent=1, ensure_ascii=False).encode(), file=file)
