"""Optimized models against the model that they are made of: every family, every kind of kernel."""

import dataclasses
import re

import pytest
import torch
from families import MAX_POSITIONS, ids, images

from trocr import (
    OptimizeError,
    TimmConfig,
    TrOCRConfig,
    VisionEncoderDecoderConfig,
    VisionEncoderDecoderModel,
    optimize,
)
from trocr.cache import DecoderCache
from trocr.fast.encoder import chunks
from trocr.fast.layers import Kernels
from trocr.fast.model import FastModel, Settings
from trocr.fast.weights import collect

TOLERANCE = 2e-5
"""Float32, relative to the largest value: other kernels sum in another order."""

HALF_TOLERANCE = 0.08
"""bf16 has eight bits; tiny random models add up its errors over two blocks."""

PLAIN = Kernels(packed=False)
BY_HEAD = Kernels(by_head=True)


def relative(found: torch.Tensor, wanted: torch.Tensor) -> float:
    assert found.shape == wanted.shape
    return float((found.float() - wanted.float()).abs().max() / wanted.abs().max())


def made(model, kernels: Kernels, **settings) -> FastModel:
    return FastModel(model.config, model.generation_config, collect(model), kernels, Settings(**settings))


@pytest.mark.parametrize("kernels", [Kernels(), PLAIN, BY_HEAD], ids=["packed", "plain", "by head"])
@torch.inference_mode()
def test_float32_computes_the_same(pair, kernels, monkeypatch):
    monkeypatch.setattr("trocr.fast.attention.LONG", 1)
    fast, pixels = made(pair.ours, kernels), images(pair.family, 5)
    encoded = pair.ours.encode(pixels)
    states = fast.encode(pixels).last_hidden_state
    assert relative(states, encoded.last_hidden_state) < TOLERANCE
    memory, tokens = pair.ours.memory(encoded), ids(5, 7)
    wanted = pair.ours.decoder(input_ids=tokens, encoder_hidden_states=memory).logits
    found = fast.decoder(input_ids=tokens, encoder_hidden_states=fast.memory(fast.encode(pixels))).logits
    assert relative(found, wanted) < TOLERANCE


@pytest.mark.parametrize("num_beams", [1, 3])
def test_the_same_tokens(pair, num_beams):
    pixels = images(pair.family, 6)
    options = {"num_beams": num_beams, "max_new_tokens": 20, "return_dict_in_generate": True}
    wanted, found = (model.generate(pixels, **options) for model in (pair.ours, optimize(pair.ours)))
    assert torch.equal(found.sequences, wanted.sequences)
    torch.testing.assert_close(found.token_log_probs, wanted.token_log_probs, rtol=0, atol=1e-4)


def test_options_that_need_the_start_of_rows(pair_of):
    model, pixels = pair_of("learned").ours, images(pair_of("learned").family, 3)
    fast, prefix = optimize(model), ids(3, 4)
    mask = torch.tensor([[1, 1, 1, 1], [0, 1, 1, 1], [0, 0, 1, 1]])
    options = {"decoder_input_ids": prefix, "decoder_attention_mask": mask, "max_new_tokens": 8}
    assert torch.equal(fast.generate(pixels, **options), model.generate(pixels, **options))
    options = {"do_sample": True, "seed": 3, "num_return_sequences": 2, "max_new_tokens": 8}
    assert torch.equal(fast.generate(pixels, **options), model.generate(pixels, **options))


