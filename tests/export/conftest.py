"""What the tests of export share: tiny models, their graphs run as they are, exports that are made once."""

import copy
import hashlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS / folder) for folder in ("parity", "surgery")]

from families import FAMILIES, Family, make_pair  # noqa: E402

from trocr import TrOCRProcessor, VisionEncoderDecoderModel  # noqa: E402
from trocr.export import onnx_export  # noqa: E402
from trocr.export.graph_model import GraphModel  # noqa: E402
from trocr.export.graphs import core_of  # noqa: E402
from trocr.export.manifest import Manifest  # noqa: E402
from trocr.export.tracing import graphs_of, image_shape, layer_shapes, takes_any_width  # noqa: E402

SMALL = {
    "learned": FAMILIES["learned"].changed({"num_hidden_layers": 1}, {"decoder_layers": 1}),
    # all that the first has not: sinusoidal positions, scaled embeddings, ReLU, a projection, DeiT
    "other": Family(
        encoder={**FAMILIES["unilm"].encoder, "num_hidden_layers": 1},
        decoder={
            **FAMILIES["sinusoidal"].decoder,
            "decoder_layers": 1,
            "d_model": 40,
            "cross_attention_hidden_size": None,
        },
        deit=True,
    ),
}


def make_model(family: Family | str, folder: Path) -> VisionEncoderDecoderModel:
    return make_pair(family, folder).ours


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


@torch.no_grad()
def as_graphs(model: VisionEncoderDecoderModel) -> GraphModel:
    """A model that reads with its graphs' modules, which no exporter has touched."""

    def run_of(graph: Any) -> Callable[[list[Tensor]], list[Tensor]]:
        def run(inputs: list[Tensor]) -> list[Tensor]:
            with core_of(model, "eager"):
                if graph.name == "step":
                    half = 3 + (len(inputs) - 3) // 2
                    return list(graph.module(*inputs[:3], inputs[3:half], inputs[half:]))
                out = graph.module(*inputs)
                return [out] if isinstance(out, Tensor) else list(out)

        return run

    with core_of(model, "eager"):
        runs = {graph.name: run_of(graph) for graph in graphs_of(model)}
    manifest = Manifest(
        kind="none",
        dtype="float32",
        image=image_shape(model),
        patch_hw=model.encoder.embeddings.patch_hw,
        any_width=takes_any_width(model),
        layers=tuple(layer_shapes(model)),
        graphs={},
        files={},
        made_with={},
        check={},
    )
    return GraphModel(manifest, model.config, model.generation_config, runs)


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
