"""Heads and units taken out: what is left computes what the whole computes without them."""

import json
from pathlib import Path

import torch
from families import Pair, difference, images
from proofs import assert_works, logits, look, pixels
from pruned import EQUAL, attentions, feed_forwards, silence_heads, silence_units

from trocr.surgery.pruning import prune_heads, prune_units

HEADS = {"encoder.blocks.0.self_attn": [1], "decoder.blocks.*.cross_attn": [0], "decoder.blocks.1.*": [3]}
UNITS = {"encoder.blocks.1.mlp": range(0, 64, 3), "decoder.*": [0, 5, 63]}


def test_a_head_that_is_gone_counts_zero_times(pair: Pair):
    model, silent = pair.fresh(), pair.fresh()
    prune_heads(model, HEADS)
    gone = {"encoder.blocks.0.self_attn": [1], "decoder.blocks.0.cross_attn": [0]}
    gone |= {"decoder.blocks.1.cross_attn": [0, 3], "decoder.blocks.1.self_attn": [3]}
    silence_heads(silent, gone)
    made = images(pair.family, 2)
    assert difference(logits(silent, made), logits(model, made)) < EQUAL
    assert difference(logits(pair.ours, made), logits(model, made)) > 1e-3


def test_a_unit_that_is_gone_counts_zero_times(pair: Pair):
    model, silent = pair.fresh(), pair.fresh()
    prune_units(model, UNITS)
    gone = {"encoder.blocks.1.mlp": list(range(0, 64, 3))}
    gone |= {f"decoder.blocks.{n}.mlp": [0, 5, 63] for n in (0, 1)}
    silence_units(silent, gone)
    made = images(pair.family, 2)
    assert difference(logits(silent, made), logits(model, made)) < EQUAL
    assert difference(logits(pair.ours, made), logits(model, made)) > 1e-3


def test_what_stays_is_the_old_rows_bit_by_bit(pair_of):
    pair = pair_of("unilm")
    model = pair.fresh()
    prune_heads(model, {"decoder.blocks.0.cross_attn": [1, 2]})
    prune_units(model, {"encoder.blocks.0.mlp": [0, 1, 2]})
    old, new = dict(pair.ours.named_parameters()), dict(model.named_parameters())
    rows = [*range(6), *range(18, 24)]  # heads of 6
    changed = {}
    for leaf in ("q_proj", "k_proj", "v_proj"):
        for kind in ("weight", "bias"):
            name = f"decoder.blocks.0.cross_attn.{leaf}.{kind}"
            changed[name] = old[name][rows]
    changed["decoder.blocks.0.cross_attn.out_proj.weight"] = old[
        "decoder.blocks.0.cross_attn.out_proj.weight"
    ][:, rows]
    for kind in ("weight", "bias"):
        changed[f"encoder.blocks.0.mlp.fc1.{kind}"] = old[f"encoder.blocks.0.mlp.fc1.{kind}"][3:]
    changed["encoder.blocks.0.mlp.fc2.weight"] = old["encoder.blocks.0.mlp.fc2.weight"][:, 3:]
    assert all(torch.equal(new[name], changed.get(name, old[name])) for name in old)
    assert {name for name in old if new[name].shape != old[name].shape} == set(changed)


def test_taking_nothing_changes_nothing(pair_of):
    model = pair_of("learned").fresh()
    before, parts = look(model), attentions(model)
    flat = {name: torch.ones(part.num_heads) for name, part in parts.items()}
    units = {name: torch.ones(64) for name in feed_forwards(model)}
    for found in (
        prune_heads(model, {"*": []}),
        prune_heads(model, share=0.0, importance=flat),
        prune_heads(model, keep_heads=99, importance=flat),
        prune_units(model, share=0, importance=units),
        prune_units(model, keep_units=64, importance=units),
    ):
        assert found.counts() == {"kept": len(list(model.parameters()))}
        assert found.notes == ()
    assert look(model) == before


def test_pruned_models_work(pair: Pair, tmp_path: Path):
    model = pair.fresh()
    found = prune_heads(model, HEADS)
    assert found.notes[-1].startswith("transformers cannot load this checkpoint")
    prune_units(model, {"decoder.blocks.0.mlp": [1, 2]})
    shapes = model.config.decoder.block_shapes
    assert [(s.self_attn_heads, s.cross_attn_heads, s.ffn_dim) for s in shapes] == [(4, 3, 62), (3, 2, 64)]
    assert model.config.decoder.decoder_attention_heads == 4
    assert model.config.encoder.shapes[0].num_heads == 1
    assert_works(model, tmp_path, in_reference=False)
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["encoder"]["block_shapes"] == [
        {"num_heads": 1, "intermediate_size": 64},
        {"num_heads": 2, "intermediate_size": 64},
    ]


def test_as_many_units_everywhere_are_an_ordinary_model(pair: Pair, tmp_path: Path):
    model = pair.fresh()
    taken = {"encoder.blocks.0.mlp": range(24), "encoder.blocks.1.mlp": range(40, 64), "decoder.*": [7]}
    assert not any("transformers" in note for note in prune_units(model, taken).notes)
    assert model.config.encoder.intermediate_size == 40
    assert model.config.decoder.decoder_ffn_dim == 63
    assert_works(model, tmp_path)
    written = (tmp_path / "config.json").read_text()
    assert "block_shapes" not in written


def test_modes_flags_and_precision_stay(pair_of):
    model = pair_of("learned").fresh().bfloat16().train()
    model.decoder.blocks[0].eval()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("cross_attn" in name)
    modes = [part.training for part in model.modules()]
    flags = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    prune_heads(model, {"decoder.*": [1]})
    prune_units(model, {"*": [1]})
    assert [part.training for part in model.modules()] == modes
    assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == flags
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    tied = model.decoder
    assert tied.output_projection.weight is tied.embed_tokens.weight


def test_the_report_names_every_tensor_that_changed(pair_of):
    model = pair_of("learned").fresh()
    found = prune_heads(model, {"decoder.blocks.0.self_attn": [0, 3]})
    assert [
        (change.name.rpartition("self_attn.")[2], change.before, change.shape) for change in found.changes
    ] == [
        ("q_proj.weight", (48, 48), (24, 48)),
        ("q_proj.bias", (48,), (24,)),
        ("k_proj.weight", (48, 48), (24, 48)),
        ("k_proj.bias", (48,), (24,)),
        ("v_proj.weight", (48, 48), (24, 48)),
        ("v_proj.bias", (48,), (24,)),
        ("out_proj.weight", (48, 48), (48, 24)),
    ]
    assert {change.action for change in found.changes} == {"sliced"}
    assert found.notes[0] == "decoder.blocks.0.self_attn: 2 of 4 heads stay: 1, 2"
    assert found.numbers["heads_before"] == 20
    assert found.numbers["heads"] == 18
    assert found.numbers["parameters_before"] - found.numbers["parameters"] == 3 * (24 * 48 + 24) + 48 * 24


def test_masks(pair_of):
    left, right = pair_of("learned").fresh(), pair_of("learned").fresh()
    prune_heads(left, {"decoder.blocks.0.*": torch.tensor([False, True, False, True])})
    prune_heads(
        right,
        {"decoder.blocks.0.self_attn": [1], "decoder.blocks.0.cross_attn": [3, 1], "decoder.*.0.self*": (3,)},
    )
    made = pixels(left)
    assert torch.equal(logits(left, made), logits(right, made))
