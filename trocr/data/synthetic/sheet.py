"""A sheet of lines with their texts, for a person to look at.

Source: original work.
"""

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from trocr.data.records import LineRecord
from trocr.data.synthetic.fonts import Font, at_size

LINE_PX = 36
TEXT_PX = 14
GAP_PX = 8
WIDEST_PX = 1400


def draw_sheet(lines: Sequence[LineRecord], *, font: Font | None = None) -> Image.Image:
    """Draw lines below one another, each with its text under it.

    Args:
        lines: at least one; wide ones are scaled to fit.
        font: that the texts are written in; None takes Pillow's own, which has few characters beside ASCII.
    Returns:
        Mode "L".
    """
    letters = ImageFont.load_default(TEXT_PX) if font is None else at_size(font.path, TEXT_PX, font.index)
    pictures = []
    for line in lines:
        image = line.open().convert("L")
        scale = min(LINE_PX / image.height, WIDEST_PX / image.width)
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        pictures.append((line.text, image.resize(size, Image.Resampling.BICUBIC)))
    step = LINE_PX + TEXT_PX + GAP_PX + 4
    sheet = Image.new("L", (WIDEST_PX + 2 * GAP_PX, step * len(pictures) + GAP_PX), 225)
    brush = ImageDraw.Draw(sheet)
    for number, (text, picture) in enumerate(pictures):
        top = GAP_PX + number * step
        sheet.paste(picture, (GAP_PX, top))
        brush.text((GAP_PX, top + LINE_PX + 2), text, fill=0, font=letters)
    return sheet
