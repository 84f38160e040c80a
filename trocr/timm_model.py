"""The public model of a timm backbone: it loads and saves as the other image encoders do.

Source: `TimmWrapperModel` of `transformers` 5.23.
"""

from typing import ClassVar

from torch import nn

from trocr import build
from trocr.config_read import ConfigError
from trocr.config_timm import TimmConfig
from trocr.nn.attention import Core
from trocr.pretrained_model import PretrainedModel
from trocr.timm_encoder import TimmEncoder
from weights_conversion import hf
from weights_conversion.rename import Table


class TimmModel(TimmEncoder, PretrainedModel):
    """An image encoder that is a backbone of timm, built from a `TimmConfig` with timm's starting values.

    Args:
        config: the configuration.
        backbone: made of it, where it is there already, with its weights.
    Raises:
        ConfigError: another kind of configuration, or timm has no such backbone.
    """

    config_class = TimmConfig
    tables: ClassVar[tuple[Table, ...]] = hf.TIMM_TABLES

    def __init__(self, config: TimmConfig, backbone: nn.Module | None = None) -> None:
        if not isinstance(config, TimmConfig):
            raise ConfigError(f"TimmModel needs a TimmConfig, a {type(config).__name__} was given")
        super().__init__(**build.timm_parts(config, backbone=backbone))
        self.config = config
        build.init_weights(self.positions, std=config.initializer_range)

    @property
    def tied(self) -> dict[str, str]:
        """Parameters inside the backbone that share another's tensor."""
        return self.shared

    def set_attention(self, core: Core) -> None:
        """Accept "sdpa": timm chooses its own core, which nothing here can change.

        Raises:
            ValueError: another core is asked for.
        """
        if core != "sdpa":
            raise ValueError(f"the attention of a timm backbone is timm's own: {core!r} cannot be set")
