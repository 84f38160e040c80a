"""Reading of option tables into dataclasses: every problem of a file in one error.

Source: original work.
"""

import dataclasses
import difflib
import types
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints


class OptionsError(ValueError):
    """Training options have an unknown key, a value that is out of range, or one that contradicts another.

    Args:
        problems: everything that is wrong.
        origin: the file that it is wrong in.
    """

    def __init__(self, problems: Iterable[str], origin: str = "") -> None:
        self.problems = tuple(problems)
        super().__init__((f"{origin}: " if origin else "") + "; ".join(self.problems))


def option(
    default: Any,
    *,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    below: float | None = None,
) -> Any:
    """Declare a field with a default and bounds, which hold for each number of a list.

    Args:
        default: the value where the file has none.
        least: smallest value.
        above: a value below all allowed ones.
        most: largest value.
        below: a value above all allowed ones.
    """
    bounds = {"least": least, "above": above, "most": most, "below": below}
    metadata = {name: bound for name, bound in bounds.items() if bound is not None}
    if isinstance(default, Mapping):
        return dataclasses.field(default_factory=dict, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


class Section:
    """Base of the tables of a file: a frozen dataclass whose fields are declared by `option`."""

    def __post_init__(self) -> None:
        """Check types and bounds.

        Raises:
            OptionsError: names every field that is wrong.
        """
        problems = []
        hints = get_type_hints(type(self))
        for item in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, item.name)
            problem = type_problem(value, hints[item.name]) or bound_problem(value, item.metadata)
            if problem:
                problems.append(f"{item.name}={show(value)} {problem}")
        problems.extend(self.conflicts())
        if problems:
            raise OptionsError(problems)

    def conflicts(self) -> Iterable[str]:
        """Name fields that contradict one another; called when each is good by itself or not."""
        return ()


def show(value: object) -> str:
    """Write a value as TOML does, near enough for a message."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{', '.join(map(show, value))}]"
    return repr(value)


def type_problem(value: object, hint: Any) -> str:
    """Say what a value should be, or nothing where it is of the type."""
    return "" if _fits(value, hint) else f"must be {_wanted(hint)}"


def bound_problem(value: object, bounds: Mapping[str, float]) -> str:
    """Say which bound a number, or one of a list, breaks."""
    for number in value if isinstance(value, tuple) else (value,):
        if isinstance(number, bool) or not isinstance(number, int | float):
            continue
        good = (
            number >= bounds.get("least", number)
            and number <= bounds.get("most", number)
            and number > bounds.get("above", float("-inf"))
            and number < bounds.get("below", float("inf"))
        )
        if not good:
            return f"must be {' and '.join(f'{_WORDS[name]} {bound}' for name, bound in bounds.items())}"
    return ""


_WORDS = {"least": "at least", "above": "above", "most": "at most", "below": "below"}


def convert(value: object, hint: Any) -> object:
    """Turn what TOML gives into what a field takes: lists into tuples, whole numbers into floats.

    A single value stands for a list of one. What does not fit is left as it is, for the check to name.
    """
    if get_origin(hint) in (Union, types.UnionType):
        kinds = [kind for kind in get_args(hint) if kind is not type(None)]
        return convert(value, kinds[0])
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if get_origin(hint) is tuple:
        parts = get_args(hint)
        items = value if isinstance(value, list | tuple) else [value]
        return tuple(convert(item, parts[0]) for item in items)
    return value


def _fits(value: object, hint: Any) -> bool:
    origin, parts = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if origin in (Union, types.UnionType):
        return any(_fits(value, part) for part in parts)
    if origin is Literal:
        return value in parts
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        kinds = parts if parts[-1] is not Ellipsis else (parts[0],) * len(value)
        return len(kinds) == len(value) and all(map(_fits, value, kinds))
    if origin in (Mapping, dict) or getattr(origin, "__name__", "") == "Mapping":
        return isinstance(value, Mapping)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint is float:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return number and value == value  # not NaN
    return isinstance(value, hint)


_NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "a text in quotes"}


def _wanted(hint: Any) -> str:
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(_wanted(part) for part in parts if part is not type(None))
    if origin is Literal:
        return f"one of {', '.join(map(repr, parts))}"
    if origin is tuple:
        count = "" if parts[-1] is Ellipsis else f"{len(parts)} "
        return f"a list of {count}values, each {_wanted(parts[0])}"
    return _NAMES.get(hint, "a table")


def read_section(cls: type[Any], values: object, *, name: str, siblings: Mapping[str, type[Any]]) -> Any:
    """Build the dataclass of one table.

    Args:
        cls: a `Section`.
        values: the table.
        name: of the table, for messages.
        siblings: all tables of the file, to find where a misplaced key belongs.
    Raises:
        OptionsError: everything that is wrong, each problem with the name of its key.
    """
    if not isinstance(values, Mapping):
        raise OptionsError([f"{name}={show(values)} must be a table: write [{name}]"])
    hints = get_type_hints(cls)
    fields = {item.name: item for item in dataclasses.fields(cls)}
    problems = [f"{name}.{unknown(key, name, siblings)}" for key in values if key not in fields]
    missing = [key for key, item in fields.items() if key not in values and _is_required(item)]
    problems += [f"{name}.{key} is missing, it must be {_wanted(hints[key])}" for key in missing]
    given = {key: convert(value, hints[key]) for key, value in values.items() if key in fields}
    built = None
    if not missing:
        try:
            built = cls(**given)
        except OptionsError as error:
            problems += [f"{name}.{problem}" for problem in error.problems]
    if problems:
        raise OptionsError(problems)
    return built


def _is_required(item: dataclasses.Field[Any]) -> bool:
    return item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING


def unknown(key: str, name: str, siblings: Mapping[str, type[Any]]) -> str:
    """Say that a key is unknown, with the nearest known one of its table, or where it belongs."""
    known = field_names(siblings[name]) if name in siblings else []
    homes = [other for other, cls in siblings.items() if key in field_names(cls)]
    near = nearest(key, known)
    if homes:
        return f"{key} is unknown; it belongs into [{homes[0]}]"
    if near:
        return f"{key} is unknown, did you mean {near!r}?"
    return f"{key} is unknown, expected one of {', '.join(known)}"


def field_names(cls: type[Any]) -> list[str]:
    """Names of a dataclass's fields."""
    return [item.name for item in dataclasses.fields(cls)]


def nearest(key: str, known: Sequence[str]) -> str | None:
    """Find the known name that is most like a key, if one is."""
    found = difflib.get_close_matches(key, known, n=1)
    return found[0] if found else None
