"""What was taken over from pretrained parts, and what is new.

Source: original work.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from weights_conversion.rename import KeyMapError, Plan, Table


class PartsError(ValueError):
    """Parts cannot be put together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """A parameter of the model and where its value is from.

    Attributes:
        name: of ours.
        shape: of it.
        sources: the tensors that it was made of, as the source names them; empty for a new one.
        note: what was done on the way; how a new one was made.
    """

    name: str
    shape: tuple[int, ...]
    sources: tuple[str, ...] = ()
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class PartsReport:
    """All parameters of an assembled model.

    Attributes:
        encoder: where it is from.
        decoder: where it is from.
        taken: parameters, with where they are from.
        left_out: "encoder" and "decoder" -> (tensor of its source, reason).
        notes: what else one must know: what is not computed as in the sources.
    """

    encoder: str
    decoder: str
    taken: tuple[Taken, ...]
    left_out: Mapping[str, tuple[tuple[str, str], ...]]
    notes: tuple[str, ...]

    def counts(self) -> dict[str, int]:
        """Parameters (numbers, not tensors) taken over and new."""
        sizes = {"taken over": 0, "new": 0}
        for item in self.taken:
            size = 1
            for length in item.shape:
                size *= length
            sizes["taken over" if item.sources else "new"] += size
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
            [(t.name, f"<- {', '.join(t.sources)}" if t.sources else f"new: {t.note}", t) for t in self.taken]
        )
        for part, items in self.left_out.items():
            if items:
                rows += ["", f"left out of the {part}'s source:"]
                rows += _grouped([(name, reason, None) for name, reason in items])
        if self.notes:
            rows += ["", *self.notes]
        return "\n".join(rows)


def plan_tensors(
    table: Table, tensors: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]], origin: str
) -> Plan:
    """Decide where every tensor of a source goes.

    Args:
        table: of the source's names.
        tensors: of the source.
        expected: our name -> shape.
        origin: what to call the source.
    Raises:
        PartsError: lists all tensors that do not fit.
    """
    try:
        return table.plan({name: tuple(t.shape) for name, t in tensors.items()}, expected, origin=origin)
    except KeyMapError as error:
        advice = "Only a plain model of its kind can be taken over, whole and with all its layers."
        raise PartsError(str(KeyMapError(origin, error.problems, advice))) from error


def _grouped(items: Sequence[tuple[str, str, Taken | None]]) -> list[str]:
    """Rows, one for all blocks of a kind."""
    groups: dict[tuple[str, str, str], list[str]] = {}
    for name, text, taken in items:
        about = "" if taken is None else f" {list(taken.shape)}"
        if taken is not None and taken.sources and taken.note:
            about += f" ({taken.note})"
        numbers = re.findall(r"(?<=\.)\d+(?=\.)", name)
        key = (re.sub(r"(?<=\.)\d+(?=\.)", "*", name), re.sub(r"(?<=\.)\d+(?=\.)", "*", text), about)
        groups.setdefault(key, []).append(numbers[0] if numbers else "")
    rows = []
    for (name, text, about), numbers in groups.items():
        times = f" x {len(numbers)}" if len(numbers) > 1 else ""
        rows.append(f"  {name}{about}{times}  {text}")
    return rows
