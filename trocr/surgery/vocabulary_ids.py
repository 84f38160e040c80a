"""Token ids in configurations and generation options, after tokens got other ids.

Source: `VisionEncoderDecoderConfig`, `TrOCRConfig` and `GenerationConfig` for what holds ids.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

from trocr.config import VisionEncoderDecoderConfig
from trocr.generation import GenerationConfig
from trocr.models import TrOCRForCausalLM, VisionEncoderDecoderModel

_MODEL_IDS = ("decoder_start_token_id", "pad_token_id", "bos_token_id", "eos_token_id")
_NEEDED = (*_MODEL_IDS, "forced_bos_token_id", "forced_eos_token_id")
_LISTS = ("suppress_tokens", "begin_suppress_tokens")


@dataclass(frozen=True, kw_only=True)
class Followed:
    """Configuration and generation options with other ids.

    Attributes:
        config: of the model.
        generation: of the model.
        decoder_generation: of its decoder, for a decoder that is used alone.
        lost: what was left out because its token is gone, in words.
    """

    config: VisionEncoderDecoderConfig
    generation: GenerationConfig
    decoder_generation: GenerationConfig
    lost: tuple[str, ...]


def needed_ids(model: VisionEncoderDecoderModel) -> dict[int, str]:
    """Ids that a model cannot do without -> where they stand: start, padding, end, forced tokens."""
    config = model.config
    parts = {
        "config": {name: getattr(config, name) for name in _MODEL_IDS},
        "config.decoder": {name: getattr(config.decoder, name) for name in _MODEL_IDS},
        "generation_config": vars(model.generation_config),
    }
    parts["config.generation_defaults"] = dict(config.generation_defaults)
    parts["config.decoder.generation_defaults"] = dict(config.decoder.generation_defaults)
    found: dict[int, str] = {}
    for where, values in parts.items():
        for name in _NEEDED:
            for token_id in _several(values.get(name)):
                found.setdefault(token_id, f"{where}.{name}")
    return found


def follow(
    model: VisionEncoderDecoderModel,
    ids: Mapping[int, int],
    *,
    vocab_size: int,
    special: Mapping[str, int] | None = None,
) -> Followed:
    """Give ids their new numbers.

    Args:
        model: is not changed.
        ids: old id -> new id.
        vocab_size: rows of the new vocabulary.
        special: ids that are set in any case: "pad_token_id", "bos_token_id", "eos_token_id" and
            "decoder_start_token_id".
    """
    lost: list[str] = []
    config = model.config

    def settings(values: Mapping[str, Any], where: str) -> dict[str, Any]:
        moved = dict(_moved(values, ids, where, lost))
        for name, token_id in (special or {}).items():
            found = moved.get(name)
            several = (token_id, *found) if name == "eos_token_id" and isinstance(found, tuple) else found
            moved[name] = tuple(dict.fromkeys(several)) if isinstance(several, tuple) else token_id
        return moved

    def of_config(part: Any, where: str) -> dict[str, Any]:
        old = dict(part.generation_defaults)
        defaults = settings(old, f"{where}.generation_defaults")
        return {
            **settings({name: getattr(part, name) for name in _MODEL_IDS}, where),
            "generation_defaults": {name: defaults[name] for name in old},
        }

    decoder = dataclasses.replace(
        config.decoder, vocab_size=vocab_size, **of_config(config.decoder, "config.decoder")
    )
    generation = settings(vars(model.generation_config), "generation_config")
    alone = cast(TrOCRForCausalLM, model.decoder).generation_config
    return Followed(
        config=dataclasses.replace(config, decoder=decoder, **of_config(config, "config")),
        generation=model.generation_config.update(**generation),
        decoder_generation=alone.update(**settings(vars(alone), "decoder.generation_config")),
        lost=tuple(dict.fromkeys(lost)),
    )


def _moved(
    values: Mapping[str, Any], ids: Mapping[int, int], where: str, lost: list[str]
) -> Iterator[tuple[str, Any]]:
    """Options with their ids moved; those without ids are as they were."""
    for name, value in values.items():
        if value is None:
            yield name, None
        elif name in _NEEDED or name in _LISTS:
            found = [ids[token_id] for token_id in _several(value) if token_id in ids]
            lost += [f"{where}.{name}: {token_id}" for token_id in _several(value) if token_id not in ids]
            is_one = not isinstance(value, list | tuple)
            yield name, (found[0] if is_one else tuple(found)) if found else None
        elif name == "bad_words_ids":
            rows = [row for row in value if all(token_id in ids for token_id in row)]
            lost += [f"{where}.{name}: {list(row)}" for row in value if row not in rows]
            yield name, tuple(tuple(ids[token_id] for token_id in row) for row in rows) or None
        elif name == "sequence_bias":
            pairs = list(value.items()) if isinstance(value, Mapping) else list(value)
            known = [pair for pair in pairs if all(token_id in ids for token_id in pair[0])]
            lost += [f"{where}.{name}: {list(row)}" for row, _ in pairs if (row, _) not in known]
            yield name, tuple((tuple(ids[i] for i in row), bias) for row, bias in known) or None
        else:
            yield name, value


def _several(value: Any) -> tuple[int, ...]:
    if value is None:
        return ()
    return tuple(value) if isinstance(value, list | tuple) else (value,)
