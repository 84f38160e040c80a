"""Several engines on the same crops: errors of all of them, and speeds that are measured in turns.

Source: original work.
"""

import random
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from trocr.data.records import LineRecord
from trocr.evaluation.engines import Engine
from trocr.evaluation.report import Reading, evaluate_readings
from trocr.evaluation.texts import Normalisation
from trocr.image import ImageError

Row = dict[str, Any]
"""One engine on one data set, as `comparison_table` takes it."""

FAILURES = (ValueError, OSError)
"""What an engine raises that is not there or cannot read: EvaluationError, HubError, ConfigError ..."""


def make_engines(makers: Mapping[str, Callable[[], Engine]]) -> dict[str, Engine | str]:
    """Make engines; a text says why one is not there."""
    engines: dict[str, Engine | str] = {}
    for name, make in makers.items():
        try:
            engines[name] = make()
        except FAILURES as error:
            engines[name] = str(error)
    return engines


def open_records(
    records: Sequence[LineRecord],
) -> tuple[list[LineRecord], list[Image.Image], list[str]]:
    """Open what can be opened.

    Returns:
        The records, their images, and messages of the others, each with the line's name.
    """
    kept, images, skipped = [], [], []
    for record in records:
        try:
            images.append(record.open())
            kept.append(record)
        except ImageError as error:
            skipped.append(f"{record.name}: {error}")
    return kept, images, skipped


def compare(
    data: str,
    records: Sequence[LineRecord],
    images: Sequence[Image.Image],
    engines: Mapping[str, Engine | str],
    *,
    ignore_case: bool = False,
    num_repeats: int = 3,
    num_timed: int = 64,
) -> list[Row]:
    """Let engines read lines.

    Args:
        data: where the lines are, for the table.
        records: the lines.
        images: of them.
        engines: by name; a text says why one is not there.
        ignore_case: in all rates.
        num_repeats: timed runs over a part of the lines, the engines in turns.
        num_timed: lines of that part, the same ones for all.
    """
    part = random.Random(1).sample(range(len(images)), min(num_timed, len(images)))
    rows: dict[str, Row] = {}
    speeds: dict[str, list[float]] = {name: [] for name in engines}
    for name, engine in engines.items():
        rows[name] = {"data": data, "engine": name, **_read_all(engine, records, images, ignore_case)}
    for _ in range(num_repeats):
        for name, engine in engines.items():
            if not isinstance(engine, str) and "problem" not in rows[name]:
                done = engine([images[place] for place in part])
                speeds[name].append(len(part) / done.seconds)
    for name, found in speeds.items():
        if found:
            rows[name]["lines_per_s"] = [min(found), statistics.median(found), max(found)]
    return list(rows.values())


def _read_all(
    engine: Engine | str, records: Sequence[LineRecord], images: Sequence[Image.Image], ignore_case: bool
) -> Row:
    if isinstance(engine, str):
        return {"problem": engine}
    try:
        done = engine(images)
        report = evaluate_readings(
            [
                Reading(name=record.name, target=record.text, reading=text, group=record.group)
                for record, text in zip(records, done.texts, strict=True)
            ],
            normalisation=Normalisation(ignore_case=ignore_case),
            conventions=("sroie-line",),
        )
    except FAILURES as error:
        return {"problem": str(error)}
    return {
        "lines": report.num_lines,
        "ignore_case": ignore_case,
        "cer": report.cer,
        "interval": report.cer_interval,
        "exact": report.exact,
        "f1": report.conventions["sroie-line"]["f1"],
    }


def comparison_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Lay results out in Markdown.

    Args:
        rows: of each data set and engine: data, engine, and problem, or lines, ignore_case, cer, interval,
            exact, f1 and lines_per_s (minimum, median, maximum).
    """
    lines = [
        "| data | engine | lines | CER | 95 % | exact lines | word F1 | lines/s (min, median, max) |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        name = Path(row["data"]).name
        if "problem" in row:
            lines.append(f"| {name} | {row['engine']} | | {row['problem']} | | | | |")
            continue
        case = ", no case" if row["ignore_case"] else ""
        low, high = row["interval"]
        speed = ", ".join(f"{value:.0f}" for value in row.get("lines_per_s", []))
        lines.append(
            f"| {name}{case} | {row['engine']} | {row['lines']} | {row['cer']:.4f} | {low:.4f}-{high:.4f} | "
            f"{row['exact']:.3f} | {row['f1']:.4f} | {speed} |"
        )
    return "\n".join(lines)
