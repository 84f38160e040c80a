"""What a call of `generate` asks for, sorted into inputs, options, and things that no file can hold.

Source: `transformers` 5.23 (`_prepare_generation_config`) for which setting goes before which.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from trocr.generation.inputs import ImageInputs, TextInputs
from trocr.generation.options import GenerationConfig, GenerationError, sort_keys
from trocr.generation.processors import AllowedTokens, Processor
from trocr.generation.rules import DEFAULTS, as_ids, idle
from trocr.generation.stopping import Criterion
from trocr.generation.streaming import Streamer, TokenCallback

_MAY_BE_NONE = ("min_length", "temperature", "top_k", "top_p", "typical_p", "epsilon_cutoff", "eta_cutoff")
_TOKENS = (
    "eos_token_id",
    "pad_token_id",
    "decoder_start_token_id",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "suppress_tokens",
    "begin_suppress_tokens",
)


@dataclass(frozen=True)
class Extras:
    """Arguments of `generate` that no file can hold.

    Attributes:
        logits_processor: callables `(ids, scores) -> scores`; they come after those of the options.
        stopping_criteria: callables `(ids, scores) -> bool or (R,)`; any of them finishes a row.
        prefix_allowed_tokens_fn: `(image, ids) -> allowed ids`, asked for every row at every step.
        streamer: an object with `put` and `end`, or a function called with the new tokens (R,); not with
            beams.
        seed: for sampling; the same draws as after `torch.manual_seed(seed)`, whose state is left alone.
        generator: random numbers for sampling, instead of `seed`.
        draft: guesses several tokens, which the model checks in one call; the tokens stay those of greedy
            search. An `NGramDraft`, a `ModelDraft`, any other `Draft`, or a model with the same vocabulary.
            `assistant_model` is a second name.
    """

    logits_processor: Sequence[Processor] | None = None
    stopping_criteria: Sequence[Criterion] | None = None
    prefix_allowed_tokens_fn: AllowedTokens | None = None
    streamer: Streamer | TokenCallback | None = None
    seed: int | None = None
    generator: torch.Generator | None = None
    draft: Any = None

    def __post_init__(self) -> None:
        if self.seed is not None and self.generator is not None:
            raise GenerationError("seed and generator are both given; give one of them")

    def random(self, device: torch.device) -> torch.Generator | None:
        """Give the random numbers for sampling; None is torch's own."""
        return self.generator if self.seed is None else torch.Generator(device).manual_seed(self.seed)


@dataclass(frozen=True)
class Request:
    """One call of `generate`.

    Attributes:
        inputs: what to generate for.
        options: all options, defaults filled in.
        chosen: names of the options that the caller set.
        extras: the rest.
    """

    inputs: ImageInputs | TextInputs
    options: GenerationConfig
    chosen: frozenset[str]
    extras: Extras


def sort_arguments(
    model: Any, first: Tensor | None, given: GenerationConfig | None, arguments: Mapping[str, Any]
) -> Request:
    """Sort the arguments of `generate`.

    Args:
        model: whose options apply where the caller sets none.
        first: the first argument.
        given: a configuration that the caller passed.
        arguments: those given by name.
    Raises:
        GenerationError: unknown names, options out of range or in conflict, ids outside the vocabulary.
    Warns:
        UserWarning: options of the caller that have no effect beside the others.
    """
    if given is not None and not isinstance(given, GenerationConfig):
        raise GenerationError(
            f"generation_config is {type(given).__name__}, expected trocr.GenerationConfig; "
            "GenerationConfig.from_dict(values) makes one"
        )
    kind, first_name = (
        (ImageInputs, "pixel_values") if hasattr(model, "encode") else (TextInputs, "input_ids")
    )
    rest = dict(arguments)
    if kind is ImageInputs and "input_ids" in rest:
        rest.setdefault("decoder_input_ids", rest.pop("input_ids"))
    if first is not None:
        if rest.get(first_name) is not None:
            raise GenerationError(f"the first argument of generate is {first_name}, also given by name")
        rest[first_name] = first
    if "assistant_model" in rest:
        rest.setdefault("draft", rest.pop("assistant_model"))
    make: Callable[..., ImageInputs | TextInputs] = kind
    inputs = make(**_take(rest, kind))
    extras = Extras(**_take(rest, Extras))
    also = [item.name for cls in (kind, Extras) for item in fields(cls)]
    options, chosen = resolve_options(model.generation_config, given, sort_keys(rest, also=also))
    return Request(inputs, options, chosen, extras)


def _take(arguments: dict[str, Any], cls: type[Any]) -> dict[str, Any]:
    names = [item.name for item in fields(cls) if item.name in arguments]
    taken = {name: arguments.pop(name) for name in names}
    return {name: value for name, value in taken.items() if value is not None}


def resolve_options(
    own: GenerationConfig, given: GenerationConfig | None, named: Mapping[str, Any]
) -> tuple[GenerationConfig, frozenset[str]]:
    """Merge options: those given by name, the given configuration, the model's own, the defaults.

    Returns:
        All options, and the names of those that the caller set.
    Raises:
        GenerationError: see `GenerationConfig`.
    Warns:
        UserWarning: options of the caller that have no effect beside the others.
    """
    whole = {} if given is None else {k: v for k, v in vars(given).items() if v is not None}
    values = {**DEFAULTS, **{k: v for k, v in vars(own).items() if v is not None}, **whole, **named}
    for name, default in DEFAULTS.items():
        if values[name] is None and name not in _MAY_BE_NONE:
            values[name] = default
    options = GenerationConfig(**values)
    if options.pad_token_id is None and options.eos_token_id is not None:
        options = options.update(pad_token_id=as_ids(options.eos_token_id)[0])
    if options.min_new_tokens is not None:  # goes before min_length whoever set them, as in transformers
        options = options.update(min_length=0)
    chosen = frozenset([*whole, *(name for name, value in named.items() if value is not None)])
    for message in idle(vars(options), chosen):
        warnings.warn(message, stacklevel=7)
    return options, chosen


def check_vocabulary(options: GenerationConfig, vocab_size: int) -> None:
    """Check that the model has every token that the options name.

    Raises:
        GenerationError: ids outside the vocabulary, all in one message.
    """
    ids = {name: as_ids(getattr(options, name)) for name in _TOKENS}
    words: Any = options.bad_words_ids or ()
    biases: Any = options.sequence_bias or ()
    ids["bad_words_ids"] = tuple(token for word in words for token in word)
    ids["sequence_bias"] = tuple(token for sequence, _ in biases for token in sequence)
    wrong = [f"{name} has {max(found)}" for name, found in ids.items() if found and max(found) >= vocab_size]
    if wrong:
        raise GenerationError(
            f"token ids outside the vocabulary (0 to {vocab_size - 1}): {', '.join(wrong)}; does the "
            "tokenizer belong to this model?"
        )
