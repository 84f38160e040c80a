"""Optimized checkpoints: a folder with tensors as they are computed with, and how they were made.

Source: original work. The weights are one safetensors file, so that nothing is run when it is opened.
"""

import dataclasses
import json
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from trocr.atomic_write import write_files
from trocr.config import VisionEncoderDecoderConfig
from trocr.config_read import ConfigError, read_json
from trocr.fast.model import FastModel, Settings
from trocr.fast.optimizing import choose_kernels
from trocr.fast.weights import OptimizeError
from trocr.generation import GenerationConfig

SETTINGS_FILE = "optimized.json"
WEIGHTS_FILE = "optimized.safetensors"
FORMAT = 2


def is_optimized(folder: str | PathLike[str]) -> bool:
    """Whether a folder holds an optimized checkpoint."""
    return (Path(folder) / SETTINGS_FILE).is_file()


def save_optimized(
    model: FastModel, folder: str | PathLike[str], *, report: Mapping[str, Any] | None = None
) -> None:
    """Write an optimized checkpoint, which `load_optimized` and `Reader` read.

    Args:
        model: bf16 or int8; float32 is what the checkpoint it comes from is.
        folder: made where it is missing. Its processor is saved apart, by `TrOCRProcessor.save_pretrained`.
        report: what was measured about it, kept beside it.
    Raises:
        OptimizeError: a float32 model, or an encoder of timm, which is not made of such tensors.
        OSError: cannot write.
    """
    if model.settings.quantize is None and model.settings.dtype == "float32":
        raise OptimizeError(
            "a float32 model is not stored: keep its checkpoint, which Reader makes fast when it loads it"
        )
    tensors = {name: tensor.contiguous() for name, tensor in model.stored().items()}
    settings = {**dataclasses.asdict(model.settings), "format": FORMAT, "report": dict(report or {})}
    write_files(
        folder,
        {
            WEIGHTS_FILE: save(tensors),
            "config.json": _json({**model.config.to_dict(), "architectures": [type(model).__name__]}),
            "generation_config.json": _json(model.generation_config.to_dict()),
            SETTINGS_FILE: _json(settings),
        },
    )


@torch.no_grad()
def load_optimized(folder: str | PathLike[str]) -> FastModel:
    """Load an optimized checkpoint, on the processor.

    Raises:
        OptimizeError: the folder holds none, one of another format or damaged, or one for kernels that this
            machine has not.
        ConfigError: its configuration is wrong.
    """
    source = Path(folder)
    if not is_optimized(source):
        raise OptimizeError(f"{source}: there is no {SETTINGS_FILE}; `trocr optimize` writes such a folder")
    try:
        values = read_json(source / SETTINGS_FILE)
    except ConfigError as error:
        raise OptimizeError(f"{error}; write the folder anew with `trocr optimize`") from error
    if values.get("format") != FORMAT:
        raise OptimizeError(
            f"{source}: its format is {values.get('format')!r}, this library reads {FORMAT}; write it anew "
            "with `trocr optimize`"
        )
    if values.get("quantize") not in (None, "int8"):
        raise OptimizeError(f"{source}: quantize is {values['quantize']!r}, expected null or int8")
    settings = Settings(
        dtype=str(values.get("dtype")),
        quantize=values.get("quantize"),
        compile=bool(values.get("compile")),
    )
    config = VisionEncoderDecoderConfig.from_pretrained(source)
    file = source / "generation_config.json"
    generation = GenerationConfig.from_model(config, read_json(file), origin=str(file))
    kernels = choose_kernels(dtype=settings.dtype, quantize=settings.quantize, device=torch.device("cpu"))
    try:
        with safe_open(source / WEIGHTS_FILE, framework="pt") as opened:
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        return FastModel(config, generation, tensors, kernels, settings)
    except (SafetensorError, OSError) as error:
        raise OptimizeError(
            f"{source / WEIGHTS_FILE} is damaged or incomplete ({error}); write it anew with `trocr optimize`"
        ) from error
    except (KeyError, RuntimeError) as error:
        raise OptimizeError(
            f"{source}: the tensors of {WEIGHTS_FILE} are not those that config.json describes ({error}); "
            "write it anew with `trocr optimize`"
        ) from error


def _json(values: Mapping[str, Any]) -> bytes:
    return (json.dumps(values, indent=2, ensure_ascii=False) + "\n").encode()
