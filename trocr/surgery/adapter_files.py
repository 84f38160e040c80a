"""Adapters on disk, in the layout of `peft`: `adapter_config.json` and `adapter_model.safetensors`.

Modules are named as a model of `transformers` 5 names them in memory (`encoder.layers.0.attention.q_proj`),
for that is where `peft` puts the adapter; parts that `transformers` does not have keep our names. Files that
`peft` wrote with `transformers` 4, whose names are those of checkpoint files, are read too.

Source: `peft` 0.21 (`utils/save_and_load.py`, `tuners/lora/config.py`).
"""

import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from trocr.atomic_write import write_files
from trocr.checkpoint import choose_table, is_finite
from trocr.surgery.adapter_base import BaseSample
from trocr.surgery.adapter_layers import Kind
from trocr.surgery.patterns import SurgeryError
from weights_conversion.files import WeightFileError, open_weights
from weights_conversion.hf import HF_MEMORY, MODEL_TABLES
from weights_conversion.rename import Table

CONFIG_NAME = "adapter_config.json"
WEIGHTS_NAME = "adapter_model.safetensors"
PICKLE_NAME = "adapter_model.bin"

_PREFIX = "base_model.model."
_PARTS = {
    "lora_A.weight": "lora_a",
    "lora_B.weight": "lora_b",
    "lora_magnitude_vector": "magnitude",
    "lora_magnitude_vector.weight": "magnitude",
}
_KEYS = {"lora_a": "lora_A.weight", "lora_b": "lora_B.weight", "magnitude": "lora_magnitude_vector"}
_ALSO_TRAIN = "trocr_also_train"

_READ = {"peft_type", "use_dora", "lora_dropout", "lora_alpha", "alpha_pattern", "use_rslora"}
_WITHOUT_EFFECT = {  # on tensors that are there
    "auto_mapping",
    "base_model_name_or_path",
    "corda_config",
    "ensure_weight_tying",
    "eva_config",
    "exclude_modules",
    "inference_mode",
    "layers_pattern",
    "layers_to_transform",
    "loftq_config",
    "lora_ga_config",
    "megatron_core",
    "modules_to_save",
    "peft_version",
    "qalora_group_size",
    "r",
    "rank_pattern",
    "revision",
    "runtime_config",
    "target_modules",
    "task_type",
}
_EXPECTED: dict[str, tuple[Any, ...]] = {
    "bias": ("none",),
    "init_lora_weights": (True, False, "gaussian", "orthogonal", "eva"),  # others change the base's weights
}


@dataclass(frozen=True, kw_only=True)
class AdapterLayer:
    """One adapted layer: its tensors, named as in `AdaptedLinear`, and alpha / rank."""

    tensors: dict[str, Tensor]
    scale: float


@dataclass(frozen=True, kw_only=True)
class AdapterFile:
    """What a directory holds, under our names.

    Attributes:
        kind: "lora" or "dora".
        dropout: probability on the input of the adapter.
        layers: name of a linear layer -> its adapter.
        others: name -> tensor of parameters that trained with the adapter, with all that is in their modules.
        also_train: which of `others` trained; None where the file does not say.
        base: a sample of the model that it was made for; None in files of `peft`.
        base_name: what the file says that the base is called.
    """

    kind: Kind
    dropout: float
    layers: dict[str, AdapterLayer]
    others: dict[str, Tensor]
    also_train: tuple[str, ...] | None
    base: BaseSample | None
    base_name: str | None


def listed(parts: Sequence[str], between: str = "; ", *, most: int = 8) -> str:
    """Join the first parts for a message."""
    return between.join((*parts[:most], *(["..."] if len(parts) > most else [])))


def write_adapter(directory: str | PathLike[str], content: AdapterFile, *, inner: tuple[str, ...]) -> None:
    """Write a directory that `peft` loads onto the same model of `transformers` 5; each file is old or new.

    Args:
        directory: made where it is missing.
        content: what is written.
        inner: names of the modules that hold `others`.
    Raises:
        SurgeryError: the directory is a file.
        OSError: it cannot be written; what was there is whole then.
    """
    folder = Path(directory)
    if folder.exists() and not folder.is_dir():
        raise SurgeryError(f"{folder} is a file, expected a directory to write the adapter into")
    tensors = {
        f"{_PREFIX}{_theirs(name)}.{_KEYS[part]}": tensor
        for name, layer in content.layers.items()
        for part, tensor in layer.tensors.items()
    }
    tensors |= {f"{_PREFIX}{_theirs_parameter(name)}": tensor for name, tensor in content.others.items()}
    # each a copy: one tensor of two names is written under both, as `peft` keeps it
    tensors = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
    metadata = {"format": "pt", _ALSO_TRAIN: json.dumps(content.also_train or ())}
    if content.base is not None:
        metadata |= content.base.to_text()
    config = json.dumps(_config(content, inner), indent=2, sort_keys=True, ensure_ascii=False)
    write_files(
        folder,
        {CONFIG_NAME: f"{config}\n".encode(), WEIGHTS_NAME: save(tensors, metadata=metadata)},
    )


