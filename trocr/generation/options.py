"""Options of generation: one frozen dataclass with the names of ``generation_config.json``.

Source: `GenerationConfig` of `transformers` 5.23; whisper's `DecodingOptions` for frozen options checked
once.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import FrozenInstanceError, dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Literal, Protocol, Self, TypeVar, dataclass_transform

from trocr.config_read import ConfigError, read_json, write_json
from trocr.generation.rules import (
    BOOKKEEPING,
    DEFAULTS,
    NO_EFFECT,
    UNSUPPORTED,
    problems,
    unknown_key,
    unsupported_key,
)
from trocr.hub import locate

FILE_NAME = "generation_config.json"
Ids = Sequence[int]
_T = TypeVar("_T")


class GenerationError(ValueError):
    """Options of generation, or its inputs, that are out of range or contradict each other."""


class FrozenOptionsError(FrozenInstanceError, GenerationError):
    """An attempt to change options in place."""


class ModelConfig(Protocol):
    """What `GenerationConfig.from_model` reads of a model's configuration."""

    @property
    def decoder_start_token_id(self) -> int | None: ...  # noqa: D102
    @property
    def pad_token_id(self) -> int | None: ...  # noqa: D102
    @property
    def bos_token_id(self) -> int | None: ...  # noqa: D102
    @property
    def eos_token_id(self) -> int | tuple[int, ...] | None: ...  # noqa: D102
    @property
    def generation_defaults(self) -> Mapping[str, Any]: ...  # noqa: D102


def _refuse(self: object, name: str, value: object) -> None:
    if hasattr(self, name) and getattr(self, name) == value:
        return  # scripts written for `transformers` often set what already holds
    raise FrozenOptionsError(
        f"GenerationConfig is frozen: {name}={value!r} cannot be set in place. Write "
        f"model.generation_config = model.generation_config.update({name}=...), or pass {name} to generate"
    )


@dataclass_transform(frozen_default=True, kw_only_default=True)
def _frozen(cls: type[_T]) -> type[_T]:
    made = dataclass(frozen=True, kw_only=True)(cls)
    made.__setattr__ = _refuse  # type: ignore[method-assign]
    return made


