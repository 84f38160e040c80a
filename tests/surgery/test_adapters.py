"""Adapters in a model: they change nothing at the start, are merged, taken out again and removed."""

import copy

import pytest
import torch
from adapted import (
    EVERYWHERE,
    MERGED,
    adapted_linears,
    disturb,
    equal,
    flags,
    is_adapters,
    logits,
    parameters,
)
from families import VOCAB_SIZE, difference, ids, images, labels, load_hf, load_ours

from trocr import DecoderCache
from trocr.nn.linear import Linear
from trocr.surgery.adapter_layers import AdaptedLinear
from trocr.surgery.adapters import (
    add_adapter,
    merge_adapter,
    remove_adapter,
    unmerge_adapter,
)

KINDS = pytest.mark.parametrize("kind", ["lora", "dora"])


@KINDS
def test_nothing_changes_at_the_start(pair, kind):
    model = pair.fresh()
    before, expected = parameters(model), logits(model, pair)
    report = add_adapter(model, modules=EVERYWHERE, kind=kind, rank=3, alpha=5)
    assert torch.equal(logits(model, pair), expected)  # bit by bit, with DoRA too
    after = parameters(model)
    assert equal({name: tensor for name, tensor in after.items() if not is_adapters(name)}, before)
    assert {name for name, trains in flags(model).items() if trains} == set(after) - set(before)
    assert {change.name for change in report.changes} == set(after) - set(before)
    assert report.counts() == {"new": len(after) - len(before), "kept": len(before)}
    assert len(adapted_linears(model)) == 2 * 6 + 2 * 10
    assert report.numbers["trained_parameters"] == model.num_parameters(only_trainable=True)
    with torch.no_grad():
        model.train()
        out = model(pixel_values=images(pair.family, 2), decoder_input_ids=ids(2, 7)).logits
    assert torch.equal(out, expected)  # these families have no dropout


def test_queries_and_values_unless_told_otherwise(pair_of):
    model = pair_of("learned").fresh()
    add_adapter(model)
    names = {name for name, part in model.named_modules() if isinstance(part, AdaptedLinear)}
    attentions = [f"encoder.blocks.{i}.self_attn" for i in (0, 1)]
    attentions += [f"decoder.blocks.{i}.{which}_attn" for i in (0, 1) for which in ("self", "cross")]
    assert names == {f"{one}.{leaf}" for one in attentions for leaf in ("q_proj", "v_proj")}


@KINDS
def test_a_step_of_training_changes_the_adapter_alone(pair, kind):
    model = pair.fresh()
    report = add_adapter(model, modules=EVERYWHERE, kind=kind, also_train=["encoder.norm", "*.cls_token"])
    own = {change.name for change in report.changes}
    disturb(model)
    before = parameters(model)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model(pixel_values=images(pair.family, 2), labels=labels(2, 6)).loss.backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == (name in own), name
        if name in own and not name.endswith(("k_proj.lora_a", "k_proj.lora_b")):
            assert parameter.grad.abs().max() > 0, name
    assert any(p.grad.any() for n, p in model.named_parameters() if n.endswith("k_proj.lora_b"))
    optimizer.step()
    after = parameters(model)
    assert {name for name in after if not torch.equal(after[name], before[name])} == own
    assert {"encoder.norm.weight", "encoder.norm.bias", "encoder.embeddings.cls_token"} <= own


@KINDS
def test_merging_unmerging_and_removing(pair, kind, tmp_path):
    model = pair.fresh()
    for name in ("encoder.norm.weight", "decoder.blocks.0.mlp.fc1.bias"):
        model.get_parameter(name).requires_grad_(False)
    base, trained, types = parameters(model), flags(model), [type(part) for part in model.modules()]
    untouched = logits(model, pair)
    add_adapter(model, modules=EVERYWHERE, kind=kind, rank=4)
    disturb(model)
    adapted, expected = parameters(model), logits(model, pair)
    assert difference(untouched, expected) > 0.05  # it does something

    report = merge_adapter(model)
    assert difference(expected, logits(model, pair)) < MERGED
    assert [type(part) for part in model.modules()] == types
    assert list(parameters(model)) == list(base)
    assert flags(model) == trained
    merged = {change.name for change in report.changes if change.action == "merged"}
    assert merged == {n for n, tensor in parameters(model).items() if not torch.equal(tensor, base[n])}
    assert {change.name for change in report.changes if change.action == "removed"} == set(adapted) - set(
        base
    )
    model.save_pretrained(tmp_path)
    assert torch.equal(logits(load_ours(tmp_path), pair), logits(model, pair))
    assert difference(expected, logits(load_hf(tmp_path), pair)) < MERGED

    unmerge_adapter(model)
    assert equal(parameters(model), adapted)
    assert torch.equal(logits(model, pair), expected)
    assert {name for name, trains in flags(model).items() if trains} == set(adapted) - set(base)

    report = remove_adapter(model)
    assert equal(parameters(model), base)
    assert torch.equal(logits(model, pair), untouched)
    assert [type(part) for part in model.modules()] == types
    assert flags(model) == trained
    assert {change.name for change in report.changes} == set(adapted) - set(base)


