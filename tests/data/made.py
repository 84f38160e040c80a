"""Small images and sources that the tests of trocr.data make."""

from pathlib import Path

from PIL import Image, ImageDraw

from trocr.data.records import LineRecord
from trocr.image_array import ImageError


def image(text="x", size=(60, 20), mode="L"):
    made = Image.new(mode, size, "white")
    ImageDraw.Draw(made).text((2, 2), text, fill="black")
    return made


def write_images(folder, names, **options):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image(Path(name).stem[:6], **options).save(path)


class Opener:
    def __init__(self, text):
        self.text = text

    def __call__(self):
        if self.text == "damaged":
            raise ImageError("not an image")
        return image(self.text)


class Lines(list):
    """Records of (name, text, group)."""

    def __init__(self, *rows):
        super().__init__(
            LineRecord(
                name=row[0], text=row[1], group=row[2] if len(row) > 2 else None, opener=Opener(row[1])
            )
            for row in rows
        )
