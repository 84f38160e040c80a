"""Time training steps against plain loops over `transformers`: same weights and lines, in one process.

The loop "notebook" is that of the fine-tuning notebooks (NielsRogge/Transformers-Tutorials): labels padded to
128 tokens, the model's own loss over all logits, AdamW as it comes. "equal" has the labels, the fused AdamW
and the clipping of ours, which is `train_steps`. TrOCR-small with random weights, without dropout so that
losses can be compared. Prints a Markdown table of medians with their spread and of the ratio pair by pair.
"""

import dataclasses
import tempfile
import time
from collections.abc import Iterator
from itertools import cycle, product
from pathlib import Path

import click
import torch
import transformers
from benchmark import alternate, read_config, spread
from torch import Tensor

from trocr import OFFICIAL_MODELS, VisionEncoderDecoderModel
from trocr.training.batches import Batch, pad_labels
from trocr.training.objective import Objective
from trocr.training.optimizer import build_optimizer, freeze_unused
from trocr.training.option_tables import OptimizerOptions
from trocr.training.steps import train_steps

CONFIG = Path(__file__).resolve().parents[1] / "configs" / "benchmark-training.toml"
DTYPES = {"float32": None, "bfloat16": torch.bfloat16}
CLIP_NORMS = {"notebook": None, "equal": 1.0}
LR = 1e-4

Lines = list[tuple[Tensor, list[list[int]]]]  # images and label ids of some steps


def build(folder: Path) -> tuple[VisionEncoderDecoderModel, torch.nn.Module]:
    """The same random weights in both libraries, handed over as a checkpoint directory."""
    torch.manual_seed(0)
    config = OFFICIAL_MODELS["microsoft/trocr-small-stage1"].config
    config = dataclasses.replace(config, decoder=dataclasses.replace(config.decoder, dropout=0.0))
    VisionEncoderDecoderModel(config).save_pretrained(folder)
    theirs = transformers.VisionEncoderDecoderModel.from_pretrained(folder).train()
    theirs.config.pad_token_id = theirs.config.decoder.pad_token_id
    theirs.config.decoder_start_token_id = theirs.config.decoder.decoder_start_token_id
    return VisionEncoderDecoderModel.from_pretrained(folder), theirs


def draw_lines(batch: int, tokens: tuple[int, int], count: int) -> Lines:
    torch.manual_seed(1)
    lengths = torch.randint(tokens[0], tokens[1] + 1, (count, batch)).tolist()
    ids = [[[*torch.randint(4, 64000, (n - 1,)).tolist(), 2] for n in row] for row in lengths]
    return [(torch.randn(batch, 3, 384, 384), rows) for rows in ids]


def our_steps(model: VisionEncoderDecoderModel, lines: Lines, precision: str, loop: str) -> Iterator[float]:
    """Losses of our steps, each taken when it is asked for."""
    freeze_unused(model)
    objective, names = Objective(model), ("",) * len(lines[0][1])
    batches = [
        [Batch(pixel_values=pixels, labels=pad_labels(ids, 8), texts=names, names=names)]
        for pixels, ids in lines
    ]
    optimizer = build_optimizer(objective, OptimizerOptions(lr=LR, weight_decay=0.0))
    options = {"clip_norm": CLIP_NORMS[loop], "autocast_dtype": DTYPES[precision]}
    for step in train_steps(objective, cycle(batches), optimizer, schedule=lambda _: LR, **options):
        yield step.loss


def their_steps(model: torch.nn.Module, lines: Lines, precision: str, loop: str) -> Iterator[float]:
    """Losses of the loop's steps."""
    dtype, is_equal = DTYPES[precision], loop == "equal"
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=0.0, fused=is_equal or None)
    for pixels, ids in cycle(lines):
        labels = pad_labels(ids, 8 if is_equal else 128)
        with torch.autocast("cpu", dtype, enabled=dtype is not None):
            loss = model(pixel_values=pixels, labels=labels).loss
        loss.backward()
        if is_equal:
            torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORMS[loop])
        optimizer.step()
        optimizer.zero_grad()
        yield loss.item()


@click.command()
@click.option("--config", default=CONFIG, type=Path, is_eager=True, expose_value=False, callback=read_config)
@click.option("--batch", type=int, help="Lines of a step.")
@click.option("--tokens", type=int, nargs=2, help="Fewest and most tokens of a label.")
@click.option("--loop", "loops", type=click.Choice(list(CLIP_NORMS)), multiple=True)
@click.option("--precision", "precisions", type=click.Choice(list(DTYPES)), multiple=True)
@click.option("--runs", type=int, help="Counted steps of each.")
def main(batch: int, tokens: tuple[int, int], loops: list[str], precisions: list[str], runs: int) -> None:
    """Compare the time of a training step, in one thread, with that of loops over `transformers`."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(1)
    click.echo(
        f"TrOCR-small, {batch} lines a step, labels of {tokens[0]} to {tokens[1]} tokens, {runs} steps in "
        f"turn, seconds of one core ({torch.backends.cpu.get_cpu_capability()}); torch {torch.__version__}, "
        f"transformers {transformers.__version__}.\n\n"
        "| precision | loop | ours, s a step | loop, s a step | loop / ours | losses differ by |\n"
        "|---|---|---|---|---|---|"
    )
    lines = draw_lines(batch, tokens, 3)
    for case in product(precisions, loops):
        with tempfile.TemporaryDirectory() as folder:
            models = build(Path(folder))
        steps = our_steps(models[0], lines, *case), their_steps(models[1], lines, *case)
        losses: tuple[list[float], list[float]] = ([], [])
        both = [lambda i=i: losses[i].append(next(steps[i])) for i in (0, 1)]  # noqa: B023
        times = alternate(*both, runs, time.process_time)
        columns = [*zip(*times, strict=True), [other / mine for mine, other in times]]
        apart = max(abs(mine / other - 1) for mine, other in zip(*losses, strict=True))
        shown = " | ".join((*case, *(spread(list(values), 2) for values in columns), f"{apart:.0e}"))
        click.echo(f"| {shown} |")


if __name__ == "__main__":
    main()
