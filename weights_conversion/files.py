"""Weight files as names, shapes, dtypes and tensors read on demand: safetensors, shards, .bin and .pt.

Source: the safetensors format description; torch.load since 2.6; file names of transformers' save_pretrained.
Nothing is ever unpickled beyond what `weights_only=True` allows.
"""

import argparse
import json
import pickle
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

SAFETENSORS_NAME = "model.safetensors"
SAFETENSORS_INDEX = "model.safetensors.index.json"
PICKLE_NAME = "pytorch_model.bin"
PICKLE_INDEX = "pytorch_model.bin.index.json"
WEIGHT_NAMES = (SAFETENSORS_NAME, SAFETENSORS_INDEX, PICKLE_NAME, PICKLE_INDEX)
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt")

_ONE_SAVE = "Index and shards must be of the same save: download them together."
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


class WeightFileError(ValueError):
    """A weight file is missing, damaged, incomplete or of a kind that is not read."""


class WeightFile:
    """One checkpoint's tensors, by name; a context manager.

    Attributes:
        path: what was opened: a file, or the index of a sharded checkpoint.
        kind: "safetensors", "pickle", or either with " shards".
        shapes: name -> shape, in the file's order.
        dtypes: name -> dtype in the file.
        extra: what a pickle holds beside the weights (`args`, `cfg` of fairseq files); empty otherwise.
    """

    def __init__(
        self,
        path: Path,
        kind: str,
        shapes: Mapping[str, tuple[int, ...]],
        dtypes: Mapping[str, torch.dtype],
        read: Callable[[str], Tensor],
        *,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        self.path, self.kind = path, kind
        self.shapes, self.dtypes = dict(shapes), dict(dtypes)
        self.extra = dict(extra or {})
        self._read: Callable[[str], Tensor] | None = read

    def tensor(self, name: str) -> Tensor:
        """One tensor, on the CPU; where the format allows a view of the mapped file, so do not write to it.

        Raises:
            WeightFileError: no tensor of that name, or the file was closed.
        """
        if self._read is None:
            raise WeightFileError(f"{self.path}: closed; read its tensors inside the with block")
        if name not in self.shapes:
            raise WeightFileError(f"{self.path}: no tensor {name!r}; it holds {len(self.shapes)} tensors")
        return self._read(name)

    def __enter__(self) -> "WeightFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._read = None


def find_weights(directory: Path) -> Path:
    """The weight file of a checkpoint directory, safetensors before pickle, whole before sharded.

    Raises:
        WeightFileError: none of the known names is there.
    """
    for name in WEIGHT_NAMES:
        if (directory / name).is_file():
            return directory / name
    there = sorted(entry.name for entry in directory.iterdir())[:12] if directory.is_dir() else []
    raise WeightFileError(
        f"{directory}: no weights; expected one of {', '.join(WEIGHT_NAMES)}, "
        f"found {', '.join(there) or 'nothing'}. "
        "Finish the download, or name the weight file itself."
    )


def open_weights(path: Path | str) -> WeightFile:
    """Open a weight file, or the weights of a checkpoint directory, without reading the tensors.

    Args:
        path: directory, `.safetensors`, `.bin`/`.pt`/`.pth`/`.ckpt`, or an `.index.json` of shards.
    Raises:
        WeightFileError: missing, damaged, truncated, incomplete, unsafe or unknown; the message names the
            file and says what to do.
    """
    path = Path(path)
    if path.is_dir():
        path = find_weights(path)
    if not path.is_file():
        raise WeightFileError(f"{path}: there is no such file or directory")
    if path.name.endswith(".index.json"):
        return _open_shards(path)
    if path.suffix == ".safetensors":
        return _open_safetensors(path)
    if path.suffix in PICKLE_SUFFIXES:
        return _open_pickle(path)
    raise WeightFileError(
        f"{path}: cannot tell what kind of weight file this is; "
        f"expected .safetensors, .index.json or one of {', '.join(PICKLE_SUFFIXES)}"
    )


def _open_safetensors(path: Path) -> WeightFile:
    header = _read_header(path)
    unread = sorted({entry["dtype"] for entry in header.values()} - set(_DTYPES))
    if unread:
        raise WeightFileError(f"{path}: dtype {', '.join(unread)} is not read; known: {', '.join(_DTYPES)}")
    try:
        # Checks what `_read_header` does not: gaps, overlaps.
        file = safe_open(path, framework="pt", device="cpu")
    except (SafetensorError, OSError) as error:
        raise WeightFileError(
            f"{path}: damaged safetensors file ({error}); download or save it again"
        ) from error
    shapes = {name: tuple(entry["shape"]) for name, entry in header.items()}
    dtypes = {name: _DTYPES[entry["dtype"]] for name, entry in header.items()}
    return WeightFile(path, "safetensors", shapes, dtypes, file.get_tensor)


def _read_header(path: Path) -> dict[str, dict[str, Any]]:
    """The header, or the usual damage in words that say what was found and what was expected."""
    size = path.stat().st_size
    again = "download or save it again"
    if size < 8:
        raise WeightFileError(f"{path}: {size} bytes cannot be a safetensors file; {again}")
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        left = size - 8 - length
        if left < 0:
            raise WeightFileError(
                f"{path}: corrupt safetensors header: {length} bytes long, {size - 8} are left; {again}"
            )
        raw = file.read(length)
    try:
        header = {name: entry for name, entry in json.loads(raw).items() if name != "__metadata__"}
        needed = max([int(entry["data_offsets"][1]) for entry in header.values()], default=0)
        for entry in header.values():
            _ = entry["dtype"].upper(), [int(length) for length in entry["shape"]]
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise WeightFileError(
            f"{path}: corrupt safetensors header: expected JSON of dtype, shape and data_offsets per tensor "
            f"({type(error).__name__}: {error}); {again}"
        ) from error
    if needed > left:
        raise WeightFileError(
            f"{path}: truncated: the header describes {needed} bytes of tensors, the file has {left}; {again}"
        )
    return header


def _open_pickle(path: Path) -> WeightFile:
    loaded = _load_pickle(path)
    if not isinstance(loaded, Mapping):
        raise WeightFileError(
            f"{path}: holds a {type(loaded).__name__}, expected a dictionary of tensors; "
            "save model.state_dict()"
        )
    weights, extra = loaded, {}
    for inner in ("model", "state_dict"):
        if isinstance(loaded.get(inner), Mapping):
            weights = loaded[inner]
            extra = {key: value for key, value in loaded.items() if key != inner}
            break
    wrong = [
        str(name)
        for name, value in weights.items()
        if not (isinstance(name, str) and isinstance(value, Tensor))
    ]
    if wrong or not weights:
        found = f"{', '.join(wrong[:5])} {'are' if len(wrong) > 1 else 'is'} not" if wrong else "it has no"
        raise WeightFileError(
            f"{path}: expected a dictionary of tensors; {found} tensor{'s' * (len(wrong) != 1)}"
        )
    shapes = {name: tuple(value.shape) for name, value in weights.items()}
    dtypes = {name: value.dtype for name, value in weights.items()}
    return WeightFile(path, "pickle", shapes, dtypes, dict(weights).__getitem__, extra=extra)


def _load_pickle(path: Path) -> Any:
    if path.stat().st_size == 0:
        raise WeightFileError(f"{path}: 0 bytes cannot be a weight file; download or save it again")
    with path.open("rb") as file:
        # Files of torch before 1.6 are not, and cannot be memory-mapped.
        zipped = file.read(4) == b"PK\x03\x04"
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", mmap=zipped, weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightFileError(_refusal(path, error, zipped=zipped)) from error
    except (
        RuntimeError,
        OSError,
        EOFError,
        ValueError,
        KeyError,
        IndexError,
        TypeError,
        AttributeError,
    ) as error:
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise WeightFileError(
            f"{path}: not a readable torch file, perhaps truncated ({path.stat().st_size} bytes; {reason}); "
            "download or save it again"
        ) from error


def _refusal(path: Path, error: Exception, *, zipped: bool) -> str:
    """Say which Python objects a pickle would have called, or that it is no pickle at all."""
    found: list[str] = []
    if zipped:
        try:
            found = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
        except (RuntimeError, ValueError, pickle.UnpicklingError):
            found = []
    if not found:  # torch names the first one only, after this word
        found = re.findall(r"GLOBAL ([\w.]+)", str(error))[:1]
    found = [name for name in found if name != "argparse.Namespace"]
    if not found:
        detail = str(error).strip().splitlines()[-1][:200] if str(error).strip() else type(error).__name__
        return f"{path}: not a torch weight file, or damaged ({detail}); download or save it again"
    return (
        f"{path}: refused: beside tensors it holds Python objects, and loading would run their code: "
        f"{', '.join(found)}. This library never runs code from a weight file. If you trust the file, keep "
        "the weights alone, in an environment that has those classes: "
        'c = torch.load(FILE, weights_only=False); torch.save({"model": c["model"]}, NEW_FILE)'
    )


def _open_shards(index: Path) -> WeightFile:
    where = _read_index(index)
    files: dict[str, WeightFile] = {}
    for shard in sorted(set(where.values())):
        if Path(shard).name != shard:
            raise WeightFileError(f"{index}: shard {shard!r} is not a plain file name beside the index")
        if not (index.parent / shard).is_file():
            lost = sum(name == shard for name in where.values())
            raise WeightFileError(
                f"{index.parent / shard}: missing shard; {index.name} puts {lost} tensors there; download it"
            )
        files[shard] = open_weights(index.parent / shard)
    _check_shards(index, where, files)
    shapes = {name: files[shard].shapes[name] for name, shard in where.items()}
    dtypes = {name: files[shard].dtypes[name] for name, shard in where.items()}
    kind = f"{next(iter(files.values())).kind} shards"
    return WeightFile(index, kind, shapes, dtypes, lambda name: files[where[name]].tensor(name))


def _read_index(index: Path) -> dict[str, str]:
    try:
        loaded = json.loads(index.read_bytes())
        where = loaded["weight_map"]
        good = isinstance(where, dict) and all(isinstance(shard, str) for shard in where.values())
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise WeightFileError(
            f"{index}: not a shard index: expected JSON with a weight_map ({error!r})"
        ) from error
    if not good or not where:
        raise WeightFileError(
            f"{index}: weight_map must map at least one tensor name to its shard's file name"
        )
    return where


def _check_shards(index: Path, where: Mapping[str, str], files: Mapping[str, WeightFile]) -> None:
    lost = [f"{name} (in {shard})" for name, shard in where.items() if name not in files[shard].shapes]
    if lost:
        raise WeightFileError(
            f"{index}: {len(lost)} tensors of the index are not in their shards: {', '.join(lost[:5])}"
            f"{' ...' if len(lost) > 5 else ''}. {_ONE_SAVE}"
        )
    stray = [
        f"{name} (in {shard})"
        for shard, file in files.items()
        for name in file.shapes
        if where.get(name) != shard
    ]
    if stray:
        raise WeightFileError(
            f"{index}: {len(stray)} tensors of the shards are not in the index: {', '.join(stray[:5])}"
            f"{' ...' if len(stray) > 5 else ''}. {_ONE_SAVE}"
        )
