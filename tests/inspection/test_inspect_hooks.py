"""Taps: what they give is what the model computes, and reading changes nothing."""

import pytest
import torch
import torch.nn.functional as F
from inspected import hooks, ids, images, make_model
from tapped import ROUNDING, close, cores, forward, taps_of
from torch import nn

from trocr.inspect import capture, list_taps, patch
from trocr.surgery.patterns import SurgeryError


def test_each_tap_is_called_once_and_has_the_shape_that_its_letters_say(model):
    encoder, decoder = model.config.encoder, model.config.decoder
    taps = list_taps(model)
    with capture(model) as captured:
        forward(model)
    assert [tap.name for tap in taps] == list(captured)
    for tap in taps:
        (value,) = captured[tap.name]
        inside = encoder if tap.name.startswith("encoder") else decoder
        letters = {
            "B": 2, "B'": 2, "1": 1, "T": 5, "T'": 5, "V": decoder.vocab_size, "D": decoder.d_model,
            "S": encoder.num_prefix_tokens + encoder.num_patches,
            "rows": encoder.grid[0], "columns": encoder.grid[1],
            "D_enc": encoder.hidden_size, "D_mem": decoder.cross_attention_hidden_size or decoder.d_model,
            "H": inside.num_attention_heads, "K": inside.head_dim, "H*K": inside.hidden_size,
            "F": encoder.intermediate_size if inside is encoder else decoder.decoder_ffn_dim,
        }  # fmt: skip
        shapes = [
            tuple(letters[letter] for letter in shape.strip("()").split(", "))
            for shape in tap.shape.split(" or ")
        ]
        assert tuple(value.shape) in shapes, (tap, value.shape)


def test_taps_give_what_the_model_computes(model):
    out = forward(model, output_attentions=True, output_hidden_states=True)
    got = taps_of(model)
    assert torch.equal(got["encoder.embeddings"], out.encoder_hidden_states[0])
    assert torch.equal(got["encoder.norm"], out.encoder_last_hidden_state)
    assert torch.equal(got["decoder.embed_norm"], out.decoder_hidden_states[0])
    assert torch.equal(got["decoder.output_projection"], out.logits)
    for i in range(2):
        assert torch.equal(got[f"encoder.blocks.{i}.mlp_resid"], out.encoder_hidden_states[i + 1])
        assert torch.equal(got[f"encoder.blocks.{i}.self_attn.probs"], out.encoder_attentions[i])
        assert torch.equal(got[f"decoder.blocks.{i}.mlp_norm"], out.decoder_hidden_states[i + 1])
        assert torch.equal(got[f"decoder.blocks.{i}.self_attn.probs"], out.decoder_attentions[i])
        assert torch.equal(got[f"decoder.blocks.{i}.cross_attn.probs"], out.cross_attentions[i])


def test_parts_of_a_sub_layer_add_up(model):
    got = taps_of(model)
    embeddings = model.encoder.embeddings
    patches = got["encoder.embeddings.patch_embeddings"].flatten(2).transpose(1, 2)
    summed = patches + got["encoder.embeddings.positions"][:, embeddings.num_prefix :]
    assert close(got["encoder.embeddings"][:, embeddings.num_prefix :], summed)
    block = "encoder.blocks.1"
    after = got["encoder.blocks.0.mlp_resid"] + got[f"{block}.self_attn.out_proj"]
    assert close(got[f"{block}.attn_resid"], after)
    assert close(got[f"{block}.mlp_resid"], after + got[f"{block}.mlp.fc2"])
    cross = model.decoder.blocks[1].cross_attn
    heads = got["decoder.blocks.1.cross_attn.probs"] @ (
        got["decoder.blocks.1.cross_attn.v_proj"].unflatten(-1, (3, -1)).transpose(1, 2)
    )
    assert close(got["decoder.blocks.1.cross_attn.attn_out"], heads)
    joined = F.linear(heads.transpose(1, 2).flatten(2), cross.out_proj.weight, cross.out_proj.bias)
    norm = model.decoder.blocks[1].cross_attn_norm
    assert close(got["decoder.blocks.1.cross_attn_norm"], norm(got["decoder.blocks.1.attn_norm"] + joined))


def test_parts_alone_have_taps_too():
    model = make_model("learned")
    with capture(model.decoder, "blocks.1.mlp.act") as captured:
        model.decoder(input_ids=ids(), encoder_hidden_states=torch.randn(2, 17, 24))
    assert captured["blocks.1.mlp.act"][0].shape == (2, 5, 56)
    foreign = nn.Sequential(nn.Linear(3, 4), nn.Sequential(nn.ReLU(inplace=True)))
    with capture(foreign) as captured:
        foreign(torch.full((1, 3), -100.0))
    assert {tap.kind for tap in list_taps(foreign)} == {"foreign"}
    (before,), (after,) = captured["0"], captured["1.0"]
    assert not before.equal(after)  # the later module wrote into what the first one gave
    assert after.equal(before.relu())


@pytest.mark.parametrize("core", ["eager", "sdpa"])
def test_capture_does_not_change_outputs(model, core):
    model.set_attention(core)
    patterns = [tap.name for tap in list_taps(model) if core == "eager" or tap.kind != "probs"]
    plain = forward(model).logits
    with capture(model, patterns):
        assert torch.equal(forward(model).logits, plain)
    assert torch.equal(forward(model).logits, plain)
    assert hooks(model) == 0


