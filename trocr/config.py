"""Configurations: frozen dataclasses whose fields are the keys of the official ``config.json``.

Source: configuration files of the official TrOCR releases; configuration classes of `transformers` 5.23 for
names and defaults.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import field
from typing import Any, ClassVar, Self

from trocr.config_base import BaseConfig, frozen
from trocr.config_read import Checker, ConfigError, read_fields
from trocr.config_shapes import BlockShape, DecoderBlockShape, EncoderBlockShape, StackConfig
from trocr.config_timm import TimmConfig

ACTIVATIONS = ("gelu", "gelu_new", "gelu_pytorch_tanh", "quick_gelu", "relu", "silu", "swish", "tanh")

Size = int | tuple[int, int]


def _pair(size: Size) -> tuple[int, int]:
    return size if isinstance(size, tuple) else (size, size)


@frozen
class ViTConfig(StackConfig):
    """Image encoder with a class token (base and large models).

    `image_size` and `patch_size` are one number or (height, width), in pixels. `pooler_output_size` and
    `pooler_act` describe the pooler that some files hold; reading lines never uses it. `encoder_stride` is
    kept for the file's sake. `block_shapes`: see `StackConfig`.

    Raises:
        ConfigError: width not divisible by heads, image not divisible by patch, number out of range.
    Source: arXiv:2010.11929; `ViTConfig` of `transformers` 5.23.
    """

    model_type: ClassVar[str] = "vit"
    shape_class: ClassVar[type[BlockShape]] = EncoderBlockShape
    count_field: ClassVar[str] = "num_hidden_layers"
    units_field: ClassVar[str] = "intermediate_size"
    num_prefix_tokens: ClassVar[int] = 1

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.0
    attention_probs_dropout_prob: float = 0.0
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    image_size: Size = 224
    patch_size: Size = 16
    num_channels: int = 3
    qkv_bias: bool = True
    encoder_stride: int = 16
    pooler_output_size: int | None = None
    pooler_act: str = "tanh"

    def __post_init__(self) -> None:
        for name in ("image_size", "patch_size"):
            if isinstance(getattr(self, name), list):
                object.__setattr__(self, name, tuple(getattr(self, name)))
        c = Checker(type(self).__name__, self)
        c.sizes("image_size", "patch_size")
        c.positive("hidden_size", "num_attention_heads", "intermediate_size", "num_channels")
        c.positive("layer_norm_eps")
        c.not_negative("num_hidden_layers", "initializer_range")
        c.probability("hidden_dropout_prob", "attention_probs_dropout_prob")
        c.one_of("hidden_act", ACTIVATIONS)
        c.one_of("pooler_act", ACTIVATIONS)
        self._read_shapes(c)
        if not c.problems:
            c.divisible("hidden_size", "num_attention_heads")
            height, width = self.image_hw
            c.rule(
                height >= self.patch_hw[0] and width >= self.patch_hw[1],
                f"image_size={self.image_size} is smaller than patch_size={self.patch_size}",
            )
        c.done()

    @property
    def image_hw(self) -> tuple[int, int]:
        """(height, width) of the image in pixels."""
        return _pair(self.image_size)

    @property
    def patch_hw(self) -> tuple[int, int]:
        """(height, width) of a patch in pixels."""
        return _pair(self.patch_size)

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of patches; pixels beyond a whole number of patches are not seen."""
        return self.image_hw[0] // self.patch_hw[0], self.image_hw[1] // self.patch_hw[1]

    @property
    def num_patches(self) -> int:
        """Patches of one image, prefix tokens not counted."""
        return self.grid[0] * self.grid[1]

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_attention_heads


@frozen
class DeiTConfig(ViTConfig):
    """Image encoder with class and distillation tokens (small models).

    Source: arXiv:2012.12877; `DeiTConfig` of `transformers` 5.23.
    """

    model_type: ClassVar[str] = "deit"
    num_prefix_tokens: ClassVar[int] = 2


