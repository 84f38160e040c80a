"""Maps: what they hold is the model's attention, and they lie where the pixels went."""

import copy
import itertools

import numpy as np
import pytest
import torch
from inspected import make_model
from PIL import Image, ImageDraw

from trocr import (
    DeiTImageProcessor,
    Reader,
    TrOCRProcessor,
    VisionEncoderDecoderModel,
    ViTImageProcessor,
)
from trocr.hub import PRETRAINED
from trocr.inspect import attention_maps, attention_rollout, capture
from trocr.inspect.geometry import Geometry
from trocr.surgery.patterns import SurgeryError

SHIPPED = PRETRAINED / "tiny-printed"
EXAMPLES = ("book.png", "heading.jpg", "letter.jpg", "typescript.png")


@pytest.fixture(scope="module")
def shipped() -> tuple[VisionEncoderDecoderModel, TrOCRProcessor]:
    return VisionEncoderDecoderModel.from_pretrained(SHIPPED), TrOCRProcessor.from_pretrained(SHIPPED)


def small(family: str) -> tuple[VisionEncoderDecoderModel, TrOCRProcessor]:
    """A random model, and a processor for it; its tokens are among the first of the shipped vocabulary."""
    model = make_model(family)
    height, width = model.config.encoder.image_hw
    tokenizer = TrOCRProcessor.from_pretrained(SHIPPED).tokenizer
    return model, TrOCRProcessor(ViTImageProcessor(size=(height, width)), tokenizer)


@pytest.fixture
def picture() -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 256, (40, 90, 3), dtype=np.uint8)
    return Image.fromarray(noise)


# ---- what maps hold -------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["learned", "unilm", "non_square", "projection"])
def test_maps_are_the_cross_attention_of_the_position_that_wrote_the_token(family, picture):
    model, processor = small(family)
    model.set_attention("eager")
    maps = attention_maps(model, processor, picture, max_new_tokens=6, min_new_tokens=6)
    pixels = processor(picture, return_tensors="pt").pixel_values
    out = model.generate(
        pixels, max_new_tokens=6, min_new_tokens=6, return_dict_in_generate=True, output_attentions=True
    )
    prefix, (rows, columns) = model.config.encoder.num_prefix_tokens, model.config.encoder.grid
    assert maps.maps.shape == (6, 1, rows, columns)
    assert maps.prefix.shape == (6, 1, prefix)
    for token, blocks in enumerate(out.cross_attentions):
        mean = torch.stack(blocks).mean(dim=(0, 2))[0, 0].numpy()  # (S,)
        assert np.allclose(maps.prefix[token, 0], mean[:prefix], atol=1e-6)
        assert np.allclose(maps.maps[token, 0].ravel(), mean[prefix:], atol=1e-6)
    assert np.allclose(maps.maps.sum((2, 3)) + maps.prefix.sum(2), 1, atol=1e-5)


def test_layers_and_heads_are_chosen(picture):
    model, processor = small("learned")
    options = {"max_new_tokens": 4, "min_new_tokens": 4}
    each = attention_maps(model, processor, picture, per_head=True, **options)
    assert each.heads == ((0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2))
    assert each.maps.shape[:2] == (4, 6)
    for choice, wanted in (
        ({}, slice(0, 6)),
        ({"layers": "last:1"}, slice(3, 6)),
        ({"layers": [0]}, slice(0, 3)),
        ({"layers": "1", "heads": [2]}, slice(5, 6)),
    ):
        mean = attention_maps(model, processor, picture, **choice, **options)
        assert np.allclose(mean.maps[:, 0], each.maps[:, wanted].mean(axis=1), atol=1e-6)
        assert mean.heads == ()
    chosen = attention_maps(model, processor, picture, layers="1", heads=[2, 0], per_head=True, **options)
    assert chosen.heads == ((1, 2), (1, 0))
    assert np.array_equal(chosen.maps, each.maps[:, [5, 3]])


def test_rollout_sums_over_all_paths():
    random = torch.Generator().manual_seed(0)
    probs = [torch.rand(1, 2, 3, 3, generator=random).softmax(dim=-1) for _ in range(3)]
    steps = [p[0].mean(dim=0).double() for p in probs]
    wanted = torch.zeros(3, 3, dtype=torch.float64)
    for last, *middle, first in itertools.product(range(3), repeat=4):
        path = 1.0
        for step, (upper, lower) in zip(
            reversed(steps), itertools.pairwise((last, *middle, first)), strict=True
        ):
            path *= 0.5 * float(step[upper, lower]) + 0.5 * (upper == lower)
        wanted[last, first] += path
    assert torch.allclose(attention_rollout(probs)[0], wanted, atol=1e-12)
    with pytest.raises(SurgeryError, match="no attention was given"):
        attention_rollout([])


