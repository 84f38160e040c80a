"""The original layout: configuration from tensors and arguments, conversion, and the way back."""

import argparse
import json

import fake_fairseq
import pytest
import tiny_models
import torch
import transformers
from transformers.core_model_loading import revert_weight_conversion

from trocr.config import VisionEncoderDecoderConfig
from trocr.models import VisionEncoderDecoderModel
from trocr.official import OFFICIAL_MODELS
from weights_conversion.commands.convert import convert, describe
from weights_conversion.commands.source import Hints, find_source
from weights_conversion.commands.verify import load_reference
from weights_conversion.configs import DerivationError
from weights_conversion.fairseq import FAIRSEQ, FAMILIES, derive_config, is_tied, settings_of, to_fairseq
from weights_conversion.files import WeightFileError, open_weights

HINTS = Hints(encoder_heads=2, decoder_heads=3)
RECIPES = list(fake_fairseq.RECIPES)


def fake_file(path, family, **extra):
    """A .pt file of a tiny model; gives the model too."""
    model = tiny_models.pair(family)
    content = {"model": fake_fairseq.weights(model.state_dict()), **extra}
    torch.save(content, path)
    return model


@pytest.mark.parametrize("where", ["args", "cfg"])
@pytest.mark.parametrize("family", RECIPES)
def test_converted_file_computes_what_the_reference_does(tmp_path, family, where) -> None:
    args = fake_fairseq.arguments(family)
    extra = {"args": args} if where == "args" else {"args": None, "cfg": {"model": args, "task": {"seed": 1}}}
    model = fake_file(tmp_path / "x.pt", family, **extra)
    report = convert(find_source(str(tmp_path / "x.pt")), tmp_path / "hf", hints=HINTS)
    assert "decoder.version" in dict(report.ignored)
    assert {key for key, _ in report.ignored} <= {
        "decoder.version",
        "decoder.embed_positions._float_tensor",
        *(f"encoder.deit.{head}.{leaf}" for head in ("head", "head_dist") for leaf in ("weight", "bias")),
    }
    original = {name: tensor for name, tensor in model.state_dict().items() if "pooler" not in name}
    written = load_reference(tmp_path / "hf", "VisionEncoderDecoderModel")
    state = written.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in original.items())
    pixels, ids = torch.rand(2, 3, 16, 16), torch.randint(3, 40, (2, 5))
    with torch.no_grad():
        expected = model(pixel_values=pixels, decoder_input_ids=ids).logits
        again = written(pixel_values=pixels, decoder_input_ids=ids).logits
        ours = VisionEncoderDecoderModel.from_pretrained(tmp_path / "hf")
        found = ours(pixel_values=pixels, decoder_input_ids=ids).logits
    assert torch.equal(again, expected)
    assert float((found - expected).abs().max()) <= 2e-5 * float(expected.abs().max())


@pytest.mark.parametrize("family", RECIPES)
def test_ours_to_fairseq_is_the_file_without_what_is_dropped(tmp_path, family) -> None:
    fake_file(tmp_path / "x.pt", family, args=fake_fairseq.arguments(family))
    convert(find_source(str(tmp_path / "x.pt")), tmp_path / "hf", hints=HINTS)
    ours = VisionEncoderDecoderModel.from_pretrained(tmp_path / "hf")
    back = to_fairseq(dict(ours.named_parameters()))
    with open_weights(tmp_path / "x.pt") as file:
        kept = {name for name in file.shapes if FAIRSEQ.matches(name)[0] in FAIRSEQ.rules}
        assert set(back) == kept
        assert all(torch.equal(back[name], file.tensor(name)) for name in kept)


def test_frozen_zero_bias_of_the_unilm_decoder_is_kept(tmp_path) -> None:
    model = tiny_models.pair("unilm")
    with torch.no_grad():
        for layer in model.decoder.model.decoder.layers:
            layer.self_attn.k_proj.bias.zero_()
    content = {"model": fake_fairseq.weights(model.state_dict()), "args": fake_fairseq.arguments("unilm")}
    torch.save(content, tmp_path / "x.pt")
    convert(find_source(str(tmp_path / "x.pt")), tmp_path / "hf", hints=HINTS)
    with open_weights(tmp_path / "hf") as file:
        bias = file.tensor("decoder.model.decoder.layers.1.self_attn.k_proj.bias")
    assert torch.equal(bias, torch.zeros(12))


