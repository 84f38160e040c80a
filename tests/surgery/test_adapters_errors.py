"""What cannot be done with adapters: one clear error, and the model is as it was."""

import pytest
import torch
from adapted import EVERYWHERE, adapted_linears, disturb, equal, look, parameters

from trocr.checkpoint import CheckpointError
from trocr.surgery.adapters import (
    add_adapter,
    load_adapter,
    merge_adapter,
    remove_adapter,
    save_adapter,
    unmerge_adapter,
)
from trocr.surgery.patterns import SurgeryError


def test_a_checkpoint_cannot_hold_an_adapter(pair_of, tmp_path):
    model = pair_of("learned").fresh()
    add_adapter(model)
    with pytest.raises(CheckpointError, match=r"it has an adapter: merge it .* or save it alone"):
        model.save_pretrained(tmp_path / "new")
    assert not (tmp_path / "new").exists()
    merge_adapter(model)
    model.save_pretrained(tmp_path / "new")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"modules": "decoder.block.*"}, r"'decoder\.block\.\*' matches no module of kind Linear"),
        ({"modules": []}, "no pattern was given"),
        (
            {"modules": ["*.q_proj", "decoder.embed_tokens"]},
            r"decoder\.embed_tokens is a TokenEmbedding, and adapters go beside linear layers",
        ),
        (
            {"modules": "encoder.embeddings.patch_embeddings"},
            r"patch_embeddings is a Conv2d, and adapters go beside linear layers",
        ),
        (
            {"modules": "decoder.*"},
            r"decoder\.output_projection shares its weight with decoder\.embed_tokens",
        ),
        (
            {"modules": "encoder.pooler.dense"},
            r"encoder\.pooler\.dense is passed over: reading never calls it",
        ),
        ({"rank": 0}, "rank=0 is not a whole number from 1 on"),
        ({"rank": 2.5, "alpha": -1}, r"rank=2\.5 is not .*; alpha=-1 is not a number above 0"),
        ({"alpha": float("nan")}, "alpha=nan"),
        ({"dropout": 1.0}, r"dropout=1\.0 is not a number from 0 to below 1"),
        ({"kind": "loha"}, "kind='loha' is unknown, expected lora or dora"),
        ({"also_train": "decoder.emb_norm"}, r"'decoder\.emb_norm' matches no .* did you mean"),
        (
            {"also_train": "*.bias"},
            r"parameters of layers that get an adapter \(decoder\.blo",
        ),
    ],
)
def test_errors_leave_the_model(pair_of, options, message):
    model = pair_of("learned").fresh()
    model.get_parameter("encoder.norm.bias").requires_grad_(False)
    before, values = look(model), parameters(model)
    with pytest.raises(SurgeryError, match=message):
        add_adapter(model, **options)
    assert look(model) == before
    assert equal(parameters(model), values)


def test_a_layer_that_does_more_than_a_linear_layer_is_refused(pair_of):
    model = pair_of("learned").fresh()

    class Odd(torch.nn.Linear):
        """Of another library."""

    model.decoder.blocks[0].mlp.fc1 = Odd(48, 64)
    with pytest.raises(SurgeryError, match=r"blocks\.0\.mlp\.fc1 is a Odd, which does more"):
        add_adapter(model, modules=EVERYWHERE)


def test_one_adapter_at_a_time(pair_of, tmp_path):
    model = pair_of("learned").fresh()
    for act in (merge_adapter, remove_adapter, lambda m: save_adapter(m, tmp_path / "adapter")):
        with pytest.raises(SurgeryError, match="this model has no adapter: add_adapter or load_adapter"):
            act(model)
    with pytest.raises(SurgeryError, match="no merged adapter whose base was kept"):
        unmerge_adapter(model)
    add_adapter(model)
    save_adapter(model, tmp_path / "adapter")
    before = look(model)
    for act in (
        add_adapter,
        lambda m: load_adapter(m, tmp_path / "adapter"),
        lambda m: merge_adapter(m, tmp_path / "adapter"),
    ):
        with pytest.raises(SurgeryError, match="has an adapter already"):
            act(model)
    assert look(model) == before
    merge_adapter(model)
    for act in (merge_adapter, lambda m: save_adapter(m, tmp_path / "again")):
        with pytest.raises(SurgeryError, match="merged already: unmerge_adapter first"):
            act(model)
    assert not (tmp_path / "again").exists()
    report = add_adapter(model)
    assert "the adapter that was merged before cannot be unmerged any more" in report.notes
    remove_adapter(model)
    with pytest.raises(SurgeryError, match="no merged adapter"):
        unmerge_adapter(model)


def test_without_its_base_a_merged_adapter_stays(pair_of):
    model = pair_of("learned").fresh()
    add_adapter(model)
    merge_adapter(model, keep_base=False)
    with pytest.raises(SurgeryError, match="no merged adapter whose base was kept"):
        unmerge_adapter(model)
    with pytest.raises(SurgeryError, match="has no adapter"):
        remove_adapter(model)


@pytest.mark.parametrize("change", ["value", "dtype", "layer"])
def test_unmerging_refuses_weights_that_were_changed_since(pair_of, change):
    model = pair_of("learned").fresh()
    add_adapter(model)
    disturb(model)
    merge_adapter(model)
    name = "decoder.blocks.1.self_attn.v_proj"
    layer = model.get_submodule(name)
    if change == "value":
        with torch.no_grad():
            layer.weight[0, 0] += 1e-3
    elif change == "dtype":
        layer.to(torch.bfloat16)
    else:
        model.decoder.blocks[1].self_attn.v_proj = torch.nn.Linear(48, 48)
    before, values = look(model), parameters(model)
    for act in (unmerge_adapter, remove_adapter):
        with pytest.raises(SurgeryError, match=f"^{name} changed since the adapter was merged"):
            act(model)
    assert look(model) == before
    assert equal(parameters(model), values)


def test_a_model_whose_blocks_were_changed_with_the_adapter(pair_of):
    model = pair_of("learned").fresh()
    add_adapter(model)
    del model.decoder.blocks[0]
    for act in (merge_adapter, remove_adapter):
        with pytest.raises(SurgeryError, match="the 8 adapted layers of this model are not those"):
            act(model)


def test_an_effect_that_is_not_finite_is_not_merged(pair_of, tmp_path):
    pair = pair_of("learned")
    model = pair.fresh()
    add_adapter(model)
    disturb(model)
    with torch.no_grad():
        adapted_linears(model)[3].lora_b.fill_(float("inf"))
    before = look(model)
    with pytest.raises(SurgeryError, match="not finite with the adapter's effect"):
        merge_adapter(model)
    assert look(model) == before


def test_a_saved_effect_too_large_for_the_precision_leaves_the_base(pair_of, tmp_path):
    model = pair_of("learned").fresh()
    add_adapter(model)
    disturb(model)
    with torch.no_grad():
        adapted_linears(model)[0].lora_b.fill_(1e6)
    save_adapter(model, tmp_path)
    model = pair_of("learned").fresh(dtype="float16")
    add_adapter(model, modules="encoder.blocks.0.mlp.fc1")
    merge_adapter(model)
    before, values = look(model), parameters(model)
    with pytest.raises(SurgeryError, match=r"encoder\.blocks\.0\.self_attn\.q_proj\.weight: not finite"):
        merge_adapter(model, tmp_path)
    assert look(model) == before
    assert equal(parameters(model), values)
    unmerge_adapter(model)  # the one before can still be taken out
