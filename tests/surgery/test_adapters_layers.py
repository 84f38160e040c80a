"""What an adapted layer computes: in training, in other precisions, compiled."""

import pytest
import torch
from adapted import EVERYWHERE, adapted_linears, disturb, equal, is_adapters, logits, parameters
from families import difference, images, labels

from trocr.nn.linear import Linear
from trocr.surgery.adapter_layers import AdaptedLinear
from trocr.surgery.adapters import (
    add_adapter,
    merge_adapter,
    remove_adapter,
)

KINDS = pytest.mark.parametrize("kind", ["lora", "dora"])

ROUNDING = 1e-6
"""What another order of float32 operations changes in logits, relative to the largest."""

HALF = 0.1
"""Bound of what bfloat16 changes in logits, relative to the largest: 8 bits, four blocks; 0.03 is seen."""


def test_starting_values_are_those_of_a_linear_layer(pair_of):
    model = pair_of("learned").fresh()
    torch.manual_seed(3)
    add_adapter(model, modules="decoder.blocks.0.self_attn.q_proj", rank=5, kind="dora")
    torch.manual_seed(3)
    drawn = torch.nn.Linear(48, 5, bias=False).weight
    (layer,) = adapted_linears(model)
    assert torch.equal(layer.lora_a, drawn)
    assert not layer.lora_b.any()
    assert torch.equal(layer.magnitude, torch.linalg.vector_norm(layer.weight, dim=1))
    assert layer.scale == 16 / 5


@KINDS
def test_autocast(pair_of, kind):
    pair = pair_of("learned")
    model = pair.fresh()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = logits(model, pair)
        add_adapter(model, modules=EVERYWHERE, kind=kind)
        assert torch.equal(logits(model, pair), expected)
    disturb(model)
    full = logits(model, pair)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = logits(model, pair)
        model(pixel_values=images(pair.family, 1), labels=labels(1, 4)).loss.backward()
    assert half.dtype == torch.bfloat16
    assert difference(full, half.float()) < HALF
    assert difference(full, logits(pair.ours, pair)) > 3 * HALF  # the adapter's effect
    grads = [p.grad for name, p in model.named_parameters() if is_adapters(name)]
    assert all(grad.dtype == torch.float32 and grad.isfinite().all() for grad in grads)


@KINDS
def test_a_base_in_half_precision_has_an_adapter_in_float32(pair_of, kind):
    pair = pair_of("learned")
    model = pair.fresh(dtype="bfloat16")
    base, expected = parameters(model), logits(model, pair)
    add_adapter(model, modules=EVERYWHERE, kind=kind)
    assert all(layer.lora_a.dtype == torch.float32 for layer in adapted_linears(model))
    assert model.dtype == torch.bfloat16
    assert torch.equal(logits(model, pair), expected)
    disturb(model)
    expected = logits(model, pair)
    assert expected.dtype == torch.bfloat16
    merge_adapter(model)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert difference(expected.float(), logits(model, pair).float()) < HALF
    assert difference(expected.float(), logits(pair.ours, pair)) > 3 * HALF  # the adapter's effect
    remove_adapter(model)
    assert equal(parameters(model), base)


def test_compiled_layers():
    torch.manual_seed(0)
    x = torch.randn(3, 6)
    for kind in ("lora", "dora"):
        layer = AdaptedLinear(Linear(6, 4), rank=2, scale=0.5, kind=kind)
        torch.nn.init.normal_(layer.lora_b)
        out = torch.compile(layer, backend="eager", fullgraph=True)(x)
        assert difference(layer(x), out) < ROUNDING
        out.sum().backward()
        assert all(parameter.grad.any() for parameter in layer.adapter_parameters().values())


@KINDS
def test_gradient_checkpointing_gives_the_same_gradients(pair_of, kind):
    pair = pair_of("learned")
    model = pair.fresh().train()
    add_adapter(model, kind=kind)
    disturb(model)
    found = []
    for enabled in (False, True):
        model.gradient_checkpointing_enable(enabled)
        model.zero_grad()
        model(pixel_values=images(pair.family, 2), labels=labels(2, 5)).loss.backward()
        found.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    assert len(found[0]) == len(adapted_linears(model)) * (2 + (kind == "dora"))
    assert all(torch.allclose(grad, found[1][name], rtol=1e-5, atol=1e-7) for name, grad in found[0].items())
    assert model.is_gradient_checkpointing


@KINDS
def test_dropout_is_on_the_input_of_the_adapter_in_training(kind):
    torch.manual_seed(0)
    base = Linear(6, 4)
    layer = AdaptedLinear(base, rank=2, scale=0.5, dropout=0.5, kind=kind)
    x = torch.randn(3, 6)
    assert torch.equal(layer.train()(x), base(x))  # no effect yet, whatever is dropped
    torch.nn.init.normal_(layer.lora_b)
    torch.manual_seed(1)
    found = layer(x)
    torch.manual_seed(1)
    dropped = torch.nn.functional.dropout(x, 0.5)
    change = dropped @ layer.lora_a.T @ layer.lora_b.T * 0.5
    expected = base(x) + change
    if kind == "dora":
        ratio = layer.magnitude / torch.linalg.vector_norm(
            base.weight + 0.5 * layer.lora_b @ layer.lora_a, dim=1
        )
        expected = base(x) + (ratio - 1) * (dropped @ base.weight.T) + ratio * change
    assert torch.allclose(found, expected, atol=1e-6)
    assert not torch.equal(layer.eval()(x), found)
    assert torch.equal(layer(x), layer(x))


def test_dora_is_magnitude_times_direction():
    torch.manual_seed(0)
    base = Linear(6, 4)
    layer = AdaptedLinear(base, rank=2, scale=0.5, kind="dora")
    for parameter in (layer.lora_b, layer.magnitude):
        torch.nn.init.uniform_(parameter, 0.5, 2)
    direction = base.weight + 0.5 * layer.lora_b @ layer.lora_a
    weight = layer.magnitude[:, None] * direction / direction.norm(dim=1, keepdim=True)
    assert torch.allclose(layer.merged_weight(), weight, atol=1e-6)
    x = torch.randn(3, 6)
    assert torch.allclose(layer(x), x @ weight.T + base.bias, atol=1e-6)
    assert torch.allclose(weight.norm(dim=1), layer.magnitude, atol=1e-6)


def test_dora_leaves_rows_of_zeros_at_zero():
    base = Linear(6, 4)
    with torch.no_grad():
        base.weight[1] = 0
    layer = AdaptedLinear(base, rank=2, scale=1.0, kind="dora")
    x = torch.randn(3, 6)
    assert torch.equal(layer(x), base(x))
    layer(x).sum().backward()
    assert all(p.grad.isfinite().all() for p in layer.adapter_parameters().values())
    assert not layer.merged_weight()[1].any()


def test_few_rows_take_the_quick_way_with_an_adapter_too():
    torch.manual_seed(0)
    layer = AdaptedLinear(Linear(64, 32), rank=2, scale=1.0)
    torch.nn.init.normal_(layer.lora_b)
    x = torch.randn(4, 1, 64)
    with_gradients = layer(x)
    with torch.no_grad():
        without = layer(x)
    assert not without.requires_grad
    assert difference(with_gradients, without) < ROUNDING * 5
