"""What the tests of export share: tiny models, and exports that are made once."""

import copy
import hashlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS / folder) for folder in ("parity", "surgery")]

from exported import SMALL, make_model  # noqa: E402
from families import FAMILIES  # noqa: E402

from trocr import TrOCRProcessor, VisionEncoderDecoderModel  # noqa: E402
from trocr.export import onnx_export  # noqa: E402


@pytest.fixture(scope="session")
def model_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], VisionEncoderDecoderModel]:
    """Give the tiny model of a family, or one of `SMALL`, built once; tests leave it as it is."""
    made: dict[str, VisionEncoderDecoderModel] = {}

    def give(name: str, *, small: bool = False) -> VisionEncoderDecoderModel:
        key = f"small {name}" if small else name
        if key not in made:
            family = SMALL[name] if small else FAMILIES[name]
            made[key] = make_model(family, tmp_path_factory.mktemp(name))
        return made[key]

    return give


@dataclass(frozen=True)
class Shipped:
    """The shipped reader."""

    model: VisionEncoderDecoderModel
    processor: TrOCRProcessor


@pytest.fixture(scope="session")
def shipped() -> Shipped:
    return Shipped(
        VisionEncoderDecoderModel.from_pretrained("tiny-printed"),
        TrOCRProcessor.from_pretrained("tiny-printed"),
    )


@pytest.fixture(scope="session", autouse=True)
def traced_once():
    """Tracing takes seconds: graphs of one model are traced once for all tests."""
    original, made = onnx_export._graph, {}

    def graph_of(graph: Any, opset: int) -> Any:
        weights = hashlib.sha256(repr(graph.module).encode())
        for tensor in graph.module.state_dict().values():
            weights.update(tensor.numpy().tobytes())
        key = (graph.name, opset, weights.hexdigest())
        if key not in made:
            made[key] = original(graph, opset)
        return copy.deepcopy(made[key])

    onnx_export._graph = graph_of
    yield
    onnx_export._graph = original


@pytest.fixture(scope="session")
def onnx_folder(tmp_path_factory, model_of) -> Callable[[str], Path]:
    """Give the folder of an exported small model; tests copy it before they change anything."""
    made: dict[str, Path] = {}

    def give(name: str) -> Path:
        if name not in made:
            made[name] = tmp_path_factory.mktemp("onnx") / name
            onnx_export.export_onnx(model_of(name, small=True), made[name])
        return made[name]

    return give


@pytest.fixture(scope="session")
def shipped_folder(tmp_path_factory, shipped) -> Path:
    """The shipped reader, exported to ONNX with its processor."""
    folder = tmp_path_factory.mktemp("shipped") / "onnx"
    onnx_export.export_onnx(shipped.model, folder, shipped.processor)
    return folder
