"""Weights of a model that was exported to ONNX, read without the package of that name.

An exporter keeps the names of most tensors; matrices that it transposes get numbers, and are found by the
node that multiplies with them.

Source: onnx.proto3 (fields by number) and the encoding of protocol buffers.
"""

import numpy as np
import torch

GRAPH, NODE, INITIALIZER = 7, 1, 5  # ModelProto.graph, GraphProto.node, GraphProto.initializer
NODE_INPUT, NODE_OUTPUT, NODE_TYPE = 1, 2, 4
TENSOR_DIMS, TENSOR_TYPE, TENSOR_NAME, TENSOR_RAW = 1, 2, 8, 9
FLOAT = 1


def read_weights(path):
    """Tensors by name, and by output of the product that uses them: float32 ones, as PyTorch has them."""
    content = memoryview(path.read_bytes())
    graph = next(value for field, value in _fields(content) if field == GRAPH)
    tensors, products = {}, {}
    for field, value in _fields(graph):
        if field == INITIALIZER:
            parts = _collect(value)
            if parts[TENSOR_TYPE] == [FLOAT]:
                array = np.frombuffer(parts[TENSOR_RAW][0], dtype="<f4").reshape(parts[TENSOR_DIMS])
                tensors[_text(parts[TENSOR_NAME][0])] = torch.from_numpy(array.copy())
        elif field == NODE:
            parts = _collect(value)
            if _text(parts[NODE_TYPE][0]) == "MatMul":
                products[_text(parts[NODE_OUTPUT][0])] = _text(parts[NODE_INPUT][1])
    matrices = {output: tensors[name].T for output, name in products.items() if name in tensors}
    return tensors, matrices


def _text(value):
    return bytes(value).decode()


def _collect(message):
    found = {}
    for field, value in _fields(message):
        found.setdefault(field, []).append(value)
    return found


def _fields(message):
    """(number, value) of a message's fields; values are integers, or views of their bytes."""
    place = 0
    while place < len(message):
        key, place = _integer(message, place)
        kind = key & 7
        if kind == 0:
            value, place = _integer(message, place)
        else:
            length, place = _integer(message, place) if kind == 2 else ({1: 8, 5: 4}[kind], place)
            value, place = message[place : place + length], place + length
        yield key >> 3, value


def _integer(message, place):
    value = shift = 0
    while True:
        byte = message[place]
        value, shift, place = value | (byte & 127) << shift, shift + 7, place + 1
        if byte < 128:
            return value, place
