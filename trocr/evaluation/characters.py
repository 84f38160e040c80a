"""What single characters are: their script, and how to show one that cannot be seen.

Source: names and general categories of the Unicode character database, as Python's `unicodedata` has them.
"""

import unicodedata
from functools import lru_cache

NOTHING = "∅"
SPACE = "␣"
CARRIER = "◌"
"""Dotted circle, under a combining character that stands alone."""

_HIDDEN = ("Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp", "Zs")
"""General categories without a shape of their own."""

_DISTURBING = ("Cc", "Cs", "Zl", "Zp")
_BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Characters that turn the direction of what follows."""


def visible(character: str) -> str:
    """Show a character, or nothing: a space as an open box, what has no shape as its code point.

    Args:
        character: one code point, or "".
    """
    if character in ("", " "):
        return SPACE if character else NOTHING
    category = unicodedata.category(character)
    if category in _HIDDEN:
        return f"U+{ord(character):04X}"
    return CARRIER + character if category.startswith("M") else character


def harmless(text: str) -> str:
    """A text whose control characters cannot disturb what stands around it: they are shown as code points."""
    return "".join(visible(c) if c in _BIDI or unicodedata.category(c) in _DISTURBING else c for c in text)


_KNOWN_SCRIPTS = """
arabic armenian bengali bopomofo cherokee coptic cuneiform cyrillic devanagari ethiopic georgian glagolitic
gothic greek gujarati gurmukhi han hangul hebrew hiragana kannada katakana khmer lao latin malayalam mongolian
myanmar ogham oriya runic sinhala syriac tamil telugu thaana thai tibetan yi
"""
_SCRIPTS = frozenset(_KNOWN_SCRIPTS.split())
_WIDTHS = ("fullwidth", "halfwidth")


@lru_cache(maxsize=4096)
def script(character: str) -> str:
    """The script that a character belongs to, by the first word of its name: "latin", "han", "greek".

    "inherited" are marks that go with any letter, "common" digits, punctuation, spaces, symbols; letters of
    scripts that are not among the forty known ones are "other".
    """
    words = unicodedata.name(character, "").lower().replace("cjk", "han", 1).split()
    words = words[1:] if words and words[0] in _WIDTHS else words
    category = unicodedata.category(character)
    if words and words[0] in _SCRIPTS and (category[0] in "LM" or category in ("Nd", "Nl")):
        return words[0]
    if words and words[0] == "combining":
        return "inherited"
    return "other" if category[0] in "LM" else "common"
