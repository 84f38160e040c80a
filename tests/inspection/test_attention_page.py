"""Pictures and the page of attention maps: they need nothing else, and show what the maps hold."""

import base64
import dataclasses
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from trocr.inspect import AttentionMaps, attention_page, overlay
from trocr.inspect.geometry import Geometry
from trocr.inspect.pictures import COLOUR, STRENGTH, strengths

BAD = '<script>alert("1")</script>'


@pytest.fixture
def maps() -> AttentionMaps:
    """Three tokens on a line of two by five patches, the last of which shows padding only."""
    grids = np.zeros((3, 1, 2, 5), np.float32)
    grids[0, 0, 0, 0], grids[0, 0, 1, 1] = 0.5, 0.25
    grids[1, 0, 0, 2], grids[1, 0, 1, 4] = 0.125, 0.75
    grids[2, 0] = 0.0625
    return AttentionMaps(
        source=f"{BAD}.png",
        picture=Image.new("RGB", (80, 40), (255, 255, 255)),
        text=f"a{BAD}",
        tokens=("a", BAD, "</s>"),
        parts=("a", BAD, ""),
        maps=grids,
        prefix=(1 - grids.sum((2, 3)))[..., None],
        heads=(),
        is_rollout=False,
        geometry=Geometry(
            image_hw=(40, 80),
            input_hw=(20, 50),
            scale=(0.5, 0.5),
            offset=(0, 0),
            patch_hw=(10, 10),
            grid=(2, 5),
        ),
    )


class Page(HTMLParser):
    """What a browser would make of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.texts.append(data)

    def sources(self) -> list[str]:
        inside = re.findall(r"url\(([^)]*)\)", "".join(self.texts))
        return [about[name] for _, about in self.tags for name in ("src", "href") if name in about] + inside


def decoded(url: str) -> Image.Image:
    head, _, content = url.partition(",")
    assert head == "data:image/png;base64"
    return Image.open(io.BytesIO(base64.b64decode(content)))


def test_the_page_needs_nothing_else_and_escapes_texts(maps):
    text = attention_page([maps, maps])
    page = Page(text)
    assert all(source.startswith("data:image/png;base64,") for source in page.sources())
    assert "http" not in text
    assert "@import" not in text
    tags = [tag for tag, _ in page.tags]
    assert "script" not in tags
    assert not any(name.startswith("on") for _, about in page.tags for name in about)
    assert BAD not in text
    assert page.texts.count(f"{BAD}.png") == 2
    assert page.texts.count(BAD) == 4  # in the line and in the list of tokens, of both images
    assert text.startswith("<!doctype html>")
    for tag in ("div", "span", "details", "style", "p", "h2", "body", "html"):
        assert text.count(f"</{tag}>") == tags.count(tag), tag


def test_each_token_has_its_map_over_the_picture(maps):
    page = Page(attention_page([maps]))
    tokens = [about for _, about in page.tags if about.get("class") == "token"]
    assert [about["tabindex"] for about in tokens] == ["0"] * 3
    assert tokens[1]["title"] == f"{BAD}\nprefix tokens 12.5%, outside the image 75.0%"
    covers = [about for tag, about in page.tags if tag == "img"]
    assert len(covers) == 6
    for about, grid in zip(covers, strengths(maps), strict=False):  # the tokens of the line come first
        alpha = np.asarray(decoded(about["src"]))[..., 3]
        assert np.array_equal(alpha, np.rint(grid * 255 * STRENGTH))
        # Five patches of 20 pixels of the image: a quarter wider than the image, which hides the rest.
        assert about["style"] == "left: 0.0000%; top: 0.0000%; width: 125.0000%; height: 100.0000%"
    (picture,) = re.findall(r"url\(([^)]*)\)", "".join(page.texts))
    assert decoded(picture).convert("RGB").tobytes() == maps.picture.tobytes()


def test_strengths_are_those_of_patches_on_the_image(maps):
    scaled = strengths(maps)
    assert scaled[0].tolist() == [[1, 0, 0, 0, 0], [0, 0.5, 0, 0, 0]]
    assert scaled[1].tolist() == [[0, 0, 1, 0, 0], [0, 0, 0, 0, 0]]
    assert scaled[2].tolist() == [[1, 1, 1, 1, 0], [1, 1, 1, 1, 0]]
    common = dataclasses.replace(maps, maps=maps.maps + 0.1, is_rollout=True)
    assert np.allclose(strengths(common)[:2], scaled[:2], atol=1e-6)  # what all tokens share is left out


def test_overlays_have_the_size_of_the_image(maps):
    maps = dataclasses.replace(maps, picture=Image.new("RGB", (80, 40), (100, 200, 255)))
    for token in range(3):
        drawn = np.asarray(overlay(maps, token)).astype(float)
        assert drawn.shape == (40, 80, 3)
        laid = maps.geometry.to_pixels(strengths(maps)[token])[..., None] * STRENGTH
        assert np.abs(drawn - ((1 - laid) * (100, 200, 255) + laid * COLOUR)).max() <= 0.5
    assert np.array_equal(np.asarray(overlay(maps, 0))[:20, 20:], np.full((20, 60, 3), (100, 200, 255)))


def test_large_images_are_scaled_down_in_the_page(maps):
    large = dataclasses.replace(
        maps,
        picture=Image.new("RGB", (4000, 300)),
        geometry=dataclasses.replace(maps.geometry, image_hw=(300, 4000), scale=(1 / 15, 1 / 100)),
    )
    (picture,) = re.findall(r"url\(([^)]*)\)", attention_page([large]))
    assert decoded(picture).size == (1600, 120)


def test_a_text_of_nothing(maps):
    empty = dataclasses.replace(
        maps, tokens=(), parts=(), text="", maps=maps.maps[:0], prefix=maps.prefix[:0], is_rollout=True
    )
    assert "All 0 tokens" in attention_page([empty])
