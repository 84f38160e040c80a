"""Train a TrOCR as a TOML file says.

    python scripts/train.py configs/finetune-sroie.toml data.train='["data/sroie-train"]'
    torchrun --nproc-per-node 2 scripts/train.py configs/finetune-sroie.toml

Everything is written into run.output, by default runs/ and the file's name: log.jsonl, options.json, states/
(from which the same command goes on), best/ (lowest CER on data.val) and last/, which are checkpoints that
`trocr read --model` takes. A run that is stopped loses what came after its last state.
"""

import argparse
import sys
from pathlib import Path

from trocr.hub import HubError
from trocr.training.distributed import Processes, from_main, processes
from trocr.training.monitor import Monitor, write_options
from trocr.training.options import TrainingOptions, load_options
from trocr.training.run import Run, build_run
from trocr.training.state import changed_options


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", type=Path, help="training file, such as configs/finetune-sroie.toml")
    parser.add_argument("override", nargs="*", help="table.key=value, such as optimizer.lr=1e-4")
    parser.add_argument("--fresh", action="store_true", help="refuse to go on from states in run.output")
    arguments = parser.parse_args()
    try:
        options = load_options(arguments.config, arguments.override)
        with processes(options.run.device) as here:
            train(options, here, fresh=arguments.fresh)
    except (ValueError, HubError) as error:
        if not type(error).__module__.startswith("trocr."):
            raise
        sys.exit(f"Error: {error}")


def train(options: TrainingOptions, here: Processes, *, fresh: bool = False) -> None:
    run = build_run(options, here)
    if run.resume() and fresh:
        sys.exit(f"Error: {run.folder} holds a run of {run.step} steps: choose another run.output")
    with Monitor(
        run.folder,
        num_steps=run.num_steps,
        start_step=run.step,
        log_every=options.run.log_every,
        tensorboard=options.run.tensorboard,
        rank=here.rank,
    ) as monitor:
        if here.is_main:
            write_options(run.folder, options.to_dict())
            begin(run, monitor)
        if run.previous and run.progress.get("best_step") == run.step:
            run.export("best")  # the run may have stopped before it was written
        for step in () if is_exhausted(run, monitor) else run.steps():
            monitor.step(step)
            is_last = run.step == run.num_steps
            if is_last or due(run.step, options.run.eval_every):
                if not go_on(run, monitor):
                    break
            elif due(run.step, options.run.save_every):
                run.save()
        run.export("last")
        if here.is_main:
            monitor.say(f"finished at step {run.step}: checkpoints are in {run.folder}")


def begin(run: Run, monitor: Monitor) -> None:
    """Say what starts, and what changed since an earlier part of the run."""
    trained = sum(p.numel() for p in run.objective.parameters() if p.requires_grad)
    monitor.say(
        f"{run.folder}: step {run.step} of {run.num_steps}, {trained / 1e6:.1f} M parameters are trained, "
        f"{run.options.batch.size} lines a step"
    )
    if run.previous:
        for change in changed_options(run.previous, run.options.to_dict()):
            monitor.say(f"resumed with another {change}")


def due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def go_on(run: Run, monitor: Monitor) -> bool:
    """Validate, save, and export what reads best; whether training should go on."""
    found = run.validate()
    cer = from_main(None if found is None else found.cer)
    is_best = False
    if cer is not None:
        is_best = cer < run.progress.get("best_cer", float("inf"))
        run.progress["since_best"] = 0 if is_best else run.progress.get("since_best", 0) + 1
        if is_best:
            run.progress.update(best_cer=cer, best_step=run.step)
    run.save()
    if found is not None:
        monitor.validation(found, run.step, is_best=is_best)
    if is_best:
        run.export("best")
    return not is_exhausted(run, monitor)


def is_exhausted(run: Run, monitor: Monitor) -> bool:
    """Whether validations have stopped finding better weights."""
    patience = run.options.run.patience
    if not patience or run.progress.get("since_best", 0) < patience:
        return False
    best = f"{run.progress['best_cer']:.4f} at step {run.progress['best_step']}"
    if run.here.is_main:
        monitor.say(f"stopped early: {patience} validations without a better CER than {best}")
    return True


if __name__ == "__main__":
    main()
