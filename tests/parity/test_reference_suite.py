"""What the reference's own test suites ask of these models, in our words: same calls, same expectations.

Source: the suites of TrOCR, ViT, DeiT and VisionEncoderDecoder of `transformers` 5 (what they check). Where
they change a configuration in place, a changed copy is made here, for ours are frozen.
"""

import dataclasses
from pathlib import Path

import pytest
import torch
from families import ids
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput as HFOutput

from trocr import (
    DecoderCache,
    DeiTConfig,
    DeiTModel,
    TrOCRConfig,
    TrOCRDecoder,
    TrOCRForCausalLM,
    VisionEncoderDecoderConfig,
    VisionEncoderDecoderModel,
    ViTConfig,
    ViTModel,
)
from trocr.config_read import ConfigError

BATCH, LENGTH, VOCAB = 13, 7, 99
SAVE_TOLERANCE = 1e-5
"""What the reference's suites allow between a model and the same one put together from saved parts."""

CACHE_TOLERANCE = 1e-5
"""With and without a cache, float32; the reference allows 1e-3."""

ENCODERS = {"vit": (ViTModel, ViTConfig, 1), "deit": (DeiTModel, DeiTConfig, 2)}


def encoder_config(kind: str = "vit", **values) -> ViTConfig:
    return ENCODERS[kind][1](
        **{
            "image_size": 30,
            "patch_size": 2,
            "num_channels": 3,
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 37,
            "hidden_act": "gelu",
            "hidden_dropout_prob": 0.1,
            "attention_probs_dropout_prob": 0.1,
            "is_decoder": False,
            "initializer_range": 0.02,
            "encoder_stride": 2,
            "attn_implementation": "eager",
            **values,
        }
    )


def decoder_config(**values) -> TrOCRConfig:
    return TrOCRConfig(
        **{
            "vocab_size": VOCAB,
            "d_model": 16,
            "decoder_layers": 2,
            "decoder_ffn_dim": 32,
            "decoder_attention_heads": 4,
            "eos_token_id": 2,
            "bos_token_id": 1,
            "use_cache": False,
            "pad_token_id": 0,
            "decoder_start_token_id": 2,
            "max_position_embeddings": 30,
            **values,
        }
    )


@pytest.fixture(params=list(ENCODERS))
def kind(request) -> str:
    return request.param


@pytest.fixture
def whole(kind: str) -> VisionEncoderDecoderModel:
    """A pair of fresh parts, the decoder as wide as the encoder."""
    encoder = ENCODERS[kind][0](encoder_config(kind)).eval()
    decoder = TrOCRForCausalLM(decoder_config(d_model=32, max_position_embeddings=512)).eval()
    return VisionEncoderDecoderModel(encoder=encoder, decoder=decoder)


@pytest.fixture
def inputs() -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(0)
    mask = torch.randint(0, 2, (BATCH, LENGTH), generator=random)
    mask[:, 0] = 1
    return {
        "pixel_values": torch.rand(BATCH, 3, 30, 30, generator=random),
        "decoder_input_ids": torch.randint(0, VOCAB, (BATCH, LENGTH), generator=random),
        "decoder_attention_mask": mask,
    }


# the decoder alone


@pytest.mark.parametrize("cls", [TrOCRDecoder, TrOCRForCausalLM])
def test_decoder_with_past(cls) -> None:
    model = cls(config=decoder_config(use_cache=True)).eval()
    tokens = ids(2, LENGTH)
    outputs = model(tokens, use_cache=True)
    as_configured = model(tokens)
    no_past = model(tokens, use_cache=False)
    assert len(outputs) == len(as_configured) == len(no_past) + 1
    new = ids(2, 2, seed=8)[:, 1:]
    name = "last_hidden_state" if cls is TrOCRDecoder else "logits"
    uncached = model(torch.cat([tokens, new], dim=-1), use_cache=False)[name]
    cached = model(new, past_key_values=outputs["past_key_values"])[name]
    assert float((uncached[:, -1] - cached[:, 0]).detach().abs().max()) <= CACHE_TOLERANCE


