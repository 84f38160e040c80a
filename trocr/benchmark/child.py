"""One measurement in a process of its own: a request in JSON on standard input, figures on standard output.

Source: original work.
"""

import importlib
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from trocr.benchmark.memory import reset_peak, status_bytes

Request = Mapping[str, Any]

_LIBRARIES = {
    "transformers": "transformers.models.vision_encoder_decoder.modeling_vision_encoder_decoder",
    "fast": "trocr.fast",
    "onnx": "onnxruntime",
    "openvino": "openvino",
}
"""What a candidate imports, by the beginning of its name."""


def read_files(request: Request) -> dict[str, Any]:
    """Time the reading of a checkpoint's weight files, whole, into memory."""
    paths = [Path(path) for path in request["files"]]
    start = time.perf_counter()
    contents = [path.read_bytes() for path in paths]
    return {"seconds": time.perf_counter() - start, "bytes": sum(map(len, contents))}


def load(request: Request) -> dict[str, Any]:
    """Time loading a model and reading one line with it; imports are done before."""
    from trocr.benchmark.checkpoints import prepared_lines
    from trocr.benchmark.suites import token_makers

    materials = prepared_lines(request)
    name = request["candidate"]
    make = token_makers()[name]
    importlib.import_module(_LIBRARIES.get(name.split("-")[0], "trocr.models"))
    start = time.perf_counter()
    candidate = make(materials)
    loaded = time.perf_counter()
    chunk = next(iter(candidate.read(materials.lines)))
    first = time.perf_counter()
    return {
        "load_s": loaded - start,
        "seconds": first - start,
        "answer": list(chunk.answers[0]),
        "peak_bytes": status_bytes("VmHWM"),
    }


def memory(request: Request) -> dict[str, Any]:
    """Read many images with a reader and tell the most memory that the process had."""
    from trocr.benchmark.checkpoints import text_reader
    from trocr.data.sources import open_source

    source = open_source(request["data"])
    reader, options = text_reader(request)

    def images() -> Iterator[Any]:
        for number in range(request["images"]):
            yield source[number % len(source)].open()

    reset_peak()
    before = status_bytes("VmRSS")
    start = time.perf_counter()
    characters = sum(len(line.text) for line in reader.read(images(), **options))
    seconds = time.perf_counter() - start
    return {
        "before_bytes": before,
        "peak_bytes": status_bytes("VmHWM"),
        "seconds": seconds,
        "characters": characters,
    }


TASKS: Mapping[str, Callable[[Request], dict[str, Any]]] = {
    "read_files": read_files,
    "load": load,
    "memory": memory,
}


def main() -> None:
    """Do what standard input asks for."""
    request = json.load(sys.stdin)
    if request.get("threads"):
        import torch

        torch.set_num_threads(request["threads"])
    json.dump(TASKS[request["task"]](request), sys.stdout)


if __name__ == "__main__":
    main()
