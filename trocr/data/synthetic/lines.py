"""An endless source of generated lines.

Source: original work.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

from trocr.data.records import LineRecord
from trocr.data.synthetic.drawing import Artist
from trocr.data.synthetic.fonts import load_fonts
from trocr.data.synthetic.settings import SyntheticSettings
from trocr.data.synthetic.texts import Texts


@dataclass(frozen=True, slots=True)
class Drawn:
    """An opener that holds its image."""

    image: Image.Image

    def __call__(self) -> Image.Image:
        """Give the image."""
        return self.image


class SyntheticLines:
    """Generated lines by number; line n depends on the settings, the seed and n alone.

    Fonts, words and corpus are read when the first line is drawn, in each process that draws.

    Args:
        settings: what lines look like.
        seed: another one gives other lines.
    Raises:
        SyntheticError: when the first line is drawn: fonts, words or corpus are missing.
    """

    def __init__(self, settings: SyntheticSettings | None = None, *, seed: int = 0) -> None:
        self.settings = settings or SyntheticSettings()
        self.seed = seed
        self._artist: Artist | None = None

    def __len__(self) -> int:
        return self.settings.num_lines

    def __getitem__(self, index: int, /) -> LineRecord:
        if index < 0:
            raise IndexError(index)
        text, image = self.artist.draw(np.random.default_rng((self.seed, index)))
        return LineRecord(name=f"synthetic-{self.seed}-{index}", text=text, opener=Drawn(image))

    def __iter__(self) -> Iterator[LineRecord]:
        return (self[index] for index in range(len(self)))

    @property
    def artist(self) -> Artist:
        """Who draws; made once."""
        if self._artist is None:
            self._artist = Artist(self.settings, load_fonts(self.settings), Texts(self.settings))
        return self._artist

    def __getstate__(self) -> dict[str, object]:
        return {"settings": self.settings, "seed": self.seed, "_artist": None}
