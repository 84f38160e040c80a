"""The report: each tensor of a source is named once, as the file has it; values come from where it says."""

import pytest
import timm
import torch
import transformers
from random_parts import SMALL, save_text_model, shaken
from safetensors.torch import load_file

from trocr.parts import assemble
from trocr.parts.image_part import from_timm_model

TOKEN = {"global_pool": "token", "use_rel_pos_bias": False}
HF_VIT = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "image_size": (16, 32),
    "patch_size": 8,
}


def rows(report, prefix):
    return {item.name: item for item in report.taken if item.name.startswith(prefix)}


def assert_each_is_named_once(report, prefix, names):
    """Taken over, in one or more parameters, or left out; and nothing else is named."""
    taken = {name for item in rows(report, prefix).values() for name in item.sources}
    left = [name for name, _ in report.left_out[prefix.rstrip(".")]]
    assert len(left) == len(set(left))
    assert not taken & set(left)
    assert taken | set(left) == set(names)


@pytest.fixture
def made(text):
    return lambda encoder, **options: assemble(encoder, str(text), **options)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("vit_tiny_patch16_224", {"num_classes": 4}),
        ("vit_tiny_patch16_224", {"init_values": 0.1, "no_embed_class": True}),
        ("vit_tiny_patch16_224", {"pos_embed": "none", "final_norm": False}),
        ("vit_tiny_patch16_224", {"global_pool": "map"}),
        ("deit_tiny_distilled_patch16_224", {"num_classes": 4}),
        ("beit_base_patch16_224", {}),
        ("beit_base_patch16_224", TOKEN),
    ],
)
def test_an_encoder_from_timm(made, name, options):
    source = shaken(timm.create_model(name, **{**SMALL, **options}))
    report = made(from_timm_model(source)).report
    assert_each_is_named_once(report, "encoder.", list(source.state_dict()))


def test_layer_scales_and_biases_are_named_where_they_went(made):
    source = shaken(timm.create_model("beit_base_patch16_224", **SMALL, **TOKEN, init_values=0.1))
    found = rows(made(from_timm_model(source)).report, "encoder.blocks.0.")
    weight = found["encoder.blocks.0.self_attn.out_proj.weight"]
    assert weight.sources == ("blocks.0.attn.proj.weight", "blocks.0.gamma_1")
    assert weight.note == "multiplied with each other"
    assert found["encoder.blocks.0.mlp.fc2.bias"].sources == ("blocks.0.mlp.fc2.bias", "blocks.0.gamma_2")
    assert found["encoder.blocks.0.self_attn.q_proj.bias"].sources == ("blocks.0.attn.q_bias",)
    assert found["encoder.blocks.0.self_attn.v_proj.bias"].sources == ("blocks.0.attn.v_bias",)
    keys = found["encoder.blocks.0.self_attn.k_proj.bias"]
    assert (keys.sources, keys.note) == ((), "zeros: the source has no such bias")
    assert found["encoder.blocks.0.self_attn.k_proj.weight"].sources == ("blocks.0.attn.qkv.weight",)


def test_positions_that_the_source_lacks_are_new(made):
    source = shaken(timm.create_model("vit_tiny_patch16_224", **SMALL, pos_embed="none"))
    result = made(from_timm_model(source))
    item = rows(result.report, "encoder.embeddings.position")["encoder.embeddings.position_embeddings"]
    assert (item.sources, item.note) == ((), "zeros: the source has no absolute positions")
    assert not result.model.encoder.embeddings.position_embeddings.any()
    assert "position_embeddings [1, 17, 32]  new: zeros" in result.report.text()


def test_why_an_encoder_is_not_exact_is_told(made):
    for options, reason in (
        ({"final_norm": False}, "its last norm is new: the source has none of its states"),
        ({"global_pool": "avg"}, "its last norm is new: the source has none of its states"),
    ):
        source = timm.create_model("vit_tiny_patch16_224", **SMALL, **options)
        result = made(from_timm_model(source))
        assert f"the encoder does not compute what its source computes: {reason}" in result.report.notes
        new = {name for name, item in rows(result.report, "encoder.").items() if not item.sources}
        assert new == {"encoder.norm.weight", "encoder.norm.bias"}
        assert torch.equal(result.model.encoder.norm.weight, torch.ones(32))


@pytest.mark.parametrize(
    ("model", "left"),
    [
        (transformers.ViTModel(transformers.ViTConfig(**HF_VIT)), {"pooler"}),
        (transformers.ViTForImageClassification(transformers.ViTConfig(**HF_VIT)), {"classifier"}),
        (transformers.ViTForMaskedImageModeling(transformers.ViTConfig(**HF_VIT)), {"decoder", "vit"}),
        (
            transformers.DeiTForImageClassificationWithTeacher(transformers.DeiTConfig(**HF_VIT)),
            {"cls_classifier", "distillation_classifier"},
        ),
    ],
)
def test_an_encoder_of_a_checkpoint_is_named_as_in_its_file(tmp_path, made, model, left):
    shaken(model).save_pretrained(tmp_path / "vit")
    names = load_file(tmp_path / "vit/model.safetensors")
    report = made(str(tmp_path / "vit")).report
    assert_each_is_named_once(report, "encoder.", list(names))
    assert {name.split(".")[0] for name, _ in report.left_out["encoder"]} == left


def test_the_rest_of_a_whole_model_is_left_out(made):
    report = made("tiny-printed").report
    first = rows(report, "encoder.blocks.0.mlp.fc1")["encoder.blocks.0.mlp.fc1.weight"]
    assert first.sources == ("encoder.encoder.layer.0.intermediate.dense.weight",)
    assert ("decoder.model.decoder.embed_tokens.weight", "not of the encoder") in report.left_out["encoder"]


@pytest.mark.parametrize(
    ("kind", "task", "layers"),
    [
        ("bert", transformers.BertModel, "all"),
        ("bert", transformers.BertForPreTraining, "last:2"),
        ("bert", transformers.BertForMaskedLM, "0,0,3"),
        ("roberta", transformers.RobertaForCausalLM, "every:2"),
        ("xlm-roberta", transformers.XLMRobertaForMaskedLM, "first:1"),
    ],
)
def test_a_decoder_is_named_as_in_its_file(tmp_path, kind, task, layers):
    folder = tmp_path / "source"
    save_text_model(folder, kind, task)
    tensors = load_file(folder / "model.safetensors")
    result = assemble("tiny-printed", str(folder), layers=layers)
    assert_each_is_named_once(result.report, "decoder.", list(tensors))
    model = result.model
    for name, item in rows(result.report, "decoder.").items():
        if len(item.sources) == 1 and not item.note:
            assert torch.equal(model.get_parameter(name), tensors[item.sources[0]]), name


def test_what_was_done_with_positions_is_told(made):
    result = made("tiny-printed", max_positions=20)
    item = rows(result.report, "decoder.")["decoder.embed_positions.weight"]
    assert item.sources == (
        "embeddings.position_embeddings.weight",
        "embeddings.token_type_embeddings.weight",
    )
    assert item.note == (
        "20 positions, from row 0 to row 2 on; row 0 of the token types added to each, the others left out"
    )
    assert item.note in result.report.text()