def test_decoder_results_have_the_documented_shapes() -> None:
    model = TrOCRForCausalLM(decoder_config()).eval()
    out = model(ids(3, LENGTH), output_hidden_states=True, output_attentions=True, labels=ids(3, LENGTH))
    assert out.logits.shape == (3, LENGTH, VOCAB)
    assert [state.shape for state in out.hidden_states] == [(3, LENGTH, 16)] * 3
    assert [one.shape for one in out.attentions] == [(3, 4, LENGTH, LENGTH)] * 2
    assert out.cross_attentions is None
    assert out.loss.shape == ()
    assert model.get_decoder() is model
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_decoder_generates_from_a_prefix() -> None:
    model = TrOCRForCausalLM(decoder_config()).eval()
    prefix = ids(2, 3)
    made = model.generate(prefix, max_new_tokens=5, eos_token_id=98, do_sample=False)
    assert torch.equal(made[:, :3], prefix)
    assert made.shape[1] <= 8


def test_results_are_the_same_twice_and_in_any_order_of_arguments() -> None:
    model = TrOCRForCausalLM(decoder_config(dropout=0.5)).eval()
    tokens, mask = ids(2, LENGTH), torch.ones(2, LENGTH)
    first = model(tokens, mask)
    assert torch.equal(first.logits, model(attention_mask=mask, input_ids=tokens).logits)
    assert torch.equal(first[0], model(tokens, mask, return_dict=False)[0])


def test_dropout_is_active_in_training_alone() -> None:
    model = TrOCRForCausalLM(decoder_config(dropout=0.5))
    assert not torch.equal(model(ids(2, LENGTH)).logits, model(ids(2, LENGTH)).logits)


# the encoder alone


def test_encoder_tokens(kind: str) -> None:
    model_class, _, prefix = ENCODERS[kind]
    model = model_class(config=encoder_config(kind)).eval()
    out = model(torch.rand(BATCH, 3, 30, 30))
    assert out.last_hidden_state.shape == (BATCH, 15 * 15 + prefix, 32)
    assert out.pooler_output.shape == (BATCH, 32)
    assert isinstance(model.get_input_embeddings(), nn.Module)
    assert model.get_output_embeddings() is None
    grey = model_class(encoder_config(kind, num_channels=1)).eval()
    assert grey(torch.rand(2, 1, 30, 30)).last_hidden_state.shape == (2, 15 * 15 + prefix, 32)
    with pytest.raises(ValueError, match=r"expected \(batch, 1, height, width\)"):
        grey(torch.rand(2, 3, 30, 30))


def test_encoder_hidden_states_and_attentions(kind: str) -> None:
    model_class, _, prefix = ENCODERS[kind]
    model = model_class(encoder_config(kind)).eval()
    tokens = 15 * 15 + prefix
    out = model(torch.rand(2, 3, 30, 30), output_hidden_states=True, output_attentions=True)
    assert [state.shape for state in out.hidden_states] == [(2, tokens, 32)] * 3
    assert [one.shape for one in out.attentions] == [(2, 4, tokens, tokens)] * 2
    larger = model(torch.rand(2, 3, 40, 50), interpolate_pos_encoding=True)
    assert larger.last_hidden_state.shape == (2, 20 * 25 + prefix, 32)
    half = model_class(encoder_config(kind)).half().eval()
    assert half(torch.rand(1, 3, 30, 30)).last_hidden_state.dtype is torch.float16


def test_gradients_reach_hidden_states_and_attentions(kind: str) -> None:
    model = ENCODERS[kind][0](encoder_config(kind))
    out = model(torch.rand(2, 3, 30, 30), output_hidden_states=True, output_attentions=True)
    out.hidden_states[0].retain_grad()
    out.attentions[0].retain_grad()
    out[0].flatten()[0].backward(retain_graph=True)
    assert out.hidden_states[0].grad is not None
    assert out.attentions[0].grad is not None


