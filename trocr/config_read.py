"""Reading and checking of configuration values: every problem of a file in one error.

Source: original work.
"""

import dataclasses
import difflib
import json
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from trocr.atomic_write import write_files
from trocr.config_keys import ALIASES, BOOKKEEPING, FIXED_VALUES, GENERATION

DTYPES = ("float32", "float16", "bfloat16", "float64")


class ConfigError(ValueError):
    """A configuration has an unknown key, or a value that is out of range or contradicts another."""


def read_json(path: Path) -> dict[str, Any]:
    """Read one JSON object.

    Raises:
        ConfigError: no such file, one that cannot be read, not UTF-8 JSON, or not an object.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such file; take it from the checkpoint's source") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}), expected a JSON file") from error
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ConfigError(f"{path}: not valid JSON ({error}); fetch or save it again") from error
    if not isinstance(values, dict):
        raise ConfigError(
            f"{path}: found a JSON {type(values).__name__}, expected an object; fetch or save it again"
        )
    return values


def write_json(directory: str | PathLike[str], name: str, values: Mapping[str, Any]) -> Path:
    """Write a JSON object under a temporary name and move it into place."""
    text = json.dumps(values, indent=2, sort_keys=True) + "\n"
    write_files(directory, {name: text.encode("utf-8")})
    return Path(directory) / name


def read_fields(cls: type[Any], values: Mapping[str, Any], *, origin: str) -> dict[str, Any]:
    """Turn the keys of a file into keyword arguments of a configuration class.

    Raises:
        ConfigError: names every key that is unknown, unsupported, or given twice with different values.
    """
    fields = {item.name for item in dataclasses.fields(cls)}
    aliases = ALIASES.get(cls.model_type, {})
    problems: list[str] = []
    found: dict[str, Any] = {}
    generation: dict[str, Any] = {}

    def put(name: str, value: Any) -> None:
        if name in found and found[name] != value:
            problems.append(f"{name!r} is given twice: {found[name]!r} and {value!r}")
        found[name] = value

    kind = values.get("model_type", cls.model_type)
    if kind != cls.model_type:
        problems.append(f"'model_type' is {kind!r}, expected {cls.model_type!r}")
    for key, value in values.items():
        if key in ("dtype", "torch_dtype"):
            if "dtype" in fields and value is not None:
                put("dtype", str(value).removeprefix("torch."))
        elif key in fields:
            put(key, value)
        elif key in aliases:
            put(aliases[key], value)
        elif key in GENERATION:
            if value is not None and value != GENERATION[key]:
                generation[key] = value
        elif key in FIXED_VALUES:
            supported, reason = FIXED_VALUES[key]
            if value is not None and value != supported:
                problems.append(f"{key!r} is {value!r}, only {supported!r} is supported: {reason}")
        elif value is not None and not _harmless(key, value):  # null sets nothing
            problems.append(_unknown(key, value, fields | set(aliases)))
    if problems:
        raise ConfigError(f"{origin}: " + "; ".join(problems))
    if "generation_defaults" in fields:
        found["generation_defaults"] = generation
    return found


def _harmless(key: str, value: Any) -> bool:
    # An encoder's file repeats decoder keys at their neutral values; they say nothing there.
    neutral = {
        "is_decoder": False,
        "is_encoder_decoder": False,
        "add_cross_attention": False,
        "cross_attention_hidden_size": None,
        "decoder_start_token_id": None,
        "use_cache": value,
        "pad_token_id": value,
        "bos_token_id": value,
        "eos_token_id": value,
        "tie_word_embeddings": value,
        "vocab_size": value,
        "processor_class": value,
    }
    return key in BOOKKEEPING or key.startswith("_") or (key in neutral and value == neutral[key])


def _unknown(key: str, value: Any, known: set[str]) -> str:
    near = difflib.get_close_matches(key, sorted(known | set(GENERATION)), n=1)
    hint = f", did you mean {near[0]!r}?" if near else "; remove it if it changes nothing"
    return f"unknown key {key!r} (value {value!r}){hint}"


class Checker:
    """Collects what is wrong with the values of one object; `done` raises them together."""

    def __init__(self, where: str, values: object) -> None:
        self.where = where
        self.values = values
        self.problems: list[str] = []
        dtype = getattr(values, "dtype", None)
        self.rule(dtype is None or dtype in DTYPES, f"dtype={dtype!r} must be one of {', '.join(DTYPES)}")
        for item in dataclasses.fields(values):  # type: ignore[arg-type]
            if item.type is bool and not isinstance(getattr(values, item.name), bool):
                self.problems.append(f"{item.name}={getattr(values, item.name)!r} must be true or false")

    def rule(self, holds: bool, message: str) -> None:
        """Note `message` unless `holds`."""
        if not holds:
            self.problems.append(message)

    def _number(self, name: str) -> float | None:
        value = getattr(self.values, name)
        if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
            self.problems.append(f"{name}={value!r} must be a number")
            return None
        kinds = {f.name: f.type for f in dataclasses.fields(self.values)}  # type: ignore[arg-type]
        if kinds[name] is int and not isinstance(value, int):
            self.problems.append(f"{name}={value!r} must be a whole number")
            return None
        return value

    def positive(self, *names: str) -> None:
        """Numbers above zero."""
        for name in names:
            value = self._number(name)
            self.rule(value is None or value > 0, f"{name}={value!r} must be above 0")

    def not_negative(self, *names: str) -> None:
        """Numbers of zero or more."""
        for name in names:
            value = self._number(name)
            self.rule(value is None or value >= 0, f"{name}={value!r} must not be negative")

    def probability(self, *names: str) -> None:
        """Numbers from 0 to 1."""
        for name in names:
            value = self._number(name)
            self.rule(value is None or 0 <= value <= 1, f"{name}={value!r} must lie between 0 and 1")

    def one_of(self, name: str, choices: tuple[str, ...]) -> None:
        """One of a few words."""
        value = getattr(self.values, name)
        self.rule(value in choices, f"{name}={value!r} must be one of {', '.join(choices)}")

    def sizes(self, *names: str) -> None:
        """A positive whole number, or a pair (height, width) of them."""
        for name in names:
            value = getattr(self.values, name)
            parts = value if isinstance(value, tuple) and len(value) == 2 else (value,)
            good = all(isinstance(part, int) and not isinstance(part, bool) and part > 0 for part in parts)
            self.rule(good, f"{name}={value!r} must be a positive number of pixels or (height, width)")

    def divisible(self, name: str, by: str) -> None:
        """One field is a multiple of another."""
        whole, part = getattr(self.values, name), getattr(self.values, by)
        self.rule(whole % part == 0, f"{name}={whole} is not divisible by {by}={part}")

    def token_ids(self, vocab_size: int, *names: str) -> None:
        """Ids, or lists of ids, inside a vocabulary; None is allowed."""
        for name in names:
            value = getattr(self.values, name)
            ids = value if isinstance(value, tuple) else (value,)
            good = all(i is None or (isinstance(i, int) and 0 <= i < vocab_size) for i in ids)
            self.rule(good, f"{name}={value!r} lies outside the vocabulary of {vocab_size} tokens")

    def done(self) -> None:
        """Finish.

        Raises:
            ConfigError: everything that was noted, in one message.
        """
        if self.problems:
            raise ConfigError(f"{self.where}: " + "; ".join(self.problems))
