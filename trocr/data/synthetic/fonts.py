"""Fonts for generated lines: found, checked for the alphabet, and drawn from by family.

Source: original work; scanning coverage before rendering is what manga-ocr's generator does too.
"""

import functools
import hashlib
import json
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
from PIL import ImageFont

from trocr.atomic_write import write_files
from trocr.data.synthetic.settings import SyntheticError, SyntheticSettings

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

SUFFIXES = (".ttf", ".otf")

SCAN_PX = 24

_LOOK_ALIKE = set("'`|’‘-–—Il1\"”“,.")
"""Characters whose glyphs are the same in honest fonts."""

_CACHE_VERSION = 1


@dataclass(frozen=True, slots=True)
class Font:
    """A font that can be drawn.

    Attributes:
        path: its file.
        missing: characters of the alphabet that it lacks.
        monospaced: whether all letters are equally wide.
    """

    path: str
    missing: str
    monospaced: bool


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

    def __len__(self) -> int:
        return sum(map(len, self.families)) + sum(map(len, self.monospaced))


def load_fonts(settings: SyntheticSettings) -> Fonts:
    """Find and check fonts.

    A font is taken when it has a glyph of its own for every ASCII character of the alphabet; what it lacks
    beyond is noted. Results of the check are kept in the user's cache folder.

    Raises:
        SyntheticError: none is found, or none has the alphabet.
    """
    files = find_fonts(settings.fonts, settings.exclude_fonts)
    if not files:
        where = ", ".join(settings.fonts or SYSTEM_FOLDERS)
        raise SyntheticError(
            f"no fonts ({', '.join(SUFFIXES)}) in {where}; install some (Debian: apt-get install "
            "fonts-dejavu fonts-liberation) or name files or folders in fonts"
        )
    known = _Cache(settings.alphabet)
    scanned = [known.scan(file) for file in files]
    known.write()
    needed = {character for character in settings.alphabet if character.isascii()} or set(settings.alphabet)
    fonts = [font for font in scanned if font is not None and not needed & set(font.missing)]
    if not fonts:
        fewest = min((font for font in scanned if font), key=lambda font: len(font.missing), default=None)
        best = f"; {fewest.path} lacks fewest: {fewest.missing}" if fewest else ""
        raise SyntheticError(
            f"none of {len(files)} fonts has all of the alphabet {settings.alphabet!r}{best}"
        )
    return Fonts(fonts, monospaced_share=settings.monospaced_share)


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
def at_size(path: str, size: int) -> ImageFont.FreeTypeFont:
    """Open a font at a size in pixels."""
    return ImageFont.truetype(path, size, layout_engine=ImageFont.Layout.BASIC)


def scan(path: str, alphabet: str) -> Font | None:
    """Check which characters a font has; None where it cannot be opened or drawn.

    A character is missing when its glyph is empty, is the one of characters that no font has, or is the same
    as another character's.
    """
    try:
        font = ImageFont.truetype(path, SCAN_PX, layout_engine=ImageFont.Layout.BASIC)
        unknown = {bytes(font.getmask(character)) for character in "\uf8fe\u0378"}
        missing: list[str] = []
        seen: dict[tuple[bytes, float], str] = {}
        for character in alphabet:
            drawn = bytes(font.getmask(character))
            key = (drawn, font.getlength(character))
            twin = seen.setdefault(key, character)
            is_twin = twin != character and not {twin, character} <= _LOOK_ALIKE
            if not any(drawn) or drawn in unknown or is_twin:
                missing.append(character)
        widths = {font.getlength(character) for character in "iMW.0"}
    except (OSError, ValueError, SystemError):
        return None
    return Font(path, "".join(missing), len(widths) == 1)


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

    def scan(self, path: str) -> Font | None:
        stat = Path(path).stat()
        key = f"{path}|{stat.st_size}|{stat.st_mtime_ns}"
        if key not in self.known:
            font = scan(path, self.alphabet)
            self.known[key] = None if font is None else [font.missing, font.monospaced]
            self.is_changed = True
        value = self.known[key]
        return None if value is None else Font(path, value[0], value[1])

    def write(self) -> None:
        if self.is_changed:
            try:
                write_files(self.path.parent, {self.path.name: json.dumps(self.known).encode()})
            except OSError:
                return


def _by_family(fonts: list[Font]) -> list[list[Font]]:
    """Group fonts by the first part of their file names: "DejaVuSans-Bold.ttf" and "DejaVuSans.ttf"."""
    families: dict[str, list[Font]] = {}
    for font in fonts:
        name = re.split(r"[-_.]", Path(font.path).name)[0].lower()[:9]
        families.setdefault(name, []).append(font)
    return [families[name] for name in sorted(families)]
