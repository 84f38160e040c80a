"""Cross-attention on the encoder's states, against that with keys and values."""

import pytest
import torch
from families import EOS, START, images
from slot_rows import read_in_slots

from trocr import optimize
from trocr.fast import cross, decoder
from trocr.fast.slots import Slots


@pytest.fixture
def read_states(monkeypatch):
    """Let float32 models read states, however few the images are: then both ways give the same numbers."""
    monkeypatch.setattr(cross, "PRECISION", torch.float32)
    monkeypatch.setattr(cross, "MANY", 1)


def remembered(layer, memory):
    return layer.keys_values(memory), cross.centred(memory)


@pytest.mark.parametrize("rows_per_image", [1, 3])
@pytest.mark.parametrize("length", [1, 4])
@pytest.mark.parametrize("masked", [False, True])
@torch.inference_mode()
def test_both_ways_give_the_same(pair, read_states, rows_per_image, length, masked):
    fast = optimize(pair.ours)
    torch.manual_seed(0)
    memory = fast.memory(fast.encode(images(pair.family, 3, seed=1)))
    mask = None
    if masked:
        mask = torch.zeros(3, 1, 1, memory.shape[1])
        mask[1, ..., -3:] = mask[2, ..., -1:] = torch.finfo(torch.float32).min / 2
    for block in fast.decoder.blocks:
        x = torch.randn(3 * rows_per_image, length, fast.config.decoder.d_model)
        by_keys, by_states = (
            block.cross.add(x.clone(), held, mask) for held in remembered(block.cross, memory)
        )
        torch.testing.assert_close(by_states, by_keys, atol=2e-5, rtol=1e-5)


@torch.inference_mode()
def test_states_are_the_models_own_attention(pair, read_states):
    fast = optimize(pair.ours)
    memory = fast.memory(fast.encode(images(pair.family, 2, seed=2)))
    x = torch.randn(2, 3, fast.config.decoder.d_model)
    for block, own in zip(fast.decoder.blocks, pair.ours.decoder.blocks, strict=True):
        expected = x + own.cross_attn(x, memory=memory)[0]
        for held in remembered(block.cross, memory):
            torch.testing.assert_close(block.cross.add(x.clone(), held, None), expected, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"num_beams": 2, "num_return_sequences": 2}])
@torch.inference_mode()
def test_the_same_tokens(pair, monkeypatch, options):
    pixels = images(pair.family, 4, seed=3)
    wanted = optimize(pair.ours).generate(pixels, max_new_tokens=12, **options)
    monkeypatch.setattr(cross, "PRECISION", torch.float32)
    fast = optimize(pair.ours)
    wide = pair.ours.decoder.blocks[0].cross_attn.k_proj.in_features
    monkeypatch.setattr(cross, "MANY", 4 * wide)
    assert fast.decoder.reads_states(4)
    assert not fast.decoder.reads_states(3)
    assert torch.equal(fast.generate(pixels, max_new_tokens=12, **options), wanted)


@pytest.mark.parametrize("capacity", [1, 4, 5])
@torch.inference_mode()
def test_slots_on_states(pair, monkeypatch, capacity):
    """Images of several sizes that come and go, and more states than were expected."""
    plain = optimize(pair.ours)
    memory = list(plain.memory(plain.encode(images(pair.family, 9, seed=4))))
    memory = [states[: len(states) - 2 * (n % 3)] for n, states in enumerate(memory)]

    def run(fast):
        slots = Slots(fast.decoder, capacity=capacity, start_token_id=START, end_tokens=[EOS], num_states=2)
        done = read_in_slots(slots, memory, [3 + 5 * (n % 4) for n in range(9)], at_once=2)
        assert slots._images.on_states == (fast is not plain and capacity >= 4)
        return [(done[n].ids, done[n].log_probs) for n in range(9)]

    wanted = run(plain)
    monkeypatch.setattr(cross, "PRECISION", torch.float32)
    monkeypatch.setattr(cross, "MANY", 4 * pair.ours.decoder.blocks[0].cross_attn.k_proj.in_features)
    for (ids, log_probs), (expected, values) in zip(run(optimize(pair.ours)), wanted, strict=True):
        assert ids == expected
        assert log_probs == pytest.approx(values, abs=1e-4)


@torch.inference_mode()
def test_layers_share_the_states_when_images_are_dropped(pair_of, read_states):
    fast = optimize(pair_of("learned").ours)
    cache = decoder.DecoderCache(len(fast.decoder.blocks))
    memory = fast.memory(fast.encode(images(pair_of("learned").family, 4)))
    fast.decoder.remember(cache, memory)
    cache.keep_images(torch.tensor([2, 0]))
    states = {id(layer.cross) for layer in cache.layers}
    assert len(cache.layers) > 1
    assert len(states) == 1
    assert torch.equal(cache.layers[0].cross[0], cross.centred(memory)[0][[2, 0]])


@torch.inference_mode()
def test_keys_and_values_are_kept_apart_when_images_are_dropped(pair_of):
    fast = optimize(pair_of("learned").ours)
    cache = decoder.DecoderCache(len(fast.decoder.blocks))
    fast.decoder.remember(cache, fast.memory(fast.encode(images(pair_of("learned").family, 4))))
    before = [layer.cross for layer in cache.layers]
    cache.keep_images(torch.tensor([3, 1]))
    for layer, (keys, values) in zip(cache.layers, before, strict=True):
        assert torch.equal(layer.cross[0], keys[[3, 1]])
        assert torch.equal(layer.cross[1], values[[3, 1]])


@torch.inference_mode()
def test_half_precision_is_near(pair_of, monkeypatch):
    """bf16 itself, whatever the processor: scores of tokens within what rounding to eight bits explains."""
    pair = pair_of("learned")
    fast = optimize(pair.ours)
    memory = fast.memory(fast.encode(images(pair.family, 3, seed=1)))
    for block in fast.decoder.blocks:
        exact = block.cross
        weights = {
            f"{name}.{leaf}": tensor
            for name, layer in exact.linear.items()
            for leaf, tensor in layer.stored().items()
        }
        half = cross.CrossAttention(
            weights,
            num_heads=exact.num_heads,
            head_dim=exact.head_dim,
            kernels=cross.Kernels(dtype=torch.bfloat16, packed=False),
        )
        x = torch.zeros(3, 1, fast.config.decoder.d_model).normal_()
        by_keys = exact.add(x.clone(), exact.keys_values(memory), None) - x
        by_states = half.add(x.clone(), cross.centred(memory), None) - x
        assert (by_states - by_keys).norm() < 0.02 * by_keys.norm()
