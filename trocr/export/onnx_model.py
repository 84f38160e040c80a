"""Reading with ONNX Runtime.

Source: the Python API of ONNX Runtime 1.32.
"""

from collections.abc import Sequence
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from trocr.export.errors import ExportedModelError
from trocr.export.graph_model import GraphModel, Run, read_configs
from trocr.export.manifest import Manifest

__all__ = ["OnnxModel", "onnxruntime", "read_configs"]


def onnxruntime() -> Any:
    """Import ONNX Runtime.

    Raises:
        ExportedModelError: it is not installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise ExportedModelError(
            "ONNX models are read with onnxruntime, which is not installed: pip install 'trocr[onnx]'"
        ) from error
    return onnxruntime


class OnnxModel(GraphModel):
    """A model that reads with ONNX Runtime, wherever `Reader` and `generate` take a model.

    `OnnxModel.from_pretrained(folder)` loads what `export_onnx` wrote.
    """

    @classmethod
    def from_pretrained(cls, folder: str | PathLike[str], *, threads: int | None = None) -> Self:
        """Load an exported model.

        Args:
            folder: that `export_onnx` wrote.
            threads: of the processor; None takes PyTorch's number.
        Raises:
            ExportedModelError: onnxruntime is not installed, a file is missing or damaged, or the folder was
                written by another version.
            ConfigError: its configuration is wrong.
        """
        runtime, place = onnxruntime(), Path(folder)
        manifest = Manifest.read(place, "onnx")
        runs = {
            name: _run_of(runtime, place / file, threads or torch.get_num_threads())
            for name, file in manifest.graphs.items()
        }
        return cls(manifest, *read_configs(place), runs)


def _run_of(runtime: Any, path: Path, threads: int) -> Run:
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if path.stem != "step":  # whose next run follows soon: others must not keep the processor busy
        options.add_session_config_entry("session.force_spinning_stop", "1")
    try:
        session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions have no base of their own
        raise ExportedModelError(
            f"{path} cannot be read by onnxruntime {runtime.__version__} ({error}); copy the folder again, "
            "export anew, or install a newer onnxruntime"
        ) from error
    return partial(_run, session, [item.name for item in session.get_inputs()])


def _run(session: Any, names: Sequence[str], inputs: Sequence[Tensor]) -> list[Tensor]:
    arrays = [tensor.detach().contiguous().numpy() for tensor in inputs]
    try:
        outputs = session.run(None, dict(zip(names, arrays, strict=True)))
    except Exception as error:  # its exceptions have no base of their own
        if any(sign in str(error).lower() for sign in ("bad_alloc", "bad allocation", "failed to allocate")):
            raise MemoryError(str(error)) from error
        raise ExportedModelError(
            f"ONNX Runtime failed ({error}); the graphs and the configuration are not of one export, or this "
            "is an error of theirs: export again, and report it if it stays"
        ) from error
    return [torch.from_numpy(array) for array in outputs]
