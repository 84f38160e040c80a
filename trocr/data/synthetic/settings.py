"""What generated lines look like: settings with defaults, read from a table of a TOML file.

Source: original work; the mixture is the one that the shipped reader was trained on.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Self

from trocr.data.records import DataError
from trocr.nearest import nearest

ASCII = "".join(map(chr, range(33, 127)))

TYPOGRAPHIC = "‘’“”–—"
"""Characters of book print beyond ASCII that are drawn where a font has them."""

TEXTS = MappingProxyType(
    {
        "sentences": 0.39,
        "receipts": 0.24,
        "numbers": 0.08,
        "words": 0.11,
        "references": 0.06,
        "book": 0.06,
        "random": 0.06,
    }
)
"""Kinds of text and how often each comes; see `trocr.data.synthetic.texts`."""

DEGRADATIONS = MappingProxyType(
    {
        "neighbours": 0.12,
        "rule": 0.05,
        "bleed_through": 0.03,
        "stretch": 0.25,
        "slant": 0.15,
        "rotation": 0.2,
        "thicken": 0.08,
        "thin": 0.06,
        "dots": 0.03,
        "low_resolution": 0.6,
        "blur": 0.45,
        "fading": 0.3,
        "gradient": 0.15,
        "noise": 0.45,
        "binarise": 0.15,
        "jpeg": 0.5,
        "inverse": 0.03,
    }
)
"""Degradations in the order in which they come, and how often each does; see `trocr.data.degradations`."""

EXCLUDED_FONTS = (
    "*Symbol*",
    "*Dingbat*",
    "D050*",
    "*Math*",
    "*Emoji*",
    "*Braille*",
    "*Ornament*",
    "*SC-*",
    "*Caps*",
    "*Initials*",
    "*Color*",
    "*Thin*",
    "*ExtraLight*",
    "*Hairline*",
    "*Dunhill*",
    "*[Ff]raktur*",
    "*Zapf*",
    "*Chancery*",
    "Z003*",
    "*Keyboard*",
    "*[Uu]nifont*",
    "*Outline*",
)
"""File names of fonts that no one reads lines of text in."""


class SyntheticError(DataError):
    """Lines cannot be generated with these settings."""


@dataclass(frozen=True, kw_only=True)
class SyntheticSettings:
    """How lines are generated.

    Attributes:
        num_lines: what `len` says and where iteration ends; there is a line for any number.
        max_characters: of a line.
        fonts: files or folders; empty takes the fonts of the system.
        exclude_fonts: patterns of file names that are left out.
        alphabet: characters beside the space that texts may have and fonts are checked for.
        monospaced_share: share of lines in a monospaced font, where there is one.
        font_px: (least, most) size of the font.
        line_px: (least, most) height of a line that is scaled down.
        corpus: text files, folders of them, or patterns, for sentences and books; empty takes words.
        words: file with a word a line; empty takes the words that come with this package.
        texts: kind of text -> weight, for those that are to differ from `TEXTS`.
        degradations: degradation -> probability, for those that are to differ from `DEGRADATIONS`.
        strength: of all degradations: 1 is as the shipped reader saw them, 0 none.
    """

    num_lines: int = 2**40
    max_characters: int = 95
    fonts: tuple[str, ...] = ()
    exclude_fonts: tuple[str, ...] = EXCLUDED_FONTS
    alphabet: str = ASCII + TYPOGRAPHIC
    monospaced_share: float = 0.3
    font_px: tuple[int, int] = (18, 52)
    line_px: tuple[int, int] = (16, 64)
    corpus: tuple[str, ...] = ()
    words: str = ""
    texts: Mapping[str, float] = field(default_factory=dict)
    degradations: Mapping[str, float] = field(default_factory=dict)
    strength: float = 1.0

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            SyntheticError: one is out of range, or a kind of text or degradation does not exist.
        """
        for name in ("num_lines", "max_characters"):
            if getattr(self, name) < 1:
                raise SyntheticError(f"{name}={getattr(self, name)} must be at least 1")
        for name, least in (("font_px", 6), ("line_px", 4)):
            low, high = getattr(self, name)
            if not least <= low <= high:
                raise SyntheticError(f"{name}=[{low}, {high}] must be [least, most], from {least} up")
        if not 0 <= self.strength <= 1 or not 0 <= self.monospaced_share <= 1:
            raise SyntheticError("strength and monospaced_share must lie between 0 and 1")
        if not self.alphabet.strip() or len(set(self.alphabet)) != len(self.alphabet):
            raise SyntheticError(f"alphabet={self.alphabet!r} is empty or names a character twice")
        _check_table("texts", self.texts, TEXTS, most=None)
        _check_table("degradations", self.degradations, DEGRADATIONS, most=1.0)
        if not any(self.text_weights.values()):
            raise SyntheticError("texts leaves no kind of text with a weight above 0")

    @property
    def text_weights(self) -> dict[str, float]:
        """Weight of every kind of text."""
        return {**TEXTS, **self.texts}

    @property
    def probabilities(self) -> dict[str, float]:
        """Probability of every degradation, in their order."""
        return {
            name: self.degradations.get(name, default) * self.strength
            for name, default in DEGRADATIONS.items()
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Build from a table as TOML gives it.

        Raises:
            SyntheticError: a key does not exist, with the nearest that does; or a value is wrong.
        """
        fields = {item.name: item for item in dataclasses.fields(cls)}
        for key in values:
            if key not in fields:
                raise SyntheticError(f"synthetic.{key} is unknown{nearest(key, fields)}")
        found = {
            key: _convert(key, value, cls.__dataclass_fields__[key].type) for key, value in values.items()
        }
        return cls(**found)


def _check_table(
    name: str, given: Mapping[str, float], known: Mapping[str, float], most: float | None
) -> None:
    for key, value in given.items():
        if key not in known:
            raise SyntheticError(f"{name}.{key} is unknown{nearest(key, known)}")
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not 0 <= value < math.inf or (most is not None and value > most):
            raise SyntheticError(
                f"{name}.{key}={value!r} must be {'a number, at least 0' if most is None else '0 to 1'}"
            )


def _convert(key: str, value: Any, kind: Any) -> Any:
    """Check a TOML value against a field's type, and freeze lists."""
    wrong = SyntheticError(f"synthetic.{key}={value!r} has the wrong type, expected {kind}")
    if kind in (int, float, str):
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        fits = (
            isinstance(value, str) if kind is str else is_number and (kind is float or isinstance(value, int))
        )
        if not fits:
            raise wrong
        return kind(value)
    if isinstance(value, Mapping):
        if "Mapping" not in str(kind):
            raise wrong
        return dict(value)
    if not isinstance(value, list | tuple) or "tuple" not in str(kind):
        raise wrong
    item = int if "int" in str(kind) else str
    if not all(isinstance(entry, item) for entry in value) or (item is int and len(value) != 2):
        raise wrong
    return tuple(value)