@frozen
class TrOCRConfig(StackConfig):
    """Text decoder. The defaults are those of base-handwritten, except `cross_attention_hidden_size`.

    `cross_attention_hidden_size` is the width of the encoder states that cross-attention reads; None means
    `d_model`. `is_decoder` says whether a bare `TrOCRDecoder` has cross-attention; `TrOCRForCausalLM` always
    has it. `generation_defaults` holds generation settings found in an old file (see `trocr.config_keys`).
    `block_shapes`: see `StackConfig`.

    Raises:
        ConfigError: width not divisible by heads, token id outside the vocabulary, number out of range.
    Source: `TrOCRConfig` of `transformers` 5.23.
    """

    model_type: ClassVar[str] = "trocr"
    shape_class: ClassVar[type[BlockShape]] = DecoderBlockShape
    count_field: ClassVar[str] = "decoder_layers"
    units_field: ClassVar[str] = "decoder_ffn_dim"

    vocab_size: int = 50265
    d_model: int = 1024
    decoder_layers: int = 12
    decoder_attention_heads: int = 16
    decoder_ffn_dim: int = 4096
    activation_function: str = "gelu"
    max_position_embeddings: int = 512
    dropout: float = 0.1
    attention_dropout: float = 0.0
    activation_dropout: float = 0.0
    decoder_start_token_id: int = 2
    init_std: float = 0.02
    decoder_layerdrop: float = 0.0
    use_cache: bool = True
    scale_embedding: bool = False
    use_learned_position_embeddings: bool = True
    layernorm_embedding: bool = True
    pad_token_id: int | None = 1
    bos_token_id: int | None = 0
    eos_token_id: int | tuple[int, ...] | None = 2
    cross_attention_hidden_size: int | None = None
    is_decoder: bool = False
    add_cross_attention: bool = False
    is_encoder_decoder: bool = False
    tie_word_embeddings: bool = True
    generation_defaults: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if isinstance(self.eos_token_id, list):
            object.__setattr__(self, "eos_token_id", tuple(self.eos_token_id))
        c = Checker(type(self).__name__, self)
        c.positive(
            "vocab_size", "d_model", "decoder_attention_heads", "decoder_ffn_dim", "max_position_embeddings"
        )
        c.not_negative("decoder_layers", "init_std")
        c.probability("dropout", "attention_dropout", "activation_dropout", "decoder_layerdrop")
        c.one_of("activation_function", ACTIVATIONS)
        self._read_shapes(c)
        c.rule(
            not self.is_encoder_decoder, "is_encoder_decoder=True: a TrOCR decoder alone is a decoder only"
        )
        if self.cross_attention_hidden_size is not None:
            c.positive("cross_attention_hidden_size")
        if not c.problems:
            c.divisible("d_model", "decoder_attention_heads")
            c.token_ids(
                self.vocab_size, "decoder_start_token_id", "pad_token_id", "bos_token_id", "eos_token_id"
            )
            c.rule(
                self.use_learned_position_embeddings or self.pad_token_id is not None,
                "pad_token_id=None: sinusoidal positions skip padding and need its id",
            )
        c.done()

    @property
    def hidden_size(self) -> int:
        """Second name of `d_model`."""
        return self.d_model

    @property
    def num_hidden_layers(self) -> int:
        """Second name of `decoder_layers`."""
        return self.decoder_layers

    @property
    def num_attention_heads(self) -> int:
        """Second name of `decoder_attention_heads`."""
        return self.decoder_attention_heads

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.d_model // self.decoder_attention_heads


EncoderConfig = ViTConfig | TimmConfig
"""Any image encoder (`DeiTConfig` is a `ViTConfig` with one more prefix token)."""

ENCODER_CONFIGS: Mapping[str, type[EncoderConfig]] = {
    "vit": ViTConfig,
    "deit": DeiTConfig,
    "timm_wrapper": TimmConfig,
}


