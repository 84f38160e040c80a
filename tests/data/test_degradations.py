import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from trocr.data.degradations import ON_IMAGE, Tone, binarise, gradient, thin

TONE = Tone(paper=200, ink=40)


def written():
    image = Image.new("L", (420, 48), TONE.paper)
    font = ImageFont.load_default(28)
    ImageDraw.Draw(image).text((8, 6), "Sample 42, more of it", fill=TONE.ink, font=font)
    return image


@pytest.mark.parametrize("seed", range(6))
def test_a_threshold_follows_the_light(seed):
    dark = gradient(written(), np.random.default_rng(seed), TONE)
    found, wanted = (
        np.asarray(binarise(image, np.random.default_rng(1), TONE)) for image in (dark, written())
    )
    assert set(np.unique(found)) == {0, 255}
    assert (found != wanted).mean() < 0.02


def test_a_threshold_on_even_paper_is_the_same_everywhere():
    values = np.asarray(written())
    found = np.asarray(binarise(written(), np.random.default_rng(0), TONE))
    assert values[found == 255].min() > values[found == 0].max()


def test_worn_strokes_are_never_lost():
    image = Image.new("L", (60, 40), 255)
    brush = ImageDraw.Draw(image)
    for left, width in ((5, 1), (15, 2), (30, 7)):
        brush.rectangle((left, 4, left + width - 1, 35), fill=0)
    row = np.asarray(thin(image, None, Tone(255, 0)))[20]
    assert np.flatnonzero(row == 0).tolist() == [5, 15, 16, *range(31, 36)]


@pytest.mark.parametrize("name", ON_IMAGE)
def test_every_degradation_changes_a_line_and_keeps_its_size_in_bounds(name):
    image = Image.new("L", (240, 48), 230)
    ImageDraw.Draw(image).text((8, 8), "Sample 42", fill=20, font=ImageFont.load_default(28))
    changed = 0
    for seed in range(12):
        found = ON_IMAGE[name](image, np.random.default_rng(seed), Tone(230, 20))
        again = ON_IMAGE[name](image, np.random.default_rng(seed), Tone(230, 20))
        assert found.mode == "L"
        assert found.tobytes() == again.tobytes()
        assert found.height == image.height
        assert 0.6 * image.width < found.width < 1.4 * image.width
        changed += found.size != image.size or found.tobytes() != image.tobytes()
        assert np.asarray(found).std() > 2  # there is still something to read
    assert changed >= 10
