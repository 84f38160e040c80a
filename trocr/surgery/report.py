"""What an operation did to which parameters; the same report for all operations.

Source: original work.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from torch import nn

Action = Literal["kept", "carried", "composed", "resampled", "sliced", "moved", "merged", "new", "removed"]
"""What happened to a tensor's values.

kept: nothing. carried: some rows or all were copied as they are. composed: computed from several old ones.
resampled: interpolated. sliced: a part was taken. moved: the same values under another name. merged: another
tensor's effect was added. new: starting values. removed: it is gone.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What happened to one parameter.

    Attributes:
        name: in the changed model; of one that is gone, in the old one.
        action: see `Action`.
        shape: now; of one that is gone, what it was.
        before: shape before, where it is another.
        source: where the values are from, where that is another name.
        detail: how it was done, in a few words.
    """

    name: str
    action: Action
    shape: tuple[int, ...]
    before: tuple[int, ...] | None = None
    source: str = ""
    detail: str = ""


@dataclass(frozen=True, kw_only=True)
class SurgeryReport:
    """What an operation did.

    Attributes:
        operation: name of the function.
        changes: of every parameter that is not "kept"; those that are not named were not touched.
        kept: number of parameters (tensors) that were not touched.
        numbers: what was measured, such as {"unknown_rate": 0.01}.
        notes: what else one must know.
    """

    operation: str
    changes: tuple[Change, ...]
    kept: int
    numbers: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def counts(self) -> dict[str, int]:
        """Tensors by action, those that were kept included; actions that did not happen are left out."""
        counts = dict.fromkeys(get_args(Action), 0) | {"kept": self.kept}
        for change in self.changes:
            counts[change.action] += 1
        return {action: count for action, count in counts.items() if count}

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {**asdict(self), "counts": self.counts()}

    def text(self) -> str:
        """Lay the report out for a terminal; blocks that differ in their number alone take one row."""
        counts = ", ".join(f"{count} {action}" for action, count in self.counts().items())
        rows = [f"{self.operation}: {counts or 'nothing to do'} (tensors)"]
        groups: dict[tuple[str, str], int] = {}
        for change in self.changes:
            key = re.sub(r"(?<=\.)\d+(?=\.)", "*", change.name), _told(change)
            groups[key] = groups.get(key, 0) + 1
        for (name, told), number in groups.items():
            rows.append(f"  {name}{f' x {number}' if number > 1 else ''}: {told}")
        rows += [f"  {name} {_number(number)}" for name, number in self.numbers.items()]
        return "\n".join([*rows, *self.notes])


def _number(value: float) -> str:
    """Counts with all their digits, measures with six."""
    return f"{value:,.0f}" if value == int(value) else f"{value:g}"


def _told(change: Change) -> str:
    shape = "x".join(map(str, change.shape))
    if change.before is not None and change.before != change.shape:
        shape = f"{'x'.join(map(str, change.before))} -> {shape}"
    source = f" from {re.sub(r'(?<=[.])[0-9]+(?=[.])', '*', change.source)}" if change.source else ""
    detail = f": {change.detail}" if change.detail else ""
    return f"{change.action}, {shape}{source}{detail}"


def report(
    operation: str,
    model: nn.Module,
    changes: Iterable[Change],
    *,
    numbers: Mapping[str, float] | None = None,
    notes: Iterable[str] = (),
) -> SurgeryReport:
    """Make the report of an operation on a model that was changed already.

    Raises:
        AssertionError: a change names no parameter of the model, though it does not say that it is gone, or
            another shape than the model's: the operation's report would not be true.
    """
    found = tuple(changes)
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    touched = set()
    for change in found:
        if change.action != "removed":
            assert shapes.get(change.name) == change.shape, (
                f"{change}: the model has {shapes.get(change.name)}"
            )
            touched.add(change.name)
    return SurgeryReport(
        operation=operation,
        changes=found,
        kept=len(shapes) - len(touched),
        numbers=dict(numbers or {}),
        notes=tuple(notes),
    )
