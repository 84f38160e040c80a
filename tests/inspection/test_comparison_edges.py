"""Comparisons of what is not a number, of buffers, of dead layers and of other grids."""

import copy
import dataclasses
import json
import re

import numpy as np
import pytest
import torch
from inspected import make_model
from PIL import Image
from torch import nn

from trocr import TrOCRProcessor, VisionEncoderDecoderModel, ViTImageProcessor
from trocr.hub import PRETRAINED
from trocr.inspect import compare_activations, compare_weights, linear_cka
from trocr.surgery.adapters import add_adapter
from trocr.surgery.patterns import SurgeryError
from trocr.surgery.vocabulary import extend_vocabulary

NAN = float("nan")
pytestmark = pytest.mark.filterwarnings("ignore:.* rows were cut at")


def processor_of(hw: tuple[int, int]) -> TrOCRProcessor:
    tokenizer = TrOCRProcessor.from_pretrained(PRETRAINED / "tiny-printed").tokenizer
    return TrOCRProcessor(ViTImageProcessor(size=hw), tokenizer)


@pytest.fixture
def pictures() -> list[Image.Image]:
    random = np.random.default_rng(0)
    return [Image.fromarray(random.integers(0, 256, (30, 70), dtype=np.uint8)) for _ in range(2)]


def test_buffers_of_a_backbone_count():
    a = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    b = copy.deepcopy(a)
    b[1].running_mean += 3
    b[1].num_batches_tracked += 1000  # a counter is no weight
    found = compare_weights(a, b)
    assert [d.name for d in found.distances if d.largest] == ["1.running_mean"]
    assert {d.name for d in found.distances} == {
        "0.weight", "0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var",
    }  # fmt: skip


def test_what_is_not_a_number_is_told_and_json_stays_json():
    a, b = nn.Linear(2, 2), nn.Linear(2, 2)
    with torch.no_grad():
        for parameter in (*a.parameters(), *b.parameters()):
            parameter.fill_(1.0)
        b.weight[0, 0] = NAN
        b.bias[0] = 3.0
    found = compare_weights(a, b)
    values = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert values["distances"][0] == {"name": "weight", "relative": None, "cosine": None, "largest": None}
    assert values["num_equal"] == 0
    assert found.table().splitlines()[2].split()[0] == "weight"  # worse than any distance
    for value in (NAN, float("inf")):
        with torch.no_grad():
            b.weight[0, 0] = value
        same = compare_weights(b, copy.deepcopy(b))
        assert (same.num_equal, same.relative) == (2, 0)


def test_tables_are_no_longer_than_asked():
    a, b = make_model("learned"), make_model("learned")
    add_adapter(b, modules="*_proj")
    lines = compare_weights(a, b).table(rows=2).splitlines()
    assert len(lines) == 1 + 2 + 1
    assert lines[1].startswith("only in B: encoder.blocks.0.self_attn.q_proj.lora_a")
    assert lines[-1] == "only in B: and 46 more"
    assert compare_weights(a, b).table(rows=0).splitlines()[1:] == ["only in B: 48 more"]


def test_models_without_values_are_refused():
    with torch.device("meta"):
        empty = VisionEncoderDecoderModel(make_model("learned").config)
    with pytest.raises(SurgeryError, match="VisionEncoderDecoderModel is on the meta device"):
        compare_weights(make_model("learned"), empty)


def test_cka_of_rows_that_are_alike_or_not_finite():
    rows = torch.randn(17, 5)
    with pytest.raises(SurgeryError, match="CKA of activations that are the same in every row"):
        linear_cka(rows, torch.full((17, 3), 0.1))  # whose mean is not exactly 0.1
    rows[3, 2] = NAN
    with pytest.raises(SurgeryError, match="CKA of activations that are not all finite"):
        linear_cka(torch.randn(17, 5), rows)


def test_a_dead_layer_does_not_stop_the_others(pictures):
    model = make_model("learned")
    with torch.no_grad():
        model.decoder.blocks[0].mlp_norm.weight.zero_()
        model.encoder.blocks[1].mlp.fc1.bias[0] = NAN
    found = compare_activations(make_model("learned"), model, pictures, processor=processor_of((32, 32)))
    table = np.array(found.cka["encoder"])
    assert np.isfinite(table[:, :2]).all()
    assert np.isnan(table[:, 2:]).all()  # block 1 and memory
    assert "encoder: activations of B's block 1 are not all finite" in found.notes
    values = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert values["cka"]["encoder"][0][2] is None
    assert found.table().splitlines()[2].split()[-2:] == ["-", "-"]


def test_layers_of_one_value_have_no_cka(pictures):
    model = make_model("learned")
    with torch.no_grad():
        model.decoder.blocks[1].mlp_norm.weight.zero_()
    found = compare_activations(model, model, pictures, processor=processor_of((32, 32)))
    assert np.isnan(found.cka["decoder"][2]).all()
    assert np.isfinite(found.cka["encoder"]).all()
    assert "decoder: activations of A's block 1 are the same in every row" in found.notes


def test_encoders_of_other_grids_are_not_compared(pictures):
    """As many states, but of other places."""
    config = make_model("learned").config
    models = [
        VisionEncoderDecoderModel(
            dataclasses.replace(config, encoder=dataclasses.replace(config.encoder, image_size=hw))
        ).eval()
        for hw in ((32, 32), (16, 64))
    ]
    found = compare_activations(
        *models, pictures, processor=processor_of((32, 32)), other_processor=processor_of((16, 64))
    )
    assert list(found.layers) == ["decoder"]
    assert found.notes[0] == (
        "encoder: not compared, the encoders give 1 + 4 x 4 and 1 + 2 x 8 states (prefix tokens + rows x "
        "columns of places)"
    )


def test_decoders_are_compared_where_they_know_the_tokens(shipped_pair, repo):
    model, processor = shipped_pair
    other, its = copy.deepcopy(model), copy.deepcopy(processor)
    extend_vocabulary(other, ["é", "☃"], processor=its)
    image = [repo / "examples" / "heading.jpg"]
    found = compare_activations(model, other, image, processor=processor, other_processor=its)
    assert found.cka["decoder"][0][0] == pytest.approx(1)


@pytest.fixture(scope="module")
def shipped_pair():
    folder = PRETRAINED / "tiny-printed"
    return VisionEncoderDecoderModel.from_pretrained(folder), TrOCRProcessor.from_pretrained(folder)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"max_position_embeddings": 4}, r"a text of \d+ tokens is more than the 4 positions of B"),
        ({"vocab_size": 4}, r"the text has the token \d+, and B has 4 only"),
    ],
)
def test_decoders_that_cannot_take_the_text(pictures, changed, message):
    a, b = make_model("learned", seed=5), make_model("learned", **changed)
    a.generation_config = dataclasses.replace(a.generation_config, suppress_tokens=(0, 1, 2, 3))
    found = compare_activations(a, b, pictures, processor=processor_of((32, 32)))
    assert list(found.layers) == ["encoder"]
    (note,) = [note for note in found.notes if note.startswith("decoder")]
    assert re.fullmatch(f"decoder: not compared, {message}", note)
