"""Small models for the tests of export, and their graphs run as they are."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from families import FAMILIES, Family, make_pair
from torch import Tensor

from trocr import VisionEncoderDecoderModel
from trocr.export.graph_model import GraphModel
from trocr.export.graphs import core_of
from trocr.export.manifest import Manifest
from trocr.export.tracing import graphs_of, image_shape, layer_shapes, takes_any_width

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
