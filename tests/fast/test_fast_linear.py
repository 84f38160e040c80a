"""Layers in their own layouts against `F.linear`, and int8 against its own arithmetic."""

import pytest
import torch
import torch.nn.functional as F

from trocr.fast.linear import (
    LEVELS,
    DynamicInt8Linear,
    PackedLinear,
    PlainLinear,
    StaticInt8Linear,
    quantize_rows,
)
from trocr.nn.mlp import ACTIVATIONS


def tensors(out=24, width=40, seed=0):
    random = torch.Generator().manual_seed(seed)
    return torch.randn(out, width, generator=random) * 0.2, torch.randn(out, generator=random)


@pytest.mark.parametrize("activation", [None, *ACTIVATIONS])
@pytest.mark.parametrize("kind", [PlainLinear, PackedLinear])
@pytest.mark.parametrize("shape", [(1, 40), (3, 5, 40), (70, 40)])
@torch.inference_mode()
def test_float_layers(kind, activation, shape):
    weight, bias = tensors()
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    plain = F.linear(x, weight, bias)
    wanted = plain if activation is None else ACTIVATIONS[activation](plain)
    layer = kind(weight, bias, activation)
    torch.testing.assert_close(layer(x), wanted, rtol=1e-5, atol=1e-5)
    other = torch.randn(*shape[:-1], 24)
    torch.testing.assert_close(layer.add(x, other.clone()), other + wanted, rtol=1e-5, atol=1e-5)
    assert all(torch.equal(a, b) for a, b in zip(layer.stored().values(), (weight, bias), strict=True))
    assert set(kind(weight, None).stored()) == {"weight"}


@torch.inference_mode()
def test_rows_are_rounded_to_the_nearest_level():
    weight, _ = tensors()
    weight[3] = 0
    rounded, scale = quantize_rows(weight)
    assert rounded.dtype is torch.int8
    assert int(rounded.abs().max()) == LEVELS
    assert float((rounded * scale[:, None] - weight).abs().max() / scale.max()) <= 0.5
    assert scale[3] == 1
    again, same = quantize_rows(rounded * scale[:, None])
    assert torch.equal(again, rounded)
    torch.testing.assert_close(same, scale)


def int8_layers(activation=None):
    weight, bias = tensors()
    rounded, scale = quantize_rows(weight)
    dynamic = DynamicInt8Linear(rounded, scale, bias, activation, reduce_range=False)
    static = StaticInt8Linear(rounded, scale, bias, activation, low=-4.0, high=4.0)
    return rounded * scale[:, None], bias, {"dynamic": dynamic, "static": static}


@pytest.mark.parametrize("kind", ["dynamic", "static"])
@pytest.mark.parametrize("activation", [None, "gelu", "relu", "quick_gelu"])
@torch.inference_mode()
def test_int8_layers_are_within_the_rounding_of_their_inputs(kind, activation):
    weight, bias, layers = int8_layers(activation)
    x = torch.randn(30, 40, generator=torch.Generator().manual_seed(2)).clamp(-4, 4)
    plain = F.linear(x, weight, bias)
    wanted = plain if activation is None else ACTIVATIONS[activation](plain)
    step = 8 / 255  # of the inputs; each is off by half of it at most
    bound = 0.51 * step * float(weight.abs().sum(dim=1).max())
    found = layers[kind](x)
    assert 0 < float((found - wanted).abs().max()) < bound
    other = torch.randn(30, 24)
    torch.testing.assert_close(layers[kind].add(x, other.clone()), other + found)


@torch.inference_mode()
def test_static_layers_cut_what_is_outside_their_range():
    weight, bias, layers = int8_layers()
    x = torch.full((1, 40), 9.0)
    torch.testing.assert_close(
        layers["static"](x), F.linear(x.clamp(max=4), weight, bias), rtol=0.02, atol=0.05
    )


@torch.inference_mode()
def test_static_layers_hand_bytes_on():
    first, second = (StaticInt8Linear(*quantize_rows(tensors(o, i)[0]), None, a, low=-3.0, high=3.0)
                     for o, i, a in ((24, 40, "gelu"), (16, 24, None)))  # fmt: skip
    x = torch.randn(9, 40, generator=torch.Generator().manual_seed(3)).clamp(-3, 3)
    apart = second(first(x).clamp(-3, 3))
    first.feed(second)
    assert first(x).dtype is torch.uint8
    torch.testing.assert_close(second(first(x)), apart, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("kind", ["dynamic", "static"])
def test_int8_layers_give_back_what_they_are_made_of(kind):
    weight, bias = tensors()
    rounded, scale = quantize_rows(weight)
    stored = int8_layers()[2][kind].stored()
    assert torch.equal(stored["weight"], rounded)
    torch.testing.assert_close(stored["scale"], scale)
    assert torch.equal(stored["bias"], bias)
    if kind == "static":
        assert stored["range"].tolist() == [-4.0, 4.0]
