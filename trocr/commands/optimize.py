"""`trocr optimize`: a model made quick for this machine, written only if it still reads the same.

Source: original work.
"""

import json
import os
import shutil
import warnings
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from trocr.commands.console import Console, OutputError, check_outputs, open_output, to_bytes

if TYPE_CHECKING:
    from torch import Tensor

    from trocr.data.records import LineSource
    from trocr.evaluation.gate import Bounds, GateReport
    from trocr.fast import FastModel
    from trocr.fast.hardware import Choice
    from trocr.processor import TrOCRProcessor
    from trocr.reader import Reader

READ_AGAIN = 16
"""Lines that are read with what was written."""

SEED = 0
"""Of the choice of lines."""

_POSITIVE = click.IntRange(min=1)
_SHARE = click.FloatRange(0, 1)


@click.command()
@click.argument("checkpoint", metavar="MODEL")
@click.argument("output", metavar="[OUTPUT]", required=False)
@click.option(
    "--dtype",
    type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
    help="Precision; auto is what this processor is quick with.  [default: float32, auto beside int8]",
)
@click.option("--quantize", type=click.Choice(["int8"]), help="Round weights to eight bits.")
@click.option("--calibrate", metavar="DATA", help="Lines to measure the int8 ranges of the encoder on.")
@click.option(
    "--calibration-lines", type=_POSITIVE, default=200, show_default=True, help="Of --calibrate, at most."
)
@click.option("--check", "check", metavar="DATA", help="Lines that must be read as before.")
@click.option("--no-check", is_flag=True, help="Write OUTPUT without a check.")
@click.option("--num-lines", type=_POSITIVE, help="Of --check, chosen by chance.  [default: all]")
@click.option("--kind", default="auto", show_default=True, help="Format of the data.")
@click.option(
    "--max-cer-increase", type=_SHARE, help="By which CER may grow.  [default: 0, 0.002 if rounded]"
)
@click.option(
    "--min-same-text", type=_SHARE, help="Least share of equal lines.  [default: 1, 0.95 if rounded]"
)
@click.option("--min-token-agreement", type=_SHARE, help="Of equal tokens.  [default: 1, 0.99 if rounded]")
@click.option("--batch-size", type=_POSITIVE, default=16, show_default=True, help="Lines read together.")
@click.option("--max-new-tokens", type=_POSITIVE, help="Longest text, in tokens.  [default: the model's]")
@click.option("--native-width", is_flag=True, help="Leave out shared padding, as in trocr read.")
@click.option(
    "--json", "json_file", metavar="FILE", help="Write the gate's report, whether it passes or not."
)
def optimize(checkpoint: str, output: str | None, **options: Any) -> None:
    """Make the model MODEL quick for this machine's processor, check it, and write it to OUTPUT.

    The lines of --check are read with MODEL in float32 and with the quick model. OUTPUT is written only if
    texts, tokens and character error rate keep to the bounds; else nothing is written and the exit status is
    1. Without OUTPUT, the check is all that is done. With --native-width the float32 model is a quick one
    too, since only those cut each line to its own width.
    """
    _check_usage(output, options)
    _check_model(checkpoint)
    check_outputs(options["json_file"])
    if output is not None:
        _check_output(checkpoint, output)
    check = calibrate = None
    if options["check"]:
        check = _lines(options["check"], options["kind"], options["num_lines"])
    if options["calibrate"]:
        calibrate = _lines(options["calibrate"], options["kind"], options["calibration_lines"])

    from trocr.reader import Reader

    console = Console()
    choice = _choice(options)
    if output is not None and not _is_rounded(choice):
        raise click.UsageError(
            f"the precision is {choice.dtype_reason}. A float32 model is not stored, as Reader makes one "
            "quick when it loads MODEL: leave OUTPUT out, or give --dtype bfloat16 or --quantize int8"
        )
    if options["native_width"] and not _is_rounded(choice):
        raise click.UsageError("in float32 --native-width compares widths, not models: leave it out")
    reader = Reader(checkpoint, device="cpu", dtype="float32", optimize=False)
    fast = _make(reader, choice, calibrate, options["batch_size"])
    made = Reader(fast, reader.processor)
    click.echo(to_bytes(_made_text(choice, fast)))
    report = None
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".* rows were cut at")  # it is no difference
        if check is not None:
            report = _gate(reader, made, check, choice, options, console)
            click.echo(to_bytes(report.text()))
            if options["json_file"]:
                _write_json(options["json_file"], report)
            report.require()
        if output is not None:
            save(made, Path(output).resolve(), report, check)
            click.echo(to_bytes(f"written: {output}"))


