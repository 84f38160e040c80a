"""Which attention heads or feed-forward units stay: by number, by mask, or the most important ones.

Source: original work; one ranking over all layers: arXiv:1905.10650 sec. 4.1.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from trocr.surgery.blocks import Stack
from trocr.surgery.patterns import SurgeryError, match_names

Numbers = Sequence[int] | Sequence[bool] | Tensor
"""Numbers of what is taken out, or a mask with one item for each, true for what is taken out."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """An attention or a feed-forward part of a block, whose heads or units can go.

    Attributes:
        module: the `Attention` or `MLP`.
        stack: that it is in.
        place: number of its block.
        field: of the block's shape, that counts its heads or units.
        size: heads or units that it has.
    """

    module: nn.Module
    stack: Stack
    place: int
    field: str
    size: int


Parts = Mapping[str, Part]
Kept = dict[str, list[int]]


def keep_all_but(parts: Parts, taken: Mapping[str, Numbers], what: str) -> Kept:
    """Number what stays where the given heads or units go.

    Args:
        parts: by name.
        taken: pattern of names -> what is taken out of each; patterns that meet add up.
        what: "head" or "unit", for messages.
    Returns:
        Name -> numbers that stay, for parts that lose any.
    Raises:
        SurgeryError: a pattern without a match, numbers that are not there, or a part that would lose all.
    """
    if not isinstance(taken, Mapping) or not taken:
        raise SurgeryError(f"{what}s={taken!r}, expected a mapping of names or patterns to numbers")
    gone: dict[str, set[int]] = {}
    for pattern, numbers in taken.items():
        for name in match_names(list(parts), pattern, _called(what)):
            gone.setdefault(name, set()).update(_numbers(numbers, parts[name].size, f"{name}: {what}s"))
    return {
        name: _not_empty([n for n in range(parts[name].size) if n not in gone[name]], name, what)
        for name in parts
        if gone.get(name)
    }


def count_share(parts: Parts, share: float, what: str) -> int:
    """Count the heads or units that are a share of all.

    Raises:
        SurgeryError: the share is none, or so large that a part would lose all.
    """
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share < 1:
        raise SurgeryError(f"share={share!r}, expected a number from 0 to below 1")
    total = sum(part.size for part in parts.values())
    count, most = math.floor(share * total + 0.5), total - len(parts)
    if count > most:
        raise SurgeryError(
            f"share={share} of {total} {what}s is {count}; at most {most} can go, as one stays in each of "
            f"{len(parts)} parts"
        )
    return count


def keep_important(parts: Parts, importance: Mapping[str, Tensor], count: int, what: str) -> Kept:
    """Number what stays where so many heads or units go, the least important first; one stays in each part.

    Raises:
        SurgeryError: the importance is not that of these parts.
    """
    scores = _scores(parts, importance, what)
    ranked = sorted((float(score), name, n) for name in parts for n, score in enumerate(scores[name]))
    left = {name: set(range(part.size)) for name, part in parts.items()}
    for _, name, number in ranked:
        if count == 0:
            break
        if len(left[name]) > 1:
            left[name].remove(number)
            count -= 1
    return {name: sorted(left[name]) for name in parts if len(left[name]) < parts[name].size}


def keep_number(parts: Parts, importance: Mapping[str, Tensor], number: int, what: str) -> Kept:
    """Number what stays where each part keeps so many of its most important heads or units.

    Raises:
        SurgeryError: the importance is not that of these parts.
    """
    scores = _scores(parts, importance, what)
    return {
        name: sorted(scores[name].argsort(descending=True, stable=True)[:number].tolist())
        for name, part in parts.items()
        if number < part.size
    }


def choose_parts(parts: Parts, patterns: str | Sequence[str], what: str) -> dict[str, Part]:
    """Take the parts that patterns name.

    Raises:
        SurgeryError: a pattern matches none; the nearest name is told.
    """
    return {name: parts[name] for name in match_names(list(parts), patterns, _called(what))}


def _called(what: str) -> str:
    return "attention of a block" if what == "head" else "feed-forward part of a block"


def _numbers(given: Any, size: int, where: str) -> list[int]:
    values = given.tolist() if isinstance(given, Tensor) else given
    if not isinstance(values, list | tuple | range | set | frozenset):
        raise SurgeryError(f"{where} {given!r}, expected a list of numbers or a mask")
    if values and all(isinstance(value, bool) for value in values):
        if len(values) != size:
            raise SurgeryError(f"{where}: a mask of {len(values)} was given, there are {size}")
        return [number for number, value in enumerate(values) if value]
    wrong = next((value for value in values if type(value) is not int or not 0 <= value < size), None)
    if wrong is not None:
        raise SurgeryError(f"{where} {wrong!r} is not there, they are numbered 0 to {size - 1}")
    return list(values)


def _not_empty(kept: list[int], name: str, what: str) -> list[int]:
    if not kept:
        raise SurgeryError(f"{name} would lose all its {what}s; one must stay: drop the block instead")
    return kept


def _scores(parts: Parts, importance: Mapping[str, Tensor], what: str) -> dict[str, Tensor]:
    found = {}
    for name, part in parts.items():
        values = importance.get(name) if isinstance(importance, Mapping) else None
        if values is None:
            raise SurgeryError(f"importance has nothing for {name}; measure it with {what}_importance")
        try:
            values = torch.as_tensor(values, dtype=torch.float64)
        except (TypeError, ValueError, RuntimeError) as error:
            raise SurgeryError(f"importance of {name} is {values!r}, expected {part.size} numbers") from error
        if values.shape != (part.size,) or not bool(values.isfinite().all()):
            raise SurgeryError(
                f"importance of {name} has shape {tuple(values.shape)}, expected {part.size} finite numbers"
            )
        found[name] = values
    return found
