"""The engine of every dialect: one table of module stems, read in both directions, on names and shapes only.

Source: the idea of a table plus an ignore set, with a from/to pair, is that of torchtune's and torchtitan's
weight adapters. Differs: both directions come from one table, and a key must match exactly one rule.
"""

import difflib
import functools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

Shape = tuple[int, ...]
Stems = str | tuple[str, ...]
Rows = TypeVar("Rows", bound=Any)

INDEX = "{i}"
BELOW = "*"
LEAVES = ("weight", "bias")


@dataclass(frozen=True, kw_only=True, slots=True)
class Move:
    """One tensor of ours and where it comes from.

    Attributes:
        target: our name.
        source: the key in the file.
        part: which of `parts` equal blocks of rows of the source tensor the target is, from 0.
        parts: 1 for plain renaming; 3 for a fused query-key-value matrix.
    """

    target: str
    source: str
    part: int = 0
    parts: int = 1

    def take(self, tensor: Rows) -> Rows:
        """Cut this move's rows out of the source tensor; the whole tensor itself when it is not fused.

        Args:
            tensor: (parts * R, ...), anything with `shape` and row slices (torch, numpy).
        Returns:
            (R, ...), a view where slicing gives views.
        """
        if self.parts == 1:
            return tensor
        rows = tensor.shape[0] // self.parts
        return tensor[self.part * rows : (self.part + 1) * rows]


@dataclass(frozen=True, kw_only=True, slots=True)
class Pack:
    """The way back: one key of the other dialect, and our tensors that make it, stacked by rows in order."""

    source: str
    targets: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What to do with every key of one file.

    Attributes:
        items: one move per tensor the model needs, in the file's order.
        ignored: (key, reason) of keys that are dropped.
        tied: (key, key of its partner), both in the file: the two tensors must be equal.
    """

    items: tuple[Move, ...]
    ignored: tuple[tuple[str, str], ...] = ()
    tied: tuple[tuple[str, str], ...] = ()


class KeyMapError(ValueError):
    """The keys of a file do not fit the model; holds every problem at once.

    Attributes:
        problems: heading -> list of (name, explanation); headings are those of the message.
    """

    def __init__(self, origin: str, problems: Mapping[str, list[tuple[str, str]]], advice: str = "") -> None:
        self.problems = {heading: list(found) for heading, found in problems.items() if found}
        total = sum(len(found) for found in self.problems.values())
        lines = [f"{origin}: {total} problem{'s' * (total != 1)} with tensor names or shapes."]
        for heading, found in self.problems.items():
            lines.append(f"  {heading} ({len(found)}):")
            lines.extend(f"    {line}" for line in _grouped(found))
        super().__init__("\n".join([*lines, *([advice] if advice else [])]))


class Table:
    """Rules between another dialect's module names and ours.

    A stem names a module or a parameter; `{i}` in it stands for one path component that is a block number. A
    rule for `a.b` covers the keys `a.b`, `a.b.weight` and `a.b.bias`, one for `a.b.*` all below `a.b`, under
    the same names. A tuple of our stems means that the other dialect stores those tensors as one, by rows.

    Args:
        rules: other dialect's stem -> our stem, or our stems for a fused tensor.
        ignored: stem of keys that carry nothing we need -> the reason.
        name: the dialect, for messages.
    Raises:
        ValueError: two rules have the same stem on one side, or `{i}` is not on both sides.
    """

    def __init__(
        self, rules: Mapping[str, Stems], *, ignored: Mapping[str, str] | None = None, name: str = "table"
    ) -> None:
        self.name = name
        self.rules = {stem: (ours,) if isinstance(ours, str) else tuple(ours) for stem, ours in rules.items()}
        self.ignored = dict(ignored or {})
        self._back: dict[str, tuple[str, int]] = {}
        for stem, targets in self.rules.items():
            if stem in self.ignored:
                raise ValueError(f"{name}: {stem!r} is both renamed and ignored; keep one of the two")
            for part, target in enumerate(targets):
                if target in self._back:
                    raise ValueError(
                        f"{name}: {self._back[target][0]!r} and {stem!r} both lead to {target!r}"
                    )
                if not target.count(INDEX) == stem.count(INDEX) <= 1:
                    raise ValueError(
                        f"{name}: {stem!r} -> {target!r} must have {INDEX} once on both sides, or on none"
                    )
                self._back[target] = (stem, part)

    def plan(
        self,
        source: Mapping[str, Shape],
        expected: Mapping[str, Shape],
        *,
        tied: Mapping[str, str] | None = None,
        origin: str,
    ) -> Plan:
        """Decide where every key of a file goes, and where every tensor of the model comes from.

        Args:
            source: key -> shape, as the file has them.
            expected: our name -> shape, as the model built from the configuration has them.
            tied: our name -> our name of the tensor it shares memory with. Such a tensor may be absent from
                the file; when present it must equal its partner, which `Plan.tied` asks the caller to check.
            origin: what to call the file in the error, usually its path.
        Raises:
            KeyMapError: lists every unknown, ambiguous, doubled, superfluous, missing or misshapen tensor.
        """
        draft = _Draft(self, dict(expected), dict(tied or {}))
        for key, shape in source.items():
            draft.place(key, tuple(shape))
        return draft.finish(origin)

    def forward(self, names: Iterable[str]) -> dict[str, tuple[str, ...]]:
        """Other dialect's names -> our names, several for a fused tensor; not the unknown and ignored."""
        found = {}
        for name in names:
            hits = self.matches(name)
            if len(hits) == 1 and hits[0] in self.rules:
                found[name] = self.targets(name, hits[0])
        return found

    def invert(self, names: Iterable[str]) -> dict[str, str]:
        """Our names -> the other dialect's names; the parts of a fused tensor share one name.

        Raises:
            KeyMapError: a name no rule leads to.
        """
        found: dict[str, str] = {}
        unknown: list[tuple[str, str]] = []
        for name in names:
            back = self.source_of(name)
            if back is None:
                unknown.append((name, _nearest(name, self._back)))
            else:
                found[name] = back[0]
        if unknown:
            raise KeyMapError(f"names for the {self.name} dialect", {"no rule for our tensors": unknown})
        return found

    def pack(self, names: Iterable[str]) -> list[Pack]:
        """Plan the way back: each key of the other dialect with our tensors to stack for it.

        Raises:
            KeyMapError: a name no rule leads to, or a fused tensor of which a part is missing.
        """
        present = list(names)
        packs: dict[str, Pack] = {}
        lacking: dict[str, str] = {}
        known = set(present)
        for name, key in self.invert(present).items():
            if key not in packs:
                packs[key] = Pack(source=key, targets=self.targets(key, self.matches(key)[0]))
            for other in packs[key].targets:
                if other not in known:
                    lacking[other] = f"{key} needs it beside {name}"
        if lacking:
            raise KeyMapError(f"names for the {self.name} dialect", {"missing parts": list(lacking.items())})
        return list(packs.values())

    def knows(self, names: Iterable[str]) -> int:
        """How many of the names some rule covers or the ignored set lists."""
        return sum(bool(self.matches(name)) for name in names)

    def matches(self, name: str) -> list[str]:
        """All stems, of rules and ignored keys, that cover a key of the other dialect; rightly one."""
        return [stem for stem in _stems_of(name) if stem in self.rules or stem in self.ignored]

    def targets(self, name: str, stem: str) -> tuple[str, ...]:
        """Our names for a key that the rule `stem` covers."""
        return tuple(_fill(target, stem, name) for target in self.rules[stem])

    def source_of(self, name: str) -> tuple[str, int] | None:
        """The other dialect's key for our name, and which of its row blocks; None where no rule leads."""
        for stem in _stems_of(name):
            if stem in self._back:
                source, part = self._back[stem]
                return _fill(source, stem, name), part
        return None