def test_starting_values(kind: str) -> None:
    """Weights start small, biases at zero, norms at one; the same seed gives the same model."""
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(
        encoder_config(kind), decoder_config(d_model=48)
    )
    torch.manual_seed(3)
    model = VisionEncoderDecoderModel(config)
    torch.manual_seed(3)
    again = VisionEncoderDecoderModel(config=config)
    for (name, parameter), other in zip(model.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(parameter, other), name
        if "norm" in name:
            assert bool((parameter == float(name.endswith("weight"))).all()), name
        elif name.endswith("bias"):
            assert not parameter.any(), name
        else:
            assert float(parameter.detach().std()) < 0.03, name
    assert not model.decoder.embed_tokens.weight[0].any()  # padding


# both together


def test_whole_from_configurations(kind: str, inputs) -> None:
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(
        encoder_config(kind), decoder_config(d_model=32)
    )
    assert config.decoder.is_decoder
    model = VisionEncoderDecoderModel(config).eval()
    assert model.config.is_encoder_decoder
    assert model(**inputs)["logits"].shape == (BATCH, LENGTH, VOCAB)


def test_whole_from_parts(whole, inputs) -> None:
    assert whole.config.decoder.is_decoder
    assert whole.config.decoder.add_cross_attention
    assert whole.config.is_encoder_decoder
    outputs = whole(**inputs, output_hidden_states=True)
    assert outputs["logits"].shape == (BATCH, LENGTH, VOCAB)
    inputs.pop("pixel_values")
    encoded = HFOutput(last_hidden_state=outputs.encoder_last_hidden_state)
    assert torch.equal(whole(encoder_outputs=encoded, **inputs).logits, outputs.logits)


@pytest.mark.parametrize("return_dict", [True, False])
def test_whole_from_loaded_parts(whole, inputs, return_dict: bool) -> None:
    made = VisionEncoderDecoderModel.from_encoder_decoder_pretrained(
        encoder_model=whole.encoder, decoder_model=whole.decoder, return_dict=return_dict
    )
    outputs = made(**inputs, output_hidden_states=True, return_dict=True)
    assert torch.equal(outputs["logits"], whole(**inputs)["logits"])


def test_whole_saved_and_loaded(whole, inputs, tmp_path: Path) -> None:
    with torch.no_grad():
        before = whole(**inputs)[0]
        whole.save_pretrained(tmp_path)
        after = VisionEncoderDecoderModel.from_pretrained(tmp_path)(**inputs)[0]
    assert torch.equal(before, after)


def test_parts_saved_and_loaded(whole, inputs, tmp_path: Path) -> None:
    whole.encoder.save_pretrained(tmp_path / "encoder")
    whole.decoder.save_pretrained(tmp_path / "decoder")
    made = VisionEncoderDecoderModel.from_encoder_decoder_pretrained(
        encoder_pretrained_model_name_or_path=str(tmp_path / "encoder"),
        decoder_pretrained_model_name_or_path=str(tmp_path / "decoder"),
        decoder_attn_implementation="eager",
        dtype="float64",
    )
    assert made.dtype is torch.float64
    assert made.encoder.blocks[0].self_attn.core == "sdpa"
    assert made.decoder.blocks[0].self_attn.core == "eager"
    with torch.no_grad():
        assert float((made(**inputs).logits - whole(**inputs).logits).abs().max()) <= SAVE_TOLERANCE
    load = VisionEncoderDecoderModel.from_encoder_decoder_pretrained
    with pytest.raises(ConfigError, match="decoder is missing: give decoder_pretrained_model_name_or_path"):
        load(tmp_path / "encoder")
    with pytest.raises(ConfigError, match="encoder is missing: give encoder_pretrained_model_name_or_path"):
        load(decoder_model=whole.decoder)
    with pytest.raises(ConfigError, match="unknown key 'decoder_droput'"):
        load(tmp_path / "encoder", tmp_path / "decoder", decoder_droput=0.1)


def test_whole_attentions(whole, kind: str, inputs) -> None:
    whole.config.encoder._attn_implementation = "eager"  # scripts say so; here asking for them is enough
    whole.config.decoder._attn_implementation = "eager"
    inputs["decoder_input_ids"] = inputs["decoder_input_ids"][:, :-1]
    inputs["decoder_attention_mask"] = inputs["decoder_attention_mask"][:, :-1]
    outputs = whole(**inputs, output_attentions=True)
    tokens, text = 15 * 15 + ENCODERS[kind][2], LENGTH - 1
    expected = {
        "encoder_attentions": (BATCH, 4, tokens, tokens),
        "decoder_attentions": (BATCH, 4, text, text),
        "cross_attentions": (BATCH, 4, text, tokens),
    }
    for name, shape in expected.items():
        assert [one.shape for one in outputs[name]] == [shape] * 2, name


def test_whole_generates_to_the_maximum_length(whole, inputs) -> None:
    whole.generation_config = whole.generation_config.update(eos_token_id=None, max_length=20)
    for options in ({}, {"num_beams": 2}):
        made = whole.generate(
            inputs["pixel_values"],
            decoder_start_token_id=whole.config.decoder.pad_token_id,
            max_length=whole.generation_config.max_length,
            **options,
        )
        assert made.shape == (BATCH, 20)
        assert bool((made[:, 0] == 0).all())


def test_whole_trains_with_gradient_checkpointing(whole, inputs) -> None:
    config = dataclasses.replace(whole.config, decoder_start_token_id=0, pad_token_id=0)
    whole.config = config
    whole.train()
    assert not whole.is_gradient_checkpointing
    whole.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    assert whole.is_gradient_checkpointing
    inputs.pop("decoder_attention_mask")
    loss = whole(**inputs, labels=inputs["decoder_input_ids"]).loss
    loss.backward()
    assert bool(loss.isfinite())
    whole.gradient_checkpointing_disable()
    assert not whole.is_gradient_checkpointing
    with pytest.raises(ValueError, match="holds preserve_rng_state, expected nothing but use_reentrant"):
        whole.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"preserve_rng_state": False})


