"""Export to packages: the graphs of a model compiled ahead of time by AOTInductor.

Source: `torch.export`, and `torch._inductor.aoti_compile_and_package`, of PyTorch 2.14.
"""

from os import PathLike
from pathlib import Path

import torch
from torch import Tensor

from trocr.export.errors import ExportError, first_line
from trocr.export.folder import Accept, finish, staged
from trocr.export.graphs import check_expressible, core_of
from trocr.export.manifest import Manifest
from trocr.export.package_model import PackagedModel
from trocr.export.tracing import Graph, graphs_of
from trocr.models import VisionEncoderDecoderModel
from trocr.processor import TrOCRProcessor

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def export_package(
    model: VisionEncoderDecoderModel,
    folder: str | PathLike[str],
    processor: TrOCRProcessor | None = None,
    *,
    check: Tensor | None = None,
    accept: Accept | None = None,
) -> Manifest:
    """Compile a model ahead of time, and write the packages if they read as the model does.

    They run on processors with the instructions of this one, and with this version of PyTorch.

    Args:
        model: on the CPU; it is left as it was.
        folder: new or empty.
        processor: see `trocr.export.onnx_export.export_onnx`, as for the rest.
        check: images (B, C, height, width), ready for the model, to compare on; None takes noise.
        accept: called with the exported model; an error that it raises refuses it.
    Returns:
        The manifest that was written.
    Raises:
        ExportError: there is no C++ compiler, the model cannot be expressed, the folder has files in it, or
            the packages do not read as the model does; nothing is left behind.
        OSError: cannot write.
    """
    model = check_expressible(model)
    if model.dtype not in DTYPES:
        names = ", ".join(str(dtype).removeprefix("torch.") for dtype in DTYPES)
        raise ExportError(f"the model is in {model.dtype}, expected one of {names}")
    check_compiler()
    with staged(folder) as part, core_of(model, "eager"), core_of(model.encoder, "sdpa"):
        files = {}
        for graph in graphs_of(model):
            files[graph.name] = f"{graph.name}.pt2"
            _compile(graph, part / files[graph.name])
        return finish(
            part,
            model,
            kind="package",
            graphs=files,
            made_with={"capability": torch.backends.cpu.get_cpu_capability()},
            processor=processor,
            load=PackagedModel.from_pretrained,
            check=check,
            accept=accept,
        )


def check_compiler() -> None:
    """Find the C++ compiler that AOTInductor calls.

    Raises:
        ExportError: there is none.
    """
    from torch._inductor.cpp_builder import get_cpp_compiler

    try:
        get_cpp_compiler()
    except Exception as error:  # of a class that is private to PyTorch
        raise ExportError(
            f"packages are compiled by a C++ compiler, and none was found ({first_line(error)}): install g++ "
            "or clang, or name one in the environment variable CXX; export to ONNX needs none"
        ) from error


def _compile(graph: Graph, path: Path) -> None:
    program = graph.traced()
    try:
        torch._inductor.aoti_compile_and_package(program, package_path=str(path))
    except Exception as error:  # the compiler's, or any stage of Inductor's
        raise ExportError(
            f"the {graph.name} of this model cannot be compiled by torch {torch.__version__} "
            f"({type(error).__name__}: {first_line(error)}); is the C++ compiler complete (headers, OpenMP)? "
            "Export to ONNX needs none"
        ) from error
