"""Configuration of an image encoder whose layers are a backbone of timm.

Source: `TimmWrapperConfig` of `transformers` 5.23 for the type's name and the first four keys.
Differs: the width of the features, the size of the images and the positions are keys, so that a model can be
described without building it; `pretrained_cfg` and the names of classes are left out: no classifier is kept.
"""

import json
from collections.abc import Mapping
from dataclasses import field
from typing import Any, ClassVar, Literal, Self, get_args

from trocr.config_base import BaseConfig, frozen
from trocr.config_read import Checker, ConfigError

PositionKind = Literal["none", "learned"]

RESERVED = ("num_classes", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path")
"""Arguments of `timm.create_model` that are not the architecture's."""

CLASSIFIER_KEYS = ("label_names", "num_classes", "global_pool", "pretrained_cfg", "num_features")
"""Keys of files of `transformers` and timm that describe the classifier or where weights came from."""


@frozen
class TimmConfig(BaseConfig):
    """Image encoder that is a backbone of timm, by its name there.

    `architecture` is a name of `timm.list_models()`, without a tag of weights. `model_args` is all that
    `timm.create_model` gets beside it and `num_classes=0`; it says how features are taken, see
    `trocr.timm_backbone`. `hidden_size` is the width of the features, `image_size` one number or (height,
    width) in pixels. `position_embeddings` is "learned" where a table of positions is added to the features,
    else "none"; its starting values have the deviation `initializer_range`. `do_pooling` is kept for the
    file's sake: reading lines never pools.

    Raises:
        ConfigError: a value is out of range, `model_args` cannot be written as JSON, or contradicts
            `image_size` or `num_channels`.
    Source: `TimmWrapperConfig` of `transformers` 5.23.
    """

    model_type: ClassVar[str] = "timm_wrapper"

    architecture: str
    hidden_size: int
    image_size: int | tuple[int, int] = 224
    num_channels: int = 3
    model_args: Mapping[str, Any] = field(default_factory=dict, hash=False)
    position_embeddings: str = "none"
    initializer_range: float = 0.02
    do_pooling: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.image_size, list):
            object.__setattr__(self, "image_size", tuple(self.image_size))
        c = Checker(type(self).__name__, self)
        c.rule(
            isinstance(self.architecture, str) and bool(self.architecture),
            f"architecture={self.architecture!r} must be a name of timm.list_models()",
        )
        c.sizes("image_size")
        c.positive("hidden_size", "num_channels")
        c.not_negative("initializer_range")
        c.one_of("position_embeddings", get_args(PositionKind))
        self._read_args(c)
        c.done()

    def _read_args(self, c: Checker) -> None:
        """Turn the arguments into what a file gives back, and note what is wrong with them."""
        given = {} if self.model_args is None else self.model_args
        try:
            plain = json.loads(json.dumps(dict(given)))
        except (TypeError, ValueError) as error:
            c.rule(False, f"model_args={given!r} must be an object of JSON values ({error})")
            return
        object.__setattr__(self, "model_args", plain)
        for name in RESERVED:
            c.rule(name not in plain, f"model_args must not hold {name!r}: it is not the architecture's")
        if c.problems:
            return
        channels = plain.get("in_chans", 3)
        c.rule(
            channels == self.num_channels,
            f"num_channels={self.num_channels} contradicts in_chans={channels} of model_args",
        )
        size = plain.get("img_size")
        if size is not None:
            pair = tuple(size) if isinstance(size, list) else (size, size)
            c.rule(
                pair == self.image_hw, f"image_size={self.image_hw} contradicts img_size={size} of model_args"
            )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], *, origin: str = "configuration") -> Self:
        """Build from the content of a ``config.json``; arguments as in `BaseConfig.from_dict`.

        Raises:
            ConfigError: the name or the width of the features is missing, or see `BaseConfig.from_dict`.
        """
        kept = {name: value for name, value in values.items() if name not in CLASSIFIER_KEYS}
        missing = [name for name in ("architecture", "hidden_size") if kept.get(name) is None]
        if missing:
            raise ConfigError(
                f"{origin}: {' and '.join(missing)} missing; a file of `transformers` or timm lacks the "
                "width of the features: take the encoder as timm:NAME instead"
            )
        return super().from_dict(kept, origin=origin)

    @property
    def image_hw(self) -> tuple[int, int]:
        """(height, width) of the image in pixels."""
        return self.image_size if isinstance(self.image_size, tuple) else (self.image_size, self.image_size)

    def to_dict(self) -> dict[str, Any]:
        """Return the content of ``config.json``: plain values, nested dictionaries."""
        return {**super().to_dict(), "model_args": dict(self.model_args)}