def test_rollout_follows_cross_attention_through_the_encoder(picture):
    model, processor = small("unilm")
    options = {"max_new_tokens": 4, "min_new_tokens": 4}
    plain = attention_maps(model, processor, picture, **options)
    rolled = attention_maps(model, processor, picture, rollout=True, **options)
    with torch.no_grad(), capture(model, "encoder.*probs") as captured:
        model.encode(processor(picture, return_tensors="pt").pixel_values)
    mixture = attention_rollout([calls[0] for calls in captured.values()])[0].numpy()
    before = np.concatenate((plain.prefix[:, 0], plain.maps[:, 0].reshape(4, -1)), axis=1)
    after = np.concatenate((rolled.prefix[:, 0], rolled.maps[:, 0].reshape(4, -1)), axis=1)
    assert np.allclose(after, before @ mixture, atol=1e-6)
    assert np.allclose(after.sum(axis=1), 1, atol=1e-5)
    assert not np.allclose(after, before, atol=1e-3)


def test_the_model_is_left_as_it_was(picture):
    model, processor = small("learned")
    model.train()
    model.decoder.blocks[0].eval()
    modes = [module.training for module in model.modules()]
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    first = attention_maps(model, processor, picture, rollout=True, max_new_tokens=3)
    assert modes == [module.training for module in model.modules()]
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    second = attention_maps(model.eval(), processor, picture, rollout=True, max_new_tokens=3)
    assert np.array_equal(first.maps, second.maps)


def test_wrong_choices(picture):
    model, processor = small("learned")
    for choice, message in (
        ({"layers": "2"}, "blocks '2' are not among the 2"),
        ({"heads": [3]}, r"heads \[3\] are not among the 3 of decoder block 0, which are numbered 0 to 2"),
        ({"heads": []}, r"heads \[\] are not among the 3"),
    ):
        with pytest.raises(SurgeryError, match=message):
            attention_maps(model, processor, picture, **choice)
    maps = attention_maps(model, processor, picture, max_new_tokens=3, min_new_tokens=3)
    for token, which in ((3, 0), (-4, 0), (0, 1), (0, -1)):
        with pytest.raises(
            SurgeryError, match=f"map {which} of token {token}: there are 3 tokens with 1 maps"
        ):
            maps.pixels(token, which)
    model.encoder = torch.nn.Identity()
    with pytest.raises(SurgeryError, match="Identity does not say where its tokens are"):
        attention_maps(model, processor, picture)


# ---- where maps lie -------------------------------------------------------------------------------

PROCESSORS = {
    "squeezed": ViTImageProcessor(size=(48, 64)),
    "padded": ViTImageProcessor(size=(32, 400), pad_to_aspect_ratio=True),
    "squeezed line": ViTImageProcessor(size=(64, 70), pad_to_aspect_ratio=True),
    "cropped": DeiTImageProcessor(size=(80, 96), crop_size=(61, 64)),
    "cropped beyond": DeiTImageProcessor(size=(50, 60), crop_size=(71, 80)),
    "as it is": ViTImageProcessor(do_resize=False),
    "cropped as it is": DeiTImageProcessor(do_resize=False, crop_size=(40, 120)),
}
IMAGE_HW = (60, 150)


@pytest.mark.parametrize("name", PROCESSORS)
def test_geometry_says_where_a_spot_of_the_image_goes(name):
    processor = PROCESSORS[name]
    geometry = Geometry.of(processor, IMAGE_HW, patch_hw=(8, 8), grid=(6, 8))
    seen = 0
    for y, x in itertools.product((12, 25, 31, 47), (18, 40, 90, 131)):
        blank = Image.new("L", IMAGE_HW[::-1], 255)
        spot = blank.copy()
        ImageDraw.Draw(spot).rectangle((x - 4, y - 4, x + 3, y + 3), fill=0)  # around the point (x, y)
        pixels = processor([blank, spot], return_tensors="np", do_normalize=False)["pixel_values"][:, 0]
        assert pixels.shape[1:] == geometry.input_hw
        dark = pixels[0] - pixels[1]
        whole = 64 * geometry.scale[0] * geometry.scale[1]
        if abs(float(dark.sum()) - whole) > 0.02 * whole:
            continue  # cut off by the crop
        rows, columns = np.indices(dark.shape) + 0.5
        found = (rows * dark).sum() / dark.sum(), (columns * dark).sum() / dark.sum()
        wanted = tuple(p * s + o for p, s, o in zip((y, x), geometry.scale, geometry.offset, strict=True))
        assert np.allclose(found, wanted, atol=0.25), (y, x)
        seen += 1
    assert seen >= 4


