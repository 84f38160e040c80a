"""What the three examples of docs/surgery.md share: train as a file says, and measure on lines."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from train import train

from trocr import Reader
from trocr.data.sources import open_source
from trocr.evaluation.reading import read_source
from trocr.evaluation.report import evaluate_readings
from trocr.evaluation.texts import Normalisation
from trocr.training.distributed import processes
from trocr.training.options import load_options


@dataclass(frozen=True)
class Measured:
    """A model on some lines: CER with its interval, and the median speed of three readings in one thread."""

    cer: float
    interval: tuple[float, float]
    lines_per_s: float

    def cells(self) -> str:
        """Two cells of a Markdown table."""
        low, high = self.interval
        return f"{self.cer:.4f} ({low:.4f} to {high:.4f}) | {self.lines_per_s:.0f}"


def run(config: str, overrides: Sequence[str]) -> tuple[Path, float]:
    """Train; gives the folder of the run and the seconds that it took, or 0 where it was done before."""
    options = load_options(config, overrides)
    done = Path(options.run.output) / "last" / "config.json"
    started = time.perf_counter()
    if not done.is_file():
        with processes("cpu") as here:
            train(options, here)
        return Path(options.run.output), time.perf_counter() - started
    return Path(options.run.output), 0.0


def measure(model: str | Path, data: str, *, ignore_case: bool = False, repeats: int = 3) -> Measured:
    """Read all lines of a source, several times for the speed."""
    torch.set_num_threads(1)
    reader, source = Reader(str(model)), open_source(data)
    speeds = []
    for _ in range(repeats):
        found = read_source(reader, source, batch_size=32, native_width=True)
        speeds.append(found.lines_per_s)
    report = evaluate_readings(
        found.readings, normalisation=Normalisation(ignore_case=ignore_case), conventions=("raw",)
    )
    return Measured(report.cer, report.cer_interval, sorted(speeds)[len(speeds) // 2])