def _config(content: AdapterFile, inner: tuple[str, ...]) -> dict[str, Any]:
    layers = {_theirs(name): layer for name, layer in content.layers.items()}
    ranks = {name: layer.tensors["lora_a"].shape[0] for name, layer in layers.items()}
    alphas = {name: _whole(layer.scale * ranks[name]) for name, layer in layers.items()}
    ((rank, alpha), _), *_ = Counter((ranks[name], alphas[name]) for name in ranks).most_common(1)
    return {
        "auto_mapping": {
            "base_model_class": "VisionEncoderDecoderModel",
            "parent_library": "transformers.models.vision_encoder_decoder.modeling_vision_encoder_decoder",
        },
        "base_model_name_or_path": content.base_name,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "layers_pattern": None,
        "layers_to_transform": None,
        "lora_alpha": alpha,
        "alpha_pattern": {name: value for name, value in alphas.items() if value != alpha},
        "lora_dropout": content.dropout,
        "modules_to_save": [_theirs(name) for name in inner] or None,
        "peft_type": "LORA",
        "r": rank,
        "rank_pattern": {name: value for name, value in ranks.items() if value != rank},
        "revision": None,
        "target_modules": list(ranks),
        "task_type": None,
        "use_dora": content.kind == "dora",
        "use_rslora": False,
    }


def read_adapter(directory: str | PathLike[str]) -> AdapterFile:
    """Read an adapter that `write_adapter` or `peft` wrote.

    Raises:
        SurgeryError: files are missing or damaged, or the adapter is of a kind that is not read; all problems
            in one message.
    """
    folder = Path(directory)
    config = _read_config(folder)
    problems = _config_problems(config)
    layers, others, metadata = _read_tensors(folder, problems)
    if config.get("use_dora"):
        problems += [f"{name} has no magnitude" for name, part in layers.items() if "magnitude" not in part]
    if problems:
        raise SurgeryError(f"{folder}: this adapter cannot be read: {listed(problems)}")
    table = choose_table([*(f"{name}.weight" for name in layers), *others], MODEL_TABLES)
    also = _from_metadata(folder, metadata)
    return AdapterFile(
        kind="dora" if config.get("use_dora") else "lora",
        dropout=float(config.get("lora_dropout", 0.0)),
        layers={
            _ours(table, f"{name}.weight").removesuffix(".weight"): AdapterLayer(
                tensors=tensors, scale=_scale(config, name, tensors["lora_a"].shape[0])
            )
            for name, tensors in layers.items()
        },
        others={_ours(table, name): tensor for name, tensor in others.items()},
        also_train=also[0],
        base=also[1],
        base_name=config.get("base_model_name_or_path"),
    )


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG_NAME
    if not path.is_file():
        raise SurgeryError(
            f"{folder} has no {CONFIG_NAME}: it is no adapter, or its download is not finished"
        )
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise SurgeryError(f"{path}: cannot be read as JSON ({error})") from error
    if not isinstance(config, dict):
        raise SurgeryError(f"{path}: expected an object, found a {type(config).__name__}")
    return config


def _config_problems(config: Mapping[str, Any]) -> list[str]:
    if config.get("peft_type") != "LORA":
        return [f'peft_type is {config.get("peft_type")!r}, expected "LORA"']
    problems = []
    for key, value in config.items():
        if key in _EXPECTED:
            if value not in _EXPECTED[key]:
                problems.append(f"{key}={value!r} is not known here")
        elif key not in _READ and key not in _WITHOUT_EFFECT and value not in (None, False, {}, []):
            problems.append(f"{key}={value!r} is not known here")
    dropout, alpha = config.get("lora_dropout", 0.0), config.get("lora_alpha", 8)
    alphas = config.get("alpha_pattern") or {}
    if not (_is_number(dropout) and 0 <= dropout < 1):
        problems.append(f"lora_dropout={dropout!r}, expected a number from 0 to below 1")
    if not isinstance(alphas, dict) or not all(map(_is_number, (alpha, *alphas.values()))):
        problems.append(f"lora_alpha={alpha!r} and alpha_pattern={alphas!r}, expected numbers")
    return problems


