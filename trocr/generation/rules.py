"""What generation options may be: the keys known by name, their neutral values, and every check of values.

Source: `transformers` 5.23, `generation/configuration_utils.py`, for names, neutral values and conflicts.
"""

import difflib
import math
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, Final

DEFAULTS: Final[Mapping[str, Any]] = {
    "min_length": 0,
    "early_stopping": False,
    "do_sample": False,
    "num_beams": 1,
    "num_return_sequences": 1,
    "use_cache": True,
    "temperature": 1.0,
    "top_k": 50,
    "top_p": 1.0,
    "typical_p": 1.0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
    "repetition_penalty": 1.0,
    "length_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "renormalize_logits": False,
    "remove_invalid_values": False,
    "output_scores": False,
    "output_logits": False,
    "output_attentions": False,
    "output_hidden_states": False,
    "return_dict_in_generate": False,
}
"""Values of options that neither the caller nor the model sets; the length has its own (`lengths.py`)."""

BOOKKEEPING: Final = frozenset({"transformers_version", "_from_model_config", "_commit_hash"})
"""Keys of a file that say where it comes from."""

NO_EFFECT: Final = frozenset(
    # how fast another implementation runs, not what it gives
    {"cache_implementation", "cache_config", "max_cache_len", "return_legacy_cache", "compile_config"}
    | {"disable_compile", "low_memory", "prefill_chunk_size", "continuous_batching_config"}
    # tuning of assisted generation, which does nothing without an assistant
    | {"is_assistant", "num_assistant_tokens", "num_assistant_tokens_schedule", "assistant_lookbehind"}
    | {"assistant_confidence_threshold", "target_lookbehind", "max_matching_ngram_size"}
)
"""Keys that are accepted and dropped: whatever their value, the tokens stay the same."""

UNSUPPORTED: Final[Mapping[str, tuple[Any, ...]]] = {
    "assistant_early_exit": (None,),
    "assistant_ensemble_weight": (None,),
    "constraints": (None,),
    "diversity_penalty": (None, 0.0),
    "dola_layers": (None,),
    "encoder_no_repeat_ngram_size": (None, 0),
    "encoder_repetition_penalty": (None, 1.0),
    "force_words_ids": (None,),
    "guidance_scale": (None, 1.0),
    "num_beam_groups": (None, 1),
    "penalty_alpha": (None, 0.0),
    "prompt_lookup_num_tokens": (None,),
    "speculation_type": (None,),
    "stop_strings": (None,),
    "token_healing": (None, False),
    "top_h": (None,),
    "use_mtp": (None, False),
    "watermarking_config": (None,),
}
"""Keys that would change the tokens and are not implemented, with the values at which they do nothing."""

_WHOLE: Final[Mapping[str, int]] = {
    "max_length": 1,
    "max_new_tokens": 1,
    "min_length": 0,
    "min_new_tokens": 0,
    "num_beams": 1,
    "num_return_sequences": 1,
    "top_k": 0,
    "no_repeat_ngram_size": 0,
    "pad_token_id": 0,
    "bos_token_id": 0,
    "forced_bos_token_id": 0,
}
_FLAGS: Final = (
    "do_sample",
    "use_cache",
    "renormalize_logits",
    "remove_invalid_values",
    "return_dict_in_generate",
)
_OUTPUT_FLAGS: Final = ("output_scores", "output_logits", "output_attentions", "output_hidden_states")
_TOKEN_LISTS: Final = ("suppress_tokens", "begin_suppress_tokens")
_ONE_OR_MORE_TOKENS: Final = ("eos_token_id", "forced_eos_token_id", "decoder_start_token_id")
_SAMPLING: Final = ("temperature", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff")
_BEAM: Final = ("early_stopping", "length_penalty")


def unknown_key(key: str, value: object, known: Collection[str]) -> str:
    """Say that a key is unknown, with the nearest one that is known."""
    near = difflib.get_close_matches(key, sorted(known), n=1)
    return f"unknown option {key!r} (value {value!r})" + (f", did you mean {near[0]!r}?" if near else "")


def unsupported_key(key: str, value: object) -> str | None:
    """Say that an option is not implemented, or None at a value at which it does nothing."""
    if value in UNSUPPORTED[key]:
        return None
    neutral = " or ".join(repr(v) for v in UNSUPPORTED[key])
    return f"{key}={value!r} is not supported; leave it out, or set it to {neutral}"


def as_ids(value: Any) -> tuple[int, ...]:
    """One id, several or none as a tuple."""
    if value is None:
        return ()
    return value if isinstance(value, tuple) else (value,)


def problems(values: Mapping[str, Any]) -> list[str]:
    """Everything that is wrong with a set of options; None stands for "not set" and is always right."""
    given = {key: value for key, value in values.items() if value is not None}
    found = [message for check in (_types, _ranges, _tokens) for message in check(given)]
    return found or list(_conflicts(given))


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)