@KINDS
def test_a_merged_adapter_is_removed_in_one_go(pair_of, kind):
    pair = pair_of("unilm")
    model = pair.fresh()
    base, expected = parameters(model), logits(model, pair)
    add_adapter(model, kind=kind, also_train="decoder.output_projection")
    disturb(model)
    with torch.no_grad():
        model.decoder.output_projection.weight += 0.1
    merge_adapter(model)
    report = remove_adapter(model)
    assert equal(parameters(model), base)
    assert torch.equal(logits(model, pair), expected)
    assert {change.action for change in report.changes} == {"carried"}
    assert len(report.changes) == 12 + 1


def test_an_adapter_without_effect_merges_to_the_same_bits(pair_of):
    model = pair_of("learned").fresh()
    base = parameters(model)
    for kind in ("lora", "dora"):
        add_adapter(model, modules=EVERYWHERE, kind=kind)
        merge_adapter(model, keep_base=False)
        assert equal(parameters(model), base)


@KINDS
def test_decoding_with_a_cache(pair, kind):
    model = pair.fresh()
    add_adapter(model, modules=EVERYWHERE, kind=kind)
    disturb(model)
    tokens = ids(3, 9)
    with torch.inference_mode():
        memory = model.memory(model.encode(images(pair.family, 3)))
        whole = model.decoder(input_ids=tokens, encoder_hidden_states=memory, use_cache=False).logits
        cache = DecoderCache(len(model.decoder.blocks))
        steps = [
            model.decoder(
                input_ids=tokens[:, i : i + 1], encoder_hidden_states=memory, past_key_values=cache
            ).logits
            for i in range(9)
        ]
    assert difference(whole, torch.cat(steps, dim=1)) < MERGED
    options = {"max_new_tokens": 12, "num_beams": 2}
    pixels = images(pair.family, 2)
    cached = model.generate(pixels, **options)
    assert torch.equal(cached, model.generate(pixels, use_cache=False, **options))
    merge_adapter(model)
    assert torch.equal(cached, model.generate(pixels, **options))


@KINDS
def test_a_deep_copy_is_a_model_of_its_own(pair_of, kind):
    pair = pair_of("learned")
    model = pair.fresh()
    base = parameters(model)
    add_adapter(model, kind=kind)
    disturb(model)
    other = copy.deepcopy(model)
    expected = logits(model, pair)
    assert torch.equal(logits(other, pair), expected)
    assert not {id(p) for p in model.parameters()} & {id(p) for p in other.parameters()}
    remove_adapter(other)
    assert equal(parameters(other), base)
    merge_adapter(model)
    other = copy.deepcopy(model)
    unmerge_adapter(other)
    assert torch.equal(logits(other, pair), expected)
    assert not adapted_linears(model)


def test_the_pooler_is_passed_over(pair_of):
    model = pair_of("unilm").fresh()
    report = add_adapter(model, modules="*")
    assert report.notes == ("encoder.pooler.dense is passed over: reading never calls it",)
    assert isinstance(model.decoder.output_projection, AdaptedLinear)  # it shares nothing here
    assert not isinstance(model.encoder.pooler.dense, AdaptedLinear)


def test_the_projection_between_the_parts(pair_of):
    pair = pair_of("projection")
    model = pair.fresh()
    add_adapter(model, modules="enc_to_dec_proj")
    disturb(model)
    expected = logits(model, pair)
    merge_adapter(model)
    assert type(model.enc_to_dec_proj) is Linear
    assert difference(expected, logits(model, pair)) < MERGED


def test_tied_parameters_stay_tied(pair_of):
    model = pair_of("learned").fresh()
    add_adapter(model, also_train="decoder.embed_tokens")
    assert model.decoder.output_projection.weight is model.decoder.embed_tokens.weight
    merge_adapter(model)
    unmerge_adapter(model)
    remove_adapter(model)
    assert model.decoder.output_projection.weight is model.decoder.embed_tokens.weight
    assert model.decoder.output_projection.weight.shape[0] == VOCAB_SIZE
