"""What was taken over from pretrained parts, and what is new.

Source: original work.
"""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any


class PartsError(ValueError):
    """Parts cannot be put together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """A parameter of the model and where its value is from.

    Attributes:
        name: of ours.
        shape: of it.
        source: the tensor that it was taken from; empty for a new one.
        note: what was done on the way; how a new one was made.
    """

    name: str
    shape: tuple[int, ...]
    source: str = ""
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class PartsReport:
    """All parameters of an assembled model.

    Attributes:
        encoder: where it is from.
        decoder: where it is from.
        taken: parameters, with where they are from.
        left_out: (tensor of a source, reason).
        notes: what else one must know: what is not computed as in the sources.
    """

    encoder: str
    decoder: str
    taken: tuple[Taken, ...]
    left_out: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]

    def counts(self) -> dict[str, int]:
        """Parameters (numbers, not tensors) taken over and new."""
        sizes = {"taken over": 0, "new": 0}
        for item in self.taken:
            size = 1
            for length in item.shape:
                size *= length
            sizes["taken over" if item.source else "new"] += size
        return sizes

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {**asdict(self), "counts": self.counts()}

    def text(self) -> str:
        """Lay the report out for a terminal; blocks that differ in their number alone take one row."""
        counts = self.counts()
        total = sum(counts.values())
        rows = [
            f"encoder: {self.encoder}",
            f"decoder: {self.decoder}",
            f"{counts['taken over']:,} of {total:,} parameters are taken over, {counts['new']:,} are new",
            "",
        ]
        rows += _grouped(
            [(t.name, f"<- {t.source}" if t.source else f"new: {t.note}", t) for t in self.taken]
        )
        if self.left_out:
            rows += ["", "left out of the sources:"]
            rows += _grouped([(name, reason, None) for name, reason in self.left_out])
        if self.notes:
            rows += ["", *self.notes]
        return "\n".join(rows)


def _grouped(items: Sequence[tuple[str, str, Taken | None]]) -> list[str]:
    """Rows, one for all blocks of a kind."""
    groups: dict[tuple[str, str, str], list[str]] = {}
    for name, text, taken in items:
        about = "" if taken is None else f" {list(taken.shape)}"
        if taken is not None and taken.source and taken.note:
            about += f" ({taken.note})"
        numbers = re.findall(r"(?<=\.)\d+(?=\.)", name)
        key = (re.sub(r"(?<=\.)\d+(?=\.)", "*", name), re.sub(r"(?<=\.)\d+(?=\.)", "*", text), about)
        groups.setdefault(key, []).append(numbers[0] if numbers else "")
    rows = []
    for (name, text, about), numbers in groups.items():
        times = f" x {len(numbers)}" if len(numbers) > 1 else ""
        rows.append(f"  {name}{about}{times}  {text}")
    return rows
