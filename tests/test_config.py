import dataclasses
import json

import pytest

from trocr import OFFICIAL_MODELS, DeiTConfig, TrOCRConfig, VisionEncoderDecoderConfig, ViTConfig
from trocr.config_read import ConfigError, read_json


def tiny(**values: object) -> dict[str, object]:
    return {
        "model_type": "vision-encoder-decoder",
        "encoder": {"model_type": "vit", "hidden_size": 32, "num_attention_heads": 4, "image_size": 64},
        "decoder": {"model_type": "trocr", "d_model": 32, "decoder_attention_heads": 4, "vocab_size": 99},
        **values,
    }


def test_defaults_are_those_of_the_reference() -> None:
    transformers = pytest.importorskip("transformers")
    for ours in (ViTConfig, DeiTConfig, TrOCRConfig):
        theirs = getattr(transformers, ours.__name__)()
        for field in dataclasses.fields(ours):
            if field.name in ("generation_defaults", "dtype", "pooler_output_size", "add_cross_attention"):
                continue
            if field.name == "block_shapes":  # ours alone
                continue
            assert getattr(ours(), field.name) == getattr(theirs, field.name), (ours, field.name)


@pytest.mark.parametrize("name", OFFICIAL_MODELS)
def test_official_configurations_survive_a_round_trip(name: str) -> None:
    config = OFFICIAL_MODELS[name].config
    again = VisionEncoderDecoderConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert again == config


def test_eleven_official_models() -> None:
    assert len(OFFICIAL_MODELS) == 11
    assert {model.family for model in OFFICIAL_MODELS.values()} == {"learned", "sinusoidal", "unilm"}


def test_real_old_file(reference) -> None:
    values = read_json(reference / "trocr-small-printed" / "config.json")
    config = VisionEncoderDecoderConfig.from_dict(values)
    official = OFFICIAL_MODELS["microsoft/trocr-small-printed"].config
    assert config == official
    assert config.generation_defaults == {}


def test_token_ids_come_from_the_decoder() -> None:
    config = VisionEncoderDecoderConfig.from_dict(tiny())
    assert (config.decoder_start_token_id, config.pad_token_id, config.eos_token_id) == (2, 1, 2)
    assert config.vocab_size == 99


def test_generation_settings_of_old_files_are_kept_apart() -> None:
    values = tiny(max_length=64, num_beams=4, early_stopping=True, length_penalty=1.0)
    config = VisionEncoderDecoderConfig.from_dict(values)
    assert config.generation_defaults == {"max_length": 64, "num_beams": 4, "early_stopping": True}
    assert "num_beams" not in config.to_dict()


def test_sizes_may_be_pairs() -> None:
    config = ViTConfig(image_size=(32, 640), patch_size=(32, 8))
    assert config.grid == (1, 80)
    assert ViTConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert ViTConfig.from_dict({"image_size": [32, 640], "patch_size": [32, 8]}).image_hw == (32, 640)


