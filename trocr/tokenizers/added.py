"""Added tokens: strings that are found in the text before the model's own algorithm sees it.

Source: tokenizers 0.23 `added_vocabulary.rs` (leftmost-longest matches, white space and word flags).
"""

import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from trocr.tokenizers import unicode_tables
from trocr.tokenizers.errors import TokenizerError

SPACES = unicode_tables.characters(unicode_tables.WHITE_SPACE)
# Categories of a word character, besides all of L and M; joiners and circled letters.
_WORD_CATEGORIES = frozenset(("Nd", "Nl", "Pc"))
_WORD_SYMBOLS = (
    (0x200C, 0x200D),
    (0x24B6, 0x24E9),
    (0x1F130, 0x1F149),
    (0x1F150, 0x1F169),
    (0x1F170, 0x1F189),
)


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
class Slice:
    """A slice of a text: an added token (`token_id` set), or ordinary text that has been normalised."""

    text: str
    token_id: int | None = None


class AddedVocabulary:
    """The added tokens of a tokenizer, their ids, and where they are in a text.

    Args:
        base: the model's own vocabulary; a token that is in it keeps its id.
        normalize: the tokenizer's normaliser, for the text between tokens and for tokens with `normalized`.

    Source: tokenizers 0.23 `AddedVocabulary`.
    Differs: a new token gets an id above every id in use; the source takes the size of the vocabulary,
        which is in use already where the ids have holes.
    """

    def __init__(self, base: Mapping[str, int], normalize: Callable[[str], str]) -> None:
        self.base = base
        self.normalize = normalize
        self.tokens: dict[int, AddedToken] = {}
        self.ids: dict[str, int] = {}
        self.special_contents: set[str] = set()
        self.next_id = max(base.values(), default=-1) + 1
        self._patterns: dict[bool, tuple[re.Pattern[str], dict[str, int]] | None] = {}

    def add(self, token: AddedToken, token_id: int | None = None) -> bool:
        """Add a token, or change the flags of a known one; True where anything changed.

        Args:
            token: empty contents are left out.
            token_id: the id that a file gives it; None: its id in the vocabulary, else the next free one.
        Raises:
            TokenizerError: `token_id` contradicts the vocabulary or an earlier added token.
        """
        token = token.resolve()
        if not token.content:
            return False
        known = self.ids.get(token.content, self.base.get(token.content))
        if token_id is None:
            token_id = self.next_id if known is None else known
        elif known is not None and known != token_id:
            raise TokenizerError(
                f"added token {token.content!r} has id {token_id} but the vocabulary says {known}; "
                "the tokenizer files contradict each other, take all of them from one source"
            )
        if self.tokens.get(token_id) == token:
            return False
        if token_id in self.tokens and self.tokens[token_id].content != token.content:
            raise TokenizerError(
                f"id {token_id} is given to two added tokens, {self.tokens[token_id].content!r} and "
                f"{token.content!r}; give each its own id"
            )
        self.ids[token.content] = token_id
        self.tokens[token_id] = token
        self.next_id = max(self.next_id, token_id + 1)
        if token.special:
            self.special_contents.add(token.content)
        self._patterns.clear()
        return True

    def surface(self, token: AddedToken) -> str:
        """The string that stands for the token in normalised text and in decoding."""
        return self.normalize(token.content) if token.normalized else token.content

    def split(self, text: str, *, split_special_tokens: bool = False) -> list[Slice]:
        """Cut a text at its added tokens; what lies between is normalised.

        Args:
            text: any string; an empty one has no slices.
            split_special_tokens: treat special tokens as ordinary text.
        """
        slices: list[Slice] = []
        for part in self._find(text, normalized=False, skip_special=split_special_tokens):
            if part.token_id is not None:
                slices.append(part)
            else:
                plain = self.normalize(part.text)
                slices.extend(self._find(plain, normalized=True, skip_special=split_special_tokens))
        return [part for part in slices if part.text]

    def _pattern(self, normalized: bool) -> tuple[re.Pattern[str], dict[str, int]] | None:
        if normalized not in self._patterns:
            ids = {
                self.surface(token): key
                for key, token in self.tokens.items()
                if token.normalized == normalized
            }
            ids.pop("", None)
            longest_first = sorted(ids, key=len, reverse=True)
            pattern = re.compile("|".join(map(re.escape, longest_first))) if ids else None
            self._patterns[normalized] = (pattern, ids) if pattern else None
        return self._patterns[normalized]

    def _find(self, text: str, *, normalized: bool, skip_special: bool) -> Iterator[Slice]:
        searched = self._pattern(normalized)
        if searched is None:
            yield Slice(text)
            return
        pattern, ids = searched
        done = 0
        for match in pattern.finditer(text):
            token_id = ids[match.group()]
            token = self.tokens[token_id]
            start, stop = match.span()
            if skip_special and token.content in self.special_contents:
                continue
            if token.single_word and (_is_word(text[start - 1 : start]) or _is_word(text[stop : stop + 1])):
                continue
            while token.lstrip and start > done and text[start - 1] in SPACES:
                start -= 1
            while token.rstrip and stop < len(text) and text[stop] in SPACES:
                stop += 1
            if done < start:
                yield Slice(text[done:start])
            yield Slice(text[start:stop], token_id)
            done = stop
        if done < len(text):
            yield Slice(text[done:])


def _is_word(letter: str) -> bool:
    if not letter:
        return False
    category = unicodedata.category(letter)
    if category[0] in "LM" or category in _WORD_CATEGORIES:
        return True
    return any(first <= ord(letter) <= last for first, last in _WORD_SYMBOLS)