def test_attention_core_by_either_name(whole) -> None:
    whole.set_attn_implementation("eager")
    cores = {module.core for module in whole.modules() if hasattr(module, "core")}
    assert cores == {"eager"}
    whole.set_attention("sdpa")
    with pytest.raises(ValueError, match="'flash' is unknown, expected one of sdpa, eager"):
        whole.set_attn_implementation("flash")


def test_parts_can_be_reached(whole) -> None:
    assert whole.get_encoder() is whole.encoder
    assert whole.get_decoder() is whole.decoder
    assert whole.get_input_embeddings() is whole.decoder.get_input_embeddings()
    assert whole.get_output_embeddings() is whole.decoder.get_output_embeddings()
    assert whole.num_parameters() == sum(p.numel() for p in whole.parameters())
    assert whole.num_parameters(only_trainable=True) == whole.num_parameters()


def test_cache_object_of_a_first_call_is_extended_by_the_next(whole, inputs) -> None:
    pixels, tokens = inputs["pixel_values"], inputs["decoder_input_ids"]
    first = whole(pixels, tokens[:, :3], use_cache=True)
    assert isinstance(first.past_key_values, DecoderCache)
    second = whole(
        encoder_outputs=(first.encoder_last_hidden_state,),
        decoder_input_ids=tokens[:, 3:4],
        past_key_values=first.past_key_values,
        use_cache=True,
    )
    assert second.past_key_values is first.past_key_values
    assert len(second.past_key_values) == 2
    assert second.past_key_values.get_seq_length() == 4


# configurations


def test_second_names_of_fields_build_a_configuration_too() -> None:
    config = TrOCRConfig(hidden_size=32, num_hidden_layers=3, num_attention_heads=4)
    assert (config.d_model, config.decoder_layers, config.decoder_attention_heads) == (32, 3, 4)
    assert TrOCRConfig(hidden_size=32, d_model=32, num_attention_heads=4).d_model == 32
    assert TrOCRConfig(num_beams=4).generation_defaults == {"num_beams": 4}
    with pytest.raises(ConfigError, match=r"TrOCRConfig: 'd_model' is given twice: 64 and 32"):
        TrOCRConfig(hidden_size=32, d_model=64)
    with pytest.raises(ConfigError, match=r"ViTConfig: unknown key 'imagesize' .*did you mean 'image_size'"):
        ViTConfig(imagesize=32)
    assert ViTConfig(return_dict=True, id2label={0: "a"}, is_decoder=False) == ViTConfig()


def test_images_of_another_family_are_not_needed(whole) -> None:
    """An output of the encoder of any library will do, without an image."""
    encoded = HFOutput(last_hidden_state=images_like(whole))
    out = whole(encoder_outputs=encoded, decoder_input_ids=ids(2, 4))
    assert out.logits.shape == (2, 4, VOCAB)


def images_like(model: VisionEncoderDecoderModel) -> Tensor:
    return torch.randn(2, 10, model.config.encoder.hidden_size)
