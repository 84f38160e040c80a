"""What a run shows: a progress bar, a log, scalars and sample images for TensorBoard.

Source: original work.
"""

import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps
from tqdm import tqdm

from trocr.atomic_write import write_files
from trocr.training.option_fields import OptionsError
from trocr.training.steps import Step
from trocr.training.validation import Sample, Validation

LOG = "log.jsonl"
"""One JSON object a line: steps, validations and messages, across resumptions."""

NAMED = 5
"""Lines that are named in a message on the terminal; the log names all."""

SAMPLE_WIDTH = 800
"""Widest sample image in TensorBoard, in pixels."""


class MonitorError(ValueError):
    """A report of a run cannot be written."""


class Monitor:
    """Reports of a run, written by the main process; a context manager.

    Numbers of several steps are averaged between two lines of the log.

    Args:
        folder: of the run.
        num_steps: at which it ends.
        start_step: at which it begins.
        log_every: steps between lines.
        tensorboard: write its files too.
        rank: of this process: only the first shows and logs its numbers, but all name lines that they skip.
    Raises:
        OptionsError: TensorBoard is not installed.
        MonitorError: a file cannot be written, here or later.
    """

    def __init__(
        self,
        folder: Path,
        *,
        num_steps: int,
        start_step: int = 0,
        log_every: int = 50,
        tensorboard: bool = False,
        rank: int = 0,
    ) -> None:
        self.rank = rank
        self.is_main = rank == 0
        self.folder = folder
        self.num_steps = num_steps
        self.log_every = log_every
        self.num_skipped = 0
        self.num_too_long = 0
        self._steps: list[Step] = []
        self._board: Any = None
        if not self.is_main:
            return
        with _writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            self._log = (folder / LOG).open("a", encoding="utf-8", buffering=1)
            if tensorboard:
                self._board = _summary_writer(folder / "tensorboard", start_step)
        self._bar = tqdm(total=num_steps, initial=start_step, unit="step", disable=not sys.stderr.isatty())

    def __enter__(self) -> "Monitor":
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        """Log what has not been logged yet, and close the files."""
        if not self.is_main:
            return
        quietly = suppress(MonitorError) if error else nullcontext()
        with quietly, _writing(self.folder), ExitStack() as last:
            if self._board is not None:
                last.callback(self._board.close)
            last.callback(self._log.close)
            last.callback(self._bar.close)
            if self._steps:
                self._flush()

    def say(self, text: str, **values: Any) -> None:
        """Show a message, and log it with values; processes but the first show it only."""
        if not self.is_main:
            tqdm.write(f"process {self.rank}: {text}", file=sys.stderr)
            return
        tqdm.write(text, file=sys.stderr)
        self._write({"message": text, **values})

    def step(self, step: Step) -> None:
        """Take note of a step; lines that were skipped or cut are named at once."""
        self._name(step)
        if not self.is_main:
            return
        self._bar.update()
        self._steps.append(step)
        if step.step % self.log_every == 0 or step.step == self.num_steps:
            self._flush()

    def _name(self, step: Step) -> None:
        self.num_skipped += len(step.skipped)
        self.num_too_long += len(step.too_long)
        if step.skipped:
            self.say(
                f"step {step.step}: skipped {len(step.skipped)} lines that cannot be read "
                f"({self.num_skipped} so far): {_some(step.skipped)}",
                skipped=list(step.skipped),
            )
        if step.too_long:
            self.say(
                f"step {step.step}: cut {len(step.too_long)} labels that are longer than the decoder's "
                f"positions ({self.num_too_long} so far): {_some(step.too_long)}",
                too_long=list(step.too_long),
            )

    def _flush(self) -> None:
        steps, self._steps = self._steps, []
        last = steps[-1]
        seconds = sum(step.num_lines / step.lines_per_s for step in steps)
        values = {
            "loss": _mean([step.loss for step in steps]),
            "token_loss": _mean([step.token_loss for step in steps]),
            "grad_norm": _mean([step.grad_norm for step in steps]),
            "lr": last.lr,
            "lines_per_s": sum(step.num_lines for step in steps) / seconds,
            "data_share": _mean([step.data_share for step in steps]),
        }
        for name in ("ctc_loss", "distillation_loss"):
            found = [getattr(step, name) for step in steps if getattr(step, name) is not None]
            if found:
                values[name] = _mean(found)
        self._bar.set_postfix(loss=f"{values['loss']:.4f}", lines_s=f"{values['lines_per_s']:.1f}")
        if self._bar.disable:
            shown = " ".join(f"{name} {value:.4g}" for name, value in values.items())
            tqdm.write(f"step {last.step} {shown}", file=sys.stderr)
        self._write({"step": last.step, **values})
        self._scalars("train", values, last.step)

    def validation(self, found: Validation, step: int, *, is_best: bool) -> None:
        """Show, log and draw what a validation found."""
        if not self.is_main:
            return
        mark = ", the best so far" if is_best else ""
        left_out = f", {len(found.skipped)} lines cannot be read: {_some(found.skipped)}"
        self.say(
            f"step {step}: validation CER {found.cer:.4f}, exact {found.exact:.3f} on {found.num_lines} lines"
            f"{mark}{left_out if found.skipped else ''}",
            step=step,
            cer=found.cer,
            exact=found.exact,
            num_lines=found.num_lines,
            skipped=list(found.skipped),
        )
        self._scalars("val", {"cer": found.cer, "exact": found.exact}, step)
        if self._board is not None:
            with _writing(self.folder):
                for place, sample in enumerate(found.samples):
                    self._board.add_image(f"samples/{place}", _picture(sample.image), step, dataformats="HWC")
                    self._board.add_text(f"samples/{place}", _markdown(sample), step)

    def _scalars(self, group: str, values: dict[str, float], step: int) -> None:
        if self._board is not None:
            with _writing(self.folder):
                for name, value in values.items():
                    self._board.add_scalar(f"{group}/{name}", value, step)

    def _write(self, values: dict[str, Any]) -> None:
        line = {"time": time.strftime("%Y-%m-%dT%H:%M:%S"), **values}
        with _writing(self.folder):
            self._log.write(json.dumps(line, ensure_ascii=False) + "\n")


def write_options(folder: Path, options: dict[str, Any]) -> None:
    """Write the options of a run, defaults included, beside its results.

    Raises:
        MonitorError: they cannot be written.
    """
    content = json.dumps(options, indent=2, ensure_ascii=False) + "\n"
    with _writing(folder):
        write_files(folder, {"options.json": content.encode("utf-8")})


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Put what the system says about a file into words."""
    try:
        yield
    except OSError as error:
        raise MonitorError(
            f"{error.filename or folder}: cannot be written ({error.strerror or error}); make room, or "
            "choose another run.output"
        ) from error


def _summary_writer(folder: Path, start_step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise OptionsError(
            ["run.tensorboard=true needs TensorBoard: pip install 'trocr[train]', or set it to false"]
        ) from error
    return SummaryWriter(str(folder), purge_step=start_step or None)


def _picture(image: Image.Image) -> np.ndarray:
    """The image as (height, width, 3) bytes, no wider than the board shows."""
    if image.width > SAMPLE_WIDTH:
        image = ImageOps.contain(image, (SAMPLE_WIDTH, image.height))
    return np.asarray(image.convert("RGB"))


def _markdown(sample: Sample) -> str:
    """Target and reading as a literal block, which shows every character as it is."""
    return f"    {sample.text}\n    {sample.reading}\n\n{sample.name}"


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more; see {LOG}" if len(names) > NAMED else ""
    return "; ".join(names[:NAMED]) + more


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
