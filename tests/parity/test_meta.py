"""The eleven releases at full size on the meta device: names on disk, shapes, counts, configuration."""

import dataclasses

import pytest
import torch
import transformers as hf
from transformers.core_model_loading import revert_weight_conversion

from trocr import OFFICIAL_MODELS, VisionEncoderDecoderModel
from weights_conversion.hf import HF

COUNTS = {
    "small": 61_448_832,
    "base learned": 333_331_200,
    "base sinusoidal": 384_274_176,
    "large learned": 557_176_832,
    "large sinusoidal": 608_119_808,
}
"""Parameters without the pooler, which the releases do not hold."""

SINUSOIDAL = {"microsoft/trocr-base-stage1", "microsoft/trocr-large-stage1", "microsoft/trocr-large-printed"}

POOLERS = {"small": 384 * 385, "base": 768 * 769, "large": 1024 * 1025}

Shapes = dict[str, tuple[int, ...]]


def reference_on_disk(values: dict) -> Shapes:
    """Names and shapes that the reference writes for a configuration, tied tensors left out."""
    with torch.device("meta"):
        model = hf.VisionEncoderDecoderModel(hf.VisionEncoderDecoderConfig.from_dict(values))
    state = {name: tensor for name, tensor in model.state_dict().items() if "pooler" not in name}
    if model.decoder.config.tie_word_embeddings:
        assert state.pop("decoder.output_projection.weight").shape == (50265, 1024)
    return {name: tuple(t.shape) for name, t in revert_weight_conversion(model, state).items()}


def ours_on_disk(model: VisionEncoderDecoderModel) -> Shapes:
    """Names and shapes that `save_pretrained` writes."""
    shapes = {n: tuple(p.shape) for n, p in model.named_parameters() if n not in model.tied}
    names = HF.invert(shapes)
    return {names[name]: shape for name, shape in shapes.items()}


def test_the_table_has_the_eleven_releases() -> None:
    sizes = {"small": 3, "base": 4, "large": 4}
    names = [name.removeprefix("microsoft/trocr-").split("-") for name in OFFICIAL_MODELS]
    assert {size: sum(name[0] == size for name in names) for size in sizes} == sizes
    assert {n for n, m in OFFICIAL_MODELS.items() if m.family == "sinusoidal"} == SINUSOIDAL


@pytest.mark.parametrize("name", OFFICIAL_MODELS)
def test_names_shapes_and_counts(name: str) -> None:
    official = OFFICIAL_MODELS[name]
    with torch.device("meta"):
        ours = VisionEncoderDecoderModel(official.config)
    assert {p.device.type for p in ours.parameters()} == {"meta"}
    disk = ours_on_disk(ours)
    assert disk == reference_on_disk(official.config.to_dict())
    size = name.removeprefix("microsoft/trocr-").split("-")[0]
    family = "sinusoidal" if name in SINUSOIDAL else "learned"
    expected = COUNTS["small" if size == "small" else f"{size} {family}"]
    assert ours.num_parameters() == official.num_parameters == expected
    assert sum(torch.Size(shape).numel() for shape in disk.values()) == expected
    with torch.device("meta"):
        pooled = VisionEncoderDecoderModel._build(official.config, lambda module: True)
    assert pooled.num_parameters() == expected + POOLERS[size]


@pytest.mark.parametrize("name", OFFICIAL_MODELS)
def test_the_reference_reads_the_configuration_alike(name: str) -> None:
    """Every value of a release's configuration that the reference computes with."""
    official = OFFICIAL_MODELS[name]
    read = hf.VisionEncoderDecoderConfig.from_dict(official.config.to_dict())
    for part in ("encoder", "decoder"):
        ours, theirs = getattr(official.config, part), getattr(read, part)
        for field in (item.name for item in dataclasses.fields(ours)):
            if field in ("generation_defaults", "dtype", "pooler_output_size", "block_shapes"):
                continue
            assert getattr(theirs, field) == getattr(ours, field), f"{part}.{field}"
    assert read.decoder.is_decoder
    assert read.decoder.add_cross_attention
    assert read.encoder.layer_norm_eps == 1e-12
    assert read.encoder.qkv_bias is (read.encoder.model_type == "deit")


@pytest.mark.parametrize("name", ["microsoft/trocr-small-printed", "microsoft/trocr-base-stage1"])
def test_a_forward_pass_on_the_meta_device(name: str) -> None:
    """Shapes of the results of a full-size model, without its memory."""
    with torch.device("meta"):
        model = VisionEncoderDecoderModel(OFFICIAL_MODELS[name].config)
        out = model(torch.empty(2, 3, 384, 384), torch.full((2, 9), 2))
    tokens = 576 + model.config.encoder.num_prefix_tokens
    assert out.encoder_last_hidden_state.shape == (2, tokens, model.config.encoder.hidden_size)
    assert out.logits.shape == (2, 9, model.config.decoder.vocab_size)