def _types(given: Mapping[str, Any]) -> Iterator[str]:
    for name, least in _WHOLE.items():
        if name in given and not (_is_whole(given[name]) and given[name] >= least):
            yield f"{name}={given[name]!r} must be a whole number, {least} or more"
    for name in (*_FLAGS, *_OUTPUT_FLAGS):
        if name in given and not isinstance(given[name], bool):
            yield f"{name}={given[name]!r} must be True or False"
    if "early_stopping" in given and not (
        isinstance(given["early_stopping"], bool) or given["early_stopping"] == "never"
    ):
        yield f"early_stopping={given['early_stopping']!r} must be True, False or 'never'"


def _ranges(given: Mapping[str, Any]) -> Iterator[str]:
    rules: dict[str, tuple[Callable[[float], bool], str]] = {
        "temperature": (lambda v: 0 < v < math.inf, "above 0; to draw nothing use do_sample=False"),
        "top_p": (lambda v: 0 <= v <= 1, "between 0 and 1"),
        "min_p": (lambda v: 0 <= v <= 1, "between 0 and 1"),
        "typical_p": (lambda v: 0 < v <= 1, "above 0 and at most 1"),
        "epsilon_cutoff": (lambda v: 0 <= v < 1, "from 0 to below 1"),
        "eta_cutoff": (lambda v: 0 <= v < 1, "from 0 to below 1"),
        "repetition_penalty": (lambda v: 0 < v < math.inf, "above 0"),
        "length_penalty": (math.isfinite, "finite"),
        "max_time": (lambda v: v > 0, "above 0 seconds"),
    }
    for name, (holds, expected) in rules.items():
        if name in given and not (_is_number(given[name]) and holds(given[name])):
            yield f"{name}={given[name]!r} must be a number {expected}"
    decay = given.get("exponential_decay_length_penalty")
    if decay is not None and not (
        isinstance(decay, tuple) and len(decay) == 2 and _is_whole(decay[0]) and _is_number(decay[1])
    ):
        yield f"exponential_decay_length_penalty={decay!r} must be a pair (start, factor)"


def _are_ids(value: object) -> bool:
    return isinstance(value, tuple) and all(_is_whole(i) and i >= 0 for i in value)


def _is_word(value: object) -> bool:
    return _are_ids(value) and value != ()


def _is_bias(value: object) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and _is_word(value[0]) and _is_number(value[1])


def _all(values: object, holds: Callable[[object], bool]) -> bool:
    return isinstance(values, tuple) and values != () and all(holds(value) for value in values)


def _tokens(given: Mapping[str, Any]) -> Iterator[str]:
    for name in _TOKEN_LISTS:
        if name in given and not _are_ids(given[name]):
            yield f"{name}={given[name]!r} must be a list of token ids"
    for name in _ONE_OR_MORE_TOKENS:
        ids = as_ids(given.get(name))
        if name in given and not (ids and _are_ids(ids)):
            yield f"{name}={given[name]!r} must be a token id, or a list of them that is not empty"
    words = given.get("bad_words_ids")
    if words is not None and not _all(words, _is_word):
        yield f"bad_words_ids={words!r} must be a list of lists of token ids, none of them empty"
    biases = given.get("sequence_bias")
    if biases is not None and not _all(biases, _is_bias):
        yield f"sequence_bias={biases!r} must be a list of pairs [token ids, bias]"


def _conflicts(given: Mapping[str, Any]) -> Iterator[str]:
    beams, rows = given.get("num_beams"), given.get("num_return_sequences")
    if beams is not None and rows is not None:
        if beams > 1 and rows > beams:
            yield f"num_return_sequences={rows} is more than num_beams={beams}: no more are kept"
        if beams == 1 and rows > 1 and given.get("do_sample") is False:
            yield f"num_return_sequences={rows} needs num_beams > 1 or do_sample=True: greedy has one result"
    longest = given.get("max_length")
    if longest is not None and given.get("max_new_tokens") is None and given.get("min_length", 0) > longest:
        yield f"min_length={given['min_length']} is more than max_length={longest}"
    newest = given.get("max_new_tokens")
    if newest is not None and given.get("min_new_tokens", 0) > newest:
        yield f"min_new_tokens={given['min_new_tokens']} is more than max_new_tokens={newest}"
    suppressed = set(given.get("suppress_tokens", ()))
    for name in ("forced_bos_token_id", "forced_eos_token_id"):
        forced = set(as_ids(given.get(name)))
        if forced and forced <= suppressed:
            yield f"{name}={given[name]!r} is also in suppress_tokens: no token would be left at that step"


def idle(values: Mapping[str, Any], chosen: Collection[str]) -> list[str]:
    """Options that the caller chose and that do nothing beside the others.

    Args:
        values: all options, none of the defaulted ones missing.
        chosen: names that the caller set.
    """
    found = []
    if not values["do_sample"]:
        found += [(name, "do_sample=True") for name in _SAMPLING]
    if values["num_beams"] == 1:
        found += [(name, "num_beams above 1") for name in _BEAM]
    if not values["return_dict_in_generate"]:
        found += [(name, "return_dict_in_generate=True") for name in _OUTPUT_FLAGS]
    return [
        f"{name}={values[name]!r} has no effect without {need}"
        for name, need in found
        if name in chosen and values[name] not in (None, DEFAULTS.get(name))
    ]
