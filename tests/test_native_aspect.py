"""Sizes at an image's own aspect ratio, and the pixel values made of them."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from trocr import DeiTConfig, TrOCRConfig, VisionEncoderDecoderConfig, VisionEncoderDecoderModel, ViTConfig
from trocr.image import DeiTImageProcessor, ViTImageProcessor
from trocr.native_aspect import NativeAspect, NativeAspectError, by_shape, choose_grid

PROCESSOR = ViTImageProcessor(size=64)


def make(encoder_class: type = ViTConfig) -> VisionEncoderDecoderModel:
    torch.manual_seed(0)
    encoder = encoder_class(
        image_size=64,
        patch_size=8,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
    )
    decoder = TrOCRConfig(
        vocab_size=20,
        d_model=16,
        decoder_layers=1,
        decoder_attention_heads=2,
        decoder_ffn_dim=16,
        max_position_embeddings=12,
        cross_attention_hidden_size=16,
    )
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    return VisionEncoderDecoderModel(config).eval()


@pytest.mark.parametrize(
    ("image_hw", "grid"),
    [
        ((384, 384), (24, 24)),
        ((768, 768), (24, 24)),
        ((64, 1024), (6, 96)),  # the budget: 4 x 64 patches, enlarged 1.5 times
        ((32, 256), (4, 32)),  # twice as large, and no more
        ((16, 9600), (1, 576)),
        ((9600, 16), (576, 1)),
        ((1, 1), (1, 1)),
    ],
)
def test_grids_of_the_official_shape(image_hw, grid):
    assert choose_grid(image_hw, patch_hw=(16, 16), max_patches=576) == grid


def test_columns_come_in_steps_within_the_budget():
    def columns(width: int, **options: int) -> int:
        return choose_grid((16, width), patch_hw=(16, 16), max_patches=50, enlarge=1.0, **options)[1]

    assert [columns(16 * n, column_step=8) for n in (1, 8, 9, 41, 48, 49, 50)] == [8, 8, 16, 48, 48, 48, 48]
    assert columns(160) == 10
    assert choose_grid((160, 16), patch_hw=(16, 16), max_patches=10, enlarge=1.0, column_step=8) == (10, 1)


@given(
    st.tuples(st.integers(1, 3000), st.integers(1, 9000)),
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.integers(1, 900),
    st.integers(1, 9),
)
def test_a_grid_keeps_within_the_budget_and_near_the_aspect_ratio(image_hw, patch_hw, most, step):
    rows, columns = choose_grid(image_hw, patch_hw=patch_hw, max_patches=most, column_step=step)
    assert rows >= 1
    assert columns >= 1
    assert rows * columns <= most
    rows, columns = choose_grid(image_hw, patch_hw=patch_hw, max_patches=most)
    if rows > 3 and columns > 3:
        wanted = image_hw[1] / image_hw[0]
        assert 0.65 < columns * patch_hw[1] / (rows * patch_hw[0]) / wanted < 1.55


def test_sizes_for_a_model():
    aspect = NativeAspect.of(make(), PROCESSOR, column_step=1)
    assert (aspect.patch_hw, aspect.max_patches) == ((8, 8), 64)
    assert aspect.size((20, 200)) == (16, 208)
    half = NativeAspect.of(make(DeiTConfig), PROCESSOR, share=0.5, enlarge=1.0)
    assert half.max_patches == 32
    assert half.size((64, 64)) == (40, 32), "4 of 6 columns, for the step"


@pytest.mark.parametrize(
    "processor", [PROCESSOR, DeiTImageProcessor(size=72, do_center_crop=True, crop_size=64)]
)
def test_the_model_reads_what_is_prepared(processor):
    model = make()
    aspect = NativeAspect.of(model, processor, column_step=1)
    line = Image.fromarray(np.random.default_rng(0).integers(0, 255, (16, 128, 3), dtype=np.uint8))
    pixels = aspect.prepare(processor, line)
    assert pixels.shape == (3, 16, 128) or pixels.shape == (3, 24, 168)
    height, width = pixels.shape[1:]
    resized = line.resize((width, height), Image.Resampling(processor.resample))
    expected = torch.from_numpy(np.asarray(resized).copy()).permute(2, 0, 1) / 127.5 - 1
    torch.testing.assert_close(pixels, expected)
    found = model.generate(pixels[None], interpolate_pos_encoding=True, max_new_tokens=4)
    assert found.shape[0] == 1
    assert model.encode(pixels[None], interpolate_pos_encoding=True).last_hidden_state.shape[1] == (
        1 + height * width // 64
    )


def test_an_image_of_the_models_shape_is_read_as_ever():
    model = make()
    square = Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 90, 3), dtype=np.uint8))
    pixels = NativeAspect.of(model, PROCESSOR).prepare(PROCESSOR, square)
    assert torch.equal(pixels, PROCESSOR(square, return_tensors="pt")["pixel_values"][0])


def test_groups_of_one_shape():
    pixels = [torch.zeros(3, 8, width) for width in (16, 8, 16, 24, 8)]
    groups = by_shape(pixels)
    assert [places for places, _ in groups] == [[0, 2], [1, 4], [3]]
    assert all(items[0] is pixels[places[0]] and len(items) == len(places) for places, items in groups)
    assert by_shape([]) == []


def test_what_it_is_not_for():
    model = make()
    with pytest.raises(NativeAspectError, match="use native_width"):
        NativeAspect.of(model, ViTImageProcessor(pad_to_aspect_ratio=True))
    with pytest.raises(NativeAspectError, match="do_resize=False"):
        NativeAspect.of(model, ViTImageProcessor(do_resize=False))
    with pytest.raises(NativeAspectError, match=r"share is 1\.5, expected above 0"):
        NativeAspect.of(model, PROCESSOR, share=1.5)
    with pytest.raises(NativeAspectError, match="enlarge has 0, expected numbers above 0"):
        NativeAspect.of(model, PROCESSOR, enlarge=0)
    with pytest.raises(NativeAspectError, match="max_patches has nan"):
        choose_grid((1, 1), patch_hw=(1, 1), max_patches=float("nan"))
    with pytest.raises(NativeAspectError, match="image_hw has 0"):
        choose_grid((0, 5), patch_hw=(1, 1), max_patches=4)


class _Timm:
    """Stands for a model whose encoder is none of this library's."""

    class config:
        encoder = object()


def test_encoders_without_positions_to_interpolate():
    with pytest.raises(NativeAspectError, match="interpolates positions, which object does not allow"):
        NativeAspect.of(_Timm(), PROCESSOR)
