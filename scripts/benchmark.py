"""Time `generate` against `transformers` with its cache on: same weights and images, in turn, in one process.

Random weights of the official shapes; every row writes the same number of tokens. Prints a Markdown table of
medians with their spread and of the ratio pair by pair; `--output` also writes it to a file.
"""

import gc
import importlib.metadata
import statistics
import tempfile
import time
import tomllib
from collections.abc import Callable
from pathlib import Path

import click
import torch
import transformers

from trocr import OFFICIAL_MODELS, VisionEncoderDecoderModel

CONFIG = Path(__file__).resolve().parents[1] / "configs" / "benchmark.toml"
PATH = click.Path(path_type=Path)
SHAPES = {"small": "microsoft/trocr-small-printed", "base": "microsoft/trocr-base-printed"}


def build(shape: str, folder: Path) -> tuple[VisionEncoderDecoderModel, torch.nn.Module]:
    """The same random weights in both libraries, handed over as a checkpoint directory."""
    torch.manual_seed(0)
    VisionEncoderDecoderModel(OFFICIAL_MODELS[SHAPES[shape]].config).save_pretrained(folder)
    ours = VisionEncoderDecoderModel.from_pretrained(folder)
    theirs = transformers.VisionEncoderDecoderModel.from_pretrained(folder).eval()
    return ours, theirs


def alternate(
    first: Callable[[], object],
    second: Callable[[], object],
    runs: int,
    clock: Callable[[], float] = time.perf_counter,
) -> list[tuple[float, float]]:
    """Seconds of both, in turn (the order changes each time), after one run of each that does not count."""
    first(), second()
    times = []
    for run in range(runs):
        pair = {}
        for name, call in ((0, first), (1, second)) if run % 2 else ((1, second), (0, first)):
            start = clock()
            call()
            pair[name] = clock() - start
        times.append((pair[0], pair[1]))
    return times


def spread(values: list[float], digits: int = 3) -> str:
    """Median with minimum and maximum."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def compare(shape: str, batch: int, tokens: int, runs: int, folder: Path) -> str:
    """One row of the table."""
    ours, theirs = build(shape, folder)
    torch.manual_seed(1)
    images = torch.randn(batch, 3, *ours.config.encoder.image_hw)
    options = {"min_new_tokens": tokens, "max_new_tokens": tokens, "num_beams": 1, "do_sample": False}
    written = []

    def run(model: torch.nn.Module) -> None:
        with torch.inference_mode():
            written.append(model.generate(images, use_cache=True, **options))

    times = alternate(lambda: run(ours), lambda: run(theirs), runs)
    same = all(torch.equal(written[0], other) for other in written)
    ratios = [theirs_s / ours_s for ours_s, theirs_s in times]
    seconds = spread([ours_s for ours_s, _ in times]), spread([theirs_s for _, theirs_s in times])
    return f"| {shape} | {batch} | {' | '.join(seconds)} | {spread(ratios, 2)} | {'yes' if same else 'NO'} |"


def read_config(context: click.Context, _: click.Parameter, path: Path) -> None:
    """Take the file's values as the defaults of the other options."""
    context.default_map = tomllib.loads(path.read_text(encoding="utf-8"))


@click.command()
@click.option("--config", default=CONFIG, type=PATH, is_eager=True, expose_value=False, callback=read_config)
@click.option("--shape", "shapes", type=click.Choice(list(SHAPES)), multiple=True)
@click.option("--batch", "batches", type=int, multiple=True)
@click.option("--tokens", type=int, help="Tokens that every row writes.")
@click.option("--runs", type=int, help="Counted runs of each library.")
@click.option("--threads", type=int, help="Threads of PyTorch; 0 is its own choice.")
@click.option("--output", type=PATH, help="Also write the table to this file.")
def main(
    shapes: list[str], batches: list[int], tokens: int, runs: int, threads: int, output: Path | None
) -> None:
    """Compare the time of `generate` with that of `transformers`, cache on in both."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    if threads:
        torch.set_num_threads(threads)
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torch", "transformers"))
    lines = [
        f"{tokens} tokens a row, greedy, float32, {torch.get_num_threads()} threads, {runs} runs in "
        f"turn; {versions}; {torch.backends.cpu.get_cpu_capability()}. Seconds: median (minimum to maximum).",
        "",
        "| shape | batch | ours, s | transformers, s | transformers / ours | same tokens |",
        "|---|---|---|---|---|---|",
    ]
    click.echo("\n".join(lines))
    for shape in shapes:
        for batch in batches:
            with tempfile.TemporaryDirectory() as folder:
                lines.append(compare(shape, batch, tokens, runs, Path(folder)))
            gc.collect()
            click.echo(lines[-1])
    if output:
        output.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
