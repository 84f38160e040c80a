"""The base class of all tokenizers: construction, decoding, files.

A tokenizer of a family is a subclass that says how ordinary text becomes ids (`_encode_text`), how tokens
become text (`_join_tokens`), and how its vocabulary is read from and written to files.

Source: transformers 5.23 `tokenization_utils_base.py`, `tokenization_utils_tokenizers.py` (behaviour).
"""

import os
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self, overload

from trocr.atomic_write import write_files
from trocr.tokenizers import batch as batches
from trocr.tokenizers import serialization as files
from trocr.tokenizers import tokenizer_json
from trocr.tokenizers.added import AddedToken
from trocr.tokenizers.encoding import Encoder, Template, Tokens
from trocr.tokenizers.errors import TokenizerError
from trocr.tokenizers.vocabulary import SPECIAL_TOKENS_ATTRIBUTES

__all__ = ["AddedToken", "Template", "Tokenizer", "TokenizerError", "Tokens"]

# Replacements of the clean-up of transformers 4, in order; the text keeps all but the first space.
_CLEAN_UP = (" .", " ?", " !", " ,", " ' ", " n't", " 'm", " 's", " 've", " 're")


class Tokenizer(Encoder):
    """Text to ids and back.

    A subclass sets up its own model first: this constructor calls `_normalize` and `_template`.

    Args:
        vocab: the model's own tokens and ids.
        special_tokens: named special tokens (`bos_token`, ...) of the family; those that the vocabulary and
            `added_tokens` lack get new ids.
        added_tokens: added tokens by id, as files give them.
        extra_special_tokens: special tokens without a name.
        model_max_length: default of `max_length` where padding or truncation need one; None means no limit.
        padding_side: "right" or "left".
        truncation_side: "right" or "left", the end that is cut off.
        clean_up_tokenization_spaces: what `decode` does where it is not told (byte-level BPE: nothing).
        split_special_tokens: treat special tokens in a text as ordinary text.
        processor_class: written into `tokenizer_config.json` for transformers.
        options: more named special tokens; `additional_special_tokens`, the old `extra_special_tokens`.
    Raises:
        TokenizerError: an option is unknown, or ids contradict each other.
    """

    vocab_files_names: ClassVar[Mapping[str, str]] = {}  # argument name -> file name, as in transformers
    # Keys of tokenizer_config.json that are constructor arguments of every family; a family adds its own.
    CONFIG_KEYS: ClassVar[tuple[str, ...]] = (
        "model_max_length",
        "padding_side",
        "truncation_side",
        "clean_up_tokenization_spaces",
        "split_special_tokens",
        "processor_class",
    )
    # Special tokens that a directory must have: encoding, padding or unknown pieces put them into the ids.
    REQUIRED_TOKENS: ClassVar[tuple[str, ...]] = ("unk_token", "sep_token", "pad_token", "cls_token")
    # Whether `clean_up_tokenization_spaces=None` follows the configuration (5.23 never does for BPE).
    CLEANS_BY_CONFIG: ClassVar[bool] = True

    def __init__(
        self,
        vocab: Mapping[str, int],
        *,
        special_tokens: Mapping[str, str | AddedToken | None],
        added_tokens: Mapping[int, AddedToken] | None = None,
        extra_special_tokens: Sequence[str | AddedToken] = (),
        model_max_length: int | None = None,
        padding_side: str = "right",
        truncation_side: str = "right",
        clean_up_tokenization_spaces: bool = False,
        split_special_tokens: bool = False,
        processor_class: str | None = None,
        **options: Any,
    ) -> None:
        extra = [*extra_special_tokens, *(options.pop("additional_special_tokens", None) or ())]
        more = {name: options.pop(name) for name in SPECIAL_TOKENS_ATTRIBUTES if name in options}
        if options:
            raise TokenizerError(f"{type(self).__name__} has no options {sorted(options)}; leave them out")
        self.model_max_length = int(1e30) if model_max_length is None else model_max_length
        self.padding_side = padding_side
        self.truncation_side = truncation_side
        self.clean_up_tokenization_spaces = bool(clean_up_tokenization_spaces)
        self.split_special_tokens = split_special_tokens
        self.processor_class = processor_class
        self._lengths()  # checks the sides
        super().__init__(
            vocab,
            special_tokens={**special_tokens, **more},
            added_tokens=added_tokens or {},
            extra_special_tokens=extra,
        )
        self._set_template()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self)} tokens, special: {self.special_tokens_map})"

    # ---- what a family says, beside `_encode_text`, `_template` and `_normalize`

    @abstractmethod
    def _join_tokens(self, tokens: list[str]) -> str:
        """Text of token strings, as `decode` returns it before any clean-up."""

    @classmethod
    @abstractmethod
    def _read_vocabulary(cls, directory: Path, document: Mapping[str, Any] | None) -> dict[str, Any]:
        """Constructor arguments (vocab=..., merges=..., ...) from a directory.

        Args:
            directory: where the classic files may be.
            document: the parsed `tokenizer.json`, which wins; None where the directory has none.
        Raises:
            TokenizerError: the file is missing or damaged.
        """

    @abstractmethod
    def _vocabulary_files(self) -> dict[str, bytes]:
        """Classic vocabulary files: name -> content."""

    @abstractmethod
    def _json_sections(self) -> dict[str, Any]:
        """The sections normalizer, pre_tokenizer, post_processor, decoder and model of `tokenizer.json`."""

    def _config(self) -> dict[str, Any]:
        """Keys of the family in `tokenizer_config.json`."""
        return {}

    # ---- ids to text

    @overload
    def decode(
        self,
        token_ids: int | Sequence[int],
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
    ) -> str: ...
    @overload
    def decode(
        self,
        token_ids: Any,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
    ) -> Any: ...
    def decode(
        self,
        token_ids: Any,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
    ) -> Any:
        """Text of ids.

        Args:
            token_ids: one id, a row of ids, or a batch of rows; numbers, lists, arrays or tensors.
            skip_special_tokens: leave out special tokens.
            clean_up_tokenization_spaces: True removes the space before `. ? ! ,` and contractions, as
                transformers 4 did by default. None is transformers 5.23: byte-level BPE keeps every space,
                the other families follow the configuration (which says no unless a file says yes).
        Returns:
            The text; a list of texts for a batch. An id just above the last token (`PADDING_IDS`) gives no
            text: models have such rows to round their size.
        Raises:
            TokenizerError: an id is negative, no whole number, or far out of range.
        Source: transformers 5.23 `PreTrainedTokenizerBase.decode`.
        Differs: True cleans byte-level BPE too, which 5.23 refuses with a warning; an id far out of range is
            an error, where 5.23 leaves it out in silence.
        """
        ids = batches.to_lists(token_ids)
        if isinstance(ids, list) and ids and isinstance(ids[0], list):
            return [self._decode_row(row, skip_special_tokens, clean_up_tokenization_spaces) for row in ids]
        row = ids if isinstance(ids, list) else [ids]
        return self._decode_row(row, skip_special_tokens, clean_up_tokenization_spaces)

    def batch_decode(
        self,
        sequences: Any,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
    ) -> list[str]:
        """Texts of a batch of rows of ids; one row gives a list of one text.

        Args:
            sequences: rows of ids: lists, arrays or tensors.
            skip_special_tokens: as in `decode`.
            clean_up_tokenization_spaces: as in `decode`.
        Differs: an empty batch gives an empty list (transformers 5.23: a list of one empty text).
        """
        ids = batches.to_lists(sequences)
        if isinstance(ids, list) and not ids:
            return []
        text = self.decode(ids, skip_special_tokens, clean_up_tokenization_spaces)
        return [text] if isinstance(text, str) else text

    def convert_tokens_to_string(self, tokens: Sequence[str]) -> str:
        """Text of token strings."""
        return self._join_tokens(list(tokens))

    @staticmethod
    def clean_up_tokenization(text: str) -> str:
        """Remove the space before punctuation and English contractions, as `decode` of transformers 4 did."""
        for found in _CLEAN_UP:
            text = text.replace(found, "'" if found == " ' " else found[1:])
        return text

    def _decode_row(self, ids: Sequence[Any], skip_special_tokens: bool, clean_up: bool | None) -> str:
        surfaces = self._surface_of()
        skipped = self._added.special_contents if skip_special_tokens else frozenset()
        if set(map(type, ids)) - {int}:
            for token_id in ids:
                self._check_id(token_id)
        found = list(map(surfaces.get, ids))
        if None in found:
            for token_id, token in zip(ids, found, strict=True):
                if token is None:
                    self._check_id(token_id)
        tokens = [token for token in found if token is not None and token not in skipped]
        text = self._join_tokens(tokens)
        if clean_up is None:
            clean_up = self.clean_up_tokenization_spaces and self.CLEANS_BY_CONFIG
        return self.clean_up_tokenization(text) if clean_up else text

    # ---- files

    @classmethod
    def from_pretrained(cls, directory: str | os.PathLike[str], **overrides: Any) -> Self:
        """Load from a directory, from the classic files or from `tokenizer.json` (which wins).

        Args:
            directory: as transformers 4 or 5 or `save_pretrained` wrote it, or an official repository's copy.
            overrides: constructor arguments that win over the files.
        Raises:
            TokenizerError: a file is missing or damaged, or files contradict each other; it names the file.
        """
        root = files.existing_directory(directory)
        config_file, document_file = root / files.CONFIG_FILE, root / files.DOCUMENT_FILE
        config = files.read_json(config_file) if config_file.is_file() else {}
        document = files.read_json(document_file) if document_file.is_file() else None
        arguments = {**files.read_sides(document or {}), **cls._read_vocabulary(root, document)}
        arguments |= {key: config[key] for key in cls.CONFIG_KEYS if config.get(key) is not None}
        arguments |= files.read_special_tokens(root, config)
        special = frozenset(str(arguments.get(name)) for name in SPECIAL_TOKENS_ATTRIBUTES)
        arguments["added_tokens"] = files.read_added_tokens(root, config, document, special)
        try:
            tokenizer = cls(**{**arguments, **overrides})
        except TokenizerError as error:
            raise error if str(root) in str(error) else TokenizerError(f"{root}: {error}") from error
        if document is not None:
            tokenizer_json.check_template(
                document, tokenizer._template(), source=document_file, family=cls.__name__
            )
        for name in cls.REQUIRED_TOKENS:
            token = getattr(tokenizer, name)
            if token in tokenizer._invented:
                raise TokenizerError(
                    f"{root}: the {name} {token!r} has no id: it is neither in the vocabulary "
                    f"({tokenizer.vocab_size} tokens) nor an added token; the files are incomplete, "
                    f"or name another token with {name}=..."
                )
        return tokenizer

    def save_pretrained(self, save_directory: str | os.PathLike[str]) -> tuple[str, ...]:
        """Write the classic files and `tokenizer.json`, so that transformers 4 and 5 load the same tokenizer.

        Checked with 5.23 and the fast classes of 4.57; the slow ones of 4.57 read the same vocabulary and
        split a few control characters and unassigned code points in their own way.

        Args:
            save_directory: made where it is missing. Each file is replaced in one step.
        Returns:
            Paths of the files.
        """
        contents = {
            files.CONFIG_FILE: files.json_bytes(self._config_document()),
            files.SPECIAL_FILE: files.json_bytes(self._special_document()),
            files.DOCUMENT_FILE: files.json_bytes(self._tokenizer_document()),
            **self._vocabulary_files(),
        }
        above = {token: key for token, key in self.added_tokens_encoder.items() if token not in self._base}
        if above:
            contents[files.ADDED_FILE] = files.json_bytes(above)
        write_files(save_directory, contents)
        return tuple(str(Path(save_directory) / name) for name in contents)

    def _special_document(self) -> dict[str, Any]:
        added = {token.content: token for token in self._added.tokens.values()}
        document: dict[str, Any] = {
            name: files.without(added[token].to_dict(), "special") if token in added else token
            for name, token in self.special_tokens_map.items()
        }
        if self._extra:
            document["additional_special_tokens"] = self.extra_special_tokens
        return document

    def _config_document(self) -> dict[str, Any]:
        document: dict[str, Any] = {
            **self._config(),
            **self.special_tokens_map,
            "added_tokens_decoder": {
                str(key): token.to_dict() for key, token in self.added_tokens_decoder.items()
            },
            "clean_up_tokenization_spaces": self.clean_up_tokenization_spaces,
            "model_max_length": self.model_max_length,
            "padding_side": self.padding_side,
            "truncation_side": self.truncation_side,
            "tokenizer_class": type(self).__name__,
        }
        if self._extra:
            document["additional_special_tokens"] = self.extra_special_tokens
        if self.split_special_tokens:
            document["split_special_tokens"] = True
        if self.processor_class:
            document["processor_class"] = self.processor_class
        return document

    def _tokenizer_document(self) -> dict[str, Any]:
        added = [{"id": key, **token.to_dict()} for key, token in self.added_tokens_decoder.items()]
        return {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": added,
            **self._json_sections(),
        }