class _Draft:
    """A plan being made: where every key went, and what went wrong."""

    def __init__(self, table: Table, expected: dict[str, Shape], tied: dict[str, str]) -> None:
        self.table, self.expected, self.tied = table, expected, tied
        self.taken: dict[str, Move] = {}
        self.ignored: list[tuple[str, str]] = []
        self.unknown: list[tuple[str, str]] = []
        self.ambiguous: list[tuple[str, str]] = []
        self.superfluous: list[tuple[str, str]] = []
        self.duplicate: list[tuple[str, str]] = []
        self.shape: list[tuple[str, str]] = []

    def place(self, key: str, shape: Shape) -> None:
        stems = self.table.matches(key)
        if not stems:
            self.unknown.append((key, f"{shape}; {_nearest(key, self.table.rules)}"))
        elif len(stems) > 1:
            self.ambiguous.append((key, f"matches the rules {' and '.join(stems)}; the table must be mended"))
        elif stems[0] in self.table.ignored:
            self.ignored.append((key, self.table.ignored[stems[0]]))
        else:
            targets = self.table.targets(key, stems[0])
            for part, target in enumerate(targets):
                self._move(Move(target=target, source=key, part=part, parts=len(targets)), shape)

    def _move(self, move: Move, shape: Shape) -> None:
        want = self.expected.get(self.tied.get(move.target, move.target))
        other = self.taken.get(move.target)
        if other is not None:
            self.duplicate.append((move.source, f"gives {move.target}, which {other.source} gives too"))
        elif want is None:
            self.superfluous.append((move.source, f"{shape}; the configured model has no {move.target}"))
        else:
            want = (move.parts * want[0], *want[1:]) if move.parts > 1 else want
            if want != shape and move.part == 0:
                self.shape.append((move.source, f"the file has {shape}, the configured model expects {want}"))
            self.taken[move.target] = move

    def _lost(self, names: list[str]) -> Iterator[tuple[str, str]]:
        """The keys that should have been in the file, each with the tensors of ours it should have given."""
        keys: dict[str, list[str]] = {}
        for name in names:
            back = self.table.source_of(name)
            if back is None:
                yield name, f"{self.expected[name]}, no rule leads to it"
            else:
                keys.setdefault(back[0], []).append(name)
        for key, ours in keys.items():
            rows, *rest = self.expected[ours[0]] or (1,)
            shape = (rows * len(ours), *rest) if len(ours) > 1 else self.expected[ours[0]]
            yield key, f"{shape}, our {' and '.join(ours)}"

    def finish(self, origin: str) -> Plan:
        missing = [name for name in self.expected if name not in self.taken and name not in self.tied]
        problems = {
            "unknown": self.unknown,
            "matched by several rules": self.ambiguous,
            "given twice": self.duplicate,
            "not in this model": self.superfluous,
            "missing": list(self._lost(missing)),
            "wrong shape": self.shape,
        }
        if any(problems.values()):
            advice = (
                f"Read as the {self.table.name} dialect. Check that config.json belongs to this file; "
                "`python -m weights_conversion inspect` shows both."
            )
            raise KeyMapError(origin, problems, advice)
        items = tuple(move for move in self.taken.values() if move.target not in self.tied)
        pairs = ((self.taken.get(name), self.taken.get(other)) for name, other in self.tied.items())
        tied = tuple((move.source, other.source) for move, other in pairs if move and other)
        return Plan(items=items, ignored=tuple(self.ignored), tied=tied)