@pytest.mark.parametrize("name", PROCESSORS)
def test_pixels_have_the_value_of_the_patch_that_shows_them(name):
    processor = PROCESSORS[name]
    height, width = (processor(Image.new("L", IMAGE_HW[::-1]), return_tensors="np")["pixel_values"]).shape[2:]
    grid = height // 8, width // 6  # some pixels at the end are in no patch
    geometry = Geometry.of(processor, IMAGE_HW, patch_hw=(8, 6), grid=grid)
    values = 1.0 + np.arange(grid[0] * grid[1]).reshape(grid)
    laid = geometry.to_pixels(values)
    assert laid.shape == IMAGE_HW
    for y, x in itertools.product(range(0, IMAGE_HW[0], 7), range(0, IMAGE_HW[1], 11)):
        row = ((y + 0.5) * geometry.scale[0] + geometry.offset[0]) / 8
        column = ((x + 0.5) * geometry.scale[1] + geometry.offset[1]) / 6
        inside = 0 <= row < grid[0] and 0 <= column < grid[1]
        assert laid[y, x] == (values[int(row), int(column)] if inside else 0)
    # What no pixel has is on patches that are not on the image, or that an enlarged pixel's middle misses.
    shown = geometry.on_image()
    assert set(np.unique(laid)) - {0} <= set(values[shown])
    left, top, wide, high = geometry.box
    edges = np.flatnonzero((laid > 0).any(axis=0)), np.flatnonzero((laid > 0).any(axis=1))
    for found, start, size, whole in (
        (edges[0], left, wide, IMAGE_HW[1]),
        (edges[1], top, high, IMAGE_HW[0]),
    ):
        assert abs(found[0] - max(0, start * whole)) <= 1
        assert abs(found[-1] + 1 - min(whole, (start + size) * whole)) <= 1


def test_padding_is_told_apart():
    geometry = Geometry.of(PROCESSORS["padded"], IMAGE_HW, patch_hw=(16, 8), grid=(2, 50))
    assert geometry.scale == (32 / 60, 80 / 150)
    assert geometry.on_image().tolist() == [[True] * 10 + [False] * 40] * 2


@pytest.mark.parametrize("name", EXAMPLES)
def test_maps_of_the_shipped_model_lie_on_the_letters(shipped, repo, name):
    """The middle of a token's map is as far along the image as its letters are along the text."""
    maps = attention_maps(*shipped, repo / "examples" / name)
    assert maps.text == next(Reader(*shipped).read(repo / "examples" / name)).text
    assert "".join(maps.parts) == maps.text
    assert maps.tokens[-1] == "</s>"
    width = maps.picture.width
    letters, done = [], 0
    for part in maps.parts[:-1]:
        letters.append((done + len(part) / 2) / len(maps.text))
        done += len(part)
    middles = []
    for token in range(len(letters)):
        laid = maps.pixels(token)
        assert laid.shape == (maps.picture.height, width)
        middles.append(float((laid.sum(axis=0) * (np.arange(width) + 0.5)).sum() / laid.sum()) / width)
    assert np.corrcoef(letters, middles)[0, 1] > 0.97
    assert np.abs(np.subtract(letters, middles)).mean() < 0.06
    assert np.all(maps.padding[:-2] < 0.15)


def test_rollout_of_the_shipped_model_follows_the_line_too(shipped, repo):
    maps = attention_maps(*shipped, repo / "examples" / "book.png", rollout=True)
    strongest = maps.distinct()[:-1, 0, 0].argmax(axis=1)
    assert np.corrcoef(strongest, np.arange(len(strongest)))[0, 1] > 0.95
    assert maps.distinct().min() == 0


def test_images_come_in_every_form(shipped, repo):
    path = repo / "examples" / "heading.jpg"
    from_path = attention_maps(*shipped, path)
    with path.open("rb") as stream:
        from_stream = attention_maps(*shipped, stream)
    from_array = attention_maps(*shipped, np.asarray(Image.open(path)))
    assert from_path.source == str(path)
    assert from_stream.source == from_array.source == "image"
    for other in (from_stream, from_array):
        assert np.array_equal(other.maps, from_path.maps)
        assert other.picture.tobytes() == from_path.picture.tobytes()


def test_maps_with_beams_are_those_of_the_chosen_text(shipped, repo):
    path = repo / "examples" / "label.png"
    searched, greedy = attention_maps(*shipped, path, num_beams=3), attention_maps(*shipped, path)
    assert searched.text == greedy.text == "Keep in a cool, dry place"
    assert np.array_equal(searched.maps, greedy.maps)


def test_half_precision_and_other_ends(shipped, repo):
    path = repo / "examples" / "heading.jpg"
    half = copy.deepcopy(shipped[0]).to(torch.bfloat16)
    plain = attention_maps(*shipped, path)
    for rollout in (False, True):
        maps = attention_maps(half, shipped[1], path, rollout=rollout)
        assert maps.text == plain.text
        assert maps.maps.dtype == np.float32
        assert np.allclose(maps.maps.sum((2, 3)) + maps.prefix.sum(2), 1, atol=0.01)
    (p,) = {token for token, name in enumerate(plain.tokens) if name == "p"}
    end = shipped[1].tokenizer("p", add_special_tokens=False)["input_ids"]
    assert attention_maps(*shipped, path, eos_token_id=end).tokens == plain.tokens[: p + 1]


def test_plain_values(picture):
    model, processor = small("non_square")
    maps = attention_maps(model, processor, picture, max_new_tokens=3, min_new_tokens=3)
    values = maps.to_dict()
    assert [token["token"] for token in values["tokens"]] == list(maps.tokens)
    assert np.allclose([token["map"] for token in values["tokens"]], maps.maps, atol=1e-6)
    assert values["patches"] == [0, 0, 1, 1]