def save(made: "Reader", output: Path, report: "GateReport | None", check: "LineSource | None") -> None:
    """Write a quick model, its processor and the gate's report as one folder: all of it or nothing.

    Args:
        made: reader with the model.
        output: a folder that is not there, or empty.
        report: kept beside the model, but for the texts of lines that differ.
        check: lines of which some are read with what was written, before it gets its name.
    Raises:
        GateError: what was written reads other texts than the model in memory.
        OSError: it cannot be written.
    """
    import trocr.fast.files
    from trocr.data.sources import Subset
    from trocr.evaluation.gate import EXACT, GateError, check_parity
    from trocr.reader import Reader

    part = output.with_name(f".{output.name}.{os.getpid()}.part")
    part.parent.mkdir(parents=True, exist_ok=True)
    kept = None if report is None else {**report.to_dict(), "differences": len(report.differences)}
    model: Any = made.model
    try:
        trocr.fast.files.save_optimized(model, part, report=kept)
        made.processor.save_pretrained(part)
        written = Reader(part, device="cpu")
        if check is not None:
            some = Subset(check, range(min(READ_AGAIN, len(check))))
            again = check_parity(made, written, some, **asdict(EXACT))
            if not again.passed:
                raise GateError(
                    f"{output}: what was written reads otherwise than the model in memory "
                    f"({'; '.join(again.reasons)}), so it was taken away again; please report this"
                )
        if output.is_dir():
            output.rmdir()  # empty, see `_check_output`
        os.replace(part, output)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _check_usage(output: str | None, options: dict[str, Any]) -> None:
    """Find contradictions before anything is loaded.

    Raises:
        UsageError: options that do not go together.
    """
    check = options["check"]
    if check and options["no_check"]:
        raise click.UsageError("--check and --no-check contradict each other: leave one out")
    if output is None and not check:
        raise click.UsageError("nothing to do: give OUTPUT, or --check DATA to see what would change")
    if output is not None and not check and not options["no_check"]:
        raise click.UsageError(
            "OUTPUT is written only if the quick model reads as MODEL does: give --check DATA, lines with "
            "their texts, or say --no-check"
        )
    if options["calibrate"] and not options["quantize"]:
        raise click.UsageError("--calibrate is for int8: give --quantize int8 too, or leave it out")
    needy = ("num_lines", "max_cer_increase", "min_same_text", "min_token_agreement", "json_file")
    given = [name.removesuffix("_file").replace("_", "-") for name in needy if options[name] is not None]
    if given and not check:
        raise click.UsageError(f"--{given[0]} is about the check: give --check DATA too, or leave it out")


def _check_model(checkpoint: str) -> None:
    """Find out whether a folder is what this command has written.

    Raises:
        OptimizeError: it is.
    """
    from trocr.fast.files import is_optimized
    from trocr.fast.weights import OptimizeError

    if is_optimized(checkpoint):
        raise OptimizeError(f"{checkpoint}: was optimized already; give the model that it was made of")


