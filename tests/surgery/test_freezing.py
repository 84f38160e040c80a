"""Which parameters train: by pattern and by depth, and what the report says."""

import pytest
import torch
from drawn import small_model

from trocr.surgery.freezing import freeze, freeze_depth, unfreeze
from trocr.surgery.patterns import SurgeryError
from trocr.training.optimizer import freeze as freeze_for_training
from trocr.training.option_fields import OptionsError


def frozen(model) -> set[str]:
    return {name for name, parameter in model.named_parameters() if not parameter.requires_grad}


def values(model) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_freezing_by_pattern_changes_the_flags_and_nothing_else():
    model = small_model()
    before = values(model)
    report = freeze(model, ["encoder.embeddings", "decoder.blocks.*.self_attn.[qv]_proj"])
    assert {change.name for change in report.changes} == frozen(model)
    assert "decoder.blocks.1.self_attn.v_proj.bias" in frozen(model)
    assert "decoder.blocks.1.self_attn.k_proj.bias" not in frozen(model)
    assert {change.detail for change in report.changes} == {"frozen"}
    assert report.counts() == {"kept": len(list(model.parameters()))}
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert report.numbers == {
        "trained_parameters": trained,
        "frozen_parameters": model.num_parameters() - trained,
    }
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_letting_go_undoes_freezing_where_the_patterns_say():
    model = small_model()
    freeze(model, "*")
    report = unfreeze(model, ["decoder.blocks.1", "encoder.norm.bias"])
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {change.name for change in report.changes}
    assert {"encoder.norm.bias", "decoder.blocks.1.mlp.fc1.weight"} <= trained
    assert all(name.startswith(("decoder.blocks.1.", "encoder.norm.bias")) for name in trained)
    assert unfreeze(model, "decoder.blocks.1").changes == ()  # they train already


def test_a_frozen_parameter_gets_no_gradient():
    model = small_model()
    freeze(model, "encoder")
    pixels = torch.randn(1, 3, *model.config.encoder.image_hw)
    model(pixel_values=pixels, labels=torch.tensor([[5, 6, 2]])).loss.backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is None) == name.startswith("encoder."), name


def test_nothing_left_to_train_is_said():
    assert "nothing is left to train" in freeze(small_model(), "*").notes
    assert not freeze(small_model(), "encoder").notes


def test_the_other_name_of_a_shared_tensor():
    model = small_model()
    assert model.config.decoder.tie_word_embeddings
    report = freeze(model, "decoder.output_projection")
    assert [change.name for change in report.changes] == ["decoder.embed_tokens.weight"]
    assert any("decoder.output_projection.weight is frozen too" in note for note in report.notes)


def test_by_depth():
    model = small_model()
    report = freeze_depth(model, encoder=1)
    stopped = {name for name, _ in model.named_parameters() if name.startswith("encoder.embeddings.")}
    stopped |= {name for name, _ in model.named_parameters() if name.startswith("encoder.blocks.0.")}
    assert frozen(model) == stopped == {change.name for change in report.changes}
    freeze_depth(model, decoder=0)
    assert frozen(model) - stopped == {
        "decoder.embed_tokens.weight",
        "decoder.embed_positions.weight",
        "decoder.embed_norm.weight",
        "decoder.embed_norm.bias",
    }
    freeze_depth(model, encoder=2, decoder=2)
    left = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert left == {"encoder.norm.weight", "encoder.norm.bias"}


def test_by_depth_in_every_family(pair):
    model = pair.fresh()
    freeze_depth(model, encoder=1, decoder=1)
    left = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    upper = {"blocks", "norm", "pooler"}
    assert {name.split(".")[1] for name in left if name.startswith("encoder.")} == upper
    assert not any(
        name.startswith(("encoder.blocks.0.", "decoder.blocks.0.", "decoder.emb")) for name in left
    )
    tied = model.config.decoder.tie_word_embeddings
    assert ("decoder.output_projection.weight" in left) == (not tied)


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (
            lambda m: freeze(m, "encoder.block"),
            r"'encoder\.block' matches no .*did you mean 'encoder\.blocks'",
        ),
        (lambda m: unfreeze(m, []), "no pattern was given"),
        (lambda m: freeze(m, ["encoder.norm", "nothing"]), "'nothing' matches no module or parameter"),
        (lambda m: freeze_depth(m), "needs encoder= or decoder="),
        (lambda m: freeze_depth(m, encoder=1, decoder=3), "decoder=3 is not a number of blocks from 0 to 2"),
        (lambda m: freeze_depth(m, encoder=-1), "encoder=-1 is not a number of blocks"),
        (lambda m: freeze_depth(m, encoder="1"), "encoder='1' is not a number of blocks"),
        (lambda m: freeze_depth(m, decoder=1.0), "decoder=1.0 is not a number of blocks"),
        (lambda m: freeze(m, None), "the pattern None is no string"),
    ],
)
def test_errors_leave_the_model(act, message):
    model = small_model()
    freeze(model, "decoder.embed_norm")
    before = frozen(model)
    with pytest.raises(SurgeryError, match=message):
        act(model)
    assert frozen(model) == before


def test_training_options_say_where_a_pattern_is_wrong():
    model = small_model()
    with pytest.raises(OptionsError, match=r"model\.freeze: 'encodr' matches no .*; 'x' matches no"):
        freeze_for_training(model, ["encodr", "encoder.norm", "x"])
    with pytest.raises(OptionsError, match="leaves nothing to train"):
        freeze_for_training(model, ["*"])
    assert not frozen(model)
    names = freeze_for_training(model, ["decoder.output_projection", "encoder.norm"])
    assert names == ["encoder.norm.weight", "encoder.norm.bias", "decoder.output_projection.weight"]
    assert frozen(model) == {"encoder.norm.weight", "encoder.norm.bias", "decoder.embed_tokens.weight"}
