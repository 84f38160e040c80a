"""A checkpoint as a command finds it: file or directory, dialect, configuration, model.

Source: original work.
"""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from trocr.config import DeiTConfig, TrOCRConfig, VisionEncoderDecoderConfig, ViTConfig
from trocr.config_base import BaseConfig
from trocr.config_read import read_json
from trocr.hub import MODEL_FILES, PROCESSOR_FILES, locate
from trocr.models import DeiTModel, TrOCRDecoder, TrOCRForCausalLM, VisionEncoderDecoderModel, ViTModel
from trocr.official import OFFICIAL_MODELS, OfficialModel
from trocr.pretrained_model import PretrainedModel
from weights_conversion import fairseq, timm
from weights_conversion.configs import DerivationError, encoder_config
from weights_conversion.dialects import Dialect, recognize
from weights_conversion.files import WEIGHT_NAMES, WeightFile, find_weights, open_weights

CONFIGS: Mapping[str, type[BaseConfig]] = {
    config.model_type: config for config in (VisionEncoderDecoderConfig, ViTConfig, DeiTConfig, TrOCRConfig)
}
MODELS: Mapping[str, type[PretrainedModel]] = {
    "vision-encoder-decoder": VisionEncoderDecoderModel,
    "vit": ViTModel,
    "deit": DeiTModel,
    "trocr": TrOCRForCausalLM,
}


@dataclass(frozen=True, kw_only=True)
class Hints:
    """What the caller says about a checkpoint beyond its files.

    Attributes:
        official: name of an official model that the file is.
        family: decoder recipe of a fairseq file, see `weights_conversion.fairseq.FAMILIES`.
        config: a config.json to use.
        encoder_heads: attention heads of the encoder, where the file does not say.
        decoder_heads: attention heads of the decoder, where the file does not say.
        image_size: (height, width) in pixels, where the file does not say.
    """

    official: str | None = None
    family: str | None = None
    config: Path | None = None
    encoder_heads: int | None = None
    decoder_heads: int | None = None
    image_size: tuple[int, int] | None = None


@dataclass(frozen=True, kw_only=True)
class Source:
    """A checkpoint on this machine.

    Attributes:
        given: what the caller wrote.
        path: the weight file or shard index.
        directory: the checkpoint directory, None for a weight file alone.
        dialect: how its tensors are named.
    """

    given: str
    path: Path
    directory: Path | None
    dialect: Dialect


def find_source(given: str, *, local_files_only: bool = False) -> Source:
    """Find a directory, a weight file, a shipped model or a Hub id, and recognise its dialect.

    Raises:
        HubError: neither here nor reachable.
        WeightFileError: no weights there, or damaged ones.
        DialectError: tensor names of something else.
    """
    place = Path(given)
    if not place.is_file():
        place = locate(given, want=(*MODEL_FILES, *PROCESSOR_FILES), local_files_only=local_files_only)
    path = find_weights(place) if place.is_dir() else place
    directory = place if place.is_dir() else None
    if directory is None and path.name in WEIGHT_NAMES and (path.parent / "config.json").is_file():
        directory = path.parent
    with open_weights(path) as weights:
        dialect = recognize(weights.shapes, origin=str(path))
    return Source(given=given, path=path, directory=directory, dialect=dialect)


def official_model(name: str) -> OfficialModel:
    """One of the eleven, by its Hub id or the part after the slash.

    Raises:
        DerivationError: no such model; the message lists them.
    """
    for known, model in OFFICIAL_MODELS.items():
        if name in (known, known.rpartition("/")[2]):
            return model
    near = difflib.get_close_matches(name, OFFICIAL_MODELS, n=1, cutoff=0.0)
    raise DerivationError(
        f"{name!r} is not an official model, did you mean {near[0]!r}? They are {', '.join(OFFICIAL_MODELS)}"
    )


def find_config(source: Source, weights: WeightFile, hints: Hints) -> tuple[BaseConfig, str]:
    """The configuration of a checkpoint, and where it comes from.

    A config.json that the caller names comes first, then an official model's, the directory's own, and what
    can be derived from the tensors and a fairseq file's training arguments.

    Raises:
        DerivationError: there is none, and it cannot be derived.
        ConfigError: it has unknown or contradictory values.
    """
    own = source.directory / "config.json" if source.directory else None
    if hints.config is not None:
        return _read_config(hints.config), str(hints.config)
    if hints.official is not None:
        model = official_model(hints.official)
        return model.config, f"the official {model.name}"
    if own is not None and own.is_file() and "model_type" in read_json(own):
        return _read_config(own), str(own)
    origin = f"derived from {source.path.name}"
    return _config_from(_derive(source, weights, hints), origin=origin), origin


def same_architecture(config: BaseConfig) -> list[OfficialModel]:
    """The official models that compute the same function of the weights."""

    def essence(of: BaseConfig) -> dict[str, Any]:
        parts = {name: part for name, part in of.to_dict().items() if name in ("encoder", "decoder")}
        return {name: {**part, "use_cache": None} for name, part in parts.items()}

    return [model for model in OFFICIAL_MODELS.values() if essence(model.config) == essence(config)]


def model_class(source: Source, config: BaseConfig) -> type[PretrainedModel]:
    """The class that a checkpoint's dialect and configuration ask for."""
    return TrOCRDecoder if source.dialect.part == "stack" else MODELS[config.model_type]


def load_model(source: Source, config: BaseConfig, *, dtype: torch.dtype) -> PretrainedModel:
    """Load a checkpoint of any dialect into the model its configuration describes, in evaluation mode.

    Raises:
        KeyMapError: tensors that do not fit, all in one message.
        CheckpointError: NaN, infinite values, or tied tensors that differ.
    """
    kind = model_class(source, config)
    if source.directory is not None and source.dialect.table in kind.tables:
        return kind.from_pretrained(source.directory, config=config, dtype=dtype)
    with open_weights(source.path) as weights:
        return kind.from_weights(weights, config, table=source.dialect.table, dtype=dtype)


def _read_config(path: Path) -> BaseConfig:
    return _config_from(read_json(path), origin=str(path))


def _config_from(values: Mapping[str, Any], *, origin: str) -> BaseConfig:
    kind = values.get("model_type")
    if kind not in CONFIGS:
        raise DerivationError(f"{origin}: model_type is {kind!r}, expected one of {', '.join(CONFIGS)}")
    return CONFIGS[str(kind)].from_dict(values, origin=origin)


def _derive(source: Source, weights: WeightFile, hints: Hints) -> dict[str, Any]:
    if source.dialect.table is fairseq.FAIRSEQ:
        return fairseq.derive_config(
            weights.shapes,
            weights.extra,
            tied=fairseq.is_tied(weights.shapes, weights.tensor),
            family=hints.family,
            encoder_heads=hints.encoder_heads,
            decoder_heads=hints.decoder_heads,
            image_size=hints.image_size,
        )
    if source.dialect.table is timm.TIMM:
        if hints.encoder_heads is None:
            raise DerivationError(
                f"{source.path}: timm's files do not say the number of attention heads; add --encoder-heads"
            )
        return encoder_config(
            weights.shapes,
            num_attention_heads=hints.encoder_heads,
            layer_norm_eps=timm.LAYER_NORM_EPS,
            image_size=hints.image_size,
        )
    raise DerivationError(
        f"{source.path}: there is no config.json beside it; put the model's there, or name one "
        "(--config FILE), or the official model it is (--official NAME)"
    )
