"""Calibration: ranges that hold, features made alike without changing anything, and what it is for."""

import pytest
import torch
from families import images

from trocr import OptimizeError, optimize
from trocr.fast.calibration import LAYERS, NORMS, calibrate, smoothing
from trocr.fast.encoder import FastEncoder
from trocr.fast.layers import Kernels
from trocr.fast.linear import StaticInt8Linear
from trocr.fast.weights import collect_encoder

TOLERANCE = 2e-5
"""Float32, relative to the largest value: products in another order."""


def relative(found, wanted):
    return float((found - wanted).norm() / wanted.norm())


def made_uneven(pair):
    """A model whose norms give two features a hundred times the range of the others, as trained ones do."""
    model = pair.fresh()
    with torch.no_grad():
        for block in model.encoder.blocks:
            for norm, readers in (
                (block.attn_norm, [getattr(block.self_attn, f"{part}_proj") for part in "qkv"]),
                (block.mlp_norm, [block.mlp.fc1]),
            ):
                norm.weight[3:5] *= 100
                norm.bias[3:5] *= 100
                for reader in readers:
                    reader.weight[:, 3:5] /= 100
    return model


def encoder_of(model, changed, kernels=None):
    kernels = Kernels(packed=False) if kernels is None else kernels
    return FastEncoder(model.config.encoder, {**collect_encoder(model.encoder), **changed}, kernels)


def test_making_features_alike_changes_nothing(pair):
    model, pixels = pair.ours, images(pair.family, 6)
    changed = calibrate(model.config.encoder, collect_encoder(model.encoder), [pixels[:4], pixels[4:]])
    blocks = range(len(model.encoder.blocks))
    names = {f"blocks.{number}.{layer}" for number in blocks for layer in LAYERS}
    folded = {f"blocks.{number}.{layer}.weight" for number in blocks for layer in NORMS}
    norms = {
        f"blocks.{n}.{norm}.{leaf}" for n in blocks for norm in NORMS.values() for leaf in ("weight", "bias")
    }
    assert set(changed) == {f"{name}.range" for name in names} | folded | norms
    with torch.inference_mode():
        wanted = model.encode(pixels).last_hidden_state
        assert relative(encoder_of(model, changed)(pixels).last_hidden_state, wanted) < TOLERANCE


@torch.no_grad()
def test_ranges_hold_what_was_seen_and_no_more(pair_of):
    pair = pair_of("learned")
    model, pixels = pair.ours, images(pair.family, 6)
    tensors = collect_encoder(model.encoder)
    whole = calibrate(model.config.encoder, tensors, [pixels])
    parts = calibrate(model.config.encoder, tensors, pixels.split(1))
    seen = []
    hook = model.encoder.blocks[1].mlp.fc2.register_forward_pre_hook(
        lambda module, args: seen.append(args[0])
    )
    model.encode(pixels)
    hook.remove()
    low, high = whole["blocks.1.fc2.range"].tolist()
    assert low == pytest.approx(float(seen[0].min()), rel=1e-4)
    assert high == pytest.approx(float(seen[0].max()), rel=1e-4)
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, rtol=1e-4, atol=1e-5)


def test_features_share_their_range_with_the_weight():
    weight, reach = torch.tensor([[1.0, -4.0, 0.0], [0.5, 2.0, 0.0]]), torch.tensor([16.0, 1.0, 0.0])
    scale = smoothing(weight, reach)
    assert scale.isfinite().all()
    assert (scale > 0).all()
    assert scale[0] / scale[1] == pytest.approx(16**0.75 / (1 / 4**0.25))
    assert float(scale.log().sum()) == pytest.approx(0, abs=1e-4)


@torch.inference_mode()
def test_uneven_features_are_read_more_precisely(pair_of):
    pair = pair_of("learned")
    model = made_uneven(pair)
    seen, others = images(pair.family, 8, seed=5), images(pair.family, 8, seed=6)
    wanted = model.encode(others).last_hidden_state
    fast = optimize(model, dtype="float32", quantize="int8", calibration=[seen])
    if not isinstance(fast.encoder.blocks[0].qkv, StaticInt8Linear):
        pytest.skip("this processor has no int8 dot products: ranges are measured anew")
    found = relative(fast.encode(others).last_hidden_state, wanted)
    changed = calibrate(model.config.encoder, collect_encoder(model.encoder), [seen])
    with_ranges_alone = {
        f"blocks.{number}.{layer}.range": torch.tensor([-500.0, 500.0])
        for number in range(2)
        for layer in NORMS
    }
    with_ranges_alone |= {name: value for name, value in changed.items() if name.split(".")[2] not in NORMS}
    kernels = Kernels(int8=True, static=True)
    rough = encoder_of(model, {k: v for k, v in with_ranges_alone.items() if k.endswith("range")}, kernels)
    assert found < 0.05
    assert relative(rough(others).last_hidden_state, wanted) > 3 * found


@torch.no_grad()
def test_processors_without_dot_products_gain_too(pair_of):
    """Their ranges are measured anew each time, but features are as alike."""
    pair = pair_of("learned")
    model = made_uneven(pair)
    pixels = images(pair.family, 8)
    wanted = model.encode(pixels).last_hidden_state
    changed = calibrate(model.config.encoder, collect_encoder(model.encoder), [pixels])
    rough, smooth = (encoder_of(model, tensors, Kernels(int8=True)) for tensors in ({}, changed))
    assert relative(smooth(pixels).last_hidden_state, wanted) < 0.5 * relative(
        rough(pixels).last_hidden_state, wanted
    )


def test_narrow_images_will_do(pair_of):
    pair = pair_of("non_square")
    narrow = images(pair.family, 3, size=(32, 24))
    fast = optimize(pair.ours, quantize="int8", calibration=[narrow, images(pair.family, 1)])
    assert fast.encode(images(pair.family, 2)).last_hidden_state.isfinite().all()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_images_that_are_not_finite(pair_of, value):
    pixels = images(pair_of("learned").family, 2)
    pixels[1, 0, 3, 4] = value
    with pytest.raises(OptimizeError, match=r"encoder\.blocks\.0\.qkv reads values that are not finite"):
        optimize(pair_of("learned").ours, quantize="int8", calibration=[pixels])


def test_calibration_leaves_the_model_as_it_is(pair_of):
    model = pair_of("learned").fresh()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    optimize(model, quantize="int8", calibration=[images(pair_of("learned").family, 2)])
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
