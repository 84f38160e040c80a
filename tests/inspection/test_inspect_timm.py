"""Models whose encoder is a backbone of timm: what can be looked at, and what is refused."""

import dataclasses

import numpy as np
import pytest
import torch
from inspected import FAMILIES, make_model
from PIL import Image
from torch import nn

from trocr import (
    TrOCRConfig,
    TrOCRProcessor,
    VisionEncoderDecoderConfig,
    VisionEncoderDecoderModel,
    ViTImageProcessor,
)
from trocr.config_timm import TimmConfig
from trocr.hub import PRETRAINED
from trocr.inspect import attention_maps, capture, compare_activations, list_taps, measure_sizes, patch
from trocr.surgery.patterns import SurgeryError

TRANSFORMER = TimmConfig(
    architecture="vit_tiny_patch16_224",
    hidden_size=192,
    image_size=(32, 64),
    model_args={"global_pool": "", "img_size": [32, 64], "depth": 2},
)
CONVOLUTIONS = TimmConfig(
    architecture="resnet10t", hidden_size=512, image_size=(64, 96), model_args={"global_pool": ""}
)


def build(encoder: TimmConfig) -> tuple[VisionEncoderDecoderModel, TrOCRProcessor]:
    decoder = TrOCRConfig(**{**FAMILIES["learned"][2], "cross_attention_hidden_size": None})
    torch.manual_seed(0)
    model = VisionEncoderDecoderModel(
        VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    ).eval()
    tokenizer = TrOCRProcessor.from_pretrained(PRETRAINED / "tiny-printed").tokenizer
    return model, TrOCRProcessor(ViTImageProcessor(size=encoder.image_hw), tokenizer)


@pytest.fixture
def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 90), dtype=np.uint8))


def test_multiply_adds_of_a_transformer_of_timm_are_those_of_ours():
    model, _ = build(TRANSFORMER)
    ours = make_model("learned").config
    encoder = dataclasses.replace(
        ours.encoder,
        hidden_size=192,
        num_attention_heads=3,
        intermediate_size=768,
        image_size=(32, 64),
        patch_size=16,
    )
    decoder = dataclasses.replace(ours.decoder, cross_attention_hidden_size=None)
    twin = VisionEncoderDecoderModel(dataclasses.replace(ours, encoder=encoder, decoder=decoder))
    theirs, own = measure_sizes(model, tokens=5), measure_sizes(twin, tokens=5)
    assert theirs.part("encoder").image_macs == own.part("encoder").image_macs
    assert theirs.total.line_macs == own.total.line_macs
    assert theirs.total.parameters == model.num_parameters()
    assert theirs.image_tokens == 2 * 4 + 1


@pytest.mark.parametrize("encoder", [TRANSFORMER, CONVOLUTIONS], ids=lambda c: c.architecture)
def test_modules_of_timm_are_taps(encoder, picture):
    model, processor = build(encoder)
    pixels = processor(picture, return_tensors="pt").pixel_values
    kinds = {tap.name: tap.kind for tap in list_taps(model)}
    activation = next(name for name, m in model.named_modules() if isinstance(m, nn.ReLU | nn.GELU))
    assert kinds[activation] == "foreign"
    with torch.no_grad():
        plain = model.encode(pixels).last_hidden_state
        with capture(model, [name for name, kind in kinds.items() if kind != "probs"]) as captured:
            assert torch.equal(model.encode(pixels).last_hidden_state, plain)
        assert torch.equal(captured["encoder.norm"][0], plain)
        with patch(model, {activation: 0.0}):
            assert not torch.equal(model.encode(pixels).last_hidden_state, plain)


@pytest.mark.parametrize("encoder", [TRANSFORMER, CONVOLUTIONS], ids=lambda c: c.architecture)
def test_maps_lie_on_the_places_of_the_backbone(encoder, picture):
    model, processor = build(encoder)
    maps = attention_maps(model, processor, picture, max_new_tokens=4, min_new_tokens=4)
    prefix, grid = (1, (2, 4)) if encoder is TRANSFORMER else (0, (2, 3))
    assert maps.maps.shape == (4, 1, *grid)
    assert maps.prefix.shape == (4, 1, prefix)
    assert np.allclose(maps.maps.sum((2, 3)) + maps.prefix.sum(2), 1, atol=1e-5)
    assert maps.geometry.box == (0, 0, 1, 1)


@pytest.mark.filterwarnings("ignore:.* rows were cut at")
def test_backbones_are_compared_by_what_they_give(picture):
    model, processor = build(TRANSFORMER)
    found = compare_activations(model, model, [picture], processor=processor)
    assert found.layers["encoder"] == (("memory",), ("memory",))
    assert found.cka["encoder"][0][0] == pytest.approx(1)


def test_what_is_no_tensor_is_not_captured_and_cannot_be_patched():
    class Pair(nn.Module):
        def forward(self, x):
            return x, x

    model = nn.Sequential(Pair())
    with capture(model) as captured:
        model(torch.ones(2))
    assert captured == {"0": []}
    with (
        pytest.raises(SurgeryError, match="patch of 0: it gives a tuple, expected a tensor"),
        patch(model, {"0": 1.0}),
    ):
        model(torch.ones(2))
