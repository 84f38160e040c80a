"""Adapters on disk: they come back as they were; other bases and damaged files are refused."""

import json

import pytest
import torch
from adapted import MERGED, disturb, flags, is_adapters, logits, look, parameters, rewrite
from families import difference, make_pair
from safetensors import safe_open
from safetensors.torch import load_file

from trocr import VisionEncoderDecoderModel
from trocr.hub import PRETRAINED
from trocr.surgery.adapter_files import CONFIG_NAME as CONFIG
from trocr.surgery.adapter_files import WEIGHTS_NAME as WEIGHTS
from trocr.surgery.adapter_state import find_adapted
from trocr.surgery.adapters import add_adapter, load_adapter, merge_adapter, save_adapter
from trocr.surgery.patterns import SurgeryError

KINDS = pytest.mark.parametrize("kind", ["lora", "dora"])
PREFIX = "base_model.model."


@KINDS
def test_ours_come_back_as_they_were(pair, kind, tmp_path):
    model = pair.fresh()
    also = ["encoder.embeddings.cls_token", "decoder.blocks.*.mlp_norm"]
    add_adapter(model, rank=3, alpha=4, dropout=0.25, kind=kind, also_train=also)
    disturb(model)
    with torch.no_grad():
        model.encoder.embeddings.cls_token += 1
    save_adapter(model, tmp_path)
    other = pair.fresh()
    torch.manual_seed(0)
    expected = torch.get_rng_state()
    load_adapter(other, tmp_path)
    assert torch.equal(torch.get_rng_state(), expected)
    assert str(other) == str(model)  # sizes, dropout and scale too
    assert flags(other) == flags(model)
    assert all(torch.equal(tensor, parameters(model)[name]) for name, tensor in parameters(other).items())
    save_adapter(other, tmp_path / "again")
    assert (tmp_path / "again" / CONFIG).read_bytes() == (tmp_path / CONFIG).read_bytes()
    one, two = (safe_open(folder / WEIGHTS, "pt") for folder in (tmp_path, tmp_path / "again"))
    assert one.metadata() == two.metadata()
    assert one.keys() == two.keys()


def test_the_layout(pair_of, tmp_path):
    model = pair_of("learned").fresh()
    modules = ["encoder.blocks.1.mlp.fc2", "decoder.blocks.0.cross_attn.k_proj"]
    add_adapter(model, modules=modules, rank=2, alpha=3, also_train="decoder.embed_tokens")
    save_adapter(model, tmp_path, base="someone/some-model")
    assert sorted(path.name for path in tmp_path.iterdir()) == [CONFIG, WEIGHTS]
    config = json.loads((tmp_path / CONFIG).read_text())
    expected = {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": "someone/some-model",
        "r": 2,
        "lora_alpha": 3,
        "lora_dropout": 0.0,
        "use_dora": False,
        "bias": "none",
        "fan_in_fan_out": False,
        "target_modules": ["encoder.layers.1.mlp.fc2", "decoder.model.decoder.layers.0.encoder_attn.k_proj"],
        "modules_to_save": ["decoder.model.decoder.embed_tokens", "decoder.output_projection"],
    }
    assert {key: config[key] for key in expected} == expected
    names = set(load_file(tmp_path / WEIGHTS))
    assert f"{PREFIX}encoder.layers.1.mlp.fc2.lora_A.weight" in names
    assert f"{PREFIX}decoder.output_projection.weight" in names
    assert len(names) == 6


def test_an_adapter_of_the_shipped_model_is_small(tmp_path):
    model = VisionEncoderDecoderModel.from_pretrained("tiny-printed")
    add_adapter(model)
    save_adapter(model, tmp_path)
    size = (tmp_path / WEIGHTS).stat().st_size
    assert size < 0.05 * (PRETRAINED / "tiny-printed" / "model.safetensors").stat().st_size
    assert abs(size - 4 * model.num_parameters(only_trainable=True)) < 40_000  # names and the sample


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_base_in_half_precision_is_the_same_base(pair_of, dtype, tmp_path):
    pair = pair_of("learned")
    model = pair.fresh()
    add_adapter(model)
    disturb(model)
    save_adapter(model, tmp_path / "from_full")
    half = pair.fresh(dtype=dtype)
    load_adapter(half, tmp_path / "from_full")
    assert difference(logits(model, pair), logits(half, pair).float()) < 0.1  # 8 bits, through four blocks
    save_adapter(half, tmp_path / "from_half")
    whole = pair.fresh()
    load_adapter(whole, tmp_path / "from_half")
    assert difference(logits(model, pair), logits(whole, pair)) < MERGED


