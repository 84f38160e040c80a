"""`trocr surgery average`: the mean of several checkpoints.

Source: original work.
"""

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from trocr.commands.console import Console
from trocr.commands.surgery import common

if TYPE_CHECKING:
    from trocr.models import VisionEncoderDecoderModel
    from trocr.processor import TrOCRProcessor


@click.command()
@click.argument("output", metavar="OUT")
@click.argument("checkpoints", metavar="CHECKPOINT...", nargs=-1, required=True)
@click.option("--weight", "weights", type=float, multiple=True, help="Of each checkpoint, in their order.")
@click.option(
    "--decay",
    type=click.FloatRange(0, 1),
    help="Checkpoints are from old to new, and each forgets those before by this factor.",
)
@click.option(
    "--data",
    "sources",
    multiple=True,
    help="Take those that lower the error rate on these lines; repeatable.",
)
@click.option("--kind", default="auto", show_default=True, help="Format of the data.")
@click.option(
    "--batch-size", type=click.IntRange(min=1), default=16, show_default=True, help="Lines at once."
)
@common.JSON
def average(
    output: str,
    checkpoints: tuple[str, ...],
    weights: tuple[float, ...],
    decay: float | None,
    sources: tuple[str, ...],
    kind: str,
    batch_size: int,
    json_file: str | None,
) -> None:
    """Average the weights of CHECKPOINTs of one model, and write OUT.

    All count the same, or as --weight or --decay says. With --data the best one is taken, and of the others,
    from good to bad, those that do not raise the character error rate of the average (a greedy soup).
    """
    if sum(map(bool, (weights, decay is not None, sources))) > 1:
        raise click.UsageError("--weight, --decay and --data exclude one another: give one of them")
    from trocr.surgery import averaging

    common.check_places(output, json_file)
    if sources:
        found = averaging.greedy_soup(checkpoints, _score(sources, kind, batch_size))
    elif decay is not None:
        found = averaging.ema_of(checkpoints, decay)
    else:
        found = averaging.average_checkpoints(checkpoints, weights=weights or None)
    model, processor, report = found
    common.save(model, processor, output)
    common.show(report, json_file)


def _score(
    paths: tuple[str, ...], kind: str, batch_size: int
) -> "Callable[[VisionEncoderDecoderModel, TrOCRProcessor], float]":
    """Minus the character error rate on lines; each one is told."""
    from trocr.data.sources import open_source
    from trocr.evaluation.distance import count_edits, total
    from trocr.evaluation.reading import read_source
    from trocr.reader import Reader

    sources = [open_source(path, kind=kind) for path in paths]
    console, told = Console(), set[str]()

    def score(model: "VisionEncoderDecoderModel", processor: "TrOCRProcessor") -> float:
        reader = Reader(model, processor)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".* rows were cut at")  # they count as they are
            found = [read_source(reader, source, batch_size=batch_size) for source in sources]
        readings = [reading for part in found for reading in part.readings]
        for message in {message for part in found for message in part.skipped} - told:
            told.add(message)
            console.say(f"left out: {message}")
        rate = total(count_edits(reading.target, reading.reading) for reading in readings).rate
        console.say(f"character error rate {rate:.4f} on {len(readings)} lines")
        return -rate

    return score
