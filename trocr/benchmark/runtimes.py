"""The same model by other runtimes: ONNX Runtime and OpenVINO, on the graphs that `export_onnx` writes.

Source: the Python API of OpenVINO 2026.4; ONNX Runtime by `trocr.export.OnnxModel`.
"""

import importlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trocr.benchmark.errors import CandidateError
from trocr.models import VisionEncoderDecoderModel


def exported(model: VisionEncoderDecoderModel, scratch: Path, quantize: str | None) -> Path:
    """Folder of a model's ONNX graphs, written where they are not there yet.

    That random weights agree with their int8 form is not asked for here: a benchmark prints how far they do.

    Args:
        model: in float32.
        scratch: where folders are made.
        quantize: None or "int8".
    """
    from trocr.export import export_onnx

    folder = scratch / f"onnx-{quantize or 'float32'}"
    if not folder.is_dir():
        export_onnx(model, folder, quantize="int8" if quantize else None, min_agreement=0.0)
    return folder


def onnx_model(model: VisionEncoderDecoderModel, scratch: Path, quantize: str | None = None) -> Any:
    """A reading model by ONNX Runtime, with PyTorch's number of threads."""
    from trocr.export import OnnxModel

    return OnnxModel.from_pretrained(exported(model, scratch, quantize))


def openvino_model(model: VisionEncoderDecoderModel, scratch: Path, precision: str = "f32") -> Any:
    """A reading model by OpenVINO, with PyTorch's number of threads.

    Args:
        model: in float32.
        scratch: where folders are made.
        precision: that OpenVINO computes in: "f32" or "bf16".
    Raises:
        CandidateError: OpenVINO is not installed.
    """
    try:
        openvino: Any = importlib.import_module("openvino")
    except ImportError as error:
        raise CandidateError("openvino is not installed (pip install openvino)") from error
    from trocr.export.graph_model import GraphModel
    from trocr.export.manifest import Manifest
    from trocr.export.onnx_model import read_configs

    folder = exported(model, scratch, None)
    manifest = Manifest.read(folder, "onnx")
    core = openvino.Core()
    options = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    runs = {
        name: partial(_run, core.compile_model(str(folder / file), "CPU", options))
        for name, file in manifest.graphs.items()
    }
    return GraphModel(manifest, *read_configs(folder), runs)


def _run(compiled: Any, inputs: Sequence[Tensor]) -> list[Tensor]:
    given = [tensor.detach().contiguous().numpy() for tensor in inputs]
    found = compiled(given)
    return [torch.from_numpy(found[place].copy()) for place in range(len(compiled.outputs))]