def changed_weight(model):
    with torch.no_grad():
        model.decoder.blocks[0].mlp.fc1.weight.mul_(1.0005)


def other_weights(model):
    torch.manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)


@pytest.mark.parametrize("change", [changed_weight, other_weights])
def test_another_base_of_the_same_shapes(pair_of, change, tmp_path):
    pair = pair_of("learned")
    model = pair.fresh()
    add_adapter(model)
    save_adapter(model, tmp_path, base="the/base")
    other = pair.fresh()
    change(other)
    before, values = look(other), parameters(other)
    for act in (load_adapter, merge_adapter):
        with pytest.raises(SurgeryError, match=r"another base: its layers fit, but weights .* 'the/base'"):
            act(other, tmp_path)
    assert look(other) == before
    assert all(torch.equal(tensor, values[name]) for name, tensor in parameters(other).items())
    load_adapter(other, tmp_path, check_base=False)
    assert find_adapted(other).keys() == find_adapted(model).keys()


def test_another_base_of_other_shapes(pair_of, tmp_path):
    pair = pair_of("learned")
    model = pair.fresh()
    add_adapter(model, also_train="decoder.embed_positions")
    save_adapter(model, tmp_path / "adapter")
    narrow = pair.family.changed(decoder={"d_model": 40, "decoder_layers": 1, "max_position_embeddings": 30})
    other = make_pair(narrow, tmp_path / "narrow").ours
    before = look(other)
    with pytest.raises(SurgeryError) as error:
        load_adapter(other, tmp_path / "adapter")
    for part in (
        "for another base (9 differences: ",
        "decoder.blocks.0.cross_attn.q_proj maps 40 to 40 features, its adapter 48 to 48",
        "decoder.blocks.1.cross_attn.q_proj is not there",
        "...); load the one that it was made for",
    ):
        assert part in str(error.value)
    assert look(other) == before
    vocabulary = make_pair(pair.family.changed(decoder={"vocab_size": 120}), tmp_path / "vocabulary").ours
    with pytest.raises(SurgeryError, match="its layers fit, but names or shapes of this model are others"):
        load_adapter(vocabulary, tmp_path / "adapter")


