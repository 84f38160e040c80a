"""Added tokens: strings that are found in the text before the model's own algorithm sees it.

Source: tokenizers 0.23 `added_vocabulary.rs` (behaviour: leftmost-longest matches, whitespace and word flags).
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import regex

# The 25 code points of Unicode's White_Space (Python's own \s also has U+001C to U+001F).
WHITE_SPACE = "\t\n\x0b\x0c\r \x85\xa0\u1680" + "".join(map(chr, range(0x2000, 0x200B)))
WHITE_SPACE += "\u2028\u2029\u202f\u205f\u3000"

_WORD = regex.compile(r"[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}]")


@dataclass(frozen=True, slots=True)
class AddedToken:
    """A string with an id of its own, and how it is matched in a text.

    Attributes:
        content: the string.
        single_word: match only where no word character touches it.
        lstrip: a match swallows the white space on its left.
        rstrip: a match swallows the white space on its right.
        normalized: match in the normalised text instead of the raw text; None means `not special`.
        special: `decode(skip_special_tokens=True)` leaves it out.
    """

    content: str
    single_word: bool = False
    lstrip: bool = False
    rstrip: bool = False
    normalized: bool | None = None
    special: bool = False

    def __str__(self) -> str:
        return self.content

    def resolve(self, *, special: bool | None = None) -> "AddedToken":
        """The same token with every flag decided; `special` overrides the token's own flag."""
        special = self.special if special is None else special
        normalized = (not special) if self.normalized is None else self.normalized
        return replace(self, special=special, normalized=normalized)

    def to_dict(self) -> dict[str, Any]:
        """The token as it is written into `tokenizer.json` and `tokenizer_config.json`."""
        token = self.resolve()
        return {
            "content": token.content,
            "single_word": token.single_word,
            "lstrip": token.lstrip,
            "rstrip": token.rstrip,
            "normalized": token.normalized,
            "special": token.special,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "AddedToken":
        """Read `to_dict`'s form; keys that are no field (`id`, `__type`) are left out."""
        return cls(**{name: data[name] for name in cls.__dataclass_fields__ if name in data})


@dataclass(frozen=True, slots=True)
class Piece:
    """A slice of a text: an added token (`token_id` set) or ordinary, already normalised text."""

    text: str
    token_id: int | None = None
