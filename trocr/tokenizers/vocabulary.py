"""Tokens and ids: the model's own vocabulary, added tokens, named special tokens and their attributes.

Source: transformers 5.23 `tokenization_utils_base.py` and `tokenization_utils_tokenizers.py`.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, overload

from trocr.tokenizers.added import AddedToken, AddedVocabulary
from trocr.tokenizers.errors import TokenizerError

SPECIAL_TOKENS_ATTRIBUTES = (
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
)


class _Token:
    """Attribute `<name>_token`: the string, or None where the tokenizer has no such token."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, tokenizer: "Vocabulary | None", owner: type | None = None) -> str | None:
        token = None if tokenizer is None else tokenizer._named.get(self.name)
        return None if token is None else str(token)

    def __set__(self, tokenizer: "Vocabulary", token: str | AddedToken | None) -> None:
        if token is not None and not isinstance(token, str | AddedToken):
            raise TokenizerError(
                f"{self.name} is {token!r}; expected a string, an AddedToken or None (to choose it by its "
                f"id, assign to {self.name}_id)"
            )
        tokenizer._named[self.name] = token


class _TokenId:
    """Attribute `<name>_token_id`: the id of that token; assigning an id chooses the token."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name.removesuffix("_id")

    def __get__(self, tokenizer: "Vocabulary | None", owner: type | None = None) -> int | None:
        token = None if tokenizer is None else tokenizer._named.get(self.name)
        return None if tokenizer is None or token is None else tokenizer.convert_tokens_to_ids(str(token))

    def __set__(self, tokenizer: "Vocabulary", token_id: int | None) -> None:
        token = None if token_id is None else tokenizer.convert_ids_to_tokens(token_id)
        if token_id is not None and token is None:
            raise TokenizerError(f"{self.name}_id is {token_id}, an id without a token; add the token first")
        tokenizer._named[self.name] = token


class Vocabulary:
    """Tokens and ids of a tokenizer; the part that knows nothing of texts.

    Args:
        vocab: the model's own tokens and ids.
        special_tokens: named special tokens; those without an id get one.
        added_tokens: added tokens by id, as files give them.
        extra_special_tokens: special tokens without a name.
    """

    SPECIAL_TOKENS_ATTRIBUTES: ClassVar[tuple[str, ...]] = SPECIAL_TOKENS_ATTRIBUTES
    # Embedding tables are padded to round sizes: this many ids above the last token stand for no text.
    PADDING_IDS: ClassVar[int] = 128

    bos_token = _Token()
    eos_token = _Token()
    unk_token = _Token()
    sep_token = _Token()
    pad_token = _Token()
    cls_token = _Token()
    mask_token = _Token()
    bos_token_id = _TokenId()
    eos_token_id = _TokenId()
    unk_token_id = _TokenId()
    sep_token_id = _TokenId()
    pad_token_id = _TokenId()
    cls_token_id = _TokenId()
    mask_token_id = _TokenId()

    def __init__(
        self,
        vocab: Mapping[str, int],
        *,
        special_tokens: Mapping[str, str | AddedToken | None],
        added_tokens: Mapping[int, AddedToken],
        extra_special_tokens: Sequence[str | AddedToken],
    ) -> None:
        self._base = dict(vocab)
        self._base_tokens = {token_id: token for token, token_id in self._base.items()}
        self._added = AddedVocabulary(self._base, self._normalize)
        self._surfaces: dict[int, str] | None = None
        self._named: dict[str, str | AddedToken | None] = dict.fromkeys(SPECIAL_TOKENS_ATTRIBUTES)
        for name, token in special_tokens.items():
            setattr(self, name, token)
        self._extra = list(extra_special_tokens)
        named = {str(token) for token in special_tokens.values() if token is not None}
        for token_id, added in sorted(added_tokens.items()):
            self._added.add(added.resolve(special=True) if added.content in named else added, token_id)
        self._invented: set[str] = set()  # special tokens that no file and no argument gave an id
        for token in (*(self._named[name] for name in SPECIAL_TOKENS_ATTRIBUTES), *self._extra):
            if token is not None and str(token) not in self._added.ids:
                if str(token) not in self._base:
                    self._invented.add(str(token))
                plain = AddedToken(token, special=True) if isinstance(token, str) else token
                self._added.add(plain.resolve(special=plain.special or str(token) in named))

    def _normalize(self, text: str) -> str:
        """Normalise a stretch of text between added tokens that match raw text. Default: unchanged."""
        return text

    # ---- sizes and views

    @property
    def vocab_size(self) -> int:
        """Number of the model's own tokens, without added ones."""
        return len(self._base)

    def __len__(self) -> int:
        """Number of tokens with the added ones; a model needs at least that many embedding rows."""
        return len(self._base) + sum(token not in self._base for token in self._added.ids)

    def __bool__(self) -> bool:
        return True

    def get_vocab(self) -> dict[str, int]:
        """Every token and its id, added tokens included."""
        return {**self._base, **self._added.ids}

    @property
    def vocab(self) -> dict[str, int]:
        """The same as `get_vocab()`."""
        return self.get_vocab()

    @property
    def added_tokens_decoder(self) -> dict[int, AddedToken]:
        """Added tokens by id, in order."""
        return dict(sorted(self._added.tokens.items()))

    @property
    def added_tokens_encoder(self) -> dict[str, int]:
        """Ids of the added tokens, in order."""
        return {token.content: token_id for token_id, token in self.added_tokens_decoder.items()}

    def get_added_vocab(self) -> dict[str, int]:
        """The same as `added_tokens_encoder`."""
        return self.added_tokens_encoder

    @property
    def special_tokens_map(self) -> dict[str, str]:
        """Names and strings of the named special tokens that are set."""
        return {name: str(token) for name, token in self._named.items() if token is not None}

    @property
    def extra_special_tokens(self) -> list[str]:
        """Special tokens without a name (`additional_special_tokens` of transformers 4)."""
        return [str(token) for token in self._extra]

    additional_special_tokens = extra_special_tokens

    @property
    def all_special_tokens(self) -> list[str]:
        """Named and extra special tokens, each once."""
        return list(dict.fromkeys([*self.special_tokens_map.values(), *self.extra_special_tokens]))

    @property
    def all_special_ids(self) -> list[int]:
        """Ids of `all_special_tokens`."""
        ids = self.convert_tokens_to_ids(self.all_special_tokens)
        return [token_id for token_id in ids if token_id is not None]

    # ---- changes

    def add_tokens(
        self, new_tokens: str | AddedToken | Sequence[str | AddedToken], special_tokens: bool = False
    ) -> int:
        """Add tokens that are matched in every text before anything else.

        Args:
            new_tokens: one or several; a token that is in the vocabulary keeps its id.
            special_tokens: make them special (`decode` can leave them out).
        Returns:
            How many were new or changed. The model's embedding must have at least `len(tokenizer)` rows.
        """
        if isinstance(new_tokens, str | AddedToken):
            new_tokens = [new_tokens]
        tokens = [AddedToken(token) if isinstance(token, str) else token for token in new_tokens]
        changed = sum(
            self._added.add(token.resolve(special=True if special_tokens else None)) for token in tokens
        )
        self._surfaces = None
        return changed

    def add_special_tokens(
        self,
        special_tokens_dict: Mapping[str, str | AddedToken | Sequence[str | AddedToken]],
        replace_extra_special_tokens: bool = True,
    ) -> int:
        """Set named special tokens and add those that the vocabulary lacks.

        Args:
            special_tokens_dict: name ("pad_token", ...) -> token; "extra_special_tokens" (or its older name
                "additional_special_tokens") -> list of tokens.
            replace_extra_special_tokens: replace the list of extra special tokens, or extend it.
        Returns:
            How many tokens were new or changed.
        Raises:
            TokenizerError: a name is unknown, or a value has the wrong type.
        """
        tokens: list[str | AddedToken] = []
        for name, value in special_tokens_dict.items():
            if name in ("extra_special_tokens", "additional_special_tokens"):
                extra = [value] if isinstance(value, str | AddedToken) else list(value)
                self._extra = (
                    extra if replace_extra_special_tokens else list(dict.fromkeys([*self._extra, *extra]))
                )
                tokens.extend(extra)
            elif name in SPECIAL_TOKENS_ATTRIBUTES and isinstance(value, str | AddedToken):
                setattr(self, name, value)
                tokens.append(value)
            else:
                raise TokenizerError(
                    f"cannot set {name!r} to {value!r}; expected a token (string or AddedToken) under one of "
                    f"{', '.join(SPECIAL_TOKENS_ATTRIBUTES)}, or a list under extra_special_tokens"
                )
        return self.add_tokens(tokens, special_tokens=True)

    # ---- conversion

    @overload
    def convert_tokens_to_ids(self, tokens: str) -> int | None: ...
    @overload
    def convert_tokens_to_ids(self, tokens: list[str] | tuple[str, ...]) -> list[int | None]: ...
    def convert_tokens_to_ids(
        self, tokens: str | list[str] | tuple[str, ...]
    ) -> int | list[int | None] | None:
        """Id of a token, or of each in a list; the id of `unk_token` (or None) for an unknown one."""
        if isinstance(tokens, str):
            found = self._added.ids.get(tokens, self._base.get(tokens))
            if found is not None or self.unk_token is None:
                return found
            return self._added.ids.get(self.unk_token, self._base.get(self.unk_token))
        return [self.convert_tokens_to_ids(token) for token in tokens]

    @overload
    def convert_ids_to_tokens(self, ids: int, skip_special_tokens: bool = False) -> str | None: ...
    @overload
    def convert_ids_to_tokens(
        self, ids: Iterable[int], skip_special_tokens: bool = False
    ) -> list[str | None]: ...
    def convert_ids_to_tokens(
        self, ids: int | Iterable[int], skip_special_tokens: bool = False
    ) -> str | list[str | None] | None:
        """Token of an id, or of each in a list; None for the few ids that pad the embedding table.

        Args:
            ids: whole numbers.
            skip_special_tokens: leave out `all_special_ids` (lists only).
        Raises:
            TokenizerError: an id is out of range.
        """
        if isinstance(ids, int):
            token = self._added.tokens.get(ids)
            if token is None and ids not in self._base_tokens:
                self._check_id(ids)
            return self._base_tokens.get(ids) if token is None else token.content
        skipped = frozenset(self.all_special_ids if skip_special_tokens else ())
        return [self.convert_ids_to_tokens(int(token_id)) for token_id in ids if int(token_id) not in skipped]

    def _surface_of(self) -> dict[int, str]:
        """Id -> the string that decoding starts from (an added token's normalised form)."""
        if self._surfaces is None:
            added = {token_id: self._added.surface(token) for token_id, token in self._added.tokens.items()}
            self._surfaces = {**self._base_tokens, **added}
        return self._surfaces

    def _check_id(self, token_id: Any) -> None:
        """Refuse what can be no id of this tokenizer's models.

        Raises:
            TokenizerError: it is no whole number, negative, or far above the last token.
        """
        if isinstance(token_id, bool) or not isinstance(token_id, int):
            raise TokenizerError(
                f"token id {token_id!r} is a {type(token_id).__name__}; expected a whole number"
            )
        size = self._added.next_id
        if token_id < 0:
            ignored = "; -100 marks labels that the loss ignores, replace it by pad_token_id"
            hint = ignored if token_id == -100 else ""
            raise TokenizerError(f"token id {token_id} is negative; expected 0 to {size - 1}{hint}")
        if token_id >= size + self.PADDING_IDS:
            raise TokenizerError(
                f"token id {token_id} is out of range: the tokenizer has {size} ids, 0 to {size - 1}; "
                "the ids come from a model with another tokenizer, load the tokenizer of that model"
            )
