"""States of a run on disk, from which it goes on as if it had never stopped.

A state is one file with weights, optimizer, averages, random numbers and step; the step is the position in
the data too. The file appears under its name when it is whole, so a run that is killed while it saves keeps
the state before.

Source: original work; the gathering of sharded optimizers is `torch.distributed.checkpoint`'s.
"""

import copy
import os
import pickle
import random
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.amp.grad_scaler import GradScaler
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from trocr.training.distributed import from_main, full_tensors, gather, rank
from trocr.training.ema import EMA

FORMAT = 1

_NAME = re.compile(r"state-(\d{8,})\.pt")
_WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)


class StateError(ValueError):
    """A state cannot be written or read, or belongs to another run."""


def save_state(
    folder: str | os.PathLike[str],
    objective: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    step: int,
    ema: EMA | None = None,
    scaler: GradScaler | None = None,
    progress: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
    keep: int = 2,
) -> Path:
    """Write a state; all processes call it, the main one writes.

    Args:
        folder: of states, made where it is missing.
        objective: what is trained, wrapped or not.
        optimizer: of its parameters.
        step: steps taken.
        ema: averages of weights.
        scaler: of float16.
        progress: plain values that the caller wants back.
        options: of the run, as plain tables, for the comparison at resumption.
        keep: newest states that stay; older ones are deleted after the new one is written.
    Returns:
        The file.
    Raises:
        StateError: it cannot be written, because the disk is full for example; the states before are whole.
    """
    content = {
        "format": FORMAT,
        "step": step,
        "model": get_model_state_dict(objective, options=_WHOLE),
        "optimizer": get_optimizer_state_dict(objective, optimizer, options=_WHOLE),
        "ema": None if ema is None else {"num_updates": ema.num_updates, **full_tensors(ema.averages)},
        "scaler": None if scaler is None else scaler.state_dict(),
        "rng": gather(_random_state()),
        "progress": dict(progress or {}),
        "options": dict(options or {}),
    }
    path = Path(folder) / f"state-{step:08}.pt"
    problem = None
    if rank() == 0:
        try:
            _write(path, content)
            _prune(path.parent, keep)
        except (OSError, RuntimeError) as error:  # torch reports a failed write as RuntimeError
            problem = f"{path}: the state of step {step} cannot be written ({error}); " + (
                "the states before it are whole: make room or choose another run.output, then resume"
            )
    problem = from_main(problem)
    if problem:
        raise StateError(problem)
    return path


