"""Eight-bit weights in an ONNX graph: matrix products in whole numbers.

Source: ONNX Runtime's `quantize_dynamic`.
"""

import logging
import tempfile
from pathlib import Path
from typing import Any

from trocr.export.onnx_files import save_graph


def quantize_file(onnx: Any, proto: Any, path: Path) -> None:
    """Write a graph whose products with weights are computed in int8.

    Weights have one scale for each output, and seven bits of range: without VNNI the instructions of x86 for
    eight-bit products saturate beyond, and what was checked on one machine would be wrong on another. Inputs
    get a scale for each call.

    Args:
        onnx: the package.
        proto: the graph in float32; weights that are transposed first are replaced by transposed ones.
        path: file to write.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    fold_transposes(onnx, proto)
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / path.name
        save_graph(onnx, proto, whole)
        logger = logging.getLogger()
        level = logger.level
        logger.setLevel(logging.ERROR)  # it advises a preparation that the graph has had
        quantize_dynamic(
            whole,
            path,
            op_types_to_quantize=["MatMul"],
            per_channel=True,
            reduce_range=True,
            weight_type=QuantType.QInt8,
            extra_options={"MatMulConstBOnly": True},
        )
        logger.setLevel(level)


def fold_transposes(onnx: Any, proto: Any) -> None:
    """Replace every transposed weight by the transposed tensor, in place."""
    graph = proto.graph
    weights = {item.name: item for item in graph.initializer}
    folded = []
    for node in graph.node:
        if node.op_type == "Transpose" and node.input[0] in weights:
            axes = [list(item.ints) for item in node.attribute if item.name == "perm"]
            array = onnx.numpy_helper.to_array(weights[node.input[0]]).transpose(*axes)
            graph.initializer.append(onnx.numpy_helper.from_array(array.copy(), node.output[0]))
            folded.append(node)
    for node in folded:
        graph.node.remove(node)
    used = {name for node in graph.node for name in node.input} | {item.name for item in graph.output}
    for item in [item for item in graph.initializer if item.name not in used]:
        graph.initializer.remove(item)
