"""Parity where configurations are unusual: options that no release combines, and values at the edge."""

import pytest
import torch
from families import (
    FAMILIES,
    MAX_POSITIONS,
    STAGE_TOLERANCE,
    Family,
    gradient_differences,
    ids,
    images,
    stage_differences,
)

L, S, U, P = (FAMILIES[name] for name in ("learned", "sinusoidal", "unilm", "projection"))

ODD: dict[str, Family] = {
    "learned, no norm of embeddings": L.changed(decoder={"layernorm_embedding": False}),
    "learned, scaled embeddings": L.changed(decoder={"scale_embedding": True}),
    "learned, untied": L.changed(decoder={"tie_word_embeddings": False}),
    "sinusoidal, norm of embeddings": S.changed(decoder={"layernorm_embedding": True}),
    "sinusoidal, tied": S.changed(decoder={"tie_word_embeddings": True}),
    "sinusoidal, not scaled": S.changed(decoder={"scale_embedding": False}),
    "sinusoidal, odd width": S.changed(decoder={"d_model": 45, "decoder_attention_heads": 5}),
    "sinusoidal, four wide": S.changed(decoder={"d_model": 4, "decoder_attention_heads": 1}),
    "sinusoidal, padding is 0": S.changed(decoder={"pad_token_id": 0, "bos_token_id": 1}),
    "sinusoidal, padding is 50": S.changed(decoder={"pad_token_id": 50}),
    "one block each": L.changed(encoder={"num_hidden_layers": 1}, decoder={"decoder_layers": 1}),
    "more blocks": S.changed(encoder={"num_hidden_layers": 5}, decoder={"decoder_layers": 4}),
    "one head each": L.changed(encoder={"num_attention_heads": 1}, decoder={"decoder_attention_heads": 1}),
    "heads of width 1": L.changed(
        encoder={"num_attention_heads": 32}, decoder={"decoder_attention_heads": 48}
    ),
    "vit with biases": L.changed(encoder={"qkv_bias": True}),
    "deit without biases": U.changed(encoder={"qkv_bias": False}),
    "image not a multiple of the patch": L.changed(encoder={"image_size": 37}),
    "neither, and not square": L.changed(encoder={"image_size": [35, 50], "patch_size": [8, 16]}),
    "one patch": U.changed(encoder={"image_size": 8}),
    "grey": L.changed(encoder={"num_channels": 1}),
    "large epsilon": L.changed(encoder={"layer_norm_eps": 0.01}),
    "pooler of another width": L.changed(encoder={"pooler_output_size": 7, "pooler_act": "relu"}),
    "vocabulary not a multiple of 8": L.changed(decoder={"vocab_size": 101}),
    "starts with 0": L.changed(decoder={"decoder_start_token_id": 0}),
    "several end tokens": L.changed(decoder={"eos_token_id": [2, 3]}),
    "projection with biased keys": P.changed(encoder={"qkv_bias": True}),
    "same widths, no projection": L.changed(
        encoder={"hidden_size": 48, "num_attention_heads": 3}, decoder={"cross_attention_hidden_size": None}
    ),
    "dropouts, not in training": L.changed(
        encoder={"hidden_dropout_prob": 0.5, "attention_probs_dropout_prob": 0.5},
        decoder={
            "dropout": 0.5,
            "attention_dropout": 0.5,
            "activation_dropout": 0.5,
            "decoder_layerdrop": 0.9,
        },
    ),
    **{
        name: L.changed(encoder={"hidden_act": name}, decoder={"activation_function": name})
        for name in ("gelu_new", "gelu_pytorch_tanh", "quick_gelu", "silu", "swish", "relu", "tanh")
    },
}


DOUBLE_TOLERANCE = 1e-11
"""For gradients in float64, relative as in `gradient_differences`. In float32 some tiny gradients of these
models, sums of large terms that cancel, are off by 4e-5 in both implementations."""


