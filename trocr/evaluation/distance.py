"""Edits between what a line says and what was read: the arithmetic under every error rate.

Source: Levenshtein distance with unit costs, by rapidfuzz; rates over a corpus are sums of edits by sums of
lengths (micro averages), as in sclite, fastwer and `evaluate`'s cer.
"""

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any


class EvaluationError(ValueError):
    """Readings cannot be compared with their targets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EditCounts:
    """Edits that turn targets into readings.

    Attributes:
        hits: symbols that are in both.
        substitutions: symbols that were read as others.
        insertions: symbols that were read and are not there.
        deletions: symbols that are there and were not read.
    """

    hits: int = 0
    substitutions: int = 0
    insertions: int = 0
    deletions: int = 0

    @property
    def length(self) -> int:
        """Symbols of the targets."""
        return self.hits + self.substitutions + self.deletions

    @property
    def errors(self) -> int:
        """Edits of all kinds."""
        return self.substitutions + self.insertions + self.deletions

    @property
    def rate(self) -> float:
        """Errors by symbols of the targets, 0 and up: insertions can bring it above 1.

        Raises:
            EvaluationError: the targets hold no symbol.
        """
        if self.length == 0:
            raise EvaluationError("the targets hold no text: an error rate has no meaning")
        return self.errors / self.length

    def __add__(self, other: "EditCounts") -> "EditCounts":
        return EditCounts(
            hits=self.hits + other.hits,
            substitutions=self.substitutions + other.substitutions,
            insertions=self.insertions + other.insertions,
            deletions=self.deletions + other.deletions,
        )


def count_edits(target: Sequence[Hashable], reading: Sequence[Hashable]) -> EditCounts:
    """Count the edits of a shortest way from a target to a reading."""
    kinds = Counter(edit.tag for edit in _levenshtein().editops(target, reading))
    return EditCounts(
        hits=len(target) - kinds["replace"] - kinds["delete"],
        substitutions=kinds["replace"],
        insertions=kinds["insert"],
        deletions=kinds["delete"],
    )


def distance(target: Sequence[Hashable], reading: Sequence[Hashable]) -> int:
    """Count the edits only."""
    return int(_levenshtein().distance(target, reading))


def confusions(target: str, reading: str) -> list[tuple[str, str]]:
    """List the edits as (there, read); "" where nothing is there, or nothing was read."""
    found = []
    for edit in _levenshtein().editops(target, reading):
        there = "" if edit.tag == "insert" else target[edit.src_pos]
        read = "" if edit.tag == "delete" else reading[edit.dest_pos]
        found.append((there, read))
    return found


def marked(target: str, reading: str) -> list[tuple[str, str, str]]:
    """Cut both texts into pieces that are alike or differ.

    Returns:
        (kind, piece of the target, piece of the reading), kind one of "equal", "replace", "insert", "delete".
    """
    return [
        (code.tag, target[code.src_start : code.src_end], reading[code.dest_start : code.dest_end])
        for code in _levenshtein().opcodes(target, reading)
    ]


def total(counts: Iterable[EditCounts]) -> EditCounts:
    """Add counts up."""
    return sum(counts, EditCounts())


def corpus_cer(targets: Sequence[str], readings: Sequence[str]) -> float:
    """Character error rate of all lines together, over code points of the texts as they are.

    Raises:
        EvaluationError: the targets hold no text.
    """
    return total(count_edits(t, r) for t, r in zip(targets, readings, strict=True)).rate


def _levenshtein() -> Any:
    try:
        from rapidfuzz.distance import Levenshtein
    except ImportError as error:
        raise EvaluationError(
            "edit distances need rapidfuzz: pip install 'trocr[evaluate]' (or rapidfuzz itself)"
        ) from error
    return Levenshtein
