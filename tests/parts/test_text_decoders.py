"""Decoders from text models of transformers: what is taken over computes the same."""

import json

import pytest
import torch
import transformers
from random_parts import TOLERANCE, decoder_of, save_text_model
from safetensors.torch import load_file, save_file

from trocr.parts import PartsError
from trocr.parts.text_part import load_text_part


@pytest.mark.parametrize(
    ("kind", "task", "options", "positions"),
    [
        ("bert", transformers.BertModel, {}, 30),
        ("bert", transformers.BertLMHeadModel, {}, 30),
        ("roberta", transformers.RobertaModel, {}, 30),
        ("roberta", transformers.RobertaModel, {"pad_token_id": 0}, 31),
        ("roberta", transformers.RobertaModel, {"pad_token_id": 4}, 27),
        ("roberta", transformers.RobertaForCausalLM, {}, 30),
        ("xlm-roberta", transformers.XLMRobertaModel, {}, 30),
    ],
)
def test_a_decoder_from_a_text_model_computes_the_same(tmp_path, kind, task, options, positions):
    source = save_text_model(tmp_path, kind, task, **options)
    base = getattr(source, "bert", getattr(source, "roberta", source))
    part = load_text_part(str(tmp_path))
    ids = torch.randint(5, 40, (2, 9))
    for norm in (module for module in base.modules() if isinstance(module, torch.nn.LayerNorm)):
        norm.eps = 1e-5  # a TrOCR decoder's; test_assemble.py has the difference
    with torch.no_grad():
        wanted = base(ids).last_hidden_state
        found = decoder_of(part).states(input_ids=ids, use_cache=False).last_hidden_state
    torch.testing.assert_close(found, wanted, atol=TOLERANCE, rtol=TOLERANCE)
    assert part.config.max_position_embeddings == positions


@pytest.mark.parametrize(
    ("layers", "chosen"),
    [
        ("all", [0, 1, 2, 3]),
        ("last:2", [2, 3]),
        ("first:1", [0]),
        ("every:2", [1, 3]),
        ("0, 3,1", [0, 3, 1]),
        ("1-3", [1, 2, 3]),
        ("2,2", [2, 2]),
        ([0, -1], [0, 3]),
    ],
)
def test_layers(text, layers, chosen):
    source = transformers.BertModel.from_pretrained(text)
    part = load_text_part(str(text), layers=layers)
    for place, number in enumerate(chosen):
        wanted = source.encoder.layer[number].intermediate.dense.weight
        assert torch.equal(part.weights[f"blocks.{place}.mlp.fc1.weight"], wanted)
        assert part.sources[f"blocks.{place}.mlp.fc1.weight"] == (
            f"encoder.layer.{number}.intermediate.dense.weight",
        )
    assert part.config.decoder_layers == len(chosen)
    if layers != "all":
        assert any("is not taken" in reason for _, reason in part.left_out) == (set(chosen) != {0, 1, 2, 3})


@pytest.mark.parametrize(
    "layers",
    [
        "last:5",
        "some",
        "every:0",
        "4",
        "",
        "0,,1",
        ",",
        "²",
        "last:²",
        "0,-1",
        "first:9999999999",
        "٢",
        [4],
        3,
    ],
)
def test_layers_that_are_not_there(text, layers):
    with pytest.raises(PartsError, match=f"^{text}: layers .* (must be|are not among the 4)"):
        load_text_part(str(text), layers=layers)


def test_positions_can_be_cut(text):
    part = load_text_part(str(text), max_positions=7)
    assert part.config.max_position_embeddings == 7
    with pytest.raises(PartsError, match="99 positions are wanted, the model has 30"):
        load_text_part(str(text), max_positions=99)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "gpt2"}, "model_type is 'gpt2', expected one of bert"),
        ({"hidden_act": "silu"}, "activation 'silu'"),
        ({"position_embedding_type": "relative_key"}, "its positions are relative_key"),
        ({"model_type": "roberta", "pad_token_id": 29}, "the model has 0 .rows of its table from 30 on"),
        ({"num_hidden_layers": None}, "num_hidden_layers is None, expected a whole number above 0"),
        ({"intermediate_size": "48"}, "intermediate_size is '48', expected a whole number"),
        ({"num_attention_heads": 5}, "d_model=32 is not divisible by decoder_attention_heads=5"),
        ({"num_hidden_layers": 6}, r"layers \[0, 1, 2, 3, 4, 5\] are wanted, the file has \[0, 1, 2, 3\]"),
    ],
)
def test_other_text_models_are_refused(text, change, message):
    values = json.loads((text / "config.json").read_text())
    (text / "config.json").write_text(json.dumps(values | change))
    with pytest.raises(PartsError, match=message):
        load_text_part(str(text))


def test_configurations_that_are_no_json(text):
    for content in ("{", "[]"):
        (text / "config.json").write_text(content)
        with pytest.raises(PartsError, match=r"config\.json: (not valid JSON|found a JSON list)"):
            load_text_part(str(text))


def test_tensors_of_no_plain_text_model_are_named_without_advice_for_checkpoints(text):
    file = text / "model.safetensors"
    save_file(load_file(file) | {"encoder.layer.1.crossattention.self.query.bias": torch.zeros(32)}, file)
    with pytest.raises(PartsError) as raised:
        load_text_part(str(text))
    assert "encoder.layer.1.crossattention.self.query.bias" in str(raised.value)
    assert "weights_conversion" not in str(raised.value)
    assert "config.json" not in str(raised.value)
