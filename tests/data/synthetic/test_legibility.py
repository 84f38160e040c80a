import numpy as np
from PIL import Image, ImageDraw, ImageFont

from trocr.data.synthetic.legibility import Legibility


def written():
    image = Image.new("L", (420, 48), 200)
    ImageDraw.Draw(image).text((8, 6), "Sample 42, more of it", fill=40, font=ImageFont.load_default(28))
    return image


def test_what_is_left_of_a_text():
    image = written()
    drawn = Legibility(image, 0.8)
    assert drawn.holds(image)
    assert drawn.holds(image.resize((300, 30)))
    half = image.copy()
    half.paste(200, (0, 0, 210, 48))
    assert not drawn.holds(half)
    assert not drawn.holds(Image.new("L", image.size, 200))
    specks = np.full((48, 420), 255, np.uint8)
    specks[::9, ::5] = 0
    assert not drawn.holds(Image.fromarray(specks), is_binary=True)
    assert Legibility(Image.new("L", (9, 9), 200), 0.8).holds(image)  # nothing was drawn, nothing is lost
