"""Every stage of a forward and a backward pass against the reference, in float32, for every family."""

import dataclasses

import pytest
import torch
from families import (
    FAMILIES,
    PAD,
    SQUARE,
    STAGE_TOLERANCE,
    Pair,
    difference,
    gradient_differences,
    hf_output,
    ids,
    images,
    labels,
    stage_differences,
    zero_grad,
)
from transformers.modeling_outputs import BaseModelOutput as HFOutput

from trocr.outputs import BaseModelOutput

BATCH, LENGTH = 4, 11
STATES = {"output_hidden_states": True}


def compare(pair: Pair, reference: dict, ours: dict | None = None) -> dict[str, float]:
    """Run both with the same arguments (or ours with others), and check every stage."""
    with torch.no_grad():
        left = pair.hf(**reference, **STATES)
        right = pair.ours(**(reference if ours is None else ours), **STATES)
    found = stage_differences(left, right)
    worst = {name: value for name, value in found.items() if value > STAGE_TOLERANCE}
    assert not worst, worst
    return found


def test_every_stage_with_labels(pair: Pair) -> None:
    found = compare(pair, {"pixel_values": images(pair.family, BATCH), "labels": labels(BATCH, LENGTH)})
    blocks = pair.family.encoder["num_hidden_layers"] + pair.family.decoder["decoder_layers"]
    assert len(found) == blocks + 5  # two embeddings, the encoder's last norm, logits, loss
    assert "loss" in found


def test_the_stages_depend_on_image_and_text(pair: Pair) -> None:
    """Guards the other tests: with weights too small to matter, anything would agree."""
    with torch.no_grad():
        pixels, tokens = images(pair.family, 1), ids(1, LENGTH)
        base = pair.ours(pixels, tokens).logits
        other_image = pair.ours(images(pair.family, 1, seed=9), tokens).logits
        other_text = pair.ours(pixels, ids(1, LENGTH, seed=9)).logits
    assert difference(base, other_image) > 0.2
    assert difference(base[:, 1:], other_text[:, 1:]) > 0.2
    assert difference(base[:, :1], other_text[:, :1]) < STAGE_TOLERANCE  # nothing looks ahead


def test_every_gradient(pair: Pair) -> None:
    zero_grad(pair)
    inputs = {"pixel_values": images(pair.family, BATCH), "labels": labels(BATCH, LENGTH)}
    pair.hf(**inputs).loss.backward()
    pair.ours(**inputs).loss.backward()
    found = gradient_differences(pair)
    zero_grad(pair)
    assert len(found) == len([name for name, _ in pair.ours.named_parameters() if "pooler" not in name])
    worst = {name: value for name, value in found.items() if value > STAGE_TOLERANCE}
    assert not worst, worst


def test_gradients_with_respect_to_the_image(pair: Pair) -> None:
    grads = []
    for model in (pair.hf, pair.ours):
        pixels = images(pair.family, 2).requires_grad_()
        (grad,) = torch.autograd.grad(model(pixel_values=pixels, labels=labels(2, LENGTH)).loss, pixels)
        grads.append(grad)
    assert difference(*grads) <= STAGE_TOLERANCE


@pytest.mark.parametrize("padding", ["right", "left", "middle"])
def test_padding_and_decoder_mask(pair: Pair, padding: str) -> None:
    tokens = ids(BATCH, LENGTH)
    mask = torch.ones_like(tokens)
    for row in range(1, BATCH):
        hidden = {
            "right": slice(LENGTH - row, None),
            "left": slice(0, row),
            "middle": slice(2, 2 + row),
        }[padding]
        tokens[row, hidden] = PAD
        mask[row, hidden] = 0
    pixels = images(pair.family, BATCH)
    compare(
        pair, {"pixel_values": pixels, "decoder_input_ids": tokens, "decoder_attention_mask": mask, **LABELS}
    )
    # without the mask, padding is seen; sinusoidal positions skip it all the same
    compare(pair, {"pixel_values": pixels, "decoder_input_ids": tokens, **LABELS})
    with torch.no_grad():
        seen = pair.ours(pixels, tokens).logits
        hidden = pair.ours(pixels, tokens, decoder_attention_mask=mask.bool()).logits
    assert torch.equal(seen[0], hidden[0])
    assert difference(seen[-1], hidden[-1]) > 0.02


LABELS = {"labels": labels(BATCH, LENGTH)}


def test_labels_beside_other_decoder_inputs(pair: Pair) -> None:
    """Labels are not shifted when the decoder's input is given, and -100 alone is ignored: padding counts."""
    target = labels(BATCH, LENGTH)
    target[0, 3] = PAD
    compare(
        pair,
        {
            "pixel_values": images(pair.family, BATCH),
            "decoder_input_ids": ids(BATCH, LENGTH),
            "labels": target,
        },
    )


def test_decoder_inputs_embeds(pair: Pair) -> None:
    """Embeddings instead of ids: not scaled again. The reference cannot do it with sinusoidal positions."""
    tokens, pixels = ids(BATCH, LENGTH), images(pair.family, BATCH)
    with torch.no_grad():
        embeds = pair.ours.decoder.embed_tokens(tokens)
        expected = pair.ours(pixels, tokens)
        ours = pair.ours(pixels, decoder_inputs_embeds=embeds)
    assert torch.equal(ours.logits, expected.logits)
    if pair.family.decoder.get("use_learned_position_embeddings", True):
        compare(pair, {"pixel_values": pixels, "decoder_inputs_embeds": embeds, **LABELS})
    else:
        with pytest.raises((AttributeError, TypeError)):
            pair.hf(pixel_values=pixels, decoder_inputs_embeds=embeds)


