"""What a user of an optimized model could trip over: gradients, copies, threads, odd inputs and tokens."""

import copy
import pickle
import threading
import warnings

import pytest
import torch
from families import PAD, START, ids, images

from trocr import OptimizeError, optimize
from trocr.cache import DecoderCache
from trocr.fast import encoder as encoder_module
from trocr.fast.layers import Kernels
from trocr.fast.model import FastModel, Settings
from trocr.fast.slots import Row, Slots
from trocr.fast.weights import collect

TOLERANCE = 2e-5
"""Float32, relative to the largest value: other kernels sum in another order."""


@pytest.fixture
def fast(pair_of):
    return optimize(pair_of("learned").ours)


@pytest.fixture
def pixels(pair_of):
    return images(pair_of("learned").family, 3)


def relative(found, wanted):
    assert found.shape == wanted.shape
    return float((found - wanted).abs().max() / wanted.abs().max())


def test_states_can_be_learned_from(fast, pixels):
    states = fast.encode(pixels).last_hidden_state
    probe = torch.nn.Linear(states.shape[-1], 2)
    probe(states).square().sum().backward()
    assert probe.weight.grad.abs().sum() > 0
    states.add_(1)


def test_there_are_no_gradients_of_images(fast, pixels):
    """Instead of wrong ones: the kernels have none."""
    encoded = fast.encode(pixels.requires_grad_())
    assert not encoded.last_hidden_state.requires_grad
    memory = fast.memory(encoded).requires_grad_()
    assert not fast.decoder(input_ids=ids(3, 4), encoder_hidden_states=memory).logits.requires_grad


@pytest.mark.parametrize("num_beams", [1, 2])
def test_results_of_generation_are_ordinary_tensors(fast, pixels, num_beams):
    options = {"max_new_tokens": 4, "num_beams": num_beams}
    tokens = fast.generate(pixels, **options)
    tokens[:, 0] = 7
    out = fast.generate(
        pixels, output_logits=True, output_scores=True, return_dict_in_generate=True, **options
    )
    assert torch.equal(out.sequences[:, 1:], tokens[:, 1:])
    for tensor in (out.sequences, out.token_log_probs, out.finished, *out.logits, *out.scores):
        assert not tensor.is_inference()
        tensor.zero_()
    with torch.inference_mode():
        assert fast.generate(pixels, **options).is_inference()


def test_a_cache_goes_on_outside_of_generation(fast, pixels):
    out = fast.generate(pixels, max_new_tokens=4, return_dict_in_generate=True)
    more = fast.decoder(input_ids=out.sequences[:, -1:], past_key_values=out.past_key_values)
    whole = fast.decoder(
        input_ids=out.sequences, encoder_hidden_states=fast.memory(fast.encode(pixels)), use_cache=None
    )
    assert relative(more.logits[:, -1], whole.logits[:, -1]) < TOLERANCE
    assert whole.past_key_values.length == out.sequences.shape[1]


def test_the_second_name_of_images(fast, pixels, pair_of):
    wanted = fast.generate(pixels, max_new_tokens=4)
    assert torch.equal(fast.generate(inputs=pixels, max_new_tokens=4), wanted)
    with pytest.raises(ValueError, match="is pixel_values, also given by name"):
        fast.generate(pixels, inputs=pixels)


def test_copies_are_refused(fast):
    for copied in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(OptimizeError, match="cannot be copied or sent to another process"):
            copied(fast)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.long, torch.bool])
def test_images_that_no_processor_has_seen(fast, pixels, dtype):
    with pytest.raises(ValueError, match=rf"pixel_values are {dtype}, expected floating point"):
        fast.encode((pixels * 100).to(dtype))


def test_images_in_half_precision(fast, pixels):
    wanted = fast.encode(pixels.bfloat16().float()).last_hidden_state
    assert torch.equal(fast.encode(pixels.bfloat16()).last_hidden_state, wanted)


def test_no_images(fast, pixels):
    assert fast.encode(pixels[:0]).last_hidden_state.shape == (0, 17, 32)


