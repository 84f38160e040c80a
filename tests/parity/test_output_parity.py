"""What a forward pass gives back: names, order and number of fields, as in the reference."""

import pytest
import torch
from families import STAGE_TOLERANCE, Pair, difference, ids, images, labels
from torch import Tensor

from trocr import DecoderCache, TrOCRDecoder, TrOCRForCausalLM, ViTModel
from trocr.outputs import Seq2SeqLMOutput

LENGTH = 7
REQUESTS = [
    {},
    {"output_hidden_states": True},
    {"output_attentions": True},
    {"use_cache": True},
    {"output_hidden_states": True, "output_attentions": True, "use_cache": True},
]


def names(request: dict) -> str:
    return "+".join(request) or "plain"


def shapes(value: object) -> object:
    """Shapes of a nested result; a cache counts as one thing."""
    if isinstance(value, Tensor):
        return tuple(value.shape)
    if isinstance(value, tuple):
        return tuple(shapes(one) for one in value)
    return "cache"


@pytest.fixture(autouse=True)
def eager_reference(pair: Pair):
    pair.hf.encoder.set_attn_implementation("eager")  # its fused attention gives no probabilities
    yield
    pair.hf.encoder.set_attn_implementation("sdpa")


@pytest.mark.parametrize("with_labels", [False, True], ids=["inputs", "labels"])
@pytest.mark.parametrize("request_", REQUESTS, ids=names)
def test_names_and_order_of_fields(pair: Pair, request_: dict, with_labels: bool) -> None:
    inputs = {"pixel_values": images(pair.family, 2), **request_}
    inputs["labels" if with_labels else "decoder_input_ids"] = (
        labels(2, LENGTH) if with_labels else ids(2, LENGTH)
    )
    with torch.no_grad():
        reference, ours = pair.hf(**inputs), pair.ours(**inputs)
        as_tuple = pair.ours(**inputs, return_dict=False)
    assert isinstance(ours, Seq2SeqLMOutput)
    assert list(ours) == list(ours.keys()) == list(reference.keys())
    assert len(ours) == len(reference) == len(as_tuple)
    assert shapes(ours.to_tuple()) == shapes(reference.to_tuple())
    assert shapes(as_tuple) == shapes(ours.to_tuple())
    assert isinstance(as_tuple, tuple)
    for field in ("decoder_hidden_states", "encoder_hidden_states"):
        assert (ours[field] is not None if field in reference else ours.get(field) is None) is True


def test_reading_an_output_by_name_index_and_slice(pair: Pair) -> None:
    with torch.no_grad():
        out = pair.ours(images(pair.family, 2), labels=labels(2, LENGTH))
    assert out.loss is out["loss"] is out[0]
    assert out.logits is out["logits"] is out[1]
    assert out[:2] == (out.loss, out.logits)
    assert "loss" in out
    assert "past_key_values" not in out
    assert out.get("past_key_values") is None
    assert dict(out.items()).keys() == dict(zip(out.keys(), out.values(), strict=True)).keys()
    with pytest.raises(KeyError, match=r"has no 'attentions'; present: loss, logits"):
        out["attentions"]


def test_a_tuple_differs_from_the_reference_in_the_pooler_alone(pair: Pair) -> None:
    """The reference's tuple also holds the encoder's pooler output, which its output object drops."""
    inputs = {"pixel_values": images(pair.family, 2), "labels": labels(2, LENGTH)}
    with torch.no_grad():
        reference = pair.hf(**inputs, return_dict=False)
        ours = pair.ours(**inputs, return_dict=False)
    assert len(reference) == len(ours) + 1
    for one, other in zip(reference, ours, strict=False):
        assert difference(one, other) <= STAGE_TOLERANCE


def test_none_means_not_asked_for(pair: Pair) -> None:
    """Scripts pass None for "as configured"."""
    pixels, tokens = images(pair.family, 2), ids(2, LENGTH)
    nothing = dict.fromkeys(
        ("output_attentions", "output_hidden_states", "return_dict", "use_cache", "interpolate_pos_encoding")
    )
    with torch.no_grad():
        plain, out = pair.ours(pixels, tokens), pair.ours(pixels, tokens, **nothing)
        encoded = pair.ours.encoder(
            pixels,
            **{k: nothing[k] for k in ("output_attentions", "output_hidden_states", "return_dict")},
        )
        decoded = pair.ours.decoder(tokens, output_attentions=None, return_dict=None)
    assert list(out) == list(plain) == ["logits", "encoder_last_hidden_state"]
    assert torch.equal(out.logits, plain.logits)
    assert encoded.last_hidden_state.shape[0] == 2
    assert decoded.logits.shape == plain.logits.shape