@torch.inference_mode()
def test_with_the_cache_as_without(pair):
    fast, tokens = optimize(pair.ours), ids(4, 9)
    memory = fast.memory(fast.encode(images(pair.family, 4)))
    whole = fast.decoder(input_ids=tokens, encoder_hidden_states=memory, use_cache=False)
    assert whole.past_key_values is None
    cache = DecoderCache(len(fast.decoder.blocks))
    parts = [
        fast.decoder(input_ids=part, encoder_hidden_states=memory, past_key_values=cache).logits
        for part in (tokens[:, :4], tokens[:, 4:5], tokens[:, 5:])
    ]
    assert relative(torch.cat(parts, dim=1), whole.logits) < TOLERANCE
    cache.truncate(4)
    again = fast.decoder(input_ids=tokens[:, 4:], encoder_hidden_states=None, past_key_values=cache)
    assert relative(again.logits, whole.logits[:, 4:]) < TOLERANCE
    last = fast.decoder(input_ids=tokens, encoder_hidden_states=memory, logits_to_keep=1)
    assert relative(last.logits, whole.logits[:, -1:]) < TOLERANCE


@pytest.mark.parametrize("name", ["learned", "unilm", "projection"])
@torch.inference_mode()
def test_bf16_is_near(pair_of, name):
    pair = pair_of(name)
    fast, pixels = made(pair.ours, Kernels(dtype=torch.bfloat16)), images(pair.family, 4)
    assert fast.dtype is torch.bfloat16
    assert (
        relative(fast.encode(pixels).last_hidden_state, pair.ours.encode(pixels).last_hidden_state)
        < HALF_TOLERANCE
    )


def test_chunks_have_few_sizes():
    assert [(c.start, c.stop) for c in chunks(11, 5)] == [(0, 4), (4, 8), (8, 10), (10, 11)]
    assert [(c.start, c.stop) for c in chunks(3, 1)] == [(0, 1), (1, 2), (2, 3)]
    assert list(chunks(0, 4)) == []


@pytest.mark.parametrize("interpolate", [True, False])
@torch.inference_mode()
def test_other_image_sizes(pair_of, interpolate):
    pair = pair_of("non_square")
    size = (48, 88) if interpolate else (16, 24)
    pixels, model = images(pair.family, 3, size=size), pair.ours
    name = "interpolate_pos_encoding" if interpolate else "crop_pos_encoding"
    wanted = model.encode(pixels, **{name: True}).last_hidden_state
    assert relative(optimize(model).encode(pixels, **{name: True}).last_hidden_state, wanted) < TOLERANCE


def test_errors_are_those_of_the_model(pair_of):
    pair = pair_of("non_square")
    fast = optimize(pair.ours)
    for pixels, options in (
        (torch.zeros(1, 3, 48, 64), {}),
        (torch.zeros(1, 1, 32, 64), {}),
        (torch.zeros(3, 32, 64), {}),
        (torch.zeros(1, 3, 8, 64), {"interpolate_pos_encoding": True}),
        (torch.zeros(1, 3, 48, 64), {"crop_pos_encoding": True}),
        (torch.zeros(1, 3, 32, 64), {"crop_pos_encoding": True, "interpolate_pos_encoding": True}),
    ):
        with pytest.raises(ValueError, match="p") as wanted:
            pair.ours.encode(pixels, **options)
        with pytest.raises(ValueError, match=re.escape(str(wanted.value))):
            fast.encode(pixels, **options)
    memory = torch.zeros(1, 17, 32)
    with pytest.raises(ValueError, match=f"more than the {MAX_POSITIONS} positions of this decoder"):
        fast.decoder(input_ids=ids(1, MAX_POSITIONS + 1), encoder_hidden_states=memory)
    with pytest.raises(OptimizeError, match="the first step needs the image"):
        fast.decoder(input_ids=ids(1, 3))


def test_what_is_not_kept_is_refused(pair_of):
    pair = pair_of("learned")
    fast, pixels = optimize(pair.ours), images(pair.family, 1)
    with pytest.raises(OptimizeError, match="output_attentions: not kept by an optimized encoder"):
        fast.encode(pixels, output_attentions=True)
    with pytest.raises(OptimizeError, match="ask the model itself"):
        fast.decoder(input_ids=ids(1, 2), encoder_hidden_states=None, output_hidden_states=True)


