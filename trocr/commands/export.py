"""`trocr export`: a model as ONNX graphs or compiled packages, written only if it still reads the same.

Source: original work.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from trocr.commands.console import Console, to_bytes

if TYPE_CHECKING:
    from trocr.data.records import LineSource
    from trocr.evaluation.gate import GateReport
    from trocr.export.manifest import Manifest
    from trocr.reader import Reader

_POSITIVE = click.IntRange(min=1)
_SHARE = click.FloatRange(0, 1)
_BOUNDS = ("max_cer_increase", "min_same_text", "min_token_agreement")


def _checked(function: Callable[..., None]) -> Callable[..., None]:
    """Add the arguments and the options of the check."""
    for decorate in (
        click.option("--min-token-agreement", type=_SHARE, help="Of equal tokens.  [default: see the docs]"),
        click.option("--min-same-text", type=_SHARE, help="Least share of equal lines.  [likewise]"),
        click.option("--max-cer-increase", type=_SHARE, help="By which CER may grow.  [likewise]"),
        click.option("--batch-size", type=_POSITIVE, default=8, show_default=True, help="Of the check."),
        click.option("--kind", default="auto", show_default=True, help="Format of the data."),
        click.option("--num-lines", type=_POSITIVE, help="Of --check, the first ones.  [default: all]"),
        click.option("--check", metavar="DATA", help="Lines that must be read as MODEL does, beside noise."),
        click.argument("folder", metavar="FOLDER"),
        click.argument("checkpoint", metavar="MODEL"),
    ):
        function = decorate(function)
    return function


@click.group()
def export() -> None:
    """Write a model for another runtime, if it reads there as it does here.

    MODEL is a shipped name, a folder or a Hub id; FOLDER is new or empty, and `trocr read --model FOLDER`
    reads with it.
    """


@export.command()
@_checked
@click.option("--quantize", type=click.Choice(["int8"]), help="Round weights to eight bits.")
@click.option("--opset", type=int, default=18, show_default=True, help="Version of ONNX's operators.")
def onnx(checkpoint: str, folder: str, quantize: str | None, opset: int, **options: Any) -> None:
    """Write ONNX graphs, which ONNX Runtime reads: the encoder, and the decoder's step with its cache."""
    from trocr.export import export_onnx

    console = Console()
    source, reader = _open(checkpoint, options, dtype="float32")
    manifest = export_onnx(
        reader.model,
        folder,
        reader.processor,
        quantize=quantize,  # type: ignore[arg-type]  # click checked it
        opset=opset,
        accept=_gate(reader, source, options, console, rounded=quantize is not None),
    )
    _say(folder, manifest)


@export.command()
@_checked
@click.option(
    "--dtype",
    type=click.Choice(["float32", "bfloat16", "float16"]),
    default="float32",
    show_default=True,
    help="Precision.",
)
def package(checkpoint: str, folder: str, dtype: str, **options: Any) -> None:
    """Compile packages of torch.export with AOTInductor; this needs a C++ compiler and takes minutes."""
    from trocr.export import export_package

    console = Console()
    source, reader = _open(checkpoint, options, dtype=dtype)
    manifest = export_package(
        reader.model,
        folder,
        reader.processor,
        accept=_gate(reader, source, options, console, rounded=dtype != "float32"),
    )
    _say(folder, manifest)


def _open(checkpoint: str, options: dict[str, Any], *, dtype: str) -> tuple["LineSource | None", "Reader"]:
    given = [name for name in ("num_lines", *_BOUNDS) if options[name] is not None]
    if given and not options["check"]:
        name = given[0].replace("_", "-")
        raise click.UsageError(f"--{name} is about the check: give --check DATA too, or leave it out")
    source = None
    if options["check"]:
        from trocr.data.sources import Subset, open_source

        source = open_source(options["check"], kind=options["kind"])
        if options["num_lines"]:
            source = Subset(source, range(min(options["num_lines"], len(source))))

    from trocr.hub import MODEL_FILES, PROCESSOR_FILES, locate
    from trocr.models import VisionEncoderDecoderModel
    from trocr.processor import TrOCRProcessor
    from trocr.reader import Reader

    place = locate(checkpoint, want=(*MODEL_FILES, *PROCESSOR_FILES))
    model = VisionEncoderDecoderModel.from_pretrained(place, dtype=dtype)
    return source, Reader(model, processor=TrOCRProcessor.from_pretrained(place))


def _gate(
    reader: "Reader",
    source: "LineSource | None",
    options: dict[str, Any],
    console: Console,
    *,
    rounded: bool,
) -> Callable[[Any], None] | None:
    """Make the check on lines; None where none are given."""
    if source is None:
        return None
    lines = source

    def accept(model: Any) -> None:
        from dataclasses import asdict, replace

        from trocr.evaluation.gate import EXACT, LOSSY, check_parity
        from trocr.reader import Reader

        given = {name: options[name] for name in _BOUNDS if options[name] is not None}
        bounds = replace(LOSSY if rounded else EXACT, **given)
        with console.progress(len(lines)):
            report: GateReport = check_parity(
                reader,
                Reader(model, reader.processor),
                lines,
                batch_size=options["batch_size"],
                progress=console.advance,
                **asdict(bounds),
            )
        click.echo(to_bytes(report.text()))
        report.require()

    return accept


def _say(folder: str, manifest: "Manifest") -> None:
    check = manifest.check
    click.echo(
        to_bytes(
            f"{check['on']}: {check['agreeing']} of {check['tokens']} tokens the same, largest difference of "
            f"scores {check['difference']:.1e}"
        )
    )
    for name, fact in manifest.files.items():
        click.echo(to_bytes(f"  {name:<14} {fact['bytes'] / 1e6:8.1f} MB"))
    click.echo(to_bytes(f"written: {folder}"))