def _plain(value: Any) -> Any:
    """Tensors, arrays, lists and mappings of biases as numbers and tuples, which cannot change afterwards."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Mapping):
        return tuple((_plain(list(key)), bias) for key, bias in value.items())
    if isinstance(value, list | tuple | set | frozenset | range):
        return tuple(_plain(item) for item in value)
    return value


def _lists(value: Any) -> Any:
    return [_lists(item) for item in value] if isinstance(value, tuple) else value


@_frozen
class GenerationConfig:
    """How to generate. None means "not set": the model's options apply, then the library's defaults.

    Length, in tokens:
        max_length: of the whole row, start token and prefix included. See `lengths.py` for the default.
        max_new_tokens: beyond the prefix; goes before `max_length` where both are set.
        min_length, min_new_tokens: no end token before that; the second goes before the first where both are
            set.
        max_time: seconds after which no further token is begun.
    Search:
        do_sample: draw tokens instead of taking the most probable.
        num_beams: beams of the search; 1 is no beam search.
        num_return_sequences: results per image; beam search and sampling only.
        early_stopping: when an image is done. True: once `num_beams` results have ended. False: once no
            running beam is better than the worst result at its present length. "never": once none can become
            so.
        length_penalty: a result's score is its summed log-probability / new tokens ** length_penalty.
        use_cache: keep keys and values of earlier tokens; False computes them again at every step.
    Scores, in the order of `processors.build`:
        sequence_bias: pairs (token ids, bias) added to the last id's score where the others precede it.
        repetition_penalty: above 1 makes tokens of the row less likely.
        no_repeat_ngram_size: n-grams of this many tokens occur once; 0 is off.
        bad_words_ids: token sequences that never occur.
        forced_bos_token_id, forced_eos_token_id: the first new token; the last one at the maximum length.
        remove_invalid_values: replace nan and infinities.
        exponential_decay_length_penalty: (start, factor), the end token becomes likelier after `start` new
            tokens.
        suppress_tokens, begin_suppress_tokens: never; never as the first new token.
        temperature, top_k, top_p, min_p, typical_p, epsilon_cutoff, eta_cutoff: filters of sampling.
        renormalize_logits: make the scores log-probabilities again, last of all.
    Results:
        return_dict_in_generate: return a `GenerateOutput` instead of token ids.
        output_scores, output_logits, output_attentions, output_hidden_states: what it holds beside the
            tokens.
    Tokens:
        pad_token_id, bos_token_id, eos_token_id (one or several), decoder_start_token_id (one, or one per
        image).

    Raises:
        GenerationError: a value out of range, or values that contradict each other; all in one message.
    Differs: frozen; a key that is unknown, or known and not implemented, is an error.
    Source: `GenerationConfig` of `transformers` 5.23.
    """

    max_length: int | None = None
    max_new_tokens: int | None = None
    min_length: int | None = None
    min_new_tokens: int | None = None
    max_time: float | None = None
    early_stopping: bool | Literal["never"] | None = None
    do_sample: bool | None = None
    num_beams: int | None = None
    num_return_sequences: int | None = None
    use_cache: bool | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    typical_p: float | None = None
    epsilon_cutoff: float | None = None
    eta_cutoff: float | None = None
    repetition_penalty: float | None = None
    length_penalty: float | None = None
    no_repeat_ngram_size: int | None = None
    bad_words_ids: Sequence[Ids] | None = None
    sequence_bias: Sequence[tuple[Ids, float]] | Mapping[Ids, float] | None = None
    renormalize_logits: bool | None = None
    forced_bos_token_id: int | None = None
    forced_eos_token_id: int | Ids | None = None
    remove_invalid_values: bool | None = None
    exponential_decay_length_penalty: tuple[int, float] | None = None
    suppress_tokens: Ids | None = None
    begin_suppress_tokens: Ids | None = None
    output_scores: bool | None = None
    output_logits: bool | None = None
    output_attentions: bool | None = None
    output_hidden_states: bool | None = None
    return_dict_in_generate: bool | None = None
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | Ids | None = None
    decoder_start_token_id: int | Ids | None = None

    def __post_init__(self) -> None:
        for name in option_names():
            object.__setattr__(self, name, _plain(getattr(self, name)))
        wrong = problems(vars(self))
        if wrong:
            raise GenerationError("generation options: " + "; ".join(wrong))

    def __repr__(self) -> str:
        given = ", ".join(f"{name}={value!r}" for name, value in self.to_dict().items())
        return f"GenerationConfig({given})"

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], *, origin: str = "generation options") -> Self:
        """Build from the content of a ``generation_config.json``.

        Args:
            values: keys as on disk. Bookkeeping, and keys that change no token (`rules.NO_EFFECT`), are
                dropped.
            origin: where they come from, for messages.
        Raises:
            GenerationError: unknown keys, keys not implemented (`rules.UNSUPPORTED`), bad values.
        """
        try:
            return cls(**sort_keys(values))
        except GenerationError as error:
            raise GenerationError(f"{origin}: {error}") from error

    @classmethod
    def from_pretrained(cls, source: str | PathLike[str], **options: Any) -> Self:
        """Read ``generation_config.json`` of a directory, a shipped model or a Hub id (`trocr.hub.locate`).

        Raises:
            GenerationError: no such file, not JSON, or see `from_dict`.
        """
        path = locate(source, want=(FILE_NAME,), **options) / FILE_NAME
        return cls.from_dict(read_options(path), origin=str(path))

    @classmethod
    def from_model(
        cls, config: ModelConfig, file: Mapping[str, Any] | None = None, *, origin: str | None = None
    ) -> Self:
        """Options of a model, from its files.

        Token ids that ``generation_config.json`` lacks come from the configuration: the decoder's start token
        above all. Where there is no ``generation_config.json``, generation settings of an old ``config.json``
        apply, if they are not the library defaults of its time; the pair's part of them applies in any case.

        Args:
            config: `VisionEncoderDecoderConfig` or `TrOCRConfig`.
            file: content of ``generation_config.json``; None where there is none.
            origin: where the options come from, for messages; None names the file alone.
        Raises:
            GenerationError: see `from_dict`.
        Differs: `transformers` 5.23 starts from `bos_token_id`, which reads wrong, where the file names no
            start token; takes an old ``max_length: 20`` for a choice; and turns the cache off where the file
            says ``use_cache: false``, as the official ones do. Here the cache is off only when the caller
                says so.
        """
        parts = [] if file is None else [dict(file)]
        parts.append(dict(config.generation_defaults))
        decoder = getattr(config, "decoder", None)
        if file is None and decoder is not None:
            parts.append(dict(decoder.generation_defaults))
        if file is not None and any(file.get(name) is not None for name in ("max_length", "max_new_tokens")):
            parts[1].pop("max_length", None)
        ids = ("decoder_start_token_id", "pad_token_id", "bos_token_id", "eos_token_id")
        parts.append({name: getattr(config, name) for name in ids})
        merged: dict[str, Any] = {}
        for part in parts:
            merged.update({k: v for k, v in part.items() if v is not None and merged.get(k) is None})
        if merged.get("use_cache") is False:
            del merged["use_cache"]
        return cls.from_dict(merged, origin=origin or ("config.json" if file is None else FILE_NAME))

    def update(self, **values: Any) -> Self:
        """Options with some values changed; None unsets one.

        Raises:
            GenerationError: unknown names, or bad values.
        Differs: returns new options instead of changing these.
        """
        return dataclasses.replace(self, **sort_keys(values))

    def over(self, base: "GenerationConfig") -> Self:
        """These options, with what they do not set taken from `base`."""
        return dataclasses.replace(self, **{k: v for k, v in vars(base).items() if getattr(self, k) is None})

    def completed(self) -> Self:
        """These options, with what they do not set taken from `rules.DEFAULTS`."""
        return dataclasses.replace(self, **{k: v for k, v in DEFAULTS.items() if getattr(self, k) is None})

    def to_dict(self) -> dict[str, Any]:
        """The options that are set, as plain values: the content of ``generation_config.json``."""
        return {name: _lists(value) for name, value in vars(self).items() if value is not None}

    def save_pretrained(self, directory: str | PathLike[str]) -> None:
        """Write ``generation_config.json`` into a directory, which is made where it is missing."""
        write_json(directory, FILE_NAME, self.to_dict())


def option_names() -> tuple[str, ...]:
    """Names of all options."""
    return tuple(item.name for item in dataclasses.fields(GenerationConfig))


def sort_keys(values: Mapping[str, Any], *, also: Sequence[str] = ()) -> dict[str, Any]:
    """Keep the keys that are options; drop the harmless ones.

    Args:
        values: names and values.
        also: further names to suggest when one is misspelt.
    Raises:
        GenerationError: every key that is unknown or not implemented, in one message.
    """
    names = option_names()
    known = {*names, *also, *UNSUPPORTED}
    wrong: list[str | None] = []
    for key, value in values.items():
        if key in UNSUPPORTED:
            wrong.append(unsupported_key(key, value))
        elif key not in names and key not in BOOKKEEPING and key not in NO_EFFECT:
            wrong.append(unknown_key(key, value, known))
    messages = [message for message in wrong if message]
    if messages:
        raise GenerationError("; ".join(messages))
    return {key: value for key, value in values.items() if key in names}


def read_options(path: Path) -> dict[str, Any]:
    """Read the content of one ``generation_config.json``.

    Raises:
        GenerationError: no such file, not UTF-8 JSON, or not an object.
    """
    try:
        return read_json(path)
    except ConfigError as error:
        raise GenerationError(str(error)) from error
