"""A short run, alone or as one of torchrun's processes; started by test_distributed.py.

Arguments: "ddp" or "fsdp", "lanes" or "rows", a folder for states. Prints the losses as JSON.
"""

import json
import sys
from itertools import islice
from pathlib import Path

from drawn import drawn_lines, processor, small_model

from trocr.training.batches import BatchSettings, Windows, training_batches
from trocr.training.ctc import PRINTABLE_ASCII, CTCHead
from trocr.training.distributed import processes, unwrap, wrap
from trocr.training.ema import EMA
from trocr.training.objective import Objective
from trocr.training.optimizer import build_optimizer
from trocr.training.option_tables import OptimizerOptions
from trocr.training.state import load_state, restore, save_state
from trocr.training.steps import train_steps

CUTS = {"lanes": {"size": 3, "lanes": 4}, "rows": {"size": 12, "lanes": 1}}
"""What the processes share: four micro-batches, or the rows of one."""


def run(
    kind: str, cut: str, folder: Path, *, steps: int = 5, save_at: int = 3, resume: bool = False
) -> list[list[float]]:
    """Take steps, save a state after some, and give loss and gradient norm of each."""
    with processes("cpu") as here:
        model = small_model()
        embeddings = model.encoder.embeddings
        head = CTCHead(
            width=32, alphabet=PRINTABLE_ASCII, grid=embeddings.grid, num_prefix=embeddings.num_prefix
        )
        for parameter in head.parameters():
            parameter.data.fill_(0.01)
        objective = wrap(Objective(model, ctc=head), here, kind)
        options = OptimizerOptions(lr=1e-3, weight_decay=0.1, layer_decay=0.9)
        optimizer = build_optimizer(objective, options)
        ema = EMA(unwrap(objective), 0.9)
        done = restore(load_state(folder), objective, optimizer, ema=ema) if resume else 0
        # Twelve lines of 1 to 12 characters: their numbers of tokens differ.
        settings = BatchSettings(window=2, width_buckets=(64, 160), length_multiple=1, **CUTS[cut])
        windows = Windows(drawn_lines(32), processor(), settings)
        batches = training_batches(windows, start_step=done, rank=here.rank, world_size=here.world_size)
        found = []
        for step in islice(
            train_steps(
                objective,
                batches,
                optimizer,
                schedule=lambda step: 1e-3 / (1 + step),
                start_step=done,
                ctc_weight=0.5,
                clip_norm=1.0,
                after_step=ema.update,
            ),
            steps - done,
        ):
            found.append([step.loss, step.ctc_loss, step.grad_norm, step.num_tokens])
            if step.step in (save_at, steps) and not resume:
                save_state(folder, objective, optimizer, step=step.step, ema=ema, keep=2)
        return found if here.is_main else []


if __name__ == "__main__":
    losses = run(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
    if losses:
        print(json.dumps(losses))