@frozen
class VisionEncoderDecoderConfig(BaseConfig):
    """An image encoder and a text decoder.

    Token ids that the file has only in its decoder part are taken from there. `tie_word_embeddings` of the
    pair is always false: the decoder's own flag decides.

    Raises:
        ConfigError: see `ViTConfig`, `TimmConfig` and `TrOCRConfig`; or the cross-attention width is not the
            encoder's width.
    Source: `VisionEncoderDecoderConfig` of `transformers` 5.23.
    """

    model_type: ClassVar[str] = "vision-encoder-decoder"

    encoder: EncoderConfig
    decoder: TrOCRConfig
    decoder_start_token_id: int | None = None
    pad_token_id: int | None = None
    eos_token_id: int | tuple[int, ...] | None = None
    bos_token_id: int | None = None
    is_encoder_decoder: bool = True
    tie_word_embeddings: bool = False
    generation_defaults: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        for name in ("encoder", "decoder"):
            part = getattr(self, name)
            if isinstance(part, Mapping):
                object.__setattr__(self, name, read_part(name, part, origin="configuration"))
        for name in ("decoder_start_token_id", "pad_token_id", "eos_token_id", "bos_token_id"):
            if getattr(self, name) is None:
                object.__setattr__(self, name, getattr(self.decoder, name))
        if isinstance(self.eos_token_id, list):
            object.__setattr__(self, "eos_token_id", tuple(self.eos_token_id))
        c = Checker(type(self).__name__, self)
        c.token_ids(
            self.decoder.vocab_size, "decoder_start_token_id", "pad_token_id", "eos_token_id", "bos_token_id"
        )
        width = self.decoder.cross_attention_hidden_size
        c.rule(
            width is None or width == self.encoder.hidden_size,
            f"decoder.cross_attention_hidden_size={width} must be "
            f"encoder.hidden_size={self.encoder.hidden_size}, or null for a projection between the two",
        )
        c.rule(self.is_encoder_decoder, "is_encoder_decoder must be true")
        c.done()

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], *, origin: str = "configuration") -> Self:
        """Build from the content of a ``config.json``; arguments as in `BaseConfig.from_dict`.

        Raises:
            ConfigError: a part is missing or of an unknown type, or see `BaseConfig.from_dict`.
        """
        found = read_fields(cls, values, origin=origin)
        for name in PART_CONFIGS:
            if not isinstance(found.get(name), Mapping):
                part = found.get(name)
                raise ConfigError(f"{origin}: {name!r} is {part!r}, expected an object with a 'model_type'")
            found[name] = read_part(name, found[name], origin=origin)
        return cls._checked(found, origin=origin)

    @classmethod
    def from_encoder_decoder_configs(
        cls, encoder_config: EncoderConfig, decoder_config: TrOCRConfig, **values: Any
    ) -> Self:
        """Pair two configurations; the decoder gets cross-attention."""
        decoder = dataclasses.replace(decoder_config, is_decoder=True, add_cross_attention=True)
        return cls(encoder=encoder_config, decoder=decoder, **values)

    @property
    def vocab_size(self) -> int:
        """Rows of the decoder's vocabulary."""
        return self.decoder.vocab_size

    @property
    def needs_projection(self) -> bool:
        """Whether encoder states pass a linear layer on their way to cross-attention."""
        return (
            self.decoder.cross_attention_hidden_size is None
            and self.encoder.hidden_size != self.decoder.d_model
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the content of ``config.json`` as `transformers` 4 and 5 read it."""
        values = super().to_dict()
        values["encoder"] = self.encoder.to_dict()
        values["decoder"] = self.decoder.to_dict()
        return values


PART_CONFIGS: Mapping[str, Mapping[str, type[BaseConfig]]] = {
    "encoder": ENCODER_CONFIGS,
    "decoder": {"trocr": TrOCRConfig},
}


def read_part(name: str, values: Mapping[str, Any], *, origin: str) -> BaseConfig:
    """Build the encoder or decoder configuration that its ``model_type`` names.

    Raises:
        ConfigError: no such type for this part, or see `BaseConfig.from_dict`.
    """
    known = PART_CONFIGS[name]
    kind = values.get("model_type")
    if not isinstance(kind, str) or kind not in known:
        raise ConfigError(
            f"{origin}: {name}.model_type is {kind!r}, expected one of {', '.join(sorted(known))}"
        )
    return known[kind].from_dict(values, origin=f"{origin}, part {name!r}")