def test_tokens_outside_the_vocabulary(fast, pixels):
    memory = fast.memory(fast.encode(pixels))
    with pytest.raises(IndexError, match="token ids from 2 to 99 were given, the vocabulary has ids 0 to 98"):
        fast.decoder(input_ids=torch.tensor([[2, 99]] * 3), encoder_hidden_states=memory)


@pytest.mark.parametrize(
    "options",
    [
        {"labels": torch.ones(3, 2, dtype=torch.long)},
        {"encoder_attention_mask": torch.ones(3, 17)},
        {"inputs_embeds": torch.zeros(3, 2, 48)},
    ],
    ids=lambda options: next(iter(options)),
)
def test_arguments_that_reading_does_not_need(fast, pixels, options):
    memory = fast.memory(fast.encode(pixels))
    given = {"input_ids": ids(3, 2), "encoder_hidden_states": memory}
    with pytest.raises(OptimizeError, match=f"{next(iter(options))}: an optimized decoder does nothing but"):
        fast.decoder(**given, **options)
    empty = dict.fromkeys(options)
    assert fast.decoder(**given, **empty, return_dict=True).logits.shape == (3, 2, 99)


def test_images_go_through_the_encoder_a_few_at_a_time(pair, monkeypatch):
    fast, pixels = optimize(pair.ours), images(pair.family, 7)
    whole = fast.encode(pixels).last_hidden_state
    for rows in (1, whole.shape[1], 2 * whole.shape[1], 3 * whole.shape[1] + 1):
        monkeypatch.setattr(encoder_module, "ROWS", rows)
        assert relative(fast.encode(pixels).last_hidden_state, whole) < TOLERANCE


@torch.inference_mode()
def test_padding_inside_a_text(pair):
    """Sinusoidal positions are zero at padding tokens, and do not count them within one call."""
    fast = optimize(pair.ours)
    tokens = ids(3, 9)
    tokens[0, 3] = tokens[1, 5:7] = tokens[2, 1] = tokens[2, 8] = PAD
    encoded = pair.ours.encode(images(pair.family, 3))
    memory = pair.ours.memory(encoded)
    caches = [DecoderCache(2), DecoderCache(2)]
    for part in (tokens[:, :4], *tokens[:, 4:].split(1, dim=1)):
        wanted, found = (
            decoder(input_ids=part, encoder_hidden_states=memory, past_key_values=cache, use_cache=True)
            for decoder, cache in zip((pair.ours.decoder, fast.decoder), caches, strict=True)
        )
        assert relative(found.logits, wanted.logits) < TOLERANCE


def test_texts_with_padding_inside(pair_of):
    """The commonest token of this model changes places with the padding token, which is then written."""
    pair = pair_of("sinusoidal")
    model, pixels = pair.fresh(), images(pair.family, 6)
    common = int(model.generate(pixels, max_new_tokens=10)[:, 1:].mode().values[0])
    weight = model.decoder.output_projection.weight
    with torch.no_grad():
        weight[[PAD, common]] = weight[[common, PAD]]
    fast, options = optimize(model), {"max_new_tokens": 12}
    wanted = model.generate(pixels, **options)
    assert (wanted == PAD).any()
    assert torch.equal(fast.generate(pixels, **options), wanted)
    with torch.inference_mode():
        memory = fast.memory(fast.encode(pixels))
    slots = Slots(fast.decoder, capacity=2, start_token_id=START, end_tokens=[98])
    waiting, done = list(range(6)), {}
    while waiting or slots.active:
        chosen, waiting = waiting[: slots.free], waiting[slots.free :]
        slots.admit([Row(n, 12 - n % 3) for n in chosen], [memory[n] for n in chosen])
        done.update({row.key: row.ids for row in slots.step()})
    assert done == {n: wanted[n, 1 : 13 - n % 3].tolist() for n in range(6)}


