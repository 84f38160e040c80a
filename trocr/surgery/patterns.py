"""Patterns that name modules, parameters and blocks; one that matches nothing is an error everywhere.

Source: original work; patterns are those of file names (`fnmatch`).
"""

import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from torch import nn

from trocr.nearest import nearest

_RANGE = re.compile(r"([0-9]{1,6})(?:-([0-9]{1,6}))?")
"""Nothing has more than a million blocks, heads or units; longer numbers would fill the memory."""


class SurgeryError(ValueError):
    """An operation cannot be done on this model; the model is as it was."""


def match_parameters(model: nn.Module, patterns: str | Iterable[str]) -> list[str]:
    """Name the parameters that patterns name.

    Args:
        model: where they are looked for; tied parameters are found under each of their names.
        patterns: of parameters ("encoder.embeddings.cls_token") or of modules, with all that is in them
            ("encoder.blocks.[0-2]"); `*`, `?` and `[...]` as in file names, `*` also across dots.
    Returns:
        Names, in the order of the model.
    Raises:
        SurgeryError: a pattern matches nothing; the nearest name is told.
    """
    names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    modules = [name for name, _ in model.named_modules() if name]
    return _match(names, patterns, "module or parameter", [*modules, *names], with_content=True)


def match_modules(
    model: nn.Module,
    patterns: str | Iterable[str],
    kind: type[nn.Module] | tuple[type[nn.Module], ...] = nn.Module,
) -> dict[str, nn.Module]:
    """Find the modules of a kind that patterns name, such as "decoder.blocks.*.self_attn.[qv]_proj".

    Args:
        model: where they are looked for.
        patterns: of the modules' whole names, as in `match_parameters`.
        kind: classes that count.
    Returns:
        Name -> module, in the order of the model.
    Raises:
        SurgeryError: a pattern matches no module of this kind; the nearest name is told.
    """
    found = {name: module for name, module in model.named_modules() if name and isinstance(module, kind)}
    kinds = kind if isinstance(kind, tuple) else (kind,)
    what = "module" if kind is nn.Module else f"module of kind {' or '.join(k.__name__ for k in kinds)}"
    names = _match(list(found), patterns, what, list(found), with_content=False)
    return {name: found[name] for name in names}


def match_names(names: Sequence[str], patterns: str | Iterable[str], what: str) -> list[str]:
    """Choose the names that patterns name, in their order; `what` says what is named, for the error.

    Raises:
        SurgeryError: a pattern matches nothing; the nearest name is told.
    """
    return _match(names, patterns, what, names, with_content=False)


def pattern_list(patterns: str | Iterable[str]) -> list[str]:
    """Give one pattern or several as a list.

    Raises:
        SurgeryError: they are no strings.
    """
    wanted = [patterns] if isinstance(patterns, str) or not isinstance(patterns, Iterable) else list(patterns)
    wrong = [pattern for pattern in wanted if not isinstance(pattern, str)]
    if wrong:
        raise SurgeryError(f"the pattern {wrong[0]!r} is no string, expected one such as 'decoder.blocks.*'")
    return wanted


def choose_blocks(blocks: str | Sequence[int], count: int, *, what: str = "blocks") -> list[int]:
    """Number the blocks of a stack that a description names, in its order.

    Args:
        blocks: "all", "last:N", "first:N", "every:N" (counted from the last), numbers and ranges such as
            "0,2,4-6", or the numbers themselves; negative numbers count from the end. Blocks may come twice
            or in another order.
        count: of the stack.
        what: they are called in messages.
    Raises:
        SurgeryError: it is no description, or names blocks that are not there, or none.
    """
    if isinstance(blocks, str):
        found = _described(blocks, count, what)
    elif not isinstance(blocks, list | tuple | range) or any(type(number) is not int for number in blocks):
        raise SurgeryError(f"{what} {blocks!r} must be a description such as last:2, or whole numbers")
    else:
        found = [number + count if number < 0 else number for number in blocks]
    wrong = [number for number in found if not 0 <= number < count]
    if wrong or not found:
        raise SurgeryError(
            f"{what} {blocks!r} are not among the {count} of the stack, which are numbered 0 to {count - 1}"
        )
    return found


def read_numbers(text: str) -> list[int] | None:
    """Read whole numbers and ranges such as "0,2,4-6"; None where it is something else.

    Numbers have six digits at most, and no range runs backwards.
    """
    found: list[int] = []
    for part in text.replace(" ", "").split(","):
        numbers = _RANGE.fullmatch(part)
        if numbers is None:
            return None
        low, high = int(numbers[1]), int(numbers[2] or numbers[1])
        if high < low:
            return None
        found += range(low, high + 1)
    return found


def _described(blocks: str, count: int, what: str) -> list[int]:
    text = blocks.replace(" ", "")
    if text == "all":
        return list(range(count))
    kind, _, number = text.partition(":")
    if kind in ("last", "first", "every") and re.fullmatch("0*[1-9][0-9]{0,5}", number):
        step = int(number)
        if kind == "every":
            return list(range(count - 1, -1, -step))[::-1]
        return list(range(count - step, count) if kind == "last" else range(step))
    found = read_numbers(text)
    if found is None:
        raise SurgeryError(
            f"{what} {blocks!r} must be all, last:N, first:N, every:N, or numbers such as 0,2,4-6"
        )
    return found


def _match(
    names: Sequence[str],
    patterns: str | Iterable[str],
    what: str,
    known: Sequence[str],
    *,
    with_content: bool,
) -> list[str]:
    wanted = pattern_list(patterns)
    if not wanted:
        raise SurgeryError(f"no pattern was given, expected at least one (of: {what})")
    found: set[str] = set()
    problems = []
    for pattern in wanted:
        hits = [n for n in names if fnmatchcase(n, pattern)]
        if with_content:
            hits += [n for n in names if fnmatchcase(n, f"{pattern}.*")]
        if not hits:
            problems.append(f"{pattern!r} matches no {what}{nearest(pattern, known, otherwise='')}")
        found.update(hits)
    if problems:
        raise SurgeryError("; ".join(problems))
    return [name for name in names if name in found]
