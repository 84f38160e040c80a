"""What all commands of `trocr surgery` share: load, change, save, report.

Source: original work.
"""

import json
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from trocr.commands.console import to_bytes

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
        model, processor = load(checkpoint)
        report = function(model, processor, **options)
        save(model, processor, output)
        show(report, json_file)

    return command


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
    click.echo(to_bytes(report.text()))
    if json_file:
        text = json.dumps(report.to_dict(), indent=1, ensure_ascii=False)
        Path(json_file).write_text(text + "\n", encoding="utf-8")