def official_shapes(config: VisionEncoderDecoderConfig) -> dict[str, torch.Tensor]:
    """The original keys of an official model, on the meta device."""
    with torch.device("meta"):
        model = transformers.VisionEncoderDecoderModel(
            transformers.VisionEncoderDecoderConfig(**config.to_dict())
        )
    return fake_fairseq.weights(model.state_dict())


ARCHS = {
    "small": {"deit_arch": "deit_small_distilled_patch16_384", "decoder_attention_heads": 8},
    "base": {"deit_arch": "beit_base_patch16_384", "decoder_attention_heads": 16, "input_size": [384]},
    "large": {"deit_arch": "beit_large_patch16_384", "decoder_attention_heads": 16, "input_size": 384},
}


@pytest.mark.parametrize("name", OFFICIAL_MODELS)
def test_configurations_of_the_official_models(name) -> None:
    """From full-size shapes and arguments as trained: exactly the released configuration."""
    official = OFFICIAL_MODELS[name]
    size = name.split("-")[1]
    positions = {"max_target_positions": 1024} if official.family == "sinusoidal" else {}
    args = fake_fairseq.arguments(official.family, **{**ARCHS[size], **positions})
    shapes = {key: tuple(tensor.shape) for key, tensor in official_shapes(official.config).items()}
    values = derive_config(shapes, {"args": args}, tied=official.family == "learned")
    config = VisionEncoderDecoderConfig.from_dict(values)
    derived, released = config.to_dict(), official.config.to_dict()
    derived["decoder"].pop("use_cache")
    released["decoder"].pop("use_cache")
    assert derived == released


@pytest.mark.parametrize("family", FAMILIES)
def test_family_stands_in_for_missing_arguments(tmp_path, family) -> None:
    fake_file(tmp_path / "x.pt", family)
    source = find_source(str(tmp_path / "x.pt"))
    with pytest.raises(DerivationError, match=r"(?s)holds no training arguments.*--official NAME.*--family"):
        convert(source, tmp_path / "hf", hints=HINTS)
    assert not (tmp_path / "hf").exists()
    hints = Hints(family=family, encoder_heads=2, decoder_heads=3)
    convert(source, tmp_path / "hf", hints=hints)
    decoder = json.loads((tmp_path / "hf" / "config.json").read_text())["decoder"]
    assert {key: decoder[key] for key in FAMILIES[family]} == FAMILIES[family]


def test_family_that_contradicts_the_tensors(tmp_path) -> None:
    fake_file(tmp_path / "x.pt", "unilm")
    hints = Hints(family="sinusoidal", encoder_heads=2, decoder_heads=3)
    with pytest.raises(DerivationError, match=r"use_learned_position_embeddings=True .recipe: False"):
        convert(find_source(str(tmp_path / "x.pt")), tmp_path / "hf", hints=hints)


def test_another_official_model_does_not_fit(tmp_path) -> None:
    fake_file(tmp_path / "x.pt", "unilm")
    with pytest.raises(ValueError, match=r"(?s)wrong shape.*Read as the fairseq dialect"):
        convert(
            find_source(str(tmp_path / "x.pt")), tmp_path / "hf", hints=Hints(official="trocr-small-printed")
        )


def derive(made_for: str, *, change=(), drop=(), args=None, **options):
    tensors = fake_fairseq.weights(tiny_models.pair(made_for).state_dict())
    shapes = {key: tuple(tensor.shape) for key, tensor in tensors.items() if key not in drop}
    shapes.update(change)
    extra = {"args": args or fake_fairseq.arguments(made_for, deit_arch="x", decoder_attention_heads=3)}
    given = {"tied": made_for == "learned", "encoder_heads": 2, **options}
    return derive_config(shapes, extra, **given)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: derive("unilm", encoder_heads=None), "encoder's heads cannot be derived: deit_arch='x'"),
        (lambda: derive("unilm", encoder_heads=5), "width 16 of the encoder cannot be split into 5 heads"),
        (lambda: derive("unilm", decoder_heads=7), "width 12 of the decoder cannot be split into 7 heads"),
        (
            lambda: derive("unilm", args=fake_fairseq.arguments("unilm")),
            "decoder's heads cannot be derived: no decoder_attention_heads",
        ),
        (
            lambda: derive("unilm", args=fake_fairseq.arguments("unilm", activation_fn=None)),
            "training arguments lack activation_fn",
        ),
        (lambda: derive("unilm", family="lerned"), "family 'lerned' is not known; expected one of learned"),
        (
            lambda: derive("unilm", args=argparse.Namespace(ape=True)),
            "trained with ape=True; only False is supported",
        ),
        (
            lambda: derive("learned", tied=False),
            "tensors contradict the decoder recipe: tie_word_embeddings=False",
        ),
        (
            lambda: derive("unilm", drop=["encoder.deit.pos_embed"]),
            "no tensor 'pos_embed', which tells a size",
        ),
        (
            lambda: derive("unilm", change={"encoder.deit.pos_embed": (1, 8, 16)}),
            "pos_embed has 6 patch rows, which form no square",
        ),
        (
            lambda: derive("unilm", change={"encoder.deit.pos_embed": (6, 16)}),
            r"'pos_embed' has shape \(6, 16\), expected 3 dimensions",
        ),
        (
            lambda: derive(
                "unilm",
                args=fake_fairseq.arguments("unilm", input_size=[16, 32], decoder_attention_heads=3),
            ),
            "an image of 16 x 32 pixels in patches of 8 x 8 does not give the 4 patch rows",
        ),
        (
            lambda: derive("unilm", change={"decoder.layers.9.fc1.weight": (20, 12)}),
            r"blocks layers.N are \['0', '1', '9'\], expected 0, 1, 2",
        ),
    ],
)
def test_what_cannot_be_derived_is_said(call, message) -> None:
    with pytest.raises(DerivationError, match=message):
        call()


