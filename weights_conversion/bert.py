"""Names of BERT-type and RoBERTa-type text models, whose blocks become the blocks of a decoder.

Their self-attention, feed-forward and embeddings are those of a post-norm decoder; what a decoder has beyond,
attention to the image, they lack. Two tensors have no place of their own: the embedding of token type 0 is
the same for all tokens and is added to every position, and positions are shifted to where a decoder looks.

Source: transformers 5.23, models bert, roberta and xlm_roberta; which layers a decoder takes:
arXiv:2109.10282 sec. 2.3.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from weights_conversion.rename import Stems, Table

_BLOCK = "encoder.layer.{i}"

RULES: dict[str, Stems] = {
    "embeddings.word_embeddings": "embed_tokens",
    "embeddings.position_embeddings": "embed_positions",
    "embeddings.LayerNorm": "embed_norm",
    f"{_BLOCK}.attention.self.query": "blocks.{i}.self_attn.q_proj",
    f"{_BLOCK}.attention.self.key": "blocks.{i}.self_attn.k_proj",
    f"{_BLOCK}.attention.self.value": "blocks.{i}.self_attn.v_proj",
    f"{_BLOCK}.attention.output.dense": "blocks.{i}.self_attn.out_proj",
    f"{_BLOCK}.attention.output.LayerNorm": "blocks.{i}.attn_norm",
    f"{_BLOCK}.intermediate.dense": "blocks.{i}.mlp.fc1",
    f"{_BLOCK}.output.dense": "blocks.{i}.mlp.fc2",
    f"{_BLOCK}.output.LayerNorm": "blocks.{i}.mlp_norm",
}

TABLE = Table(RULES, name="BERT")

PREFIXES = ("bert.", "roberta.", "xlm_roberta.", "")
"""What stands before the names, by the task that a file was saved for."""

LEFT_OUT: Mapping[str, str] = {
    "pooler": "the pooler of the first token",
    "cls.seq_relationship": "the head that tells whether a sentence follows another",
    "cls": "the head of masked language modelling; a decoder scores tokens by its embedding",
    "lm_head": "the head of masked language modelling; a decoder scores tokens by its embedding",
    "classifier": "a classifier's head",
    "qa_outputs": "a head for answers to questions",
    "embeddings.position_ids": "a constant index buffer of old releases",
}
"""What a decoder has no use for, by the beginning of the name, with the reason."""

OFFSET = 2
"""Rows of a decoder's position table before the first position."""

POSITIONS = "embeddings.position_embeddings.weight"
TYPES = "embeddings.token_type_embeddings.weight"


class TextModelError(ValueError):
    """A text model cannot become a decoder."""


@dataclass(frozen=True, kw_only=True)
class PlainText:
    """Tensors of a text model as the table above knows them.

    Attributes:
        tensors: name -> tensor; blocks are renumbered from 0.
        origins: the same names -> names in the file of what the tensor was made of.
        notes: the same names -> what was done, of those that are no plain copies.
        left_out: (name in the file, reason).
    """

    tensors: dict[str, Any]
    origins: dict[str, tuple[str, ...]]
    notes: dict[str, str]
    left_out: tuple[tuple[str, str], ...]


def plain(
    tensors: Mapping[str, Any],
    *,
    layers: Sequence[int] | None,
    starts_at: int,
    max_positions: int | None = None,
) -> PlainText:
    """Choose layers, fold token types into positions, and shift positions to where a decoder looks.

    Args:
        tensors: as in the file; torch tensors.
        layers: numbers of the blocks to take, in their new order; None takes all.
        starts_at: row of the position table that the first token has: 0 for BERT, one after the padding
            token's id for RoBERTa.
        max_positions: positions to keep; None keeps all.
    Raises:
        TextModelError: it is no such model, or has no such layer.
    """
    prefix = next((p for p in PREFIXES if f"{p}embeddings.word_embeddings.weight" in tensors), None)
    if prefix is None:
        raise TextModelError(
            "no embeddings.word_embeddings.weight, alone or after bert., roberta. or xlm_roberta.: "
            "not a BERT- or RoBERTa-type model"
        )
    kept: dict[str, str] = {}
    left_out: list[tuple[str, str]] = []
    for name in tensors:
        short = name.removeprefix(prefix)
        reason = next(
            (why for part, why in LEFT_OUT.items() if short == part or short.startswith(f"{part}.")), ""
        )
        if reason:
            left_out.append((name, reason))
        else:
            kept[short] = name
    kept = _choose(kept, layers, left_out)
    types = kept.pop(TYPES, None)
    if POSITIONS not in kept:
        raise TextModelError(f"no {POSITIONS}: a decoder needs absolute positions")
    made = {short: tensors[name] for short, name in kept.items()}
    origins: dict[str, tuple[str, ...]] = {short: (name,) for short, name in kept.items()}
    if types is not None:
        made[POSITIONS] = made[POSITIONS] + tensors[types][0]
        origins[POSITIONS] += (types,)
    made[POSITIONS], note = _positions(made[POSITIONS], starts_at, max_positions)
    if types is not None:
        note += "; row 0 of the token types added to each, the others left out"
    return PlainText(tensors=made, origins=origins, notes={POSITIONS: note}, left_out=tuple(left_out))


def _positions(table: Any, starts_at: int, max_positions: int | None) -> tuple[Any, str]:
    """The position table of a decoder, and what was done for it."""
    rows = table[starts_at:]
    wanted = len(rows) if max_positions is None else max_positions
    if not 0 < wanted <= len(rows):
        raise TextModelError(
            f"{max(wanted, 1)} positions are wanted, the model has {len(rows)} (rows of its table from "
            f"{starts_at} on)"
        )
    head = table[:OFFSET] if starts_at == OFFSET else table[:1].new_zeros((OFFSET, table.shape[1]))
    note = f"{wanted} positions, from row {starts_at} to row {OFFSET} on"
    return _stack(head, rows[:wanted]), note


def _stack(first: Any, second: Any) -> Any:
    rows = first.new_empty((len(first) + len(second), *second.shape[1:]))
    rows[: len(first)], rows[len(first) :] = first, second
    return rows


def _choose(
    names: Mapping[str, str], layers: Sequence[int] | None, left_out: list[tuple[str, str]]
) -> dict[str, str]:
    """Take and renumber blocks: name -> name in the file."""
    start = "encoder.layer."
    numbers = sorted({int(n.removeprefix(start).split(".")[0]) for n in names if n.startswith(start)})
    chosen = numbers if layers is None else list(layers)
    unknown = sorted(set(chosen) - set(numbers))
    if unknown or not chosen:
        raise TextModelError(f"layers {chosen} are wanted, the file has {numbers}")
    kept: dict[str, str] = {}
    for short, name in names.items():
        if not short.startswith(start):
            kept[short] = name
            continue
        number, _, rest = short.removeprefix(start).partition(".")
        if int(number) not in chosen:
            left_out.append((name, "of a layer that is not taken"))
        for place, wanted in enumerate(chosen):
            if wanted == int(number):
                kept[f"{start}{place}.{rest}"] = name
    return kept
