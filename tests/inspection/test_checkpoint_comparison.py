"""Comparison of two models: distances by tensor, CKA by layer."""

import copy
import json
import math

import numpy as np
import pytest
import torch
from inspected import make_model
from PIL import Image

from trocr import TrOCRProcessor, VisionEncoderDecoderModel, ViTImageProcessor
from trocr.hub import PRETRAINED
from trocr.inspect import compare_activations, compare_weights, linear_cka
from trocr.surgery.patterns import SurgeryError

SHIPPED = PRETRAINED / "tiny-printed"

pytestmark = pytest.mark.filterwarnings("ignore:.* rows were cut at")  # random models write without end


def small_processor(model: VisionEncoderDecoderModel) -> TrOCRProcessor:
    return TrOCRProcessor(
        ViTImageProcessor(size=model.config.encoder.image_hw),
        TrOCRProcessor.from_pretrained(SHIPPED).tokenizer,
    )


@pytest.fixture
def pictures() -> list[Image.Image]:
    random = np.random.default_rng(0)
    return [Image.fromarray(random.integers(0, 256, (30, 70), dtype=np.uint8)) for _ in range(3)]


# ---- weights --------------------------------------------------------------------------------------


def test_distances_are_those_of_the_tensors():
    a = make_model("learned")
    b = copy.deepcopy(a)
    changed = {
        "encoder.blocks.1.mlp.fc1.weight": lambda w: w.mul_(-0.5),
        "decoder.blocks.0.self_attn.q_proj.bias": lambda w: w[2].add_(3),
        "encoder.embeddings.cls_token": lambda w: w.zero_(),
    }
    with torch.no_grad():
        for name, change in changed.items():
            change(b.get_parameter(name))
    found = compare_weights(a, b)
    distances = {d.name: d for d in found.distances}
    assert {name for name, d in distances.items() if d.largest} == set(changed)
    assert found.num_equal == len(distances) - 3
    first = distances["encoder.blocks.1.mlp.fc1.weight"]
    weight = a.get_parameter(first.name).detach()
    assert first.relative == pytest.approx(1.5)
    assert first.cosine == pytest.approx(-1)
    assert first.largest == pytest.approx(1.5 * float(weight.abs().max()))
    second = distances["decoder.blocks.0.self_attn.q_proj.bias"]
    one, two = (model.get_parameter(second.name).detach() for model in (a, b))
    assert second.relative == pytest.approx(3 / float(one.norm()))
    assert second.cosine == pytest.approx(float(torch.cosine_similarity(one, two, dim=0)))
    third = distances["encoder.embeddings.cls_token"]
    assert third.relative == 1
    assert math.isnan(third.cosine)
    vectors = [
        torch.cat([p.detach().flatten() for _, p in m.named_parameters(remove_duplicate=False)])
        for m in (a, b)
    ]
    assert found.relative == pytest.approx(
        float((vectors[0] - vectors[1]).norm() / vectors[0].norm()), rel=1e-5
    )
    assert (found.only_in_a, found.only_in_b, found.other_shapes) == ((), (), {})
    lines = found.table(rows=2).splitlines()
    assert lines[0].startswith(
        f"{len(distances)} tensors of the same name and shape: {len(distances) - 3} equal, 3 n"
    )
    ranked = sorted((first, second, third), key=lambda d: -d.relative)
    assert [line.split()[0] for line in lines[2:4]] == [d.name for d in ranked[:2]]
    assert lines[-1] == "and 1 nearer ones"
    values = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert next(row for row in values["distances"] if row["name"] == third.name)["cosine"] is None


def test_a_model_equals_itself_also_where_it_is_zero():
    model = make_model("sinusoidal")
    with torch.no_grad():
        model.encoder.embeddings.cls_token.zero_()
    found = compare_weights(model, copy.deepcopy(model).to(torch.float64))
    assert found.relative == 0
    assert found.num_equal == len(found.distances)
    assert {(d.relative, d.cosine) for d in found.distances} == {(0.0, 1.0)}
    with torch.no_grad():
        moved = copy.deepcopy(model)
        moved.encoder.embeddings.cls_token.add_(1)
    distance = compare_weights(model, moved).distances[0]
    assert (distance.name, distance.relative) == ("encoder.embeddings.cls_token", float("inf"))


def test_missing_and_misshapen_tensors_are_named():
    a = make_model("learned")
    b = make_model("unilm", decoder_layers=1, vocab_size=70)
    found = compare_weights(a, b)
    assert found.only_in_b[:2] == (
        "encoder.embeddings.distillation_token",
        "encoder.blocks.0.self_attn.q_proj.bias",
    )
    assert all(name.startswith("decoder.blocks.1.") for name in found.only_in_a)
    assert found.other_shapes == {
        "encoder.embeddings.position_embeddings": ((1, 17, 24), (1, 18, 24)),
        "decoder.embed_tokens.weight": ((61, 36), (70, 36)),
        "decoder.output_projection.weight": ((61, 36), (70, 36)),  # tied in the one, its own in the other
    }
    table = found.table()
    assert "only in B: encoder.embeddings.distillation_token" in table
    assert "other shape: decoder.embed_tokens.weight, [61, 36] and [70, 36]" in table