def test_capturing_probabilities_borrows_the_eager_core():
    model = make_model("learned")
    with capture(model, "encoder.*probs"):
        assert cores(model.encoder) == {"eager"}
        assert cores(model.decoder) == {"sdpa"}
        with capture(model, "*probs"):
            assert cores(model) == {"eager"}
        assert cores(model.encoder) == {"eager"}
        assert cores(model.decoder) == {"sdpa"}
    assert cores(model) == {"sdpa"}


@pytest.mark.parametrize(
    "options", [{}, {"num_beams": 3}, {"use_cache": False}, {"num_beams": 3, "use_cache": False}]
)
def test_capture_works_while_tokens_are_generated(options):
    model = make_model("learned")
    model.set_attention("eager")
    pixels = images(model, 3)
    plain = model.generate(pixels, max_new_tokens=8, **options)
    with capture(model) as captured:
        assert torch.equal(model.generate(pixels, max_new_tokens=8, **options), plain)
    assert len(captured["encoder.norm"]) == 1
    assert len(captured["decoder.output_projection"]) >= plain.shape[1] - 1
    for name, calls in captured.items():
        if ".cross_attn.probs" in name:
            rows = [call.shape[0] for call in captured["decoder.output_projection"]]
            assert [call.shape[:2] for call in calls] == [(count, 3) for count in rows]
            assert all(float((call.sum(dim=-1) - 1).abs().max()) < ROUNDING for call in calls)


def test_probabilities_of_beams_belong_to_their_rows():
    model = make_model("unilm", seed=3)
    pixels = images(model, 2)
    options = {"num_beams": 3, "max_new_tokens": 6, "min_new_tokens": 6}
    with capture(model, "decoder.blocks.*.cross_attn.probs") as captured:
        out = model.generate(pixels, return_dict_in_generate=True, output_attentions=True, **options)
    for step, blocks in enumerate(out.cross_attentions):
        for i, probs in enumerate(blocks):
            assert torch.equal(captured[f"decoder.blocks.{i}.cross_attn.probs"][step], probs)
    assert not torch.equal(probs[0], probs[1])  # or rows could be mixed up unseen


def test_steps_of_cached_decoding_join_to_one_pass(model):
    pixels, tokens = images(model), ids()
    memory = model.memory(model.encode(pixels))
    with torch.no_grad(), capture(model, "decoder*") as stepwise:
        cache = None
        for t in range(tokens.shape[1]):
            out = model.decoder(
                input_ids=tokens[:, t : t + 1],
                encoder_hidden_states=memory,
                past_key_values=cache,
                use_cache=True,
            )
            cache = out.past_key_values
    whole = taps_of(model)
    for name in stepwise:
        single = whole[name]
        if name.endswith("embed_positions") and single.dim() == 2:
            single = single[: tokens.shape[1]]
        assert close(stepwise.joined(name), single, 1e-5), name


def test_what_cannot_be_joined_is_refused():
    model = make_model("learned")
    with capture(model, ["encoder.norm", "decoder.embed_norm"]) as captured:
        forward(model)
        model(pixel_values=images(model)[:1], decoder_input_ids=ids()[:1])
    with pytest.raises(
        SurgeryError, match=r"'decoder.embed_norm': 2 calls of the shapes \(2, 5, 36\), \(1, 5"
    ):
        captured.joined("decoder.embed_norm")
    with pytest.raises(
        SurgeryError, match=r"'decoder.norm': nothing was captured; the taps are encoder.norm, d"
    ):
        captured.joined("decoder.norm")


def test_copies_serve_gradients_and_originals_have_them():
    model = make_model("learned")
    with torch.inference_mode(), capture(model, "encoder.norm") as captured:
        forward(model)
    weight = torch.ones(24, requires_grad=True)
    (captured["encoder.norm"][0] * weight).sum().backward()  # a tensor of inference mode would refuse
    assert weight.grad is not None
    with capture(model, "decoder.blocks.0.cross_attn.probs", detach=False) as captured:
        out = model(pixel_values=images(model), decoder_input_ids=ids())
    (probs,) = captured["decoder.blocks.0.cross_attn.probs"]
    (gradient,) = torch.autograd.grad(out.logits[0, -1, 7], probs)
    assert gradient[0].abs().max() > 0
    assert gradient[1].abs().max() == 0  # the other image has no part in it


def test_compiled_models_are_read_uncompiled():
    model = make_model("learned")
    compiled = torch.compile(model.encoder, backend="eager", fullgraph=True)
    model.decoder.blocks[0].compile(backend="eager", fullgraph=True)
    pixels = images(model)
    plain = compiled(pixels).last_hidden_state
    with capture(model, ["encoder.norm", "decoder.blocks.0.mlp.act"]) as captured:
        compiled(pixels)
        forward(model)
    assert [len(calls) for calls in captured.values()] == [2, 1]
    with patch(model, {"encoder.norm": 0.0}):
        assert compiled(pixels).last_hidden_state.abs().max() == 0
    assert torch.equal(compiled(pixels).last_hidden_state, plain)
