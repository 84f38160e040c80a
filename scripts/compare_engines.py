"""Compare readers on the same line crops in one run: CER, SROIE word F1, lines per second on one core.

    python scripts/compare_engines.py --data lines/fondue --data lines/sroie-val --model tiny-printed

Prints a Markdown table. Engines and models that are not there have a row that says so. Each reads all crops
of a set once, then a part of them again for the spread of the speed, in turns with the others. One thread. An
image that cannot be read is left out for all, named on standard error, and costs exit status 1.
"""

import argparse
import json
import random
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from trocr.data.records import LineRecord
from trocr.data.sources import open_source
from trocr.evaluation.comparison import compare, comparison_table, make_engines, open_records
from trocr.evaluation.engines import Engine, RapidOCR, tesseract, trocr_engine
from trocr.evaluation.manifest import machine, versions

OTHERS: dict[str, Callable[[], Engine]] = {"tesseract": lambda: tesseract, "rapidocr": RapidOCR}

CASELESS = ("sroie",)
"""Data sets, by a part of their path, whose labels do not tell case."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", action="append", required=True, help="lines with their texts; repeatable")
    parser.add_argument("--model", action="append", default=[], help="of ours; repeatable")
    parser.add_argument("--engine", action="append", choices=OTHERS, help="repeatable (default: all)")
    parser.add_argument("--max-lines", type=int, default=0, help="of each set, chosen at random; 0 is all")
    parser.add_argument("--repeats", type=int, default=3, help="timed runs over a part of the lines")
    parser.add_argument("--timed-lines", type=int, default=64, help="lines of a timed run")
    parser.add_argument("--native-width", action="store_true", help="add a row without shared padding")
    parser.add_argument("--json", type=Path, help="write all numbers here")
    arguments = parser.parse_args()
    if arguments.json and not arguments.json.absolute().parent.is_dir():
        parser.error(f"--json {arguments.json}: there is no such folder; make it, or give another file")
    torch.set_num_threads(1)
    engines = make_engines(makers(arguments))
    results, skipped = [], []
    for place in arguments.data:
        records, images, lost = open_records(choose(place, arguments.max_lines))
        skipped += [f"{place}: {message}" for message in lost]
        results += compare(
            place,
            records,
            images,
            engines,
            ignore_case=any(part in Path(place).name for part in CASELESS),
            num_repeats=arguments.repeats,
            num_timed=arguments.timed_lines,
        )
    print(comparison_table(results))
    if arguments.json:
        content = {"results": results, "skipped": skipped, "versions": versions(), "machine": machine()}
        arguments.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    if skipped:
        sys.exit("\n".join(f"left out: {message}" for message in skipped))


def makers(arguments: argparse.Namespace) -> dict[str, Callable[[], Engine]]:
    """Engines by name, as functions that make them."""
    found: dict[str, Callable[[], Engine]] = {}
    for model in arguments.model:
        found[model] = lambda model=model: trocr_engine(model)
        if arguments.native_width:
            found[f"{model}, native width"] = lambda model=model: trocr_engine(model, native_width=True)
    return found | {name: OTHERS[name] for name in arguments.engine or OTHERS}


def choose(place: str, max_lines: int) -> list[LineRecord]:
    source = open_source(place)
    numbers = list(range(len(source)))
    if 0 < max_lines < len(numbers):
        numbers = sorted(random.Random(0).sample(numbers, max_lines))
    return [source[number] for number in numbers]


if __name__ == "__main__":
    main()
