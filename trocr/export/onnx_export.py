"""Export to ONNX: a folder with the encoder, the decoder's step with its cache, and all that reading needs.

Source: PyTorch's exporter of `torch.export` programs (`torch.onnx.export(dynamo=True)`).
"""

import importlib
import warnings
from os import PathLike
from typing import Any, Literal

import torch
from torch import Tensor

from trocr.export.errors import ExportError, first_line
from trocr.export.folder import Accept, finish, staged
from trocr.export.graphs import check_expressible, core_of
from trocr.export.manifest import Manifest
from trocr.export.onnx_files import name_sizes, save_graph
from trocr.export.onnx_model import OnnxModel, onnxruntime
from trocr.export.onnx_quantize import quantize_file
from trocr.export.tracing import Graph, graphs_of
from trocr.models import VisionEncoderDecoderModel
from trocr.processor import TrOCRProcessor

OPSET = 18
OPSETS = range(18, 24)
"""Versions of ONNX's operators that PyTorch's exporter writes and this was made for."""


def export_onnx(
    model: VisionEncoderDecoderModel,
    folder: str | PathLike[str],
    processor: TrOCRProcessor | None = None,
    *,
    opset: int = OPSET,
    quantize: Literal["int8"] | None = None,
    check: Tensor | None = None,
    accept: Accept | None = None,
    min_agreement: float | None = None,
) -> Manifest:
    """Write a model as ONNX graphs, if they read as the model does.

    The folder holds the graphs, the configurations, the processor's files and a manifest: `OnnxModel` and
    `Reader` need nothing else. Sizes of batch, beams, text, and of images for models whose positions can be
    cut, may differ from call to call.

    Args:
        model: in float32, on the CPU; it is left as it was.
        folder: new or empty.
        processor: its files are written too; without it, `Reader` asks for one.
        opset: version of ONNX's operators, 18 to 23.
        quantize: "int8" stores the weights of matrix products in eight bits, one scale for each output, and
            computes those products in whole numbers.
        check: images (B, C, height, width), ready for the model, to compare on; None takes noise.
        accept: called with the exported model; an error that it raises refuses it.
        min_agreement: least share of tokens that must agree; None asks for all in float32, and for
            `trocr.export.comparison.INT8_AGREEMENT` in int8.
    Returns:
        The manifest that was written.
    Raises:
        ExportError: the model cannot be expressed, a package is missing, the folder has files in it, or the
            graphs do not read as the model does; nothing is left behind.
        OSError: cannot write.
    """
    model = check_expressible(model)
    _check(model, opset, quantize)
    onnx = _onnx()
    with staged(folder) as part, core_of(model, "eager"):
        files = {}
        for graph in graphs_of(model):
            files[graph.name] = f"{graph.name}.onnx"
            proto = _graph(graph, opset)
            write = save_graph if quantize is None else quantize_file
            write(onnx, proto, part / files[graph.name])
        made_with: dict[str, Any] = {
            "opset": opset,
            "onnx": onnx.__version__,
            "onnxruntime": onnxruntime().__version__,
        }
        return finish(
            part,
            model,
            kind="onnx",
            graphs=files,
            made_with=made_with,
            processor=processor,
            load=OnnxModel.from_pretrained,
            check=check,
            accept=accept,
            quantize=quantize,
            min_agreement=min_agreement,
        )


def _check(model: VisionEncoderDecoderModel, opset: int, quantize: str | None) -> None:
    if model.dtype != torch.float32:
        raise ExportError(
            f"the model is in {str(model.dtype).removeprefix('torch.')}, expected float32, which ONNX "
            "Runtime is made for on a CPU: load it with dtype='float32'; quantize='int8' makes it small"
        )
    if opset not in OPSETS:
        raise ExportError(f"opset is {opset!r}, expected {OPSETS.start} to {OPSETS.stop - 1}")
    if quantize not in (None, "int8"):
        raise ExportError(f"quantize is {quantize!r}, expected None or 'int8'")


def _onnx() -> Any:
    try:
        for name in ("onnxruntime", "onnxscript"):  # the check reads with one, PyTorch writes with the other
            importlib.import_module(name)
        return importlib.import_module("onnx")
    except ImportError as error:
        raise ExportError(
            f"export to ONNX needs {error.name}, which is not installed: pip install 'trocr[onnx]'"
        ) from error


def _graph(graph: Graph, opset: int) -> Any:
    """Trace a part of the model, and give it as an ONNX `ModelProto`."""
    program = graph.traced()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = torch.onnx.export(
                program,
                input_names=graph.input_names,
                output_names=graph.output_names,
                opset_version=opset,
                dynamo=True,
                verbose=False,
            )
        assert made is not None
        proto = made.model_proto
    except Exception as error:  # the exporter's own, its translators', or onnxscript's
        raise ExportError(
            f"the {graph.name} of this model cannot be written as ONNX with opset {opset} "
            f"({type(error).__name__}: {first_line(error)}); try another opset, or replace the part"
        ) from error
    name_sizes(proto, graph)
    return proto