def test_weights_that_changed_beside_the_adapter_are_not_lost_in_silence(pair_of, tmp_path):
    model = pair_of("learned").fresh()
    add_adapter(model)
    changed_weight(model)
    with pytest.raises(SurgeryError, match=r"weights outside the adapter, .* were changed .* also_train"):
        save_adapter(model, tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()


KEY = f"{PREFIX}decoder.model.decoder.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"config": {"peft_type": "IA3"}}, "peft_type is 'IA3', expected \"LORA\""),
        ({"config": {"bias": "all"}}, "bias='all' is not known here"),
        ({"config": {"fan_in_fan_out": True}}, "fan_in_fan_out=True is not known"),
        ({"config": {"init_lora_weights": "pissa"}}, "init_lora_weights='pissa' is not known"),
        ({"config": {"layer_replication": [[0, 2]]}}, r"layer_replication=\[\[0, 2\]\] is not known"),
        ({"config": {"use_dora": True}}, r"self_attn\.q_proj has no magnitude"),
        ({"config": {"lora_dropout": 2, "lora_alpha": "x"}}, "lora_dropout=2, expected .*lora_alpha='x'"),
        ({"config": {"alpha_pattern": {"(": 2}}}, "alpha_pattern: '\\(' is no regular expression"),
        ({"tensors": {f"{KEY}.lora_B.bias": torch.ones(48)}}, r"lora_B\.bias is not a name of an adapter"),
        ({"tensors": {"lora_A.weight": torch.ones(1)}}, r"lora_A\.weight is not a name of an adapter"),
        ({"tensors": {f"{KEY}.lora_A.weight": torch.ones(8, 48) / 0}}, "holds NaN or infinite values"),
        ({"tensors": {f"{KEY}.lora_A.weight": torch.ones(8, 3, 4, 4)}}, "not those of a linear layer's"),
        ({"tensors": {f"{KEY}.lora_A.weight": torch.ones(7, 48)}}, "not those of a linear layer's"),
        ({"tensors": {f"{PREFIX}one.lora_A.weight": torch.ones(2, 2)}}, r"one has no lora_B\.weight"),
        (
            {
                "tensors": {
                    f"{PREFIX}decoder.output_projection.lora_A.weight": torch.ones(2, 48),
                    f"{PREFIX}decoder.output_projection.lora_B.weight": torch.ones(99, 2),
                }
            },
            r"decoder\.output_projection shares its weight with another module",
        ),
        (
            {"tensors": {f"{PREFIX}decoder.model.decoder.layernorm_embedding.weight": torch.ones(4)}},
            r"decoder\.embed_norm\.weight is \(48,\), \(4,\) is saved",
        ),
        ({"tensors": {f"{KEY}.weight": torch.ones(48, 48)}}, "is part of a layer with an adapter"),
        ({"tensors": {f"{PREFIX}classifier.weight": torch.ones(2)}}, r"classifier\.weight is not there"),
        ({"metadata": {"trocr_base_values": "%"}}, "its metadata are damaged"),
    ],
)
def test_files_that_do_not_fit(pair_of, change, message, tmp_path):
    model = pair_of("learned").fresh()
    add_adapter(model)
    save_adapter(model, tmp_path)
    rewrite(tmp_path, **change)
    model = pair_of("learned").fresh()
    before, values = look(model), parameters(model)
    with pytest.raises(SurgeryError, match=message):
        load_adapter(model, tmp_path)
    assert look(model) == before
    assert all(torch.equal(tensor, values[name]) for name, tensor in parameters(model).items())


def test_files_that_are_not_there_or_cannot_be_read(pair_of, tmp_path):
    model = pair_of("learned").fresh()
    with pytest.raises(SurgeryError, match="there is no directory 'nowhere'"):
        load_adapter(model, "nowhere")
    with pytest.raises(SurgeryError, match=r"has no adapter_config\.json: it is no adapter"):
        load_adapter(model, tmp_path)
    add_adapter(model)
    save_adapter(model, tmp_path)
    with pytest.raises(SurgeryError, match="is a file, expected a directory"):
        save_adapter(model, tmp_path / CONFIG)
    model = pair_of("learned").fresh()
    whole = (tmp_path / WEIGHTS).read_bytes()
    (tmp_path / WEIGHTS).write_bytes(whole[:-9])
    with pytest.raises(SurgeryError, match="truncated"):
        load_adapter(model, tmp_path)
    (tmp_path / WEIGHTS).unlink()
    with pytest.raises(SurgeryError, match=r"has neither adapter_model\.safetensors nor"):
        load_adapter(model, tmp_path)
    (tmp_path / CONFIG).write_text("[1]")
    with pytest.raises(SurgeryError, match="expected an object, found a list"):
        load_adapter(model, tmp_path)
    (tmp_path / CONFIG).write_text("{")
    with pytest.raises(SurgeryError, match="cannot be read as JSON"):
        load_adapter(model, tmp_path)
    assert not any(map(is_adapters, parameters(model)))


def test_a_disk_that_is_full_leaves_the_adapter_before(pair_of, tmp_path, monkeypatch):
    model = pair_of("learned").fresh()
    add_adapter(model)
    save_adapter(model, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    disturb(model)

    def full(path, content):
        raise OSError("no space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(OSError, match="no space left"):
        save_adapter(model, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