@pytest.mark.parametrize("odd", ODD)
def test_unusual_options(new_pair, odd: str) -> None:
    family = ODD[odd]
    pair = new_pair(family)
    pad = family.decoder.get("pad_token_id", 1)
    tokens = ids(3, 12)
    tokens[0, 4], tokens[1, 9:], tokens[2, 5:7] = pad, pad, pad
    target = tokens.roll(-1, dims=1).masked_fill(tokens == pad, -100)
    inputs = {"pixel_values": images(family, 3), "decoder_input_ids": tokens, "labels": target}
    with torch.no_grad():
        left = pair.hf(**inputs, output_hidden_states=True)
        right = pair.ours(**inputs, output_hidden_states=True)
    found = stage_differences(left, right)
    assert max(found.values()) <= STAGE_TOLERANCE, found
    with torch.no_grad():  # the start token and the shift
        one = pair.hf(pixel_values=inputs["pixel_values"], labels=target).logits
        other = pair.ours(inputs["pixel_values"], labels=target).logits
    assert float((one - other).abs().max()) <= STAGE_TOLERANCE * float(one.abs().max())
    inputs["pixel_values"] = inputs["pixel_values"].double()
    pair.hf.double()(**inputs).loss.backward()
    pair.ours.double()(**inputs).loss.backward()
    grads = gradient_differences(pair)
    assert max(grads.values()) <= DOUBLE_TOLERANCE, grads


@pytest.mark.parametrize("rows_and_length", [(1, 1), (1, MAX_POSITIONS), (5, 1), (2, 2)], ids=str)
def test_smallest_and_longest(pair, rows_and_length: tuple[int, int]) -> None:
    rows, length = rows_and_length
    inputs = {"pixel_values": images(pair.family, rows), "decoder_input_ids": ids(rows, length)}
    with torch.no_grad():
        left = pair.hf(**inputs, output_hidden_states=True)
        right = pair.ours(**inputs, output_hidden_states=True)
    assert max(stage_differences(left, right).values()) <= STAGE_TOLERANCE


@pytest.mark.parametrize("size", [0.0, 1e-6, 1e3, 1e6])
def test_pixels_of_any_size(pair, size: float) -> None:
    inputs = {"pixel_values": images(pair.family, 2) * size, "decoder_input_ids": ids(2, 9)}
    with torch.no_grad():
        left = pair.hf(**inputs, output_hidden_states=True)
        right = pair.ours(**inputs, output_hidden_states=True)
    assert max(stage_differences(left, right).values()) <= STAGE_TOLERANCE


def test_one_token_beyond_the_positions(pair) -> None:
    """The reference indexes beyond its table, or grows a sinusoidal one; here it is one clear error."""
    with pytest.raises(ValueError, match=r"41 tokens are more than the 40 positions of this decoder"):
        pair.ours(images(pair.family, 1), ids(1, MAX_POSITIONS + 1))


CHOOSY_TOLERANCE = 5e-4
"""Where attention picks single tokens, rounding is amplified; measured against float64 both implementations
are off by as much as they differ from one another."""


@pytest.mark.parametrize("gain", [5.0, 20.0])
def test_weights_that_amplify_rounding(new_pair, gain: float) -> None:
    pair = new_pair(L, gain=gain)
    inputs = {"pixel_values": images(L, 4), "decoder_input_ids": ids(4, 12), "output_hidden_states": True}
    with torch.no_grad():
        left, right = pair.hf(**inputs), pair.ours(**inputs)
        exact = pair.fresh(dtype="float64")(**inputs)
    scale = float(exact.logits.abs().max())
    ours_off = float((right.logits - exact.logits).abs().max()) / scale
    theirs_off = float((left.logits - exact.logits).abs().max()) / scale
    assert ours_off <= max(3 * theirs_off, STAGE_TOLERANCE)
    assert max(stage_differences(left, right).values()) <= CHOOSY_TOLERANCE
