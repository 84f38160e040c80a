"""Parameter groups, freezing and the optimizers by name."""

import pytest
import torch
from drawn import small_model

from trocr.training.objective import Objective
from trocr.training.optimizer import (
    build_optimizer,
    freeze,
    freeze_unused,
    layer_scales,
    no_decay_names,
    parameter_groups,
)
from trocr.training.option_fields import OptionsError
from trocr.training.option_tables import OptimizerOptions


def test_every_trained_parameter_is_in_one_group():
    model = small_model()
    groups = parameter_groups(model, weight_decay=0.1, layer_decay=0.5)
    listed = [id(parameter) for group in groups for parameter in group["params"]]
    assert len(listed) == len(set(listed))
    assert set(listed) == {id(parameter) for parameter in model.parameters()}


def test_only_matrices_of_layers_decay():
    spared = no_decay_names(small_model())
    for name in (
        "encoder.embeddings.cls_token",
        "encoder.embeddings.position_embeddings",
        "encoder.blocks.0.attn_norm.weight",
        "encoder.blocks.1.mlp.fc1.bias",
        "encoder.norm.weight",
        "decoder.embed_tokens.weight",
        "decoder.embed_positions.weight",
        "decoder.embed_norm.bias",
    ):
        assert name in spared
    for name in (
        "encoder.embeddings.patch_embeddings.weight",
        "encoder.blocks.0.self_attn.q_proj.weight",
        "decoder.blocks.1.cross_attn.k_proj.weight",
        "decoder.blocks.0.mlp.fc2.weight",
    ):
        assert name not in spared
    groups = parameter_groups(small_model(), weight_decay=0.1)
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0]


def test_layers_learn_slower_the_earlier_they_are():
    scales = layer_scales(Objective(small_model()), 0.5)  # two blocks in each stack
    assert scales["model.encoder.embeddings.cls_token"] == 0.125
    assert scales["model.encoder.blocks.0.mlp.fc1.weight"] == 0.25
    assert scales["model.encoder.blocks.1.mlp.fc1.weight"] == 0.5
    assert scales["model.encoder.norm.weight"] == 1.0
    assert scales["model.decoder.embed_tokens.weight"] == 0.125
    assert scales["model.decoder.blocks.0.self_attn.q_proj.weight"] == 0.25
    assert scales["model.decoder.blocks.1.self_attn.q_proj.weight"] == 0.5


def test_freeze_by_module_parameter_and_pattern():
    model = small_model()
    frozen = freeze(
        model, ["encoder.embeddings", "decoder.blocks.*.self_attn.[qv]_proj", "encoder.norm.bias"]
    )
    assert "encoder.embeddings.patch_embeddings.bias" in frozen
    assert "decoder.blocks.1.self_attn.v_proj.weight" in frozen
    assert "decoder.blocks.1.self_attn.k_proj.weight" not in frozen
    assert "encoder.norm.weight" not in frozen
    still = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert still == set(frozen)
    groups = parameter_groups(model, weight_decay=0.1)
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters())) - len(frozen)


def test_a_pattern_that_matches_nothing_raises():
    with pytest.raises(
        OptionsError, match=r"'encoder\.block' matches no .* did you mean 'encoder\.blocks'\?"
    ):
        freeze(small_model(), ["encoder.block"])
    with pytest.raises(OptionsError, match="leaves nothing to train"):
        freeze(small_model(), ["*"])


def test_the_pooler_is_not_trained():
    model = small_model()
    assert freeze_unused(model) == []  # it has none
    from trocr import ViTModel

    encoder = ViTModel(model.config.encoder)
    assert freeze_unused(encoder) == ["pooler.dense.weight", "pooler.dense.bias"]
    assert not encoder.pooler.dense.weight.requires_grad


def test_adamw_has_the_options():
    made = build_optimizer(
        small_model(), OptimizerOptions(lr=0.5, weight_decay=0.1, betas=(0.8, 0.9), eps=1e-6)
    )
    assert isinstance(made, torch.optim.AdamW)
    assert made.defaults["betas"] == (0.8, 0.9)
    assert made.defaults["eps"] == 1e-6
    assert made.param_groups[0]["lr"] == 0.5


@pytest.mark.parametrize("name", ["lamb", "lion", "sgd"])
def test_timms_optimizers_keep_the_groups(name):
    made = build_optimizer(small_model(), OptimizerOptions(name=name, weight_decay=0.1, layer_decay=0.5))
    assert {group["weight_decay"] for group in made.param_groups} == {0.0, 0.1}
    assert {group["scale"] for group in made.param_groups} == {1.0, 0.5, 0.25, 0.125}


def test_optimizers_that_cannot_be_made():
    with pytest.raises(OptionsError, match=r"optimizer\.name='adamww' is unknown, did you mean 'adamw'\?"):
        build_optimizer(small_model(), OptimizerOptions(name="adamww"))
    with pytest.raises(OptionsError, match=r"optimizer\.betas: sgd takes none"):
        build_optimizer(small_model(), OptimizerOptions(name="sgd", betas=(0.9, 0.99)))


def test_optimizers_that_no_run_can_use():
    with pytest.raises(OptionsError, match=r"optimizer\.name='adahessian' needs second derivatives"):
        build_optimizer(small_model(), OptimizerOptions(name="adahessian"))
    with pytest.raises(OptionsError, match=r"'adafactorbv' keeps what cannot be saved in a state \(.*dtype"):
        build_optimizer(small_model(), OptimizerOptions(name="adafactorbv"))


def test_making_an_optimizer_draws_no_random_numbers():
    model = small_model()
    torch.manual_seed(3)
    build_optimizer(model, OptimizerOptions(name="lamb"))
    found = torch.rand(1)
    torch.manual_seed(3)
    assert torch.equal(found, torch.rand(1))
