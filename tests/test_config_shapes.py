"""Shapes of single blocks: read, written, checked, and left out where they say nothing new."""

import dataclasses
import json

import pytest

from trocr import OFFICIAL_MODELS, DeiTConfig, TrOCRConfig, VisionEncoderDecoderConfig, ViTConfig
from trocr.config_read import ConfigError
from trocr.config_shapes import DecoderBlockShape, EncoderBlockShape

ENCODER = [{"num_heads": 3, "intermediate_size": 700}, {"num_heads": 12, "intermediate_size": 3072}]
DECODER = [{"self_attn_heads": 16, "cross_attn_heads": 2, "ffn_dim": 4000}]


def test_a_configuration_with_shapes_survives_a_round_trip() -> None:
    encoder = DeiTConfig(num_hidden_layers=2, block_shapes=ENCODER)
    decoder = TrOCRConfig(decoder_layers=1, block_shapes=DECODER)
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    values = json.loads(json.dumps(config.to_dict()))
    assert values["encoder"]["block_shapes"] == ENCODER
    assert values["decoder"]["block_shapes"] == DECODER
    again = VisionEncoderDecoderConfig.from_dict(values)
    assert again == config
    assert hash(again.encoder) == hash(config.encoder)
    assert again.encoder.shapes == tuple(EncoderBlockShape(**shape) for shape in ENCODER)
    assert again.decoder.shapes == (DecoderBlockShape(self_attn_heads=16, cross_attn_heads=2, ffn_dim=4000),)
    assert again.encoder.head_dim == 64


def test_without_shapes_nothing_is_written() -> None:
    for official in OFFICIAL_MODELS.values():
        values = official.config.to_dict()
        assert "block_shapes" not in values["encoder"]
        assert "block_shapes" not in values["decoder"]
    config = ViTConfig.from_dict({"model_type": "vit", "block_shapes": None, "num_hidden_layers": 3})
    assert config.shapes == (EncoderBlockShape(num_heads=12, intermediate_size=3072),) * 3


def test_ordinary_fields_describe_what_they_can() -> None:
    config = ViTConfig(num_hidden_layers=2)
    whole = config.shapes[0]
    narrow = dataclasses.replace(whole, intermediate_size=100)
    same = config.with_shapes([narrow] * 3)
    assert (same.num_hidden_layers, same.intermediate_size, same.block_shapes) == (3, 100, None)
    mixed = config.with_shapes([narrow, whole])
    assert mixed.block_shapes == (narrow, whole)
    assert mixed.intermediate_size == 3072
    fewer = dataclasses.replace(narrow, num_heads=3)
    heads = config.with_shapes([fewer, narrow])
    assert (heads.num_attention_heads, heads.intermediate_size, heads.block_shapes) == (
        12,
        100,
        (fewer, narrow),
    )
    assert heads.with_shapes([narrow]).block_shapes is None


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (7, r"block_shapes=7 must be null or a list of objects \(num_heads, intermediate_size\)"),
        (ENCODER[:1], "block_shapes describes 1 blocks, the stack has 2"),
        (
            [ENCODER[0], {"num_heads": 3}],
            r"block_shapes\[1\]=.* must be an object with num_heads, intermediate_size",
        ),
        ([{**ENCODER[0], "x": 1}, ENCODER[1]], r"block_shapes\[0\]=.* must be an object with"),
        ([None, ENCODER[1]], r"block_shapes\[0\]=None must be an object with"),
        (
            [{"num_heads": 0, "intermediate_size": 5}] * 2,
            r"block_shapes\[0\].num_heads=0 must be a whole number",
        ),
        (
            [{"num_heads": 1, "intermediate_size": 5.5}] * 2,
            r"block_shapes\[1\].intermediate_size=5.5 must be",
        ),
        ([{"num_heads": True, "intermediate_size": 5}] * 2, r"block_shapes\[0\].num_heads=True must be"),
    ],
)
def test_wrong_shapes(value: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ViTConfig(num_hidden_layers=2, block_shapes=value)
    with pytest.raises(ConfigError, match=message):
        ViTConfig.from_dict({"model_type": "vit", "num_hidden_layers": 2, "block_shapes": value})


def test_fewer_blocks_need_fewer_shapes() -> None:
    config = ViTConfig(num_hidden_layers=2, block_shapes=ENCODER)
    with pytest.raises(ConfigError, match="block_shapes describes 2 blocks, the stack has 1"):
        dataclasses.replace(config, num_hidden_layers=1)