def _check_output(checkpoint: str, output: str) -> None:
    """Find out before the work whether the folder can be written after it.

    Raises:
        OutputError: it cannot.
    """
    place = Path(output)
    if place.exists() and not place.is_dir():
        raise OutputError(f"{output}: is a file, expected a folder for the model; give another folder")
    if Path(checkpoint).exists() and place.resolve() == Path(checkpoint).resolve():
        raise OutputError(
            f"{output}: is MODEL itself, which is needed to train and to check; give another folder"
        )
    if place.is_dir() and any(place.iterdir()):
        raise OutputError(f"{output}: is a folder with files in it; give a new folder, or empty it")
    above = next(folder for folder in (place.resolve(), *place.resolve().parents) if folder.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise OutputError(f"{output}: cannot be written (Permission denied); give another folder")


def _lines(place: str, kind: str, most: int | None) -> "LineSource":
    """Open lines, and take some of them by chance, always the same."""
    import random

    from trocr.data.sources import Subset, open_source
    from trocr.evaluation.gate import GateError

    source = open_source(place, kind=kind)
    if not len(source):
        raise GateError(f"{place}: there are no lines; give lines with their texts")
    if most is None or most >= len(source):
        return source
    return Subset(source, sorted(random.Random(SEED).sample(range(len(source)), most)))


def _choice(options: dict[str, Any]) -> "Choice":
    from trocr.fast.hardware import choose, find_hardware

    dtype = options["dtype"] or ("auto" if options["quantize"] else "float32")
    return choose(find_hardware(), dtype=dtype, quantize=options["quantize"])


def _make(reader: "Reader", choice: "Choice", calibrate: "LineSource | None", batch_size: int) -> "FastModel":
    import trocr.fast

    model: Any = reader.model
    batches = None if calibrate is None else _batches(reader.processor, calibrate, batch_size)
    return trocr.fast.optimize(model, dtype=choice.dtype, quantize=choice.quantize, calibration=batches)


def _batches(processor: "TrOCRProcessor", source: "LineSource", batch_size: int) -> "Iterator[Tensor]":
    """Pixel values (B, C, height, width) of lines that can be opened."""
    from trocr.evaluation.reading import open_sorted

    skipped: list[str] = []
    for opened in open_sorted(source, skipped, batch_size):
        if opened:
            images = [image for _, _, image in opened]
            yield processor.image_processor(images, return_tensors="pt")["pixel_values"]


def _made_text(choice: "Choice", fast: "FastModel") -> str:
    rows = [choice.dtype_reason]
    if choice.quantize:
        rows.append(f"int8: {choice.int8_reason}")
    return "\n".join([*rows, f"made: {fast!r}"])


def _gate(
    reader: "Reader",
    made: "Reader",
    source: "LineSource",
    choice: "Choice",
    options: dict[str, Any],
    console: Console,
) -> "GateReport":
    import trocr.fast
    from trocr.evaluation.gate import check_parity
    from trocr.reader import Reader

    if options["native_width"]:  # both must cut lines alike
        plain: Any = reader.model
        reader = Reader(trocr.fast.optimize(plain, dtype="float32"), reader.processor)
    with console.progress(len(source)):
        return check_parity(
            reader,
            made,
            source,
            batch_size=options["batch_size"],
            max_new_tokens=options["max_new_tokens"],
            native_width=options["native_width"],
            progress=console.advance,
            **asdict(_bounds(choice, options)),
        )


def _bounds(choice: "Choice", options: dict[str, Any]) -> "Bounds":
    """Bounds of the precision, and those that are given."""
    from trocr.evaluation.gate import EXACT, LOSSY

    usual = LOSSY if _is_rounded(choice) else EXACT
    return replace(usual, **{name: options[name] for name in asdict(usual) if options[name] is not None})


def _is_rounded(choice: "Choice") -> bool:
    return choice.quantize is not None or str(choice.dtype) != "torch.float32"


def _write_json(path: str, report: "GateReport") -> None:
    text = json.dumps(report.to_dict(), indent=1, ensure_ascii=False)
    with open_output(path) as file:
        click.echo(to_bytes(text + "\n"), file=file, nl=False)