def test_the_encoder_alone(pair: Pair) -> None:
    pixels = images(pair.family, 2)
    request = {"output_hidden_states": True, "output_attentions": True}
    assert isinstance(pair.ours.get_encoder(), ViTModel)
    with torch.no_grad():
        reference, ours = pair.hf.encoder(pixels, **request), pair.ours.encoder(pixels, **request)
        as_tuple = pair.ours.encoder(pixels, **request, return_dict=False)
    assert list(ours) == list(reference.keys())
    assert shapes(ours.to_tuple()) == shapes(reference.to_tuple()) == shapes(as_tuple)
    for name in ("last_hidden_state", "pooler_output"):
        assert difference(reference[name], ours[name]) <= STAGE_TOLERANCE


@pytest.mark.parametrize("with_image", [True, False], ids=["image", "no_image"])
def test_the_decoder_alone(pair: Pair, with_image: bool, tmp_path) -> None:
    tokens = ids(2, LENGTH)
    inputs = {"input_ids": tokens, "output_hidden_states": True, "output_attentions": True, "use_cache": True}
    decoder = pair.ours.get_decoder()
    assert isinstance(decoder, TrOCRForCausalLM)
    with torch.no_grad():
        if with_image:
            encoded = pair.ours.encode(images(pair.family, 2))
            inputs["encoder_hidden_states"] = pair.ours.memory(encoded)
            inputs["encoder_attention_mask"] = torch.ones(inputs["encoder_hidden_states"].shape[:2]).long()
            inputs["encoder_attention_mask"][1, 3:] = 0
        reference = pair.hf.decoder(**inputs, labels=tokens)
        ours = decoder(**inputs, labels=tokens)
        stack = TrOCRDecoder(decoder.config)
        stack.load_state_dict(
            {k: v for k, v in decoder.state_dict().items() if not k.startswith("output_projection")}
        )
        states = stack.eval()(**inputs)
        theirs = pair.hf.decoder.model.decoder(**inputs)
    assert list(ours) == list(reference.keys())
    assert difference(reference.logits, ours.logits) <= STAGE_TOLERANCE
    assert difference(reference.loss, ours.loss) <= STAGE_TOLERANCE
    assert isinstance(ours.past_key_values, DecoderCache)
    assert list(states) == list(theirs.keys())
    assert difference(theirs.last_hidden_state, states.last_hidden_state) <= STAGE_TOLERANCE
    for name in ("hidden_states", "attentions", "cross_attentions"):
        for one, other in zip(theirs.get(name) or (), states.get(name) or (), strict=True):
            assert difference(one, other) <= STAGE_TOLERANCE
    if with_image:
        assert len(ours.cross_attentions) == len(decoder.blocks)
        assert bool((ours.cross_attentions[0][1, :, :, 3:] == 0).all())


def test_wrong_combinations_are_refused(pair: Pair) -> None:
    pixels, tokens = images(pair.family, 2), ids(2, LENGTH)
    embeds = pair.ours.decoder.embed_tokens(tokens)
    with pytest.raises(ValueError, match="pixel_values is missing"):
        pair.ours(decoder_input_ids=tokens)
    with pytest.raises(ValueError, match="either token ids or their embeddings, neither were given"):
        pair.ours(pixels)
    with pytest.raises(ValueError, match="either token ids or their embeddings, both were given"):
        pair.ours(pixels, tokens, decoder_inputs_embeds=embeds)
    with pytest.raises(ValueError, match=r"attention_mask covers 3 tokens, expected 7"):
        pair.ours(pixels, tokens, decoder_attention_mask=torch.ones(2, 3))
    with pytest.raises(
        IndexError, match=r"token ids from 2 to 99 were given, the vocabulary has ids 0 to 98"
    ):
        pair.ours(pixels, torch.tensor([[2, 99], [2, 3]]))
    with pytest.raises(ValueError, match=r"labels range from 3 to 200, expected ids 0 to 98"):
        pair.ours(pixels, tokens[:, :2], labels=torch.tensor([[3, 200], [4, 5]]))
    with pytest.raises(ValueError, match=r"labels have shape \(2, 3\), logits are for \(2, 7\)"):
        pair.ours(pixels, tokens, labels=tokens[:, :3])


def test_ids_labels_and_masks_of_any_integer_type(pair: Pair) -> None:
    pixels, tokens, target = images(pair.family, 2), ids(2, LENGTH), labels(2, LENGTH)
    mask = torch.ones_like(tokens)
    mask[1, 4:] = 0
    with torch.no_grad():
        expected = pair.ours(pixels, tokens, decoder_attention_mask=mask, labels=target)
        for dtype in (torch.int32, torch.int16, torch.int8):
            found = pair.ours(
                pixels.double(), tokens.int(), decoder_attention_mask=mask.bool(), labels=target.to(dtype)
            )
            assert torch.equal(found.loss, expected.loss)
            assert torch.equal(found.logits, expected.logits)
        layout = pixels.transpose(2, 3).contiguous().transpose(2, 3), tokens.t().contiguous().t()
        found = pair.ours(*layout, decoder_attention_mask=mask.float(), labels=target)
        assert difference(expected.logits, found.logits) <= STAGE_TOLERANCE
