"""What the configuration classes share: frozen, read from and written to ``config.json``.

Source: original work.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from os import PathLike
from typing import Any, ClassVar, Self, TypeVar, dataclass_transform

from trocr.config_read import ConfigError, read_fields, read_json, write_json
from trocr.hub import locate

NOT_WRITTEN = ("generation_defaults", "dtype")

_T = TypeVar("_T")


class FrozenConfigError(dataclasses.FrozenInstanceError, ConfigError):
    """An attempt to change a configuration in place."""


def _guarded_setattr(self: object, name: str, value: object) -> None:
    if hasattr(self, name) and getattr(self, name) == value:
        return  # scripts written for `transformers` often set what already holds
    if name.startswith("_"):  # as in files: such names say nothing about the model
        object.__setattr__(self, name, value)
        return
    now = repr(getattr(self, name)) if hasattr(self, name) else "not a field"
    raise FrozenConfigError(
        f"{type(self).__name__} is frozen: {name}={value!r} cannot be set (now: {now}). Make another "
        f"configuration with dataclasses.replace(config, {name}=...) and build the model from it; "
        "settings of generation belong to model.generation_config or to generate(...)"
    )


def _with_second_names(init: Callable[..., None]) -> Callable[..., None]:
    """Let a constructor take what a file may hold beside the fields: second names, bookkeeping."""

    @functools.wraps(init)
    def wrapped(self: Any, **values: Any) -> None:
        names = {item.name for item in dataclasses.fields(self)}
        others = {name: value for name, value in values.items() if name not in names}
        if others:
            where = type(self).__name__
            for name, value in read_fields(type(self), others, origin=where).items():
                if name == "generation_defaults":
                    value = {**values.get(name, {}), **value}
                elif values.get(name, value) != value:
                    raise ConfigError(f"{where}: {name!r} is given twice: {values[name]!r} and {value!r}")
                values[name] = value
        init(self, **{name: value for name, value in values.items() if name in names})

    return wrapped


@dataclass_transform(frozen_default=True, kw_only_default=True)
def frozen(cls: type[_T]) -> type[_T]:
    """Make a keyword-only dataclass that refuses changes in words, but lets equal values be set again.

    Its constructor takes the second names of fields too, and refuses unknown names as reading a file does.
    """
    made = dataclass(frozen=True, kw_only=True)(cls)
    made.__setattr__ = _guarded_setattr  # type: ignore[method-assign]
    made.__init__ = _with_second_names(made.__init__)  # type: ignore[method-assign]
    return made


@frozen
class BaseConfig:
    """What the configurations share: reading, writing, validation.

    `dtype` is the precision in memory ("float32", "bfloat16", ...) unless the caller names another; None
    means float32.

    Raises:
        ConfigError: a value is out of range, or contradicts another; all problems in one message.
    """

    model_type: ClassVar[str] = ""

    dtype: str | None = None

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], *, origin: str = "configuration") -> Self:
        """Build from the content of a ``config.json``.

        Args:
            values: keys as on disk; legacy generation keys and bookkeeping keys are recognised.
            origin: where the values come from, for messages.
        Raises:
            ConfigError: unknown keys (with the nearest known one), unsupported or contradictory values.
        """
        return cls._checked(read_fields(cls, values, origin=origin), origin=origin)

    @classmethod
    def _checked(cls, found: Mapping[str, Any], *, origin: str) -> Self:
        try:
            return cls(**found)
        except ConfigError as error:
            raise ConfigError(f"{origin}: {error}") from error

    @classmethod
    def from_pretrained(cls, source: str | PathLike[str], **options: Any) -> Self:
        """Read ``config.json`` of a directory, a shipped model or a Hub id (see `trocr.hub.locate`)."""
        path = locate(source, want=("config.json",), **options) / "config.json"
        return cls.from_dict(read_json(path), origin=str(path))

    def to_dict(self) -> dict[str, Any]:
        """Return the content of ``config.json``: plain values, nested dictionaries."""
        values: dict[str, Any] = {"model_type": self.model_type}
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            if item.name not in NOT_WRITTEN:
                values[item.name] = list(value) if isinstance(value, tuple) else value
        if self.dtype is not None:
            values["torch_dtype"] = self.dtype  # the name that every release reads
        return values

    def save_pretrained(self, directory: str | PathLike[str]) -> None:
        """Write ``config.json`` into a directory, which is made where it is missing."""
        write_json(directory, "config.json", self.to_dict())
