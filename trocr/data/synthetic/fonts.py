"""Fonts for generated lines: found, checked for the alphabet, and drawn from by family.

Source: original work; scanning coverage before rendering is what manga-ocr's generator does too.
"""

import functools
import hashlib
import itertools
import json
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
from PIL import ImageFont

from trocr.atomic_write import write_files
from trocr.data.synthetic.settings import ASCII, TYPOGRAPHIC, SyntheticError, SyntheticSettings

SYSTEM_FOLDERS = (
    "/usr/share/fonts",
    "/usr/local/share/fonts",
    "~/.local/share/fonts",
    "~/.fonts",
    "/Library/Fonts",
    "/System/Library/Fonts",
    "~/Library/Fonts",
    "C:/Windows/Fonts",
)

SUFFIXES = (".ttf", ".otf", ".ttc")

COLLECTION = ".ttc"
"""Suffix of a file with several fonts."""

SCAN_PX = 24

LEAST_COVERAGE = 0.95
"""Share of the needed characters that fonts are taken with when none has all."""

_LOOK_ALIKE = set("'`|’‘-–—Il1\"”“,.")
"""Characters whose glyphs are the same in honest fonts; so are those of letters of different scripts."""

_CACHE_VERSION = 2


@dataclass(frozen=True, slots=True)
class Font:
    """A font that can be drawn.

    Attributes:
        path: its file.
        missing: characters of the alphabet that it lacks.
        monospaced: whether all letters are equally wide.
        index: its number in a file with several.
    """

    path: str
    missing: str
    monospaced: bool
    index: int = 0


class Fonts:
    """Fonts by family: each family is drawn as often as any other.

    Args:
        fonts: at least one.
        monospaced_share: share of draws among monospaced fonts, where there are any.
    """

    def __init__(self, fonts: Sequence[Font], *, monospaced_share: float) -> None:
        self.families = _by_family([font for font in fonts if not font.monospaced])
        self.monospaced = _by_family([font for font in fonts if font.monospaced])
        self.share = monospaced_share if self.families else 1.0

    def draw(self, rng: np.random.Generator) -> Font:
        """Draw a font."""
        is_mono = bool(self.monospaced) and rng.random() < self.share
        families = self.monospaced if is_mono else self.families
        family = families[rng.integers(len(families))]
        return family[rng.integers(len(family))]

    def best_for(self, text: str) -> Font:
        """The first font that has most of a text's characters."""
        fonts = [
            font for families in (self.families, self.monospaced) for family in families for font in family
        ]
        return min(fonts, key=lambda font: len(set(font.missing) & set(text)))

    def __len__(self) -> int:
        return sum(map(len, self.families)) + sum(map(len, self.monospaced))


def load_fonts(settings: SyntheticSettings) -> Fonts:
    """Find and check fonts.

    A font is taken when it has a glyph of its own for every character of the alphabet, but for `TYPOGRAPHIC`
    ones; where there is none such, those are that have nearly all. What a font lacks is noted. Results of the
    check are kept in the user's cache folder.

    Raises:
        SyntheticError: none is found, or none has nearly all of the alphabet, or no font has a character.
    """
    files = find_fonts(settings.fonts, settings.exclude_fonts)
    if not files:
        where = ", ".join(settings.fonts or SYSTEM_FOLDERS)
        raise SyntheticError(
            f"no fonts ({', '.join(SUFFIXES)}) in {where}; install some (Debian: apt-get install "
            "fonts-dejavu fonts-liberation) or name files or folders in fonts"
        )
    known = _Cache(settings.alphabet)
    scanned = [font for file in files for font in known.scan(file)]
    known.write()
    needed = set(settings.alphabet) - set(TYPOGRAPHIC) or set(settings.alphabet)
    return Fonts(_covering(scanned, needed, len(files)), monospaced_share=settings.monospaced_share)


def _covering(fonts: list[Font], needed: set[str], num_files: int) -> list[Font]:
    """Fonts that have all that is needed; where there is none, those that have nearly all."""
    lacks = [needed & set(font.missing) for font in fonts]
    whole = [font for font, lack in zip(fonts, lacks, strict=True) if not lack]
    if whole:
        return whole
    most = (1 - LEAST_COVERAGE) * len(needed)
    nearly = [font for font, lack in zip(fonts, lacks, strict=True) if len(lack) <= most]
    alphabet = "".join(sorted(needed))
    if not nearly:
        fewest = min(zip(fonts, lacks, strict=True), key=lambda pair: len(pair[1]), default=None)
        best = f"; {fewest[0].path} lacks fewest: {''.join(sorted(fewest[1]))}" if fewest else ""
        raise SyntheticError(f"none of {num_files} fonts has all of the alphabet {alphabet!r}{best}")
    nowhere = set.intersection(*(needed & set(font.missing) for font in nearly))
    if nowhere:
        raise SyntheticError(
            f"no font has {''.join(sorted(nowhere))!r} among the {len(nearly)} (of {num_files}) that have "
            f"nearly all of the alphabet {alphabet!r}; take them out of it, or name fonts with them"
        )
    return nearly


