"""Texts to batches of ids: added tokens, the family's algorithm, special tokens around, cutting, padding.

Source: transformers 5.23 `PreTrainedTokenizerBase.__call__`, tokenizers 0.23 `tokenizer/mod.rs` (behaviour).
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from trocr.tokenizers import batch as batches
from trocr.tokenizers.batch import BatchEncoding, Lengths
from trocr.tokenizers.errors import TokenizerError
from trocr.tokenizers.vocabulary import Vocabulary

Tokens = list[tuple[str, int]]
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Template:
    """Special tokens around a text: `start A end`, and `start A middle B end` for a pair.

    Attributes:
        start, middle, end: token strings.
        second_type_id: `token_type_ids` value of B and of `end` behind B (the rest is 0).
    """

    start: tuple[str, ...] = ()
    middle: tuple[str, ...] = ()
    end: tuple[str, ...] = ()
    second_type_id: int = 0


@dataclass(slots=True)
class Row:
    """The fields of one encoded text, in step."""

    tokens: list[str] = field(default_factory=list)
    input_ids: list[int] = field(default_factory=list)
    token_type_ids: list[int] = field(default_factory=list)
    special_tokens_mask: list[int] = field(default_factory=list)

    @property
    def attention_mask(self) -> list[int]:
        """All ones: padding comes later."""
        return [1] * len(self.input_ids)

    def extend(self, tokens: Tokens, *, special: int = 0, type_id: int = 0) -> None:
        """Append tokens that are all alike."""
        self.tokens += [token for token, _ in tokens]
        self.input_ids += [token_id for _, token_id in tokens]
        self.token_type_ids += [type_id] * len(tokens)
        self.special_tokens_mask += [special] * len(tokens)


class Encoder(Vocabulary, ABC):
    """The half of a tokenizer that goes from texts to ids."""

    model_input_names: Sequence[str] = ("input_ids", "attention_mask")
    model_max_length: int
    padding_side: str
    truncation_side: str
    split_special_tokens: bool

    @abstractmethod
    def _encode_text(self, text: str) -> Tokens:
        """(token, id) of a non-empty stretch of ordinary text, already through `_normalize`.

        It holds no added token. The token string is what `tokenize` shows.
        """

    @abstractmethod
    def _template(self) -> Template:
        """Special tokens around a text, read once at construction."""

    def __call__(
        self,
        text: Any = None,
        text_pair: Any = None,
        text_target: Any = None,
        *,
        add_special_tokens: bool = True,
        padding: bool | str = False,
        truncation: bool | str | None = None,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_tensors: str | None = None,
        return_token_type_ids: bool | None = None,
        return_attention_mask: bool | None = None,
        return_special_tokens_mask: bool = False,
        return_length: bool = False,
        split_special_tokens: bool | None = None,
    ) -> BatchEncoding:
        """Encode one text or a batch of them.

        Args:
            text: a string, or a list of strings (or of pairs of strings).
            text_pair: the second text of a pair, or a list of them as long as `text`.
            text_target: texts whose ids are returned as `labels` (as `input_ids` where `text` is None).
            add_special_tokens: put the family's special tokens around each text.
            padding: False; True or "longest" (of the batch); "max_length".
            truncation: False; True or "longest_first"; "only_first"; "only_second". None means False, but
                True with `max_length` and without padding.
            max_length: in tokens, special tokens included; None: `model_max_length` where one is needed.
            pad_to_multiple_of: padded lengths are rounded up to a multiple of it.
            padding_side: "right" or "left"; None: the tokenizer's.
            return_tensors: None for lists, "pt" for torch, "np" for numpy; tensors have a batch dimension.
            return_token_type_ids: None: where the family's models take them.
            return_attention_mask: None: where the family's models take it.
            return_special_tokens_mask: 1 where a special token was put, 0 at the text's own tokens.
            return_length: the number of tokens of each row, padding included.
            split_special_tokens: treat special tokens in the text as ordinary text; None: as set.
        Returns:
            The fields, as lists (of one row for a single text) or as (B, T) int64 tensors.
        Raises:
            TokenizerError: a text is no Unicode text, or the options do not fit together.
        Source: transformers 5.23 `PreTrainedTokenizerBase.__call__`.
        Differs: a `max_length` below the number of special tokens is an error (5.23 then cuts nothing); an
            empty batch gives empty fields (5.23 raises IndexError).
        """
        lengths = self._lengths(padding, truncation, max_length, pad_to_multiple_of, padding_side)
        split = self.split_special_tokens if split_special_tokens is None else split_special_tokens
        asked = {
            "input_ids": True,
            "token_type_ids": return_token_type_ids,
            "attention_mask": return_attention_mask,
            "special_tokens_mask": return_special_tokens_mask,
        }
        fields = [
            name for name, want in asked.items() if want or (want is None and name in self.model_input_names)
        ]

        def encode(texts: Any, pairs: Any) -> BatchEncoding:
            rows = []
            for first, second in batches.pair_up(texts, pairs):
                row = self._encode_row(first, second, add_special_tokens, split, lengths)
                rows.append({name: getattr(row, name) for name in fields})
            data: dict[str, Any] = batches.pad_rows(rows, fields, lengths, self._pad_id(lengths))
            if return_length:
                data["length"] = [len(ids) for ids in data["input_ids"]]
            if return_tensors is None and isinstance(texts, str):
                return BatchEncoding(
                    {name: rows[0] if name != "length" else rows for name, rows in data.items()}
                )
            return BatchEncoding(data if return_tensors is None else batches.to_tensors(data, return_tensors))

        if text is None and text_target is None:
            raise TokenizerError("got neither text nor text_target; pass a string or a list of strings")
        if text is None:
            return encode(text_target, None)
        encoding = encode(text, text_pair)
        if text_target is not None:
            encoding["labels"] = encode(text_target, None)["input_ids"]
        return encoding

    def encode(self, text: str, text_pair: str | None = None, **options: Any) -> Any:
        """Ids of one text: the `input_ids` of a call with the same arguments."""
        return self(text, text_pair, **options)["input_ids"]

    def tokenize(self, text: str, pair: str | None = None, add_special_tokens: bool = False) -> list[str]:
        """Token strings of one text (an added token shows what it matched, with swallowed white space)."""
        uncut = self._lengths()
        return self._encode_row(
            text, pair or None, add_special_tokens, self.split_special_tokens, uncut
        ).tokens

    def pad(
        self,
        encoded_inputs: Any,
        padding: bool | str = True,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_attention_mask: bool | None = None,
        return_tensors: str | None = None,
    ) -> BatchEncoding:
        """Pad what a call without padding has returned.

        Args:
            encoded_inputs: an encoding of one row or of a batch, or a list of encodings of one row each.
            padding: as in a call.
            max_length: as in a call.
            pad_to_multiple_of: as in a call.
            padding_side: as in a call.
            return_attention_mask: None: where the family's models take it; a mask that is there is kept.
            return_tensors: None keeps the kind of the input.
        Raises:
            TokenizerError: the input has no `input_ids`, or its fields differ in batch size.
        Source: transformers 5.23 `PreTrainedTokenizerBase.pad`.
        """
        if not isinstance(encoded_inputs, Mapping):
            rows = list(encoded_inputs)
            encoded_inputs = {
                name: [row[name] for row in rows] for name in (rows[0] if rows else ("input_ids",))
            }
        if "input_ids" not in encoded_inputs:
            raise TokenizerError(f"pad needs input_ids; got the fields {sorted(encoded_inputs)}")
        kind = return_tensors or batches.tensor_kind(encoded_inputs["input_ids"])
        data = {name: batches.to_lists(values) for name, values in encoded_inputs.items()}
        single = bool(data["input_ids"]) and not isinstance(data["input_ids"][0], list)
        if single:
            data = {name: [values] for name, values in data.items()}
        if return_attention_mask is None:
            return_attention_mask = "attention_mask" in self.model_input_names
        if return_attention_mask and "attention_mask" not in data:
            data["attention_mask"] = [[1] * len(ids) for ids in data["input_ids"]]
        sizes = {name: len(values) for name, values in data.items()}
        if len(set(sizes.values())) > 1:
            raise TokenizerError(f"the fields differ in batch size: {sizes}; give every row every field")
        rows = [{name: values[i] for name, values in data.items()} for i in range(sizes["input_ids"])]
        lengths = self._lengths(padding, False, max_length, pad_to_multiple_of, padding_side)
        padded: dict[str, Any] = batches.pad_rows(rows, list(data), lengths, self._pad_id(lengths))
        if single:
            padded = {name: values[0] for name, values in padded.items()}
        return BatchEncoding(padded if kind is None else batches.to_tensors(padded, kind))

    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        """How many special tokens a call puts around a text or a pair."""
        return len(self.build_inputs_with_special_tokens((), () if pair else None))

    def build_inputs_with_special_tokens(
        self, token_ids_0: Sequence[int], token_ids_1: Sequence[int] | None = None
    ) -> list[int]:
        """Put the family's special tokens around ids."""
        second = [] if token_ids_1 is None else [*_ids(self._middle), *token_ids_1]
        return [*_ids(self._start), *token_ids_0, *second, *_ids(self._end)]

    def get_special_tokens_mask(
        self,
        token_ids_0: Sequence[int],
        token_ids_1: Sequence[int] | None = None,
        already_has_special_tokens: bool = False,
    ) -> list[int]:
        """1 for special tokens, 0 for others.

        Args:
            token_ids_0: ids; with `already_has_special_tokens` a finished row.
            token_ids_1: ids of a second text.
            already_has_special_tokens: look for `all_special_ids` instead of placing the template.
        """
        if already_has_special_tokens:
            special = frozenset(self.all_special_ids)
            return [int(token_id in special) for token_id in token_ids_0]
        second = [] if token_ids_1 is None else [*[1] * len(self._middle), *[0] * len(token_ids_1)]
        return [*[1] * len(self._start), *[0] * len(token_ids_0), *second, *[1] * len(self._end)]

    def _set_template(self) -> None:
        """Look up the template's ids, once: later changes of `sep_token` and its like do not change it."""
        template = self._template()
        self._start, self._middle, self._end = (
            [(token, self._added.ids.get(token, self._base.get(token, 0))) for token in part]
            for part in (template.start, template.middle, template.end)
        )
        self._second_type_id = template.second_type_id

    def _lengths(
        self,
        padding: bool | str = False,
        truncation: bool | str | None = False,
        max_length: int | None = None,
        multiple_of: int | None = None,
        padding_side: str | None = None,
    ) -> Lengths:
        return batches.choose_lengths(
            padding=padding,
            truncation=truncation,
            max_length=max_length,
            multiple_of=multiple_of,
            padding_side=self.padding_side if padding_side is None else padding_side,
            truncation_side=self.truncation_side,
            model_max_length=self.model_max_length,
        )

    def _pad_id(self, lengths: Lengths) -> int:
        pad_id = self.pad_token_id
        if pad_id is None and lengths.padding != "do_not_pad":
            raise TokenizerError(
                "padding needs a padding token and the tokenizer has none; set pad_token first"
            )
        return pad_id or 0

    def _tokens_of(self, text: Any, split_special_tokens: bool) -> Tokens:
        if not isinstance(text, str):
            raise TokenizerError(f"got a {type(text).__name__} where a text belongs; pass a string")
        surrogate = None if text.isascii() else _SURROGATE.search(text)
        if surrogate:
            raise TokenizerError(
                f"the text has a lone surrogate, U+{ord(surrogate.group()):04X} at {surrogate.start()}, "
                "which is no Unicode character; clean it first: text.encode('utf-8', 'replace').decode()"
            )
        tokens: Tokens = []
        for part in self._added.split(text, split_special_tokens=split_special_tokens):
            if part.token_id is None:
                tokens += self._encode_text(part.text)
            else:
                tokens.append((part.text, part.token_id))
        return tokens

    def _encode_row(
        self,
        text: str,
        pair: str | None,
        add_special_tokens: bool,
        split_special_tokens: bool,
        lengths: Lengths,
    ) -> Row:
        """One text or pair: cut, with its special tokens, not padded."""
        first = self._tokens_of(text, split_special_tokens)
        second = None if pair is None else self._tokens_of(pair, split_special_tokens)
        if lengths.truncation != "do_not_truncate" and lengths.max_length is not None:
            added = self.num_special_tokens_to_add(pair is not None) if add_special_tokens else 0
            if lengths.max_length < added:
                raise TokenizerError(
                    f"max_length is {lengths.max_length}, too small for the {added} special tokens alone; "
                    "choose a larger one"
                )
            room = lengths.max_length - added
            batches.truncate(first, second, room, strategy=lengths.truncation, side=lengths.truncation_side)
        start, middle, end = (self._start, self._middle, self._end) if add_special_tokens else ([], [], [])
        row = Row()
        row.extend(start, special=1)
        row.extend(first)
        if second is not None:
            row.extend(middle, special=1)
            row.extend(second, type_id=self._second_type_id)
        row.extend(end, special=1, type_id=0 if second is None else self._second_type_id)
        return row


def _ids(tokens: Tokens) -> list[int]:
    return [token_id for _, token_id in tokens]
