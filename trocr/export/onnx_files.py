"""ONNX graphs as files: named sizes, and weights beside a graph that is too large for one file.

Source: original work.
"""

import re
from pathlib import Path
from typing import Any

from trocr.export.tracing import Graph

MAX_BYTES = 2**31 - 2**24
"""Largest weights in the graph's own file, whose format ends at 2 GiB."""


def save_graph(onnx: Any, proto: Any, path: Path) -> None:
    """Write a graph, and its weights to a second file where one cannot hold them."""
    outside = sum(len(item.raw_data) for item in proto.graph.initializer) > MAX_BYTES
    onnx.save_model(proto, str(path), save_as_external_data=outside, location=f"{path.name}.data")


def name_sizes(proto: Any, graph: Graph) -> None:
    """Rename a graph's symbols of sizes, such as "s17", to those of `Graph.sizes`, in place."""
    names: dict[str, str] = {}
    for item, sizes in zip(proto.graph.input, _flat(graph.sizes), strict=True):
        for axis, size in sizes.items():
            symbol = re.findall(r"s\d+", item.type.tensor_type.shape.dim[axis].dim_param)
            name = re.findall(r"[a-z]+", size.__name__)
            names.update(zip(symbol, name, strict=False))
    del proto.graph.value_info[:]  # the runtime infers the sizes between
    for item in (*proto.graph.input, *proto.graph.output):
        for dim in item.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_param = re.sub(r"s\d+", lambda found: names.get(found[0], found[0]), dim.dim_param)


def _flat(sizes: Any) -> list[dict[int, Any]]:
    if isinstance(sizes, dict):
        return [sizes]
    return [part for item in sizes for part in _flat(item)]