@pytest.mark.parametrize("form", ["own", "tuple", "reference", "other object"])
def test_encoder_outputs_of_an_earlier_call(pair: Pair, form: str) -> None:
    pixels, tokens = images(pair.family, BATCH), ids(BATCH, LENGTH)
    with torch.no_grad():
        encoded = pair.ours.encode(pixels).last_hidden_state
        whole = pair.ours(pixels, tokens)
        given = {
            "own": BaseModelOutput(last_hidden_state=encoded),
            "tuple": (encoded,),
            "reference": HFOutput(last_hidden_state=encoded),
            "other object": hf_output(encoded),
        }[form]
        ours = pair.ours(encoder_outputs=given, decoder_input_ids=tokens)
        reference = pair.hf(encoder_outputs=(encoded,), decoder_input_ids=tokens)
    assert torch.equal(ours.logits, whole.logits)
    assert torch.equal(ours.encoder_last_hidden_state, encoded)
    assert difference(reference.logits, ours.logits) <= STAGE_TOLERANCE


SIZES = [(32, 32), (48, 64), (64, 48), (16, 16), (8, 8), (33, 47), (32, 39), (8, 80)]


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("name", SQUARE)
def test_other_image_sizes(pair_of, name: str, size: tuple[int, int]) -> None:
    pair = pair_of(name)
    pixels = images(pair.family, 2, size=size)
    compare(pair, {"pixel_values": pixels, "interpolate_pos_encoding": True, "labels": labels(2, LENGTH)})
    if size != pair.family.image_hw:
        with pytest.raises(ValueError, match="interpolate_pos_encoding=True"):
            pair.ours(pixels, ids(2, LENGTH))


def test_other_image_sizes_of_a_model_that_is_not_square(pair_of) -> None:
    """The reference takes every base for a square, so a square model with the same table is the judge."""
    pair = pair_of("non_square")
    pixels = images(pair.family, 2)
    with torch.no_grad():
        plain = pair.ours.encode(pixels).last_hidden_state
        same = pair.ours.encode(pixels, interpolate_pos_encoding=True).last_hidden_state
        larger = pair.ours.encode(images(pair.family, 2, size=(48, 80)), interpolate_pos_encoding=True)
    assert torch.equal(plain, same)
    assert larger.last_hidden_state.shape == (2, 1 + 3 * 20, 32)
    with pytest.raises((ValueError, RuntimeError, TypeError)):
        pair.hf(
            pixel_values=images(pair.family, 2, size=(48, 80)),
            decoder_input_ids=ids(2, 3),
            interpolate_pos_encoding=True,
        )


@pytest.mark.parametrize("core", ["sdpa", "eager"])
def test_attention_probabilities(pair: Pair, core: str) -> None:
    pixels, target = images(pair.family, BATCH), labels(BATCH, LENGTH)
    reference, ours = pair.hf, pair.fresh(attn_implementation=core)
    reference.encoder.set_attn_implementation("eager")
    with torch.no_grad():
        left = reference(pixel_values=pixels, labels=target, output_attentions=True)
        right = ours(pixel_values=pixels, labels=target, output_attentions=True)
    reference.encoder.set_attn_implementation("sdpa")
    for name in ("encoder_attentions", "decoder_attentions", "cross_attentions"):
        assert len(left[name]) == len(right[name]) == 2
        for one, other in zip(left[name], right[name], strict=True):
            assert difference(one, other) <= STAGE_TOLERANCE, name
            torch.testing.assert_close(other.sum(dim=-1), torch.ones_like(other.sum(dim=-1)))
    causal = right.decoder_attentions[0]
    assert bool((causal.triu(1) == 0).all())
    assert difference(left.logits, right.logits) <= STAGE_TOLERANCE


def test_the_eager_core_equals_the_fused_one(pair: Pair) -> None:
    inputs = {"pixel_values": images(pair.family, BATCH), "labels": labels(BATCH, LENGTH), **STATES}
    zero_grad(pair)
    fused = pair.ours(**inputs)
    fused.loss.backward()
    eager_model = pair.fresh(attn_implementation="eager")
    eager = eager_model(**inputs)
    eager.loss.backward()
    assert max(stage_differences(fused, eager).values()) <= STAGE_TOLERANCE
    twin = dataclasses.replace(pair, hf=pair.hf, ours=eager_model)
    pair.hf(**inputs).loss.backward()
    assert max(gradient_differences(twin).values()) <= STAGE_TOLERANCE
    zero_grad(pair)


@pytest.mark.parametrize("name", FAMILIES)
def test_training_mode_without_dropout_changes_nothing(pair_of, name: str) -> None:
    pair = pair_of(name)
    inputs = {"pixel_values": images(pair.family, 2), "labels": labels(2, LENGTH), **STATES}
    model = pair.fresh()
    with torch.no_grad():
        evaluated = model(**inputs)
        trained = model.train()(**inputs)
    assert max(stage_differences(evaluated, trained).values()) == 0.0