def _write(path: Path, content: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    for leftover in path.parent.glob(".state-*.tmp"):  # of a run that was killed while it saved
        leftover.unlink(missing_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _prune(folder: Path, keep: int) -> None:
    for path in list_states(folder)[keep:]:
        path.unlink(missing_ok=True)


def list_states(folder: str | os.PathLike[str]) -> list[Path]:
    """List the states of a folder, the newest first."""
    found = [path for path in Path(folder).glob("state-*.pt") if _NAME.fullmatch(path.name)]
    return sorted(found, key=lambda path: int(path.stem.removeprefix("state-")), reverse=True)


def load_state(folder: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Read the newest state of a folder that is whole, with a warning for each newer one that is not.

    Returns:
        The state for `restore`, its tensors on the CPU; None where the folder has none.
    Raises:
        StateError: there are states and none can be read.
    """
    path: Path | None = None
    state: dict[str, Any] | None = None
    problems: list[str] = []
    if rank() == 0:
        path, state, problems = _newest_whole(folder)
    path, problems = from_main((path, problems))
    if path is None:
        if problems:
            raise StateError(f"no state can be read: {'; '.join(problems)}. Delete them to start anew")
        return None
    for problem in problems:
        warnings.warn(f"{problem}; training goes on from {path.name}", stacklevel=2)
    return state or _read(path)


def _newest_whole(
    folder: str | os.PathLike[str],
) -> tuple[Path | None, dict[str, Any] | None, list[str]]:
    """Find the newest state that can be read; what is wrong with newer ones comes with it."""
    problems: list[str] = []
    for path in list_states(folder):
        try:
            return path, _read(path), problems
        except (OSError, StateError) as error:
            problems.append(f"{path}: {error}")
    return None, None, problems


def _read(path: Path) -> dict[str, Any]:
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise StateError(f"damaged at {damaged}")
        state = torch.load(path, map_location="cpu", weights_only=True)
    except StateError:
        raise
    except pickle.UnpicklingError as error:
        raise StateError("holds more than plain values and tensors, and may contain code") from error
    except (zipfile.BadZipFile, EOFError, RuntimeError, ValueError, KeyError) as error:
        raise StateError(f"cut short or no state ({error})") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise StateError(f"not a state of format {FORMAT}")
    return state


def restore(
    state: Mapping[str, Any],
    objective: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    ema: EMA | None = None,
    scaler: GradScaler | None = None,
) -> int:
    """Put a state into the objects of a run that were built as those that saved it.

    The optimizer's groups and their numbers (weight decay, betas, scale ...) stay as they were built, so that
    options may change between two parts of a run; averages of gradients and counts are the state's.

    Random numbers go on where they were, if as many processes train as before; with another number of them a
    warning says that dropout will differ.

    Returns:
        Steps taken.
    Raises:
        StateError: the state is that of another model or optimizer.
        EMAError: its averages are those of other parameters.
    """
    options = StateDictOptions(full_state_dict=True)
    built = [_numbers(optimizer, group) for group in optimizer.param_groups]
    try:  # the optimizer first: PyTorch makes its slots by an update without effect
        set_optimizer_state_dict(objective, optimizer, dict(state["optimizer"]), options=options)
        set_model_state_dict(objective, dict(state["model"]), options=options)
    except (RuntimeError, KeyError, ValueError, AssertionError) as error:
        raise StateError(
            f"the state of step {state['step']} does not fit this model and optimizer ({error}); resume with "
            "the options that it was saved with, or start in another run.output"
        ) from error
    # PyTorch has put the numbers of the saved groups, which may be others, over those of the optimizer's.
    saved = state["optimizer"]["param_groups"][0]
    counts = {name: value for name, value in saved.items() if name not in ("params", *built[0])}
    for group, numbers in zip(optimizer.param_groups, built, strict=True):
        group.update(copy.deepcopy(counts) | numbers)
    if ema is not None and state["ema"] is not None:
        ema.load_state_dict(state["ema"])
    if scaler is not None and state["scaler"] is not None:
        scaler.load_state_dict(state["scaler"])
    everyone = len(gather(None))
    if everyone == len(state["rng"]):
        _set_random_state(state["rng"][rank()])
    else:
        warnings.warn(
            f"the state was saved by {len(state['rng'])} processes and {everyone} resume it: dropout will be "
            "another",
            stacklevel=2,
        )
    return int(state["step"])


def _numbers(optimizer: torch.optim.Optimizer, group: Mapping[str, Any]) -> dict[str, Any]:
    """What a group was built with, without what the optimizer counts in it."""
    return {name: value for name, value in group.items() if name in optimizer.defaults or name == "scale"}


def changed_options(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Name the options that differ between two runs, as "table.key: old -> new"."""
    changes = []
    for table in sorted(set(before) | set(now)):
        old, new = before.get(table, {}), now.get(table, {})
        keys = sorted(set(old) | set(new))
        changes += [
            f"{table}.{key}: {old.get(key)!r} -> {new.get(key)!r}"
            for key in keys
            if old.get(key) != new.get(key)
        ]
    return changes


def _random_state() -> dict[str, Any]:
    _, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
        "numpy": (torch.from_numpy(np.asarray(keys, dtype=np.int64)), position, has_gauss, gauss),
        "python": random.getstate(),
    }


def _set_random_state(state: Mapping[str, Any]) -> None:
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
    keys, *rest = state["numpy"]
    np.random.set_state(("MT19937", keys.numpy().astype(np.uint32), *rest))
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
