"""How an image is read for maps and the lens: native width, other sizes, ends, options that are set here."""

import numpy as np
import pytest
import torch
from inspected import make_model
from PIL import Image

from trocr import Reader, TrOCRProcessor, VisionEncoderDecoderModel, ViTImageProcessor
from trocr.generation import GenerationConfig
from trocr.hub import PRETRAINED
from trocr.inspect import (
    attention_maps,
    attention_page,
    attention_rollout,
    capture,
    compare_activations,
    compare_weights,
    logit_lens,
    measure_sizes,
    overlay,
)
from trocr.inspect.reading import OWN_OPTIONS
from trocr.surgery.patterns import SurgeryError

SHIPPED = PRETRAINED / "tiny-printed"


@pytest.fixture(scope="module")
def shipped():
    return VisionEncoderDecoderModel.from_pretrained(SHIPPED), TrOCRProcessor.from_pretrained(SHIPPED)


@pytest.fixture
def small(shipped):
    return make_model("learned"), TrOCRProcessor(ViTImageProcessor(size=(32, 32)), shipped[1].tokenizer)


@pytest.fixture
def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 90), dtype=np.uint8))


@pytest.mark.parametrize("name", ["number.png", "heading.jpg"])
def test_maps_at_native_width_are_those_of_what_the_reader_reads(shipped, repo, name):
    path = repo / "examples" / name
    maps = attention_maps(*shipped, path, native_width=True)
    whole = attention_maps(*shipped, path)
    assert maps.text == next(Reader(*shipped).read(path, native_width=True)).text
    assert logit_lens(*shipped, path, native_width=True).text == maps.text
    columns = maps.maps.shape[-1]
    assert columns < whole.maps.shape[-1] == 120
    assert maps.geometry.grid == (1, columns)
    assert maps.geometry.input_hw == (32, 8 * columns)
    assert maps.geometry.scale == whole.geometry.scale
    assert np.allclose(maps.maps.sum((2, 3)) + maps.prefix.sum(2), 1, atol=1e-5)
    assert float(maps.padding.max()) <= float(whole.padding.max())
    # The letters are where they were, on the model's input and on the image.
    strongest = [found.maps[:-1, 0, 0].argmax(-1) for found in (maps, whole)]
    assert np.abs(strongest[0] - strongest[1]).max() <= 3
    for token in (0, 5):
        places = [found.pixels(token).sum(axis=0).argmax() for found in (maps, whole)]
        assert abs(places[0] - places[1]) <= 6


def test_rollout_at_native_width_follows_the_same_reading(shipped, repo):
    path = repo / "examples" / "number.png"
    plain = attention_maps(*shipped, path, native_width=True)
    rolled = attention_maps(*shipped, path, native_width=True, rollout=True)
    assert rolled.maps.shape == plain.maps.shape
    model, processor = shipped
    pixels = processor(Image.open(path), return_tensors="pt").pixel_values[..., : plain.geometry.input_hw[1]]
    with torch.no_grad(), capture(model, "encoder.*probs") as captured:
        model.encode(pixels, crop_pos_encoding=True)
    mixture = attention_rollout([calls[0] for calls in captured.values()])[0].numpy()
    before = np.concatenate((plain.prefix[:, 0], plain.maps[:, 0, 0]), axis=1)
    after = np.concatenate((rolled.prefix[:, 0], rolled.maps[:, 0, 0]), axis=1)
    assert np.allclose(after, before @ mixture, atol=1e-5)


def test_native_width_is_for_lines_that_are_padded(small, picture):
    for function in (attention_maps, logit_lens):
        with pytest.raises(SurgeryError, match="native_width is for processors that pad lines"):
            function(*small, picture, native_width=True)


def test_images_of_another_size_have_a_grid_of_their_own(small, picture):
    model, processor = small
    processor.image_processor.size = (48, 64)
    with pytest.raises(ValueError, match="pass interpolate_pos_encoding=True"):
        attention_maps(model, processor, picture)
    for rollout in (False, True):
        maps = attention_maps(
            model, processor, picture, interpolate_pos_encoding=True, rollout=rollout, max_new_tokens=3
        )
        assert maps.maps.shape[2:] == maps.geometry.grid == (6, 8)
        assert maps.geometry.box == (0, 0, 1, 1)


@pytest.mark.parametrize("option", OWN_OPTIONS)
def test_options_that_are_set_here(small, picture, option):
    for function in (attention_maps, logit_lens):
        with pytest.raises(SurgeryError, match=f"{option} cannot be given: one image is read"):
            function(*small, picture, **{option: None})


def test_ends_of_every_form(shipped, repo):
    path = repo / "examples" / "heading.jpg"
    plain = attention_maps(*shipped, path)
    (end,) = shipped[1].tokenizer("p", add_special_tokens=False)["input_ids"]
    wanted = plain.tokens[: plain.tokens.index("p") + 1]
    for options in (
        {"eos_token_id": end},
        {"eos_token_id": [end, 0]},
        {"generation_config": GenerationConfig(eos_token_id=end)},
        {"num_beams": 2, "eos_token_id": [end, 0]},
    ):
        assert attention_maps(*shipped, path, **options).tokens == wanted


@pytest.mark.parametrize("heads", [3, "0", [1.0], [True], [0, 3]])
def test_heads_that_are_no_numbers_of_heads(small, picture, heads):
    with pytest.raises(SurgeryError, match="are not among the 3 of decoder block 0"):
        attention_maps(*small, picture, heads=heads)


@pytest.mark.parametrize("size", [(8000, 2), (2, 8000), (1, 1), (4000, 300)])
def test_pages_of_images_of_any_shape(small, size):
    maps = attention_maps(*small, Image.new("RGB", size), max_new_tokens=2, min_new_tokens=2)
    page = attention_page(maps)
    assert page == attention_page([maps])
    assert f"aspect-ratio: {size[0]} / {size[1]}" in page
    assert overlay(maps, -1).size == size
    with pytest.raises(SurgeryError, match="map 0 of token 2: there are 2 tokens"):
        overlay(maps, 2)


def test_rows_without_a_token_have_a_name(small, picture):
    """Vocabularies may have rows beyond their tokenizer, or rows in it that no token has."""
    model, processor = small
    found = logit_lens(model, processor, picture, top_k=61, max_new_tokens=2)
    assert all(name and name != "None" for layer in found.names for row in layer for name in row)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("tiny-printed", "a str cannot be looked into: expected a model as `from_pretrained` loads it"),
        ("decoder", "a TrOCRForCausalLM has no encoder and no decoder: expected a VisionEncoderDecoderModel"),
    ],
)
def test_what_is_no_model_that_reads(small, picture, given, message):
    model, processor = small
    given = model.decoder if given == "decoder" else given
    for call in (
        lambda: attention_maps(given, processor, picture),
        lambda: logit_lens(given, processor, picture),
        lambda: measure_sizes(given),
        lambda: compare_activations(model, given, [picture], processor=processor),
    ):
        with pytest.raises(SurgeryError, match=message):
            call()
    if isinstance(given, str):
        with pytest.raises(SurgeryError, match=message):
            compare_weights(model, given)