def test_filters_of_warnings_belong_to_all_threads(pair_of, monkeypatch):
    """They are not touched while a model reads, in whatever thread: two at once could leave them changed."""
    pair = pair_of("unilm")
    pixels = images(pair.family, 2)
    calibrated = optimize(pair.ours, quantize="int8", calibration=[pixels])
    dynamic = optimize(pair.ours, quantize="int8")
    with monkeypatch.context() as patched:
        patched.setattr(warnings, "catch_warnings", None)
        found = [fast.generate(pixels, max_new_tokens=4) for fast in (calibrated, dynamic)]
    assert [tokens.shape for tokens in found] == [(2, 5), (2, 5)]


def test_threads_share_a_model(pair_of):
    pair = pair_of("learned")
    fast, results = optimize(pair.ours), {}

    def work(seed):
        results[seed] = fast.generate(images(pair.family, 4, seed=seed), max_new_tokens=15)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed in range(5):
        wanted = fast.generate(images(pair.family, 4, seed=seed), max_new_tokens=15)
        assert torch.equal(results[seed], wanted)


def test_queries_are_scaled_without_rounding(pair_of):
    """In half precision in memory, a head of 12 has a scale that is no power of two."""
    pair = pair_of("learned")
    model = pair.fresh(dtype=torch.bfloat16)
    wanted = optimize(pair.fresh(dtype=torch.bfloat16).float())
    tokens, pixels = ids(2, 5), images(pair.family, 2)
    found = optimize(model)
    memory = wanted.memory(wanted.encode(pixels))
    one, two = (
        fast.decoder(input_ids=tokens, encoder_hidden_states=memory).logits for fast in (found, wanted)
    )
    assert relative(one, two) < TOLERANCE


@pytest.mark.parametrize("name", ["learned", "sinusoidal", "unilm", "projection"])
def test_everything_is_computed_where_the_model_is(pair_of, name):
    """The meta device stands for a GPU: what meets a tensor of the processor there is an error."""
    pair = pair_of(name)
    model = pair.ours
    tensors = {key: tensor.to("meta") for key, tensor in collect(model).items()}
    fast = FastModel(
        model.config, model.generation_config, tensors, Kernels(torch.bfloat16, packed=False), Settings()
    )
    assert fast.device.type == "meta"
    memory = fast.memory(fast.encode(images(pair.family, 4).to("meta")))
    cache, tokens = DecoderCache(2), ids(4, 6).to("meta")
    for part, keep in ((tokens[:, :3], torch.ones(4, 3)), (tokens[:, 3:4], None), (tokens[:, 4:], None)):
        out = fast.decoder(
            input_ids=part,
            attention_mask=None if keep is None else keep.to("meta"),
            encoder_hidden_states=memory,
            past_key_values=cache,
        )
        assert out.logits.device.type == "meta"
    assert cache.length == 6


def test_compiling_needs_a_compiler(pair_of, monkeypatch):
    from torch._inductor import cpp_builder
    from torch._inductor.exc import InvalidCxxCompiler

    def none():
        raise InvalidCxxCompiler

    monkeypatch.setattr(cpp_builder, "get_cpp_compiler", none)
    with pytest.raises(OptimizeError, match=r"compile=True needs a C\+\+ compiler, and none was found"):
        optimize(pair_of("learned").ours, compile=True)


@pytest.mark.slow
def test_a_compiled_encoder_computes_the_same(pair_of):
    pair = pair_of("non_square")
    compiled, pixels = optimize(pair.ours, compile=True), images(pair.family, 3)
    for part in (pixels, pixels[:1]):
        wanted = pair.ours.encode(part).last_hidden_state
        assert relative(compiled.encode(part).last_hidden_state, wanted.detach()) < TOLERANCE
    narrow = images(pair.family, 2, size=(32, 24))
    wanted = pair.ours.encode(narrow, crop_pos_encoding=True).last_hidden_state
    found = compiled.encode(narrow, crop_pos_encoding=True).last_hidden_state
    assert relative(found, wanted.detach()) < TOLERANCE