# ---- CKA ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [200, 20])  # more rows than features, and fewer
def test_cka_is_that_of_the_paper(rows):
    random = torch.Generator().manual_seed(0)
    x = torch.randn(rows, 30, generator=random, dtype=torch.float64)
    y = x[:, :25] + torch.randn(rows, 25, generator=random, dtype=torch.float64)
    centre = torch.eye(rows, dtype=torch.float64) - 1 / rows
    k, m = centre @ (x @ x.T) @ centre, centre @ (y @ y.T) @ centre
    hsic = [float(torch.trace(p @ q)) for p, q in ((k, m), (k, k), (m, m))]  # equations 2 and 3 of the paper
    assert linear_cka(x, y) == pytest.approx(hsic[0] / (hsic[1] * hsic[2]) ** 0.5, rel=1e-9)


def test_cka_does_not_see_rotation_scale_and_shift():
    random = torch.Generator().manual_seed(1)
    x = torch.randn(300, 12, generator=random)
    y = torch.randn(300, 20, generator=random) + torch.cat((x, x[:, :8]), dim=1)
    rotation, _ = torch.linalg.qr(torch.randn(12, 12, generator=random))
    assert linear_cka(x, x) == pytest.approx(1, abs=1e-12)
    assert linear_cka(x, -7 * x @ rotation + 3) == pytest.approx(1, abs=1e-6)
    assert linear_cka(-7 * x @ rotation + 3, y) == pytest.approx(linear_cka(x, y), abs=1e-6)
    assert linear_cka(y, x) == pytest.approx(linear_cka(x, y), abs=1e-12)
    stretched = x * torch.logspace(0, 2, 12)  # no rotation: the similarity is another
    assert linear_cka(x, stretched) < 0.9
    assert 0 <= linear_cka(x, torch.randn(300, 20, generator=random)) < 0.2


def test_cka_of_nothing_to_compare():
    with pytest.raises(
        SurgeryError, match=r"CKA of activations \(3, 2\) and \(4, 2\): expected two tables of eq"
    ):
        linear_cka(torch.ones(3, 2), torch.ones(4, 2))
    with pytest.raises(SurgeryError, match="the same in every row"):
        linear_cka(torch.ones(3, 2), torch.randn(3, 2))


def test_a_model_is_like_itself_and_its_first_blocks_like_those_of_one_that_changes_later(pictures):
    a = make_model("learned", max_position_embeddings=60)
    b = copy.deepcopy(a)
    with torch.no_grad():
        for parameter in b.encoder.blocks[1].mlp.parameters():
            parameter.add_(torch.randn_like(parameter))
    found = compare_activations(a, b, pictures, processor=small_processor(a))
    assert found.layers["encoder"] == (("embeddings", "block 0", "block 1", "memory"),) * 2
    cka = np.array(found.cka["encoder"])
    assert np.allclose(np.diag(cka)[:2], 1)
    assert 0 < cka[2, 2] < 0.99
    decoder = np.array(found.cka["decoder"])
    assert decoder[0, 0] == pytest.approx(1)  # the same tokens
    assert decoder[2, 2] < 0.999
    itself = compare_activations(a, copy.deepcopy(a).train(), pictures, processor=small_processor(a))
    for stack, matrix in itself.cka.items():
        assert np.allclose(np.diag(matrix), 1), stack
        assert np.allclose(matrix, np.transpose(matrix)), stack
        assert np.min(matrix) < 0.99, stack
    assert found.rows["encoder"] == 3 * 17
    assert "encoder: linear CKA on 51 rows, layers of A down, of B across" in found.table()


def test_models_of_other_depths_and_widths(pictures):
    a, b = make_model("learned"), make_model("projection", decoder_layers=1, d_model=30)
    found = compare_activations(a, b, pictures, processor=small_processor(a))
    assert found.layers["decoder"] == (("embeddings", "block 0", "block 1"), ("embeddings", "block 0"))
    assert np.shape(found.cka["decoder"]) == (3, 2)
    json.dumps(found.to_dict())


def test_what_cannot_be_compared_is_told(pictures, monkeypatch):
    a, b = make_model("learned"), make_model("unilm")
    found = compare_activations(a, b, pictures, processor=small_processor(a))
    assert list(found.layers) == ["decoder"]
    assert any(
        n.startswith("encoder: not compared, the encoders give 1 + 4 x 4 and 2 + 4") for n in found.notes
    )
    other = small_processor(a)
    monkeypatch.setattr(other.tokenizer, "decode", lambda ids: f"other {ids}")
    found = compare_activations(a, a, pictures, processor=small_processor(a), other_processor=other)
    assert list(found.layers) == ["encoder"]
    assert found.notes == ("decoder: not compared, the tokenizers have other vocabularies",)
    with pytest.raises(SurgeryError, match="nothing could be compared: encoder: not compared"):
        compare_activations(a, b, pictures, processor=small_processor(a), other_processor=other)
    with pytest.raises(SurgeryError, match="no image was given"):
        compare_activations(a, b, [], processor=small_processor(a))


def test_rows_are_spread_over_many_images(pictures, monkeypatch):
    monkeypatch.setattr("trocr.inspect.similarity.MAX_ROWS", 12)
    model = make_model("learned")
    found = compare_activations(model, model, pictures, processor=small_processor(model))
    assert found.rows["encoder"] == 12
    assert any(note.startswith("encoder: 12 rows for up to 24 features") for note in found.notes)