def _is_number(component: str) -> bool:
    return component.isascii() and component.isdigit() and (component == "0" or component[0] != "0")


def _stems_of(name: str) -> Iterator[str]:
    """Every stem of a rule for this name: with and without the leaf, a number as {i} or none; cut, with *."""
    head, _, leaf = name.rpartition(".")
    for base in (name, head) if head and leaf in LEAVES else (name,):
        yield base
        components = base.split(".")
        for place, component in enumerate(components):
            if _is_number(component):
                yield ".".join([*components[:place], INDEX, *components[place + 1 :]])
    components = name.split(".")
    yield from (".".join([*components[:end], BELOW]) for end in range(1, len(components)))


def _fill(stem: str, matched: str, name: str) -> str:
    """Complete a stem with the block number and the leaf that `name` has where `matched` covers it."""
    pattern, components = matched.split("."), name.split(".")
    if INDEX in pattern:
        stem = stem.replace(INDEX, components[pattern.index(INDEX)])
    if pattern[-1] == BELOW:
        stem, pattern = stem.removesuffix(f".{BELOW}"), pattern[:-1]
    return ".".join([stem, *components[len(pattern) :]])


def _as_pattern(name: str) -> tuple[str, tuple[str, ...]]:
    components = name.split(".")
    pattern = ".".join(INDEX if _is_number(part) else part for part in components)
    return pattern, tuple(part for part in components if _is_number(part))


def _nearest(name: str, stems: Iterable[str]) -> str:
    """The known name most like this one, as a phrase."""
    pattern, numbers = _as_pattern(name)
    head, _, leaf = pattern.rpartition(".")
    close = _closest(pattern, tuple(f"{stem}.{leaf}" if head and leaf in LEAVES else stem for stem in stems))
    if close is None:
        return "no known name is like it"
    return f"the nearest known name is {close.replace(INDEX, numbers[0]) if numbers else close}"


@functools.lru_cache(maxsize=256)  # the blocks of a model ask the same
def _closest(pattern: str, known: tuple[str, ...]) -> str | None:
    return next(iter(difflib.get_close_matches(pattern, known, n=1, cutoff=0.5)), None)


def _grouped(found: list[tuple[str, str]]) -> Iterator[str]:
    """One line per name, or per run of names that differ in the block number alone."""
    groups: dict[tuple[str, str], list[tuple[str, str, str]]] = {}
    for name, text in found:
        pattern, numbers = _as_pattern(name)
        number = numbers[0] if len(numbers) == 1 else ""
        key = (pattern if number else name, text.replace(f".{number}.", f".{INDEX}.") if number else text)
        groups.setdefault(key, []).append((number, name, text))
    for (pattern, general), members in groups.items():
        if len(members) == 1:
            yield f"{members[0][1]}: {members[0][2]}"
        else:
            blocks = ",".join(number for number, _, _ in members)
            yield f"{pattern.replace(INDEX, f'{{{blocks}}}')}: {general}"
