"""Suites of a benchmark, read from a TOML file.

Source: original work.
"""

import dataclasses
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from trocr.benchmark.errors import BenchmarkError
from trocr.nearest import nearest

KINDS = ("tokens", "texts", "memory", "load")
"""What a suite measures: prepared images to ids of forced lengths; images to texts; peak memory of a reader;
time from a file to the first text."""


@dataclass(frozen=True, kw_only=True)
class Suite:
    """One suite.

    Attributes:
        name: as in the file.
        kind: one of `KINDS`.
        about: a sentence for the report.
        model: a shape ("small", "base", "large", "tiny": random weights), or a shipped name or directory.
        candidates: names, in the order of the table.
        reference: the candidate that the others' ratios are taken against, and that they must agree with.
        against: more candidates to take ratios against.
        batch: most lines that go through a model together.
        lines: of the workload.
        block: lines that a candidate reads before the next one's turn; 0 is all.
        runs: times that the workload is gone through.
        counts: numbers of images, for "memory".
    """

    name: str
    kind: str
    about: str = ""
    model: str = "base"
    candidates: tuple[str, ...] = ()
    reference: str = ""
    against: tuple[str, ...] = ()
    batch: int = 1
    lines: int = 16
    block: int = 0
    runs: int = 1
    counts: tuple[int, ...] = (100, 10_000)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise BenchmarkError(f"suite {self.name}: kind is {self.kind!r}{nearest(self.kind, KINDS)}")
        if not self.candidates or len(set(self.candidates)) != len(self.candidates):
            raise BenchmarkError(f"suite {self.name}: candidates are {list(self.candidates)}, expected names")
        for name, least in (("batch", 1), ("lines", 1), ("block", 0), ("runs", 1)):
            if getattr(self, name) < least:
                raise BenchmarkError(
                    f"suite {self.name}: {name} is {getattr(self, name)}, expected at least {least}"
                )
        for name in filter(None, (self.reference, *self.against)):
            if name not in self.candidates:
                raise BenchmarkError(
                    f"suite {self.name}: the reference {name!r} is none of its candidates, "
                    f"{', '.join(self.candidates)}"
                )
        if not self.counts or min(self.counts) < 1:
            raise BenchmarkError(
                f"suite {self.name}: counts are {list(self.counts)}, expected numbers from 1 on"
            )

    def changed(self, **values: Any) -> "Suite":
        """The same suite with some values changed; None changes nothing."""
        return dataclasses.replace(self, **{k: v for k, v in values.items() if v is not None})


def load_suites(path: str | PathLike[str]) -> dict[str, Suite]:
    """Read the suites of a file: one table `[suites.NAME]` for each.

    Raises:
        BenchmarkError: the file is not there or no TOML, or a suite has unknown keys or wrong values.
    """
    try:
        content = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BenchmarkError(f"{path}: cannot be read as TOML ({error})") from error
    tables = content.get("suites")
    if not isinstance(tables, dict) or not tables:
        raise BenchmarkError(f"{path}: no suites; expected tables [suites.NAME]")
    return {name: _suite(name, table, path) for name, table in tables.items()}


def _suite(name: str, table: Any, path: str | PathLike[str]) -> Suite:
    if not isinstance(table, Mapping):
        raise BenchmarkError(f"{path}: suites.{name} is {table!r}, expected a table")
    fields = {field.name: field for field in dataclasses.fields(Suite) if field.name != "name"}
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key not in fields:
            raise BenchmarkError(f"{path}: suites.{name} has the unknown key {key!r}{nearest(key, fields)}")
        values[key] = tuple(value) if isinstance(value, list) else value
        default = fields[key].default
        kind = str if default is dataclasses.MISSING else type(default)
        if type(values[key]) is not kind:
            raise BenchmarkError(f"{path}: suites.{name}.{key} is {value!r}, expected {_NAMES[kind]}")
    if "kind" not in values:
        raise BenchmarkError(f"{path}: suites.{name} has no kind; expected one of {', '.join(KINDS)}")
    return Suite(name=name, **values)


_NAMES: Mapping[type, str] = {str: "a text", int: "a whole number", tuple: "a list"}
