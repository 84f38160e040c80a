"""Reading with packages that AOTInductor compiled: nothing is compiled any more.

Source: `torch._inductor.aoti_load_package` of PyTorch 2.14.
"""

from collections.abc import Callable, Sequence
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any, Self, cast

import torch
from torch import Tensor

from trocr.export.errors import ExportedModelError, first_line
from trocr.export.graph_model import GraphModel, Run, read_configs
from trocr.export.manifest import Manifest


class PackagedModel(GraphModel):
    """A model that reads with compiled packages, wherever `Reader` and `generate` take a model.

    `PackagedModel.from_pretrained(folder)` loads what `export_package` wrote. Packages are machine code: load
    only those whose origin you trust.
    """

    @classmethod
    def from_pretrained(cls, folder: str | PathLike[str]) -> Self:
        """Load an exported model.

        Args:
            folder: that `export_package` wrote.
        Raises:
            ExportedModelError: a file is missing or damaged, or it was written by another version of trocr or
                PyTorch, or for another processor.
            ConfigError: its configuration is wrong.
        """
        place = Path(folder)
        manifest = Manifest.read(place, "package")
        found = {
            "torch": str(torch.__version__),
            "capability": torch.backends.cpu.get_cpu_capability(),
        }
        others = [
            f"{name} {manifest.made_with.get(name)!r}, here {have!r}"
            for name, have in found.items()
            if manifest.made_with.get(name) != have
        ]
        if others:
            raise ExportedModelError(
                f"{place} was compiled for {'; '.join(others)}: export the model again on a machine like this"
            )
        runs = {name: _run_of(name, place / file) for name, file in manifest.graphs.items()}
        return cls(manifest, *read_configs(place), runs)


def _run_of(name: str, path: Path) -> Run:
    try:
        package = torch._inductor.aoti_load_package(str(path))
    except Exception as error:  # the loader raises RuntimeErrors, and those of zip files
        raise ExportedModelError(
            f"{path} cannot be loaded by torch {torch.__version__} ({first_line(error)}); export anew"
        ) from error
    return partial(_run_step if name == "step" else _run, cast(Callable[..., Any], package))


def _run(package: Callable[..., Any], inputs: Sequence[Tensor]) -> list[Tensor]:
    outputs = package(*[tensor.contiguous() for tensor in inputs])
    return [outputs] if isinstance(outputs, Tensor) else list(outputs)


def _run_step(package: Callable[..., Any], inputs: Sequence[Tensor]) -> list[Tensor]:
    """Three tensors, then as many of the past as of cross-attention, which are lists for the package."""
    tensors = [tensor.contiguous() for tensor in inputs]
    half = 3 + (len(tensors) - 3) // 2
    return list(package(*tensors[:3], tensors[3:half], tensors[half:]))
