"""What a training run is told: a TOML file, checked and read into frozen dataclasses.

Source: original work.
"""

import dataclasses
import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, get_type_hints

from trocr.training.option_fields import OptionsError, field_names, nearest, read_section
from trocr.training.option_tables import (
    AdapterOptions,
    AugmentationOptions,
    BatchOptions,
    DataOptions,
    DistillationOptions,
    LossOptions,
    ModelOptions,
    OptimizerOptions,
    RunOptions,
    ScheduleOptions,
)


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """All tables of a training file; `to_dict` gives them back, defaults included."""

    model: ModelOptions
    data: DataOptions
    run: RunOptions
    augmentation: AugmentationOptions = field(default_factory=AugmentationOptions)
    batch: BatchOptions = field(default_factory=BatchOptions)
    optimizer: OptimizerOptions = field(default_factory=OptimizerOptions)
    schedule: ScheduleOptions = field(default_factory=ScheduleOptions)
    loss: LossOptions = field(default_factory=LossOptions)
    adapters: AdapterOptions = field(default_factory=AdapterOptions)
    distillation: DistillationOptions = field(default_factory=DistillationOptions)

    def __post_init__(self) -> None:
        """Check what concerns several tables.

        Raises:
            OptionsError: they contradict one another.
        """
        problems = []
        if self.run.epochs and not self.data.train:
            problems.append("run.epochs counts lines of data.train, which is empty: set run.steps")
        if self.schedule.warmup_init_lr > self.optimizer.lr:
            problems.append("schedule.warmup_init_lr must not be above optimizer.lr")
        if self.schedule.min_lr > self.optimizer.lr:
            problems.append("schedule.min_lr must not be above optimizer.lr")
        if self.run.patience and not self.data.val:
            problems.append("run.patience needs lines to validate on: set data.val")
        if self.adapters.modules and self.model.freeze:
            problems.append("model.freeze and adapters.modules: adapters freeze all else; use also_train")
        if problems:
            raise OptionsError(problems)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], *, origin: str = "") -> Self:
        """Build from plain tables.

        Args:
            values: table -> key -> value, as TOML gives them.
            origin: the file, for messages.
        Raises:
            OptionsError: everything that is wrong, in one message.
        """
        kinds = get_type_hints(cls)
        sections: dict[str, Any] = {}
        problems = [_unknown_table(key, kinds) for key in values if key not in kinds]
        for name, kind in kinds.items():
            try:
                sections[name] = read_section(kind, values.get(name, {}), name=name, siblings=kinds)
            except OptionsError as error:
                problems += error.problems
        if problems:
            raise OptionsError(problems, origin)
        try:
            return cls(**sections)
        except OptionsError as error:
            raise OptionsError(error.problems, origin) from error

    def to_dict(self) -> dict[str, Any]:
        """Plain tables, for JSON and manifests; `from_dict` builds the same options from them."""
        return _plain(dataclasses.asdict(self))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _unknown_table(key: str, kinds: Mapping[str, Any]) -> str:
    homes = [name for name, kind in kinds.items() if key in field_names(kind)]
    if homes:
        return f"{key} stands outside a table; it belongs into [{homes[0]}]"
    near = nearest(key, list(kinds))
    hint = f"did you mean {near!r}?" if near else f"expected one of {', '.join(kinds)}"
    return f"[{key}] is an unknown table, {hint}"


def load_options(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> TrainingOptions:
    """Read a training file.

    Args:
        path: TOML.
        overrides: "table.key=value" each, the value in TOML; a text needs no quotes.
    Raises:
        OptionsError: the file cannot be read or is no TOML; a key that does not exist, with the nearest that
            does; a value of the wrong type or out of range. All problems of the file in one message.
    """
    file = Path(path)
    try:
        values = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise OptionsError([f"cannot be read ({error.strerror}), expected a TOML file"], str(file)) from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise OptionsError([f"not valid TOML ({error})"], str(file)) from error
    for override in overrides:
        _apply(values, override)
    run = values.get("run")
    if isinstance(run, dict) and not run.get("output"):
        run["output"] = str(Path("runs") / file.stem)
    origin = f"{file} with {', '.join(overrides)}" if overrides else str(file)
    return TrainingOptions.from_dict(values, origin=origin)


def _apply(values: dict[str, Any], override: str) -> None:
    """Set one value of the tables."""
    name, equals, text = override.partition("=")
    *tables, key = name.strip().split(".")
    if not equals or not tables or not all((*tables, key)):
        raise OptionsError([f"override {override!r} must be table.key=value, such as optimizer.lr=1e-4"])
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    for table in tables:
        values = values.setdefault(table, {})
        if not isinstance(values, dict):
            raise OptionsError([f"override {override!r}: {table} is a value, not a table"])
    values[key] = value