def find_fonts(places: Sequence[str], exclude: Sequence[str]) -> list[str]:
    """List font files, sorted by name so that every machine with the same fonts has the same list.

    Raises:
        SyntheticError: a place does not exist.
    """
    found: dict[str, str] = {}
    for place in places or SYSTEM_FOLDERS:
        path = Path(place).expanduser()
        if places and not path.exists():
            raise SyntheticError(f"fonts: {path} does not exist")
        files: Iterable[Path] = [path] if path.is_file() else path.rglob("*") if path.is_dir() else []
        for file in sorted(files):
            if file.suffix.lower() in SUFFIXES and not any(fnmatchcase(file.name, p) for p in exclude):
                found.setdefault(file.name, str(file))
    return [found[name] for name in sorted(found)]


@functools.lru_cache(maxsize=600)
def at_size(path: str, size: int, index: int = 0) -> ImageFont.FreeTypeFont:
    """Open a font at a size in pixels."""
    return ImageFont.truetype(path, size, index, layout_engine=ImageFont.Layout.BASIC)


def scan(path: str, alphabet: str, index: int = 0) -> Font | None:
    """Check which characters a font has; None where it cannot be opened or drawn.

    A character is missing when its glyph is empty, is the one of characters that no font has, or is the same
    as another character's, unless these are letters of different scripts: A may look as Cyrillic А does.
    """
    try:
        font = ImageFont.truetype(path, SCAN_PX, index, layout_engine=ImageFont.Layout.BASIC)
        unknown = {bytes(font.getmask(character)) for character in "\uf8fe\u0378"}
        missing: list[str] = []
        seen: dict[tuple[bytes, float, str], str] = {}
        for character in alphabet:
            drawn = bytes(font.getmask(character))
            key = (drawn, font.getlength(character), _script(character))
            twin = seen.setdefault(key, character)
            is_twin = twin != character and not {twin, character} <= _LOOK_ALIKE
            if not any(drawn) or drawn in unknown or is_twin:
                missing.append(character)
        widths = {font.getlength(character) for character in "iMW.0"}
    except (OSError, ValueError, SystemError):
        return None
    return Font(path, "".join(missing), len(widths) == 1, index)


def _script(character: str) -> str:
    """The script of a letter: "LATIN" for ASCII's signs too; for others the character itself."""
    if character in ASCII or character in TYPOGRAPHIC:
        return "LATIN"
    is_letter = unicodedata.category(character).startswith("L")
    return unicodedata.name(character, character).split(" ")[0] if is_letter else character


class _Cache:
    """Results of scans in a file of the user's cache folder; without a writable one nothing is kept."""

    def __init__(self, alphabet: str) -> None:
        self.alphabet = alphabet
        root = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
        digest = hashlib.sha256(alphabet.encode()).hexdigest()[:12]
        self.path = root / "trocr" / f"fonts-{_CACHE_VERSION}-{digest}.json"
        self.is_changed = False
        try:
            self.known = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            self.known = {}

    def scan(self, path: str) -> list[Font]:
        """The fonts of a file: one, several of a collection, none of a damaged one."""
        stat = Path(path).stat()
        key = f"{path}|{stat.st_size}|{stat.st_mtime_ns}"
        if key not in self.known:
            fonts = list(_scan_file(path, self.alphabet))
            self.known[key] = [[font.missing, font.monospaced, font.index] for font in fonts]
            self.is_changed = True
        return [Font(path, *values) for values in self.known[key]]

    def write(self) -> None:
        if self.is_changed:
            try:
                write_files(self.path.parent, {self.path.name: json.dumps(self.known).encode()})
            except OSError:
                return


def _scan_file(path: str, alphabet: str) -> Iterator[Font]:
    for index in itertools.count() if path.lower().endswith(COLLECTION) else (0,):
        font = scan(path, alphabet, index)
        if font is None:
            return
        yield font


def _by_family(fonts: list[Font]) -> list[list[Font]]:
    """Group fonts by the first part of their file names: "DejaVuSans-Bold.ttf" and "DejaVuSans.ttf"."""
    families: dict[str, list[Font]] = {}
    for font in fonts:
        name = re.split(r"[-_.]", Path(font.path).name)[0].lower()[:9]
        families.setdefault(name, []).append(font)
    return [families[name] for name in sorted(families)]
