"""Compare readers on the same line crops in one run: CER, SROIE word F1, lines per second on one core.

    python scripts/compare_engines.py --data lines/fondue --data lines/sroie-val --model tiny-printed

Prints a Markdown table. Engines that are not installed have a row that says so. Each reads all crops of a
set once, then a part of them again for the spread of the speed, in turns with the others. One thread.
"""

import argparse
import json
import random
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from trocr.data.sources import open_source
from trocr.evaluation.distance import EvaluationError
from trocr.evaluation.engines import (
    Engine,
    EngineReadings,
    RapidOCR,
    comparison_table,
    tesseract,
    trocr_engine,
)
from trocr.evaluation.manifest import machine, versions
from trocr.evaluation.report import Reading, evaluate_readings
from trocr.evaluation.texts import Normalisation

Engines = dict[str, Engine | str]
Rows = list[dict[str, Any]]

CASELESS = ("sroie",)
"""Data sets, by a part of their path, whose labels do not tell case."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", action="append", required=True, help="lines with their texts; repeatable")
    parser.add_argument("--model", action="append", default=[], help="of ours; repeatable")
    parser.add_argument("--engine", action="append", help="tesseract, rapidocr; repeatable (default: both)")
    parser.add_argument("--max-lines", type=int, default=0, help="of each set, chosen at random; 0 is all")
    parser.add_argument("--repeats", type=int, default=3, help="timed runs over a part of the lines")
    parser.add_argument("--timed-lines", type=int, default=64, help="lines of a timed run")
    parser.add_argument("--native-width", action="store_true", help="add a row without shared padding")
    parser.add_argument("--json", type=Path, help="write all numbers here")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    engines = make_engines(arguments)
    results = [row for path in arguments.data for row in compare(path, engines, arguments)]
    print(comparison_table(results))
    if arguments.json:
        content = {"results": results, "versions": versions(), "machine": machine()}
        arguments.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def make_engines(arguments: argparse.Namespace) -> Engines:
    """Engines by name; a text says why one is not there."""
    makers: dict[str, Callable[[], Engine]] = {}
    for model in arguments.model:
        makers[model] = lambda model=model: trocr_engine(model)
        if arguments.native_width:
            makers[f"{model}, native width"] = lambda model=model: trocr_engine(model, native_width=True)
    others = {"tesseract": lambda: tesseract, "rapidocr": RapidOCR}
    makers |= {name: others[name] for name in arguments.engine or others}
    engines: Engines = {}
    for name, make in makers.items():
        try:
            engines[name] = make()
        except EvaluationError as error:
            engines[name] = str(error)
    return engines


def compare(path: str, engines: Engines, arguments: argparse.Namespace) -> Rows:
    source = open_source(path)
    numbers = list(range(len(source)))
    if 0 < arguments.max_lines < len(numbers):
        numbers = sorted(random.Random(0).sample(numbers, arguments.max_lines))
    records = [source[number] for number in numbers]
    images = [record.open() for record in records]
    part = random.Random(1).sample(range(len(images)), min(arguments.timed_lines, len(images)))
    rows, speeds = {}, {name: [] for name in engines}
    for name, engine in engines.items():
        rows[name] = {"data": path, "engine": name, **read_all(engine, records, images, path)}
    for _ in range(arguments.repeats):
        for name, engine in engines.items():
            if "problem" not in rows[name]:
                done: EngineReadings = engine([images[place] for place in part])
                speeds[name].append(len(part) / done.seconds)
    for name, found in speeds.items():
        if found:
            rows[name]["lines_per_s"] = [min(found), statistics.median(found), max(found)]
    return list(rows.values())


def read_all(engine: Engine | str, records: list, images: list, path: str) -> dict[str, Any]:
    if isinstance(engine, str):
        return {"problem": engine}
    try:
        done = engine(images)
    except EvaluationError as error:
        return {"problem": str(error)}
    lines = zip(records, done.texts, strict=True)
    readings = [Reading(name=r.name, target=r.text, reading=text, group=r.group) for r, text in lines]
    ignore_case = any(part in Path(path).name for part in CASELESS)
    report = evaluate_readings(
        readings, normalisation=Normalisation(ignore_case=ignore_case), conventions=("sroie-line",)
    )
    return {
        "lines": len(readings),
        "ignore_case": ignore_case,
        "cer": report.cer,
        "interval": report.cer_interval,
        "exact": report.exact,
        "f1": report.conventions["sroie-line"]["f1"],
    }


if __name__ == "__main__":
    main()