def test_image_that_is_not_square_comes_from_the_arguments() -> None:
    args = fake_fairseq.arguments("unilm", input_size=[16, 24], decoder_attention_heads=3)
    config = derive("unilm", args=args, change={"encoder.deit.pos_embed": (1, 8, 16)})
    assert config["encoder"]["image_size"] == [16, 24]


def test_settings_are_found_in_args_and_cfg() -> None:
    namespace = argparse.Namespace(a=1)
    assert settings_of({"args": namespace}) == {"a": 1}
    assert settings_of({"args": None, "cfg": {"model": namespace}}) == {"a": 1}
    assert settings_of({"cfg": {"model": {"a": 1}}}) == {"a": 1}
    assert settings_of({"args": None, "cfg": None}) is None
    assert settings_of({}) is None


def test_tied_is_decided_by_the_numbers() -> None:
    shapes = {"decoder.output_projection.weight": (3, 2), "decoder.embed_tokens.weight": (3, 2)}
    tensors = {name: torch.ones(3, 2) for name in shapes}
    assert is_tied(shapes, tensors.__getitem__)
    tensors["decoder.embed_tokens.weight"] = torch.zeros(3, 2)
    assert not is_tied(shapes, tensors.__getitem__)
    assert is_tied({"decoder.embed_tokens.weight": (3, 2)}, tensors.__getitem__)


def test_output_says_that_tokenizer_and_image_settings_are_lacking(tmp_path) -> None:
    fake_file(tmp_path / "x.pt", "unilm", args=fake_fairseq.arguments("unilm"))
    source = find_source(str(tmp_path / "x.pt"))
    text = "\n".join(describe(source, tmp_path / "hf", convert(source, tmp_path / "hf", hints=HINTS)))
    assert "no tokenizer: the source holds none" in text
    assert "no preprocessor_config.json" in text
    assert "ignored  decoder.version: fairseq's mark of the layout" in text


def test_objects_other_than_namespaces_are_refused(tmp_path) -> None:
    class_like_omegaconf = torch.nn.Linear(1, 1)
    torch.save({"model": {"a": torch.zeros(1)}, "cfg": class_like_omegaconf}, tmp_path / "x.pt")
    with pytest.raises(WeightFileError, match=r"torch.nn.modules.linear.Linear(.|\n)*keep the weights alone"):
        find_source(str(tmp_path / "x.pt"))


def test_half_precision_is_kept_in_the_file_and_named_float32_in_memory(tmp_path) -> None:
    model = tiny_models.pair("unilm").half()
    content = {"model": fake_fairseq.weights(model.state_dict()), "args": fake_fairseq.arguments("unilm")}
    torch.save(content, tmp_path / "x.pt")
    convert(find_source(str(tmp_path / "x.pt")), tmp_path / "hf", hints=HINTS)
    with open_weights(tmp_path / "hf") as file:
        assert set(file.dtypes.values()) == {torch.float16}
        saved = revert_weight_conversion(model, model.state_dict())
        assert all(torch.equal(file.tensor(name), saved[name]) for name in file.shapes)
    assert VisionEncoderDecoderModel.from_pretrained(tmp_path / "hf").dtype == torch.float32
