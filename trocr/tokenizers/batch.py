"""Rows of ids to batches: cutting to a length, padding, tensors.

Source: tokenizers 0.23 `utils/truncation.rs`, `utils/padding.rs`; transformers 5.23 `BatchEncoding`.
"""

from collections import UserDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from trocr.tokenizers.errors import TokenizerError

SIDES = ("right", "left")
PADDING = ("longest", "max_length", "do_not_pad")
TRUNCATION = ("longest_first", "only_first", "only_second", "do_not_truncate")
# A `model_max_length` above this means "no limit" (files write 1e30 for it).
NO_LIMIT = 10**20
# Values that padding takes in fields other than the ids.
PAD_VALUES = {"attention_mask": 0, "token_type_ids": 0, "special_tokens_mask": 1}


class BatchEncoding(UserDict[str, Any]):
    """Fields of an encoded batch: a mapping whose keys are attributes too.

    Attributes:
        data: the plain dictionary.
    """

    def __getattr__(self, name: str) -> Any:
        if name == "data" or name not in self.data:
            raise AttributeError(
                f"the encoding has no field {name!r}; it has {sorted(self.__dict__.get('data', ()))}"
            )
        return self.data[name]

    def to(self, device: Any, *, non_blocking: bool = False) -> Self:
        """Move the tensors to a device, in place; lists stay as they are.

        Args:
            device: a torch device, its name or its number.
            non_blocking: as in `torch.Tensor.to`.
        """
        for name, value in self.data.items():
            if hasattr(value, "to"):
                self.data[name] = value.to(device=device, non_blocking=non_blocking)
        return self


def pair_up(texts: Any, pairs: Any) -> list[tuple[Any, Any]]:
    """(text, second text or None) of each row of a call.

    Args:
        texts: a string, a list of strings, or a list of pairs of strings.
        pairs: None, or as many second texts; an empty second text of a single text counts as none.
    Raises:
        TokenizerError: the two do not fit together.
    """
    if isinstance(texts, str):
        if pairs is not None and not isinstance(pairs, str):
            raise TokenizerError(
                f"text is one string but text_pair is a {type(pairs).__name__}; pass one string"
            )
        return [(texts, pairs or None)]
    if not isinstance(texts, list | tuple):
        raise TokenizerError(f"text is a {type(texts).__name__}; expected a string or a list of strings")
    if pairs is None:
        return [
            tuple(item) if isinstance(item, list | tuple) and len(item) == 2 else (item, None)
            for item in texts
        ]
    if isinstance(pairs, str) or len(pairs) != len(texts):
        found = "one string" if isinstance(pairs, str) else f"{len(pairs)} texts"
        raise TokenizerError(
            f"text has {len(texts)} texts but text_pair is {found}; pass as many second texts"
        )
    return list(zip(texts, pairs, strict=True))


@dataclass(frozen=True, slots=True)
class Lengths:
    """How rows are cut and padded, after every default has been looked up.

    Attributes:
        padding: one of `PADDING`.
        truncation: one of `TRUNCATION`.
        max_length: tokens with special tokens; None where neither needs it.
        multiple_of: padded lengths are rounded up to a multiple of it.
        padding_side, truncation_side: "right" or "left".
    """

    padding: str
    truncation: str
    max_length: int | None
    multiple_of: int | None
    padding_side: str
    truncation_side: str


def choose_lengths(
    *,
    padding: bool | str,
    truncation: bool | str | None,
    max_length: int | None,
    multiple_of: int | None,
    padding_side: str,
    truncation_side: str,
    model_max_length: int,
) -> Lengths:
    """Turn the arguments of a tokenizer call into `Lengths`.

    Args:
        padding, truncation, max_length: as in a call; see `Encoder.__call__`.
        multiple_of: `pad_to_multiple_of` of the call.
        padding_side, truncation_side: "right" or "left".
        model_max_length: stands for a `max_length` that is needed and not given; above `NO_LIMIT` there is
            none.
    Raises:
        TokenizerError: a value is not known, or two of them contradict each other.
    Source: transformers 5.23 `_get_padding_truncation_strategies`.
    """
    if max_length is not None and padding is False and truncation is None:
        truncation = True
    pad = _named("padding", padding, PADDING)
    cut = _named("truncation", truncation, TRUNCATION)
    _check("padding_side", padding_side, SIDES)
    _check("truncation_side", truncation_side, SIDES)
    for name, number, least in (("max_length", max_length, 0), ("pad_to_multiple_of", multiple_of, 1)):
        if number is not None and (isinstance(number, bool) or not isinstance(number, int) or number < least):
            raise TokenizerError(f"{name} is {number!r}; expected a whole number of at least {least}")
    if max_length is None and (pad == "max_length" or cut != "do_not_truncate"):
        if model_max_length > NO_LIMIT:
            pad, cut = ("do_not_pad" if pad == "max_length" else pad), "do_not_truncate"
        else:
            max_length = model_max_length
    both = pad != "do_not_pad" and cut != "do_not_truncate"
    if both and multiple_of and max_length is not None and max_length % multiple_of:
        raise TokenizerError(
            f"max_length is {max_length}, not a multiple of pad_to_multiple_of ({multiple_of}), and the call "
            "asks for truncation and padding; choose a max_length that is a multiple"
        )
    return Lengths(pad, cut, max_length, multiple_of, padding_side, truncation_side)


