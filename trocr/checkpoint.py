"""Checkpoint directories in the Hugging Face layout: read into a module, written from one.

Source: the layout that `transformers` 4 and 5 write (``config.json``, ``model.safetensors``).
"""

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from trocr.nn.embeddings import SinusoidalPositions
from trocr.timm_encoder import TimmEncoder
from weights_conversion.files import WeightFile
from weights_conversion.rename import Table

WEIGHTS_NAME = "model.safetensors"


class CheckpointError(ValueError):
    """A checkpoint's content cannot be used, or a model cannot be written so that it could be read again."""


def choose_table(names: Sequence[str], tables: Sequence[Table]) -> Table:
    """Choose the dialect that knows most of a file's tensor names; the first one on a draw."""
    return max(tables, key=lambda table: table.knows(names))


def has_module(weights: WeightFile, table: Table, module: str) -> bool:
    """Whether a file holds tensors of one of our modules, say "encoder.pooler"."""
    targets = table.forward(weights.shapes).values()
    return any(name.startswith(f"{module}.") for names in targets for name in names)


def stored_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Name what a file holds of a model: parameters, each shared one once, and persistent buffers."""
    kept = model.state_dict().keys()
    buffers = {name: buffer for name, buffer in model.named_buffers() if name in kept}
    return {**dict(model.named_parameters()), **buffers}


def load_weights(
    model: nn.Module,
    weights: WeightFile,
    *,
    table: Table,
    tied: Mapping[str, str],
    dtype: torch.dtype,
    device: torch.device,
) -> None:
    """Fill a module built on the meta device. Every tensor is copied once, from the mapped file to its place.

    Args:
        model: its parameters and buffers are on the meta device and are replaced.
        weights: an open weight file.
        table: the dialect that the file is written in.
        tied: our name -> our name of the parameter it shares; a file may hold both when they are equal.
        dtype: precision in memory; whole numbers stay such.
        device: where the tensors go.
    Raises:
        KeyMapError: unknown, missing or misshapen tensors, all in one message.
        CheckpointError: a parameter that is not of floating point type or has infinite values, a tensor with
            NaN, or tied tensors that differ.
    """
    stored = stored_tensors(model)
    expected = {name: tuple(tensor.shape) for name, tensor in stored.items()}
    plan = table.plan(weights.shapes, expected, tied=tied, origin=str(weights.path))
    for name, other in plan.tied:
        if not torch.equal(weights.tensor(name), weights.tensor(other)):
            raise CheckpointError(
                f"{weights.path}: {name} differs from {other}, but config.json says that they are one "
                "(decoder.tie_word_embeddings is true); set it to false to keep both"
            )
    state: dict[str, Tensor] = {}
    broken: list[str] = []
    for move in plan.items:
        source = move.take(weights.tensor(move.source))
        wanted = stored[move.target]
        if wanted.is_floating_point() and not source.is_floating_point():
            raise CheckpointError(
                f"{weights.path}: {move.source} holds {str(source.dtype).removeprefix('torch.')}, expected a "
                "floating point type; quantised checkpoints cannot be read: take one that is not"
            )
        if not is_finite(source) and (isinstance(wanted, nn.Parameter) or bool(source.isnan().any())):
            broken.append(move.source)
        kind = dtype if wanted.is_floating_point() else wanted.dtype
        state[move.target] = torch.empty(source.shape, dtype=kind, device=device).copy_(source)
    if broken:
        raise CheckpointError(
            f"{weights.path}: NaN or infinite values in {', '.join(sorted(broken))}; the training run "
            "that wrote it diverged or the file is damaged: take an earlier checkpoint or fetch it again"
        )
    state.update({name: state[other] for name, other in tied.items()})
    model.load_state_dict(state, assign=True)
    for part in model.modules():
        if isinstance(part, SinusoidalPositions):
            part.table = part.compute_table().to(device=device, dtype=dtype)
        elif isinstance(part, TimmEncoder):
            part.fill_buffers(device=device, dtype=dtype)


def is_finite(tensor: Tensor) -> bool:
    """Whether a tensor has neither NaN nor infinity, without a temporary of its size in the usual case."""
    if not tensor.is_floating_point() or bool(tensor.sum(dtype=torch.float32).isfinite()):
        return True
    return bool(tensor.isfinite().all())


def save_checkpoint(
    model: nn.Module,
    directory: str | PathLike[str],
    *,
    table: Table,
    tied: Mapping[str, str],
    files: Mapping[str, Mapping[str, Any]],
    rebuild: Callable[[], nn.Module],
    storage_dtype: torch.dtype | None = None,
) -> None:
    """Write weights and JSON files so that either all of them are new or the old ones stay.

    Args:
        model: its parameters and persistent buffers are written under the names of `table`.
        directory: made where it is missing.
        table: dialect of the file.
        tied: our names that are left out because they share another's tensor.
        files: name -> content of JSON files, ``config.json`` among them.
        rebuild: builds the model from the configuration that is written; called under the meta device.
        storage_dtype: precision in the file, but for whole numbers; None keeps the precision in memory.
    Raises:
        CheckpointError: the configuration does not give this model's names and shapes.
        OSError: the disk is full or not writable; the old checkpoint is whole then.
    """
    folder = Path(directory)
    if folder.exists() and not folder.is_dir():
        raise CheckpointError(f"{folder} is a file, expected a directory to write the checkpoint into")
    _check_rebuild(model, rebuild)
    stored = {name: tensor for name, tensor in stored_tensors(model).items() if name not in tied}
    names = table.invert(stored)
    tensors = {names[name]: _in_file(tensor, storage_dtype) for name, tensor in stored.items()}
    with ExitStack() as cleanup:
        staging = folder / f".saving-{os.getpid()}"
        cleanup.callback(shutil.rmtree, staging, ignore_errors=True)
        try:
            _stage(staging, tensors, files)
        except (OSError, SafetensorError) as error:  # safetensors wraps what the system says
            raise OSError(
                f"{folder}: the checkpoint cannot be written ({error}); what was there is unchanged. Free "
                "disk space, or choose a directory that you may write to"
            ) from error
        for name in (WEIGHTS_NAME, *files):  # written whole: from here on nothing but renaming
            os.replace(staging / name, folder / name)


def _in_file(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    """The tensor as a file holds it."""
    kind = dtype if dtype is not None and tensor.is_floating_point() else tensor.dtype
    return tensor.detach().to("cpu", kind).contiguous()


def _stage(staging: Path, tensors: Mapping[str, Tensor], files: Mapping[str, Mapping[str, Any]]) -> None:
    staging.mkdir(parents=True)
    save_file(dict(tensors), staging / WEIGHTS_NAME, metadata={"format": "pt"})
    for name, values in files.items():
        text = json.dumps(values, indent=2, sort_keys=True, ensure_ascii=False)
        (staging / name).write_text(text + "\n", encoding="utf-8")
    for path in staging.iterdir():
        shutil.copymode(staging / "config.json", path)  # the library writes weights for their owner alone
        _flush(path)


def _flush(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _check_rebuild(model: nn.Module, rebuild: Callable[[], nn.Module]) -> None:
    with torch.device("meta"):
        twin = rebuild()
    have = {name: tuple(tensor.shape) for name, tensor in stored_tensors(model).items()}
    want = {name: tuple(tensor.shape) for name, tensor in stored_tensors(twin).items()}
    problems = [f"{name} is not in the model" for name in want.keys() - have.keys()]
    problems += [f"{name} is not in the configuration" for name in have.keys() - want.keys()]
    problems += [
        f"{name} is {have[name]}, the configuration says {want[name]}"
        for name in have.keys() & want.keys()
        if have[name] != want[name]
    ]
    if problems:
        shown = "; ".join(sorted(problems)[:8]) + ("; ..." if len(problems) > 8 else "")
        has_adapter = any(name.rpartition(".")[2].startswith("lora_") for name in have)
        raise CheckpointError(
            f"this model cannot be rebuilt from its configuration ({len(problems)} differences: {shown}); "
            + (
                "it has an adapter: merge it (merge_adapter of trocr.surgery.adapters), then save "
                "again, or save it alone (save_adapter)"
                if has_adapter
                else "update model.config together with the modules, then save again"
            )
        )
