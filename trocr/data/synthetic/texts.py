"""What generated lines say: sentences, fields, numbers, words, references, book lines, random characters.

Source: original work.
"""

import glob
import re
import string
from collections.abc import Callable
from pathlib import Path

import numpy as np

from trocr.data.synthetic.fields import FIELDS, amount, capital, digits
from trocr.data.synthetic.settings import SyntheticError, SyntheticSettings
from trocr.data.synthetic.words import builtin_words

LONG = 95
"""Characters of the longest lines that texts are made for, where no more are asked for."""


class Texts:
    """Texts by kind, for any random numbers.

    Args:
        settings: kinds, lengths, corpus and words.
    Raises:
        SyntheticError: files are missing or hold no text.
    """

    def __init__(self, settings: SyntheticSettings) -> None:
        self.settings = settings
        self.allowed = {*settings.alphabet, " "}
        self.characters = sorted(settings.alphabet)
        self.word_list = self._words()
        self.corpus = self._corpus()
        self.has_capitals = bool(self.allowed & set("ABCDEFGHIJKLMNOPQRSTUVWXYZ"))
        weights = settings.text_weights
        self._kinds: list[Callable[[np.random.Generator, int], str]] = [
            getattr(self, kind) for kind in weights
        ]
        bounds = np.cumsum(list(weights.values()))
        self._bounds = bounds / bounds[-1]

    def draw(self, rng: np.random.Generator) -> str:
        """Draw a text of 1 to `max_characters` characters, without double or outer spaces."""
        for _ in range(20):
            length = self._length(rng)
            kind = self._kinds[int(np.searchsorted(self._bounds, rng.random(), side="right"))]
            text = self._fit(kind(rng, length), length, rng, whole=kind == self.random)
            if text:
                return text
        return self.characters[rng.integers(len(self.characters))]

    def _length(self, rng: np.random.Generator) -> int:
        """Characters of a text: short, middle or long lines; these go up to the most, or 95."""
        chance = rng.random()
        longest = max(LONG, self.settings.max_characters)
        low, high = (1, 12) if chance < 0.25 else (8, 40) if chance < 0.63 else (30, longest + 1)
        return min(self.settings.max_characters, int(rng.integers(low, high)))

    def _fit(self, text: str, length: int, rng: np.random.Generator, *, whole: bool) -> str:
        """Leave out what the alphabet lacks, and cut to a length, mostly between words."""
        text = " ".join("".join(c for c in text if c in self.allowed).split())
        if len(text) > length and not whole:
            cut = text[: length + 1]
            is_at_word = " " in cut[1:] and rng.random() < 0.85
            text = cut.rsplit(" ", 1)[0] if is_at_word else text[:length]
        return text[: self.settings.max_characters].strip()

    def word(self, rng: np.random.Generator) -> str:
        """Draw a word."""
        return self.word_list[rng.integers(len(self.word_list))]

    def phrase(self, rng: np.random.Generator, count: int) -> str:
        """Draw words with spaces between."""
        return " ".join(self.word(rng) for _ in range(count))

    def sentences(self, rng: np.random.Generator, length: int) -> str:
        """A stretch of the corpus; without one, words with punctuation."""
        if not self.corpus:
            return self._made_up(rng, 18 if length <= LONG else 4 + length // 3)
        count = 4 + length // 3
        start = rng.integers(max(1, len(self.corpus) - count))
        text = " ".join(self.corpus[start : start + count])
        return text.upper() if rng.random() < 0.05 else text

    def _made_up(self, rng: np.random.Generator, count: int) -> str:
        words = [self.word(rng) for _ in range(count)]
        words[0] = words[0].capitalize()
        for place in range(len(words) - 1):
            chance = rng.random()
            if chance < 0.08:
                words[place] += ","
            elif chance < 0.14:
                words[place] += ".?!;:"[rng.integers(5)]
                words[place + 1] = words[place + 1].capitalize()
            elif chance < 0.16:
                words[place] = f'"{words[place]}"'
            elif chance < 0.18:
                words[place] += "'s"
        return " ".join(words)

    def words(self, rng: np.random.Generator, length: int) -> str:
        """Words, in capitals, as a title, or as they are."""
        text, chance = self.phrase(rng, 2 + length // 4), rng.random()
        return text.upper() if chance < 0.35 else string.capwords(text) if chance < 0.5 else text

    def book(self, rng: np.random.Generator, length: int) -> str:
        """A line of book print: typographic quotes and dashes, a hyphen at the end, a chapter's number."""
        text = self.sentences(rng, max(LONG, length))
        chance = rng.random()
        if chance < 0.15:
            return f"{text[:12]} {rng.integers(1, 600)}"
        text = text.replace("'", "’").replace(" - ", "–" if rng.random() < 0.5 else " — ").replace("--", "—")
        pieces = text.split('"')
        text = "".join(p + ("“" if i % 2 == 0 else "”") for i, p in enumerate(pieces[:-1])) + pieces[-1]
        if chance < 0.45:
            words = text.split()
            first, last = sorted(int(place) for place in rng.integers(0, len(words), 2))
            words[first] = f"“{words[first]}"
            words[last] = f"{words[last]}”"
            text = " ".join(words)
        elif chance < 0.7:
            text = text[: length - 1].rstrip(" ,.;:-") + "-"
        return text

    def references(self, rng: np.random.Generator, length: int) -> str:
        """Numbers, years, initials, pages and addresses of the web, as in footnotes."""
        makers: tuple[Callable[[], str], ...] = (
            lambda: digits(rng, int(rng.integers(1, 7))),
            lambda: f"[{rng.integers(99)}]",
            lambda: f"({rng.integers(1800, 2030)})",
            lambda: f"{capital(rng)}.",
            lambda: f"{self.word(rng).capitalize()},",
            lambda: f"pp. {rng.integers(200)}-{rng.integers(200, 400)}.",
            lambda: f"{rng.integers(1, 90)}({rng.integers(1, 12)}):{rng.integers(999)}",
            lambda: f"www.{self.word(rng)}.{self.word(rng)[:3]}/{self.word(rng)}-{rng.integers(99)}",
            lambda: (
                f"https://{self.word(rng)}.org/{self.word(rng)}/{self.word(rng)}_{rng.integers(9999)}.html"
            ),
            lambda: f"{self.word(rng)}@{self.word(rng)}.com",
        )
        weights = np.array([3, 2, 2, 3, 4, 2, 1, 1, 1, 0.5])
        chosen = rng.choice(len(makers), size=2 + length // 8, p=weights / weights.sum())
        return " ".join(makers[number]() for number in chosen)

    def numbers(self, rng: np.random.Generator, length: int) -> str:
        """A column's cell: a count, an amount, a code, or a character that stands alone."""
        chance = rng.random()
        if chance < 0.3:
            return "1" if rng.random() < 0.4 else digits(rng, 1)
        if chance < 0.38:
            return self.characters[rng.integers(len(self.characters))]
        if chance < 0.5:
            return str(rng.integers(10, 1000))
        if chance < 0.75:
            return amount(rng)
        if chance < 0.85:
            return f"{rng.integers(0, 101)}{('.0', '.00', '')[rng.integers(3)]}%"
        return digits(rng, int(rng.integers(4, 15)))

    def random(self, rng: np.random.Generator, length: int) -> str:
        """Characters of the alphabet at random, one in nine a space."""
        chosen = rng.integers(0, len(self.characters) * 9 // 8 + 1, length)
        return "".join(self.characters[c] if c < len(self.characters) else " " for c in chosen)

    def receipts(self, rng: np.random.Generator, length: int) -> str:
        """A field of a receipt, mostly in capitals."""
        text = FIELDS[rng.integers(len(FIELDS))](self, rng)
        return text.upper() if rng.random() < 0.75 else text

    def _words(self) -> list[str]:
        if not self.settings.words:
            found = builtin_words()
        else:
            found = _read(Path(self.settings.words)).split()
        found = [word for word in found if set(word) <= self.allowed]
        if not found:
            found = self.characters
        return found

    def _corpus(self) -> list[str]:
        words: list[str] = []
        for place in self.settings.corpus:
            paths = sorted(glob.glob(place))
            if not paths:
                raise SyntheticError(f"corpus: {place} does not exist")
            for path in map(Path, paths):
                files = (
                    sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
                )
                for file in files:
                    words += _read(file).split()
        words = [word for word in words if set(word) <= self.allowed]
        if self.settings.corpus and len(words) < 50:
            raise SyntheticError(
                f"corpus: {', '.join(self.settings.corpus)} holds {len(words)} words of the alphabet, "
                "expected 50 or more"
            )
        return words


def _read(file: Path) -> str:
    try:
        content = file.read_bytes()
    except OSError as error:
        raise SyntheticError(f"{file}: cannot be read ({error.strerror})") from error
    if b"\x00" in content[:4096]:
        return ""  # an index beside texts
    text = content.decode("utf-8", errors="ignore")
    return re.sub(r"^%$", " ", text, flags=re.MULTILINE)  # between the entries of fortune files
