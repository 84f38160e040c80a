"""What the editors of all families share: what a token writes, numbering, building the edited tokenizer.

Source: original work.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

from trocr.tokenizers.added import AddedToken
from trocr.tokenizers.base import Tokenizer
from trocr.tokenizers.errors import TokenizerError
from trocr.tokenizers.vocabulary import SPECIAL_TOKENS_ATTRIBUTES


class TokenText(NamedTuple):
    """What a token writes, in a form that is the same in all families.

    "Ġthe" of byte-level BPE, "▁the" of SentencePiece and "the" of WordPiece are one; so are "ing" of the
    first two and "##ing" of the third.

    Attributes:
        starts_word: a space comes before it, which is no part of `text`.
        text: UTF-8; tokens of byte-level BPE may hold parts of characters.
    """

    starts_word: bool
    text: bytes

    @classmethod
    def of(cls, text: str | bytes) -> Self:
        """Split the space off that a text may begin with."""
        data = text.encode("utf-8") if isinstance(text, str) else text
        return cls(True, data[1:]) if data.startswith(b" ") else cls(False, data)

    def decoded(self) -> str | None:
        """The text without the space; None where it holds parts of characters."""
        try:
            return self.text.decode("utf-8")
        except UnicodeDecodeError:
            return None


@dataclass(frozen=True, kw_only=True)
class Edited:
    """A tokenizer with another vocabulary, and where its ids are from.

    Attributes:
        tokenizer: a new one; the old one was not changed.
        carried: new id -> old id of the same token.
        made: new id -> what the new token writes.
        known: tokens that were asked for and there already.
    """

    tokenizer: Tokenizer
    carried: Mapping[int, int]
    made: Mapping[int, TokenText] = field(default_factory=dict)
    known: tuple[str, ...] = ()


class Editor(ABC):
    """Looks into one tokenizer's vocabulary and makes tokenizers with another one.

    Args:
        tokenizer: is never changed.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self._base = tokenizer._base_tokens
        self._added = tokenizer._added

    # ---- what a family says

    @abstractmethod
    def _text_of_base(self, token: str) -> TokenText | None:
        """What a token of the model's own vocabulary writes."""

    @abstractmethod
    def _encode(self, text: TokenText) -> list[int]:
        """Ids of a text without added tokens, as it is inside a text or at the start of a word."""

    @abstractmethod
    def basic_ids(self) -> set[int]:
        """Ids of single bytes or characters, without which texts cannot be written at all."""

    @abstractmethod
    def needed_ids(self, texts: Iterable[str]) -> set[int]:
        """Ids that a vocabulary needs to write texts as this one does."""

    @abstractmethod
    def subset(self, ids: AbstractSet[int]) -> Edited:
        """A tokenizer with a part of the vocabulary, in the same order, numbered from 0.

        Special tokens, and what the algorithm needs to come to the tokens, are kept beside `ids`.
        """

    @abstractmethod
    def extended(self, tokens: Sequence[str]) -> Edited:
        """A tokenizer with more tokens.

        Args:
            tokens: as they stand in texts; each is there once.
        Raises:
            TokenizerError: the family has no way to write a token.
        """

    # ---- what all have

    @property
    def num_ids(self) -> int:
        """One more than the highest id."""
        return self._added.next_id

    def num_lost(self, text: str) -> int:
        """Bytes of a text that are left out because no token has them; the other families have none."""
        return 0

    def special_ids(self) -> set[int]:
        """Ids of named, extra and all other special tokens."""
        special = {token_id for token_id, token in self._added.tokens.items() if token.special}
        return special | set(self.tokenizer.all_special_ids)

    def token_ids(self) -> set[int]:
        """All ids that have a token."""
        return {*self._base, *self._added.tokens}

    def is_added(self, token_id: int) -> bool:
        """Whether a token is found before the model's own algorithm sees the text."""
        return token_id in self._added.tokens

    def id_of(self, token: str) -> int | None:
        """Id of a token by its name in the vocabulary; None where there is no such name."""
        return self._added.ids.get(token, self.tokenizer._base.get(token))

    def ids(self, text: str) -> list[int]:
        """Ids of a text, without special tokens around it."""
        split = self.tokenizer.split_special_tokens
        return [token_id for _, token_id in self.tokenizer._tokens_of(text, split)]

    def token_texts(self) -> dict[int, TokenText]:
        """What each token writes that is not special; added tokens come last."""
        special = self.special_ids()
        base = {
            token_id: text
            for token_id, token in self._base.items()
            if token_id not in special and token_id not in self._added.tokens
            for text in (self._text_of_base(token),)
            if text is not None
        }
        added = {
            token_id: TokenText.of(self._added.surface(token))
            for token_id, token in self._added.tokens.items()
            if token_id not in special
        }
        return {**base, **added}

    def pieces(self, text: TokenText) -> list[int]:
        """Ids by which this tokenizer writes a text; none where a part of it is unknown."""
        plain, starts_word = text.decoded(), text.starts_word
        found = [] if plain else self._encode(text)
        for part in self._added.split(plain or "", split_special_tokens=True):
            if part.token_id is not None:
                found.append(part.token_id)
            else:
                found += self._encode(TokenText(starts_word, part.text.encode("utf-8")))
            starts_word = False
        return [] if self.tokenizer.unk_token_id in found else found

    def _kept_added(self, ids: AbstractSet[int]) -> dict[int, AddedToken]:
        """Added tokens of a part of the vocabulary that its base does not have, by old id."""
        return {
            token_id: token
            for token_id, token in sorted(self._added.tokens.items())
            if token_id in ids and token.content not in self.tokenizer._base
        }

    def _flagged(self, new_ids: Mapping[int, int]) -> dict[int, AddedToken]:
        """Added tokens under their new ids."""
        return {
            new_ids[token_id]: token for token_id, token in self._added.tokens.items() if token_id in new_ids
        }

    def _rebuilt(self, vocabulary: Mapping[str, Any], added: Mapping[int, AddedToken]) -> Tokenizer:
        """A tokenizer of the same class and settings."""
        old = self.tokenizer
        settings = {name: getattr(old, name) for name in old.CONFIG_KEYS}
        named = {name: old._named[name] for name in SPECIAL_TOKENS_ATTRIBUTES}
        make: Any = type(old)
        return make(
            **vocabulary, **settings, **named, added_tokens=added, extra_special_tokens=list(old._extra)
        )

    def _numbered(self, base: Sequence[int], ids: AbstractSet[int]) -> dict[int, int]:
        """Old id -> new id: base tokens in the given order, then added ones."""
        return {old: new for new, old in enumerate([*base, *self._kept_added(ids)])}

    def _shifted(self, first: int, count: int) -> dict[int, int]:
        """Old id -> new id where `count` base tokens are put in at the id `first`."""
        return {old: old + count if old >= first else old for old in sorted(self.token_ids())}

    def _refuse(self, token: str, why: str) -> TokenizerError:
        return TokenizerError(f"token {token!r}: {why}")
