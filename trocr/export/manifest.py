"""The manifest of an exported model: what its folder holds, and who wrote it with what.

Source: original work.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from os import PathLike
from pathlib import Path
from typing import Any, Self

from trocr.config_read import DTYPES, ConfigError, read_json
from trocr.export.errors import ExportedModelError

VERSION = 1
"""Of the folder's layout: names of graphs, their inputs and outputs, and this file."""

MANIFEST = "export.json"

GRAPHS = ("encoder", "cross", "step")
"""Graphs that every exported model has; some have "memory" too."""


def is_onnx_folder(folder: str | PathLike[str]) -> bool:
    """Whether a folder holds a model exported to ONNX, or what is left of one."""
    return any((Path(folder) / f"{name}.onnx").is_file() for name in GRAPHS)


def is_package_folder(folder: str | PathLike[str]) -> bool:
    """Whether a folder holds a model exported as packages, or what is left of one."""
    return any((Path(folder) / f"{name}.pt2").is_file() for name in GRAPHS)


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What ``export.json`` holds.

    Attributes:
        kind: "onnx" or "package".
        version: of the layout.
        dtype: of pixels, states and scores.
        quantize: None or "int8".
        image: (channels, height, width).
        patch_hw: (height, width) in pixels between places of the image.
        any_width: whether the encoder takes narrower images.
        layers: (H, K) of every block's self-attention.
        graphs: name -> file.
        files: file -> {"bytes", "sha256"}.
        made_with: package -> version; of ONNX also "opset".
        check: how it was compared with the model that it comes from.
    """

    kind: str
    version: int = VERSION
    dtype: str
    quantize: str | None = None
    image: tuple[int, int, int]
    patch_hw: tuple[int, int]
    any_width: bool
    layers: tuple[tuple[int, int], ...]
    graphs: Mapping[str, str]
    files: Mapping[str, Mapping[str, Any]]
    made_with: Mapping[str, Any]
    check: Mapping[str, Any]

    def to_json(self) -> bytes:
        """Give the file's content."""
        return (json.dumps(asdict(self), indent=2) + "\n").encode("utf-8")

    @classmethod
    def read(cls, folder: Path, kind: str) -> Self:
        """Read the manifest of a folder, and check the files that it names.

        Raises:
            ExportedModelError: there is none, it is of another kind or version, or files are missing or not
                those that were written.
        """
        values = _values(folder)
        if values.get("kind") != kind or values.get("version") != VERSION:
            raise ExportedModelError(
                f"{folder / MANIFEST} is of kind {values.get('kind')!r}, version {values.get('version')!r}; "
                f"expected kind {kind!r}, version {VERSION}: export the model again with this version of "
                "trocr, or read it with the one that wrote it"
            )
        wanted = {item.name for item in fields(cls)}
        if set(values) != wanted:
            raise ExportedModelError(
                f"{folder / MANIFEST} lacks {_list(wanted - set(values))} and has too much: "
                f"{_list(set(values) - wanted)}; export the model again"
            )
        made = cls(**{name: _frozen(value) for name, value in values.items()})
        try:
            _check_values(made)
            problems = list(_file_problems(folder, made))
        except (TypeError, KeyError, AttributeError) as error:
            raise ExportedModelError(
                f"{folder / MANIFEST} holds values of another form ({type(error).__name__}: {error}); copy "
                "the whole folder again, or export anew"
            ) from error
        if problems:
            raise ExportedModelError(
                f"{folder} is damaged: {'; '.join(problems)}; copy the whole folder again, or export anew"
            )
        return made


def _list(names: set[str]) -> str:
    return ", ".join(sorted(names)) or "nothing"


def _frozen(value: Any) -> Any:
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else value


def _values(folder: Path) -> dict[str, Any]:
    if not (folder / MANIFEST).is_file():
        raise ExportedModelError(
            f"{folder} has no {MANIFEST}: it is not a model that `trocr export` wrote; export one, or give "
            "the folder that holds it"
        )
    try:
        return read_json(folder / MANIFEST)
    except ConfigError as error:
        raise ExportedModelError(str(error)) from error


def _check_values(manifest: Manifest) -> None:
    if manifest.dtype not in DTYPES:
        raise TypeError(f"dtype {manifest.dtype!r}")
    for value, count in (
        (manifest.image, 3),
        (manifest.patch_hw, 2),
        *((pair, 2) for pair in manifest.layers),
    ):
        if len(value) != count or not all(isinstance(number, int) for number in value):
            raise TypeError(f"{value!r} instead of {count} whole numbers")


def _file_problems(folder: Path, manifest: Manifest) -> Iterator[str]:
    for name, fact in manifest.files.items():
        path = folder / name
        if not path.is_file():
            yield f"{name} is missing"
        elif path.stat().st_size != fact["bytes"]:
            yield f"{name} has {path.stat().st_size} bytes, {fact['bytes']} were written"
        elif sha256(path) != fact["sha256"]:
            yield f"{name} has another content than was written (sha256)"
    yield from (f"no file for {name}" for name, file in manifest.graphs.items() if file not in manifest.files)
    yield from (f"no graph {name}" for name in GRAPHS if name not in manifest.graphs)


def sha256(path: Path) -> str:
    """Compute the hash of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def facts(folder: Path, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Say of every file how long it is and what its hash is."""
    return {
        name: {"bytes": (folder / name).stat().st_size, "sha256": sha256(folder / name)} for name in names
    }