def _named(name: str, value: bool | str | None, known: Sequence[str]) -> str:
    """The strategy that a value stands for: True is the first of `known`, False and None the last."""
    if value is None or isinstance(value, bool):
        return known[0] if value else known[-1]
    _check(name, value, known)
    return value


def _check(name: str, value: Any, known: Sequence[str]) -> None:
    if value not in known:
        raise TokenizerError(f"{name} is {value!r}; expected one of {', '.join(known)}")


def truncate(first: list[Any], second: list[Any] | None, room: int, *, strategy: str, side: str) -> None:
    """Cut one or two rows, in place, so that together they have at most `room` items.

    Args:
        first, second: tokens without special tokens; `second` is None for a single text.
        room: what `max_length` leaves beside the special tokens.
        strategy: "longest_first" cuts the longer one first, then both alike; "only_first", "only_second".
        side: the end that is cut off.
    Raises:
        TokenizerError: the row that may be cut is too short, or there is no second one.
    """
    surplus = len(first) + len(second or ()) - room
    if surplus <= 0:
        return
    if strategy == "longest_first" or not room:
        _cut(first, second, room, side)
        return
    if strategy == "only_second" and second is None:
        raise TokenizerError("truncation='only_second' but there is no second text; pass text_pair")
    target = first if strategy == "only_first" or second is None else second
    if len(target) <= surplus:
        raise TokenizerError(
            f"truncation={strategy!r} must remove {surplus} tokens but that text has only {len(target)}; "
            "use truncation='longest_first' or a larger max_length"
        )
    _keep(target, len(target) - surplus, side)


def _cut(first: list[Any], second: list[Any] | None, room: int, side: str) -> None:
    if second is None:
        _keep(first, room, side)
        return
    short, long = sorted((len(first), len(second)))
    long = short if short > room else max(short, room - short)
    if short + long > room:
        short, long = room // 2, room // 2 + room % 2
    swapped = len(first) > len(second)
    _keep(first, long if swapped else short, side)
    _keep(second, short if swapped else long, side)


def _keep(row: list[Any], count: int, side: str) -> None:
    if side == "right":
        del row[count:]
    else:
        del row[: max(len(row) - count, 0)]


def pad_rows(
    rows: Sequence[Mapping[str, list[int]]], fields: Sequence[str], wanted: Lengths, pad_id: int
) -> dict[str, list[list[int]]]:
    """Fill the rows of a batch up and collect them by field; rows that are longer already stay as they are.

    Args:
        rows: each with all of `fields`.
        fields: names; those that padding does not know are left as they are.
        wanted: what length, on which side.
        pad_id: fills `input_ids`.
    """
    length = 0
    if wanted.padding != "do_not_pad":
        longest = max((len(row["input_ids"]) for row in rows), default=0)
        length = wanted.max_length or 0 if wanted.padding == "max_length" else longest
        length += -length % (wanted.multiple_of or 1)
    padded: dict[str, list[list[int]]] = {name: [] for name in fields}
    values = {**PAD_VALUES, "input_ids": pad_id}
    for row in rows:
        missing = max(length - len(row["input_ids"]), 0)
        for name in fields:
            filler = [values[name]] * missing if name in values else []
            padded[name].append(
                [*row[name], *filler] if wanted.padding_side == "right" else [*filler, *row[name]]
            )
    return padded


def to_tensors(data: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """Turn lists of whole numbers into int64 tensors.

    Args:
        data: field -> rows of equal length, or one row.
        kind: "pt" for torch, "np" for numpy.
    Raises:
        TokenizerError: the rows of a field differ in length, or `kind` is unknown.
    """
    if kind not in ("pt", "np"):
        raise TokenizerError(
            f"return_tensors is {kind!r}; expected 'pt' (torch), 'np' (numpy) or None (lists)"
        )
    for name, values in data.items():
        lengths = sorted({len(row) for row in values if isinstance(row, list)})
        if len(lengths) > 1:
            raise TokenizerError(
                f"field {name!r} has rows of {lengths[0]} to {lengths[-1]} tokens, which make no tensor; "
                "pass padding=True (and truncation=True with a max_length for long texts)"
            )
    if kind == "np":
        import numpy as np  # optional here: only a caller who asks for arrays pays for the import

        return {name: np.asarray(values, dtype=np.int64) for name, values in data.items()}
    import torch  # optional here: tokenizers work without it

    return {name: torch.tensor(values, dtype=torch.int64) for name, values in data.items()}


def tensor_kind(ids: Any) -> str | None:
    """The `return_tensors` that stands for a value: "pt", "np" or None, also for a list of tensors."""
    while isinstance(ids, list | tuple) and ids:
        ids = ids[0]
    return {"torch": "pt", "numpy": "np"}.get(type(ids).__module__.partition(".")[0])


def to_lists(ids: Any) -> Any:
    """Plain whole numbers and lists out of tensors, arrays and (nested) sequences of them."""
    if hasattr(ids, "tolist"):
        return ids.tolist()
    if isinstance(ids, Mapping):
        return to_lists(ids["input_ids"])
    if isinstance(ids, list | tuple):
        return [item if type(item) is int else to_lists(item) for item in ids]
    return ids