def _read_tensors(
    folder: Path, problems: list[str]
) -> tuple[dict[str, dict[str, Tensor]], dict[str, Tensor], dict[str, str]]:
    """Sort the tensors of a file by their names; what is wrong with them is added to `problems`."""
    path = next((folder / name for name in (WEIGHTS_NAME, PICKLE_NAME) if (folder / name).is_file()), None)
    if path is None:
        raise SurgeryError(f"{folder} has neither {WEIGHTS_NAME} nor {PICKLE_NAME}")
    layers: dict[str, dict[str, Tensor]] = {}
    others: dict[str, Tensor] = {}
    try:
        with open_weights(path) as weights:
            for key in weights.shapes:
                tensor = weights.tensor(key)
                name = key.removeprefix(_PREFIX)
                leaf = next((leaf for leaf in _PARTS if name.endswith(f".{leaf}")), None)
                if not key.startswith(_PREFIX) or (leaf is None and ".lora_" in name):
                    problems.append(f"{key} is not a name of an adapter of linear layers")
                elif not tensor.is_floating_point() or not is_finite(tensor):
                    problems.append(f"{key} holds NaN or infinite values, or whole numbers")
                elif leaf is None:
                    others[name] = tensor
                else:
                    layers.setdefault(name.removesuffix(f".{leaf}"), {})[_PARTS[leaf]] = tensor
    except WeightFileError as error:
        raise SurgeryError(str(error)) from error
    for name, tensors in layers.items():
        problems += [f"{name} has no {_KEYS[part]}" for part in ("lora_a", "lora_b") if part not in tensors]
        shapes = {part: tuple(tensor.shape) for part, tensor in tensors.items()}
        if not _is_low_rank(shapes):
            problems.append(
                f"{name} has the shapes {shapes}, which are not those of a linear layer's adapter"
            )
    if not layers and not problems:
        problems.append(f"{path.name} has no adapted layer")
    metadata: dict[str, str] = {}
    if path.name == WEIGHTS_NAME:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    return layers, others, metadata


def _is_low_rank(shapes: Mapping[str, tuple[int, ...]]) -> bool:
    a, b = shapes.get("lora_a", (1, 1)), shapes.get("lora_b", (1, 1))
    fits = len(a) == len(b) == 2 and min(*a, *b) > 0
    if fits and "lora_a" in shapes and "lora_b" in shapes:
        fits = a[0] == b[1] and shapes.get("magnitude", (b[0],)) == (b[0],)
    return fits


def _from_metadata(
    folder: Path, metadata: Mapping[str, str]
) -> tuple[tuple[str, ...] | None, BaseSample | None]:
    try:
        also = json.loads(metadata[_ALSO_TRAIN]) if _ALSO_TRAIN in metadata else None
        return None if also is None else tuple(map(str, also)), BaseSample.from_text(metadata)
    except (ValueError, TypeError) as error:
        raise SurgeryError(f"{folder / WEIGHTS_NAME}: its metadata are damaged ({error})") from error


def _scale(config: Mapping[str, Any], name: str, rank: int) -> float:
    alpha = float(config.get("lora_alpha", 8))
    for pattern, value in (config.get("alpha_pattern") or {}).items():
        try:
            found = re.match(rf"(.*\.)?({pattern})$", name)
        except re.error as error:
            raise SurgeryError(f"alpha_pattern: {pattern!r} is no regular expression ({error})") from error
        if found:
            alpha = float(value)
            break
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _whole(value: float) -> float | int:
    return round(value) if math.isclose(value, round(value), rel_tol=1e-12) else value


def _ours(table: Table, name: str) -> str:
    return table.forward([name]).get(name, (name,))[0]


def _theirs_parameter(name: str) -> str:
    back = HF_MEMORY.source_of(name)
    return name if back is None else back[0]


def _theirs(module: str) -> str:
    return _theirs_parameter(f"{module}.weight").removesuffix(".weight")