def test_the_model_stays_as_it_is(pair_of):
    model = pair_of("sinusoidal").fresh()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    fast = optimize(model)
    pixels = images(pair_of("sinusoidal").family, 2)
    first = fast.generate(pixels, max_new_tokens=6)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert torch.equal(fast.generate(pixels, max_new_tokens=6), first)


def test_blocks_of_different_shapes(pair_of):
    from trocr.surgery.pruning import prune_heads, prune_units

    pair = pair_of("learned")
    model = pair.fresh()
    prune_heads(model, {"decoder.blocks.0.cross_attn": [1], "encoder.blocks.1.self_attn": [0]})
    prune_units(model, {"decoder.blocks.1.mlp": [0, 5, 6]})
    pixels = images(pair.family, 3)
    assert torch.equal(
        optimize(model).generate(pixels, max_new_tokens=9), model.generate(pixels, max_new_tokens=9)
    )


def test_adapters_and_hooks_are_refused(pair_of):
    from trocr.surgery.adapters import add_adapter

    model = pair_of("learned").fresh()
    add_adapter(model, modules="*_attn.[qv]_proj", rank=2)
    with pytest.raises(OptimizeError, match=r"q_proj is a .*Merge adapters"):
        optimize(model)
    model = pair_of("learned").fresh()
    handle = model.decoder.blocks[0].mlp.register_forward_hook(lambda *args: None)
    with pytest.raises(OptimizeError, match=r"decoder\.blocks\.0\.mlp has hooks"):
        optimize(model)
    handle.remove()
    optimize(model)


def test_a_backbone_of_timm_is_used_as_it_is(tmp_path):
    torch.manual_seed(0)
    encoder = TimmConfig(architecture="resnet10t", hidden_size=512, image_size=(32, 64))
    decoder = TrOCRConfig(
        vocab_size=50,
        d_model=32,
        decoder_layers=1,
        decoder_attention_heads=2,
        decoder_ffn_dim=32,
        cross_attention_hidden_size=512,
    )
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    model, pixels = VisionEncoderDecoderModel(config).eval(), torch.randn(2, 3, 32, 64)
    fast = optimize(model)
    assert fast.encoder is model.encoder
    assert torch.equal(fast.generate(pixels, max_new_tokens=6), model.generate(pixels, max_new_tokens=6))
    with pytest.raises(OptimizeError, match="an encoder of timm is used as it is"):
        optimize(model, quantize="int8").save_pretrained(tmp_path)
    with pytest.raises(OptimizeError, match="timm's stay in float"):
        optimize(model, quantize="int8", calibration=[pixels])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quantize": "int4"}, "quantize='int4' is unknown"),
        ({"dtype": "float8"}, "dtype 'float8' is unknown"),
        ({"dtype": "float16"}, "it is for GPUs"),
        ({"calibration": []}, "calibration is for int8"),
        ({"calibration": [], "quantize": "int8"}, "no images to measure ranges on"),
        ({"compile": True, "quantize": "int8"}, "compile is for float products"),
    ],
)
def test_what_cannot_be_asked_for(pair_of, options, message):
    with pytest.raises(OptimizeError, match=message):
        optimize(pair_of("learned").ours, **options)
    with pytest.raises(OptimizeError, match="expected a VisionEncoderDecoderModel, got a Linear"):
        optimize(torch.nn.Linear(2, 2))


def test_bf16_where_it_is_emulated_is_refused(pair_of, monkeypatch):
    from trocr.fast import optimizing

    found = dataclasses.replace(optimizing.find_hardware(), instructions=("avx2",), processor="Old One")
    monkeypatch.setattr(optimizing, "find_hardware", lambda: found)
    with pytest.raises(OptimizeError, match="emulated, several times slower than float32"):
        optimize(pair_of("learned").ours, dtype="bfloat16")
    assert optimize(pair_of("learned").ours, dtype="auto").dtype is torch.float32