def test_aliases() -> None:
    config = TrOCRConfig.from_dict({"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4})
    assert (config.d_model, config.decoder_layers, config.decoder_attention_heads) == (64, 2, 4)
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (64, 2, 4)


def test_frozen_but_equal_values_may_be_set() -> None:
    config = VisionEncoderDecoderConfig.from_dict(tiny())
    config.pad_token_id = 1  # what every fine-tuning script for `transformers` does
    config.vocab_size = config.decoder.vocab_size
    with pytest.raises(
        dataclasses.FrozenInstanceError, match=r"decoder_start_token_id=0 .*dataclasses\.replace"
    ):
        config.decoder_start_token_id = 0
    with pytest.raises(ConfigError, match=r"num_beams=4 .*generation_config"):
        config.num_beams = 4


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (tiny(image_sise=3), r"unknown key 'image_sise'"),
        (tiny(decoder_start_token=2), r"did you mean 'decoder_start_token_id'"),
        (tiny(encoder={"model_type": "swin"}), r"encoder\.model_type is 'swin', expected one of deit, timm_"),
        (tiny(decoder={"model_type": "bert"}), r"decoder\.model_type is 'bert', expected one of trocr"),
        (tiny(encoder=None), r"'encoder' is None, expected an object"),
        (tiny(model_type="vit"), r"'model_type' is 'vit', expected 'vision-encoder-decoder'"),
        (tiny(tie_encoder_decoder=True), r"'tie_encoder_decoder' is True, only False is supported"),
        (tiny(torch_dtype="float32", dtype="float16"), r"'dtype' is given twice"),
        (
            tiny(dtype="int8"),
            r"^config\.json: VisionEncoderDecoderConfig: dtype='int8' must be one of float32",
        ),
        (
            tiny(encoder={"model_type": ["vit"]}),
            r"encoder\.model_type is \['vit'\], expected one of deit, timm_wrapper, vit",
        ),
        (
            tiny(decoder={"model_type": "trocr", "decoder_layers": -1}),
            r"^config\.json, part 'decoder': TrOCRConfig: decoder_layers=-1 must not be negative",
        ),
        (tiny(pad_token_id=99), r"pad_token_id=99 lies outside the vocabulary of 99"),
        (
            tiny(decoder={"model_type": "trocr", "d_model": 32, "cross_attention_hidden_size": 48}),
            r"cross_attention_hidden_size=48 must be encoder\.hidden_size=32",
        ),
    ],
)
def test_what_is_wrong_with_a_file_is_said(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        VisionEncoderDecoderConfig.from_dict(values, origin="config.json")


@pytest.mark.parametrize(
    ("cls", "values", "message"),
    [
        (
            ViTConfig,
            {"hidden_size": 30, "num_attention_heads": 4},
            "hidden_size=30 is not divisible by num_attention",
        ),
        (ViTConfig, {"hidden_size": 0}, "hidden_size=0 must be above 0"),
        (ViTConfig, {"image_size": 8, "patch_size": 16}, "image_size=8 is smaller than patch_size=16"),
        (ViTConfig, {"image_size": (1, 2, 3)}, r"image_size=\(1, 2, 3\) must be a positive number"),
        (ViTConfig, {"hidden_act": "mish"}, "hidden_act='mish' must be one of gelu"),
        (ViTConfig, {"hidden_dropout_prob": 1.5}, "hidden_dropout_prob=1.5 must lie between 0 and 1"),
        (ViTConfig, {"qkv_bias": "no"}, "qkv_bias='no' must be true or false"),
        (ViTConfig, {"num_hidden_layers": 2.5}, "num_hidden_layers=2.5 must be a whole number"),
        (TrOCRConfig, {"vocab_size": "many"}, "vocab_size='many' must be a number"),
        (TrOCRConfig, {"d_model": 30}, "d_model=30 is not divisible by decoder_attention_heads=16"),
        (TrOCRConfig, {"vocab_size": 2}, "eos_token_id=2 lies outside the vocabulary of 2"),
        (TrOCRConfig, {"is_encoder_decoder": True}, "decoder alone is a decoder only"),
    ],
)
def test_what_is_wrong_with_values_is_said(cls, values, message) -> None:
    with pytest.raises(ConfigError, match=message):
        cls(**values)


def test_all_problems_come_at_once() -> None:
    with pytest.raises(ConfigError, match=r"hidden_size=-1.*hidden_act='x'") as caught:
        ViTConfig(hidden_size=-1, hidden_act="x")
    assert str(caught.value).startswith("ViTConfig: ")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ("[]", "found a JSON list, expected an object"),
        ("\xff", "not valid JSON"),
    ],
)
def test_broken_files(tmp_path, content: str, message: str) -> None:
    (tmp_path / "config.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(ConfigError, match=rf"config\.json: {message}"):
        VisionEncoderDecoderConfig.from_pretrained(tmp_path)


def test_a_key_that_is_null_sets_nothing() -> None:
    values = tiny(forced_decoder_ids=None, a_key_of_tomorrow=None)
    assert VisionEncoderDecoderConfig.from_dict(values) == VisionEncoderDecoderConfig.from_dict(tiny())


def test_a_folder_in_place_of_the_file(tmp_path) -> None:
    (tmp_path / "config.json").mkdir()
    with pytest.raises(ConfigError, match=r"config\.json: cannot be read \(Is a directory\)"):
        ViTConfig.from_pretrained(tmp_path)


def test_missing_file(tmp_path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        ViTConfig.from_pretrained(tmp_path)


def test_saving_and_loading(tmp_path) -> None:
    config = dataclasses.replace(OFFICIAL_MODELS["microsoft/trocr-base-stage1"].config, dtype="bfloat16")
    config.save_pretrained(tmp_path / "new")
    assert VisionEncoderDecoderConfig.from_pretrained(tmp_path / "new") == config
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["config.json"]
