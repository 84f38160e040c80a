"""Measure speed and memory against what a user would pick instead: same weights, lines, threads, in turns.

    python scripts/benchmark.py --suite base-batch1 --data lines/fondue --threads 1 --output base.json

Suites are the tables of configs/benchmark.toml; docs/performance.md says how they measure. Prints Markdown.
Training steps have a script of their own, scripts/benchmark_training.py.
"""

import json
import sys
import tomllib
from pathlib import Path

import click
import torch

from trocr.atomic_write import write_files
from trocr.benchmark.errors import BenchmarkError
from trocr.benchmark.report import Report
from trocr.benchmark.roofline import measure_roofline
from trocr.benchmark.runs import alternate, spread
from trocr.benchmark.settings import Suite, load_suites
from trocr.benchmark.suites import MAKERS, profile_suite, run_suite
from trocr.nearest import nearest

__all__ = ["alternate", "main", "read_config", "spread"]  # scripts/benchmark_training.py takes three of them

CONFIG = Path(__file__).resolve().parents[1] / "configs" / "benchmark.toml"
PATH = click.Path(path_type=Path)
QUICK = {"shape": (64, 64, 64), "read_bytes": 2**20, "repeats": 1}


def read_config(context: click.Context, _: click.Parameter, path: Path) -> Path:
    """Take the file's values as the defaults of the other options."""
    try:
        context.default_map = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise click.BadParameter(f"{path}: cannot be read as TOML ({error})") from error
    return path


def choose(config: Path, names: tuple[str, ...], changes: dict[str, object]) -> list[Suite]:
    """Suites by name, with what the command line changes."""
    known = load_suites(config)
    for name in names:
        if name == "training":
            raise BenchmarkError("training has a script of its own: python scripts/benchmark_training.py")
        if name not in known:
            raise BenchmarkError(f"{config}: there is no suite {name!r}{nearest(name, known)}")
    suites = []
    for name in names:
        suite, changed = known[name], dict(changes)
        if kept := changed["candidates"]:
            changed["reference"] = suite.reference if suite.reference in kept else kept[0]
            suite = suite.changed(against=tuple(name for name in suite.against if name in kept))
        suites.append(suite.changed(**{key: value or None for key, value in changed.items()}))
    return suites


@click.command(help=__doc__.splitlines()[0])
@click.option("--config", default=CONFIG, type=PATH, is_eager=True, callback=read_config)
@click.option("--suite", "names", multiple=True, help="Repeatable; the file says which by default.")
@click.option("--data", help="Lines with their texts: whatever trocr.data.sources.open_source opens.")
@click.option("--tokenizer", help="Folder of the tokenizer that gives the lengths of random models' rows.")
@click.option("--model", help="Instead of the suites' own: a shape, a shipped name or a folder.")
@click.option("--candidate", "candidates", multiple=True, help="Instead of the suites' own; repeatable.")
@click.option("--lines", type=int, help="Lines of the workload, instead of the suites' own.")
@click.option("--block", type=int, help="Lines of a turn.")
@click.option("--batch", type=int, help="Lines that go through a model together.")
@click.option("--runs", type=int, help="Times that the workload is gone through.")
@click.option("--count", "counts", type=int, multiple=True, help="Numbers of images of memory suites.")
@click.option("--threads", type=int, default=0, help="Threads of PyTorch; 0 is its own choice.")
@click.option("--profile", is_flag=True, help="Also show where the time of our candidates goes.")
@click.option("--quick", is_flag=True, help="Limits of the machine from tiny products: for trying out.")
@click.option("--output", type=PATH, help="Write all numbers here, as JSON.")
@click.option("--markdown", type=PATH, help="Also write the tables here.")
def main(
    config: Path,
    names: tuple[str, ...],
    data: str,
    tokenizer: str | None,
    threads: int,
    profile: bool,
    quick: bool,
    output: Path | None,
    markdown: Path | None,
    **changes: object,
) -> None:
    if threads:
        torch.set_num_threads(threads)
    try:
        for path in (output, markdown):
            if path and not path.absolute().parent.is_dir():
                raise BenchmarkError(f"{path}: there is no such folder; make it, or give another file")
        suites = choose(config, names, changes)
        report = Report.begin(measure_roofline(**(QUICK if quick else {})))
        texts = ["# Benchmark", report.head()]
        click.echo(texts[-1])
        for suite in suites:
            common = {"data": data, "tokenizer": tokenizer}
            if profile and suite.kind in MAKERS:
                report.profiles[suite.name] = profile_suite(suite, **common)
            tell = lambda text, name=suite.name: click.echo(f"{name}: {text}", err=True)  # noqa: E731
            result = run_suite(suite, **common, roofline=report.roofline, threads=threads, tell=tell)
            report.results.append(result)
            texts.append(report.section(result, suite.about))
            click.echo(f"\n{texts[-1]}")
            for path, text in ((output, json.dumps(report.to_dict())), (markdown, "\n\n".join(texts))):
                if path:
                    write_files(path.absolute().parent, {path.name: f"{text}\n".encode()})
    except ValueError as error:
        sys.exit(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
