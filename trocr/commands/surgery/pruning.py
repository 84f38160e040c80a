"""`trocr surgery prune-heads` and `trocr surgery prune-units`.

Source: original work.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from trocr.commands.surgery import common

if TYPE_CHECKING:
    from trocr.models import VisionEncoderDecoderModel
    from trocr.processor import TrOCRProcessor
    from trocr.surgery.report import SurgeryReport

_Command = TypeVar("_Command", bound=Callable[..., Any])


def _measured(function: _Command) -> _Command:
    """Options of both commands that choose by importance."""
    for option in (
        click.option("--lines", "max_lines", type=int, default=256, show_default=True, help="Of --data."),
        click.option("--data", metavar="SRC", help="Lines with their texts, to measure importance on."),
        click.option(
            "--modules",
            multiple=True,
            metavar="PATTERN",
            help="Only these parts, by name; repeatable.  [default: all]",
        ),
        click.option(
            "--share", type=float, help="Share that goes, of all together; the least important first."
        ),
    ):
        function = option(function)
    return function


@click.command("prune-heads")
@click.option(
    "--head", "named", multiple=True, metavar="PATTERN=0,2", help="Heads that go, by number; repeatable."
)
@click.option("--keep-heads", "--heads", type=int, metavar="N", help="Heads that stay in each attention.")
@_measured
@common.operation
def prune_heads(
    model: "VisionEncoderDecoderModel",
    processor: "TrOCRProcessor",
    named: Sequence[str],
    modules: Sequence[str],
    **options: Any,
) -> "SurgeryReport":
    """Take attention heads out of MODEL, and write OUT.

    Which go is given by number (--head "decoder.blocks.0.cross_attn=0,2"), or chosen by how much they matter
    for reading the lines of --data: a share of all (--share), or all but some of each attention
    (--keep-heads).
    """
    from trocr.surgery import pruning

    chosen = {"modules": list(modules) or "*", "processor": processor, **options}
    return pruning.prune_heads(model, _numbers("--head", named), **chosen)


@click.command("prune-units")
@click.option(
    "--unit", "named", multiple=True, metavar="PATTERN=0,2", help="Units that go, by number; repeatable."
)
@click.option(
    "--keep-units", "--units", type=int, metavar="N", help="Units that stay in each feed-forward part."
)
@_measured
@common.operation
def prune_units(
    model: "VisionEncoderDecoderModel",
    processor: "TrOCRProcessor",
    named: Sequence[str],
    modules: Sequence[str],
    **options: Any,
) -> "SurgeryReport":
    """Take units out of the feed-forward parts of MODEL, and write OUT.

    Which go is given by number (--unit "decoder.*=0-99"), or chosen by how much they matter for reading the
    lines of --data: a share of all (--share), or all but some in each part (--keep-units).
    """
    from trocr.surgery import pruning

    chosen = {"modules": list(modules) or "*", "processor": processor, **options}
    return pruning.prune_units(model, _numbers("--unit", named), **chosen)


def _numbers(option: str, given: Sequence[str]) -> dict[str, list[int]] | None:
    """Read PATTERN=0,2,4-6, repeated; None where nothing is given."""
    from trocr.surgery.patterns import read_numbers

    found: dict[str, list[int]] = {}
    for text in given:
        pattern, equals, listed = text.rpartition("=")
        numbers = read_numbers(listed) if equals else None
        if numbers is None:
            raise click.BadParameter(f"{text!r}, expected PATTERN=numbers such as 0,2,4-6", param_hint=option)
        found.setdefault(pattern, []).extend(numbers)
    return found or None
