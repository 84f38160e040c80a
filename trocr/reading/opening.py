"""From a name to a model that reads: made fast where it is loaded here, whatever it is stored as.

Source: original work.
"""

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import torch

from trocr.export import is_onnx_folder, is_package_folder
from trocr.fast import FastModel, OptimizeError, is_optimized, load_optimized, optimize
from trocr.hub import MODEL_FILES, PROCESSOR_FILES, locate
from trocr.models import VisionEncoderDecoderModel


class OpenError(ValueError):
    """A model cannot be opened in the way that was asked for."""


def open_model(
    source: str | PathLike[str],
    *,
    device: torch.device,
    device_is_asked: bool,
    dtype: str | torch.dtype | None,
    quantize: str | None,
    fast: bool,
    with_processor: bool,
    hub: Mapping[str, Any],
) -> tuple[Any, Path]:
    """Load a model for reading.

    Args:
        source: a shipped name, a directory or a Hub id: of a checkpoint, of an optimized one
            (`FastModel.save_pretrained`), or of an ONNX export.
        device: where to.
        device_is_asked: whether the caller chose it; what reads on processors only takes no other then.
        dtype: see `Reader`.
        quantize: see `Reader`.
        fast: whether a checkpoint is optimized.
        with_processor: whether the directory's processor is wanted too.
        hub: options of `trocr.hub.locate`.
    Returns:
        The model, and its directory.
    Raises:
        HubError: the files are neither here nor reachable.
        OpenError: a precision or device that an optimized or exported model has not; compiled packages.
        OptimizeError: int8 where it cannot be had.
        ValueError: see `VisionEncoderDecoderModel.from_pretrained`.
    """
    folder = Path(source)
    asked = device if device_is_asked else torch.device("cpu")
    if folder.is_dir() and is_optimized(folder):
        _check_as_stored(folder, "was optimized", device=asked, dtype=dtype, quantize=quantize)
        return load_optimized(folder), folder
    if folder.is_dir() and is_onnx_folder(folder):
        from trocr.export import OnnxModel

        _check_as_stored(folder, "is an ONNX export", device=asked, dtype=dtype, quantize=quantize)
        return OnnxModel.from_pretrained(folder), folder
    if folder.is_dir() and is_package_folder(folder):
        raise OpenError(
            f"{folder} holds compiled packages, which are machine code: if you trust who made them, load "
            "them by PackagedModel.from_pretrained(folder) and give that to Reader with processor=folder"
        )
    want = (*MODEL_FILES, *PROCESSOR_FILES) if with_processor else MODEL_FILES
    folder = locate(source, want=want, **hub)
    loaded = VisionEncoderDecoderModel.from_pretrained(
        folder, device=device, dtype="float32" if quantize else dtype
    )
    if quantize:
        return optimize(loaded, dtype=dtype, quantize=quantize), folder
    return (as_fast(loaded) if fast else loaded), folder


def as_fast(model: VisionEncoderDecoderModel) -> VisionEncoderDecoderModel | FastModel:
    """Optimize a model in its own precision, where that is quick on this processor and it can be done."""
    if model.device.type != "cpu":
        return model
    try:
        return optimize(model, dtype=model.dtype)
    except OptimizeError:
        return model


def _check_as_stored(
    folder: Path, what: str, *, device: torch.device, dtype: Any, quantize: str | None
) -> None:
    asked = {"dtype": dtype, "quantize": quantize}
    named = [f"{name}={value!r}" for name, value in asked.items() if value is not None]
    if device.type != "cpu":
        named.append(f"device={str(device)!r}")
    if named:
        raise OpenError(f"{folder} {what}, and is read as it is: leave {', '.join(named)} out")
