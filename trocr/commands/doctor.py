"""`trocr doctor`: what would spoil a training run, found before it starts.

Source: original work.
"""

import json

import click

from trocr.commands.console import to_bytes


@click.command()
@click.argument("target", metavar="CONFIG|CHECKPOINT")
@click.option("--data", metavar="SRC", help="Lines with their texts.  [default: the training file's]")
@click.option("--kind", default="auto", show_default=True, help="Format of the data.")
@click.option("--steps", type=click.IntRange(min=0), default=30, show_default=True, help="On one batch.")
@click.option("--json", "as_json", is_flag=True, help="Findings as JSON.")
@click.option("--strict", is_flag=True, help="Let warnings count for the exit status.")
def doctor(target: str, data: str | None, kind: str, steps: int, as_json: bool, strict: bool) -> None:
    """Examine a training file or a checkpoint with the lines it is to be trained on.

    Looks at special tokens, labels, images, the loss at start, gradients, and whether one batch can be learnt
    by heart. Nothing is written. Exit status 1 when something would spoil the training, with --strict
    also when something may.
    """
    from dataclasses import asdict

    from trocr.doctor.examination import examine
    from trocr.doctor.findings import findings_text

    findings = list(examine(target, data, kind=kind, steps=steps))
    if as_json:
        click.echo(
            to_bytes(json.dumps([asdict(finding) for finding in findings], ensure_ascii=False, indent=1))
        )
    else:
        click.echo(to_bytes(findings_text(findings)))
    counted = ("error", "warning") if strict else ("error",)
    if any(finding.severity in counted for finding in findings):
        click.get_current_context().exit(1)
