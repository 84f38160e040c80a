"""The public models: modules built from a configuration, that load, save and generate.

Source: names and arguments of the TrOCR, ViT, DeiT and VisionEncoderDecoder pages of `transformers` 5.23.
"""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar, Self, cast

from torch import Tensor, nn

from trocr import build
from trocr.config import DeiTConfig, EncoderConfig, TrOCRConfig, VisionEncoderDecoderConfig, ViTConfig
from trocr.config_base import BaseConfig
from trocr.config_read import ConfigError, read_json
from trocr.config_timm import TimmConfig
from trocr.decoder import TextDecoder, TextDecoderLM
from trocr.encoder import ImageEncoder
from trocr.generation import GenerateOutput, GenerationConfig, generate, transition_scores
from trocr.hub import locate
from trocr.model import ImageToText
from trocr.pretrained_model import PretrainedModel
from trocr.timm_model import TimmModel
from weights_conversion import hf
from weights_conversion.rename import Table


def _expect(config: object, wanted: type[BaseConfig], where: str) -> None:
    if not isinstance(config, wanted):
        raise ConfigError(f"{where} needs a {wanted.__name__}, a {type(config).__name__} was given")


class ViTModel(ImageEncoder, PretrainedModel):
    """An image encoder with a class token, built from a `ViTConfig` with starting values for training.

    Args:
        config: the configuration.
        add_pooling_layer: add the pooler, which reading never uses.
    Raises:
        ConfigError: another kind of configuration.
    """

    config_class: ClassVar[type[ViTConfig]] = ViTConfig
    tables = hf.ENCODER_TABLES

    def __init__(self, config: ViTConfig, add_pooling_layer: bool = True) -> None:
        _expect(config, self.config_class, type(self).__name__)
        super().__init__(**build.encoder_parts(config, with_pooler=add_pooling_layer))
        self.config = config
        build.init_weights(self, std=config.initializer_range)

    @classmethod
    def _build(cls, config: Any, has: Callable[[str], bool]) -> Self:
        return cls(config, add_pooling_layer=has("pooler"))

    def _twin(self) -> nn.Module:
        return type(self)(self.config, add_pooling_layer=self.pooler is not None)

    def get_input_embeddings(self) -> nn.Module:
        """Return the patch embedding."""
        return self.embeddings.patch_embeddings


class DeiTModel(ViTModel):
    """An image encoder with class and distillation tokens, built from a `DeiTConfig`; see `ViTModel`."""

    config_class: ClassVar[type[ViTConfig]] = DeiTConfig


class TrOCRDecoder(TextDecoder, PretrainedModel):
    """A text decoder without output projection; with cross-attention where `config.is_decoder` says so.

    Raises:
        ConfigError: another kind of configuration.
    """

    config_class = TrOCRConfig
    tables: ClassVar[tuple[Table, ...]] = hf.STACK_TABLES

    def __init__(self, config: TrOCRConfig) -> None:
        _expect(config, TrOCRConfig, "TrOCRDecoder")
        super().__init__(**build.decoder_parts(config, with_cross_attention=config.is_decoder))
        self.config = config
        build.init_weights(self, std=config.init_std)


class _Generates(PretrainedModel):
    """What models that write text share."""

    generation_config: GenerationConfig

    compute_transition_scores = staticmethod(transition_scores)

    def _loaded_from(self, path: Path) -> None:
        file = path / "generation_config.json"
        values = read_json(file) if file.is_file() else None
        self.generation_config = GenerationConfig.from_model(
            self.config, values, origin=str(file if file.is_file() else path / "config.json")
        )

    def _json_files(self) -> Mapping[str, Mapping[str, Any]]:
        return {**super()._json_files(), "generation_config.json": self.generation_config.to_dict()}


class TrOCRForCausalLM(TextDecoderLM, _Generates):
    """A text decoder with cross-attention and output projection, with starting values for training.

    Raises:
        ConfigError: another kind of configuration.
    """

    config_class = TrOCRConfig
    tables = hf.DECODER_TABLES

    def __init__(self, config: TrOCRConfig) -> None:
        _expect(config, TrOCRConfig, "TrOCRForCausalLM")
        super().__init__(
            output_projection=build.build_output_projection(config),
            **build.decoder_parts(config, with_cross_attention=True),
        )
        self.config = dataclasses.replace(config, is_decoder=True)
        self.generation_config = GenerationConfig.from_model(self.config, None)
        build.init_weights(self, std=config.init_std)
        self.tie_weights()

    @property
    def tied(self) -> dict[str, str]:
        """The output projection shares the token embedding where the configuration says so."""
        return {"output_projection.weight": "embed_tokens.weight"} if self.config.tie_word_embeddings else {}

    def get_input_embeddings(self) -> nn.Module:
        """Return the token embedding."""
        return self.embed_tokens

    def get_output_embeddings(self) -> nn.Module:
        """Return the output projection."""
        return self.output_projection

    def get_decoder(self) -> nn.Module:
        """Return the decoder, which is this model."""
        return self

    def generate(self, input_ids: Tensor | None = None, **options: Any) -> Tensor | GenerateOutput:
        """Continue ids (B, T), or the start token alone; options as in `trocr.generation.generate`."""
        return generate(self, input_ids=input_ids, **options)


ENCODERS: Mapping[str, type[ViTModel]] = {"vit": ViTModel, "deit": DeiTModel}
"""Encoders of this library's own blocks, by the type in their configuration."""
LOADING_OPTIONS = tuple(inspect.signature(PretrainedModel.from_pretrained).parameters)[1:]


def _given(part: str, source: str | PathLike[str] | None) -> str | PathLike[str]:
    if source is None:
        raise ConfigError(
            f"the {part} is missing: give {part}_pretrained_model_name_or_path, a directory or a Hub id, or "
            f"{part}_model"
        )
    return source


def build_encoder(config: EncoderConfig, *, with_pooler: bool = False) -> ViTModel | TimmModel:
    """Build an image encoder of any kind; timm's have no pooler."""
    if isinstance(config, TimmConfig):
        return TimmModel(config)
    return ENCODERS[config.model_type](config, add_pooling_layer=with_pooler)


def _load_encoder(source: str | PathLike[str] | None, options: Mapping[str, Any]) -> ViTModel | TimmModel:
    names = ("revision", "cache_dir", "local_files_only", "token")
    path = locate(_given("encoder", source), **{name: options[name] for name in names if name in options})
    kind = read_json(path / "config.json").get("model_type")
    if kind == TimmConfig.model_type:
        return TimmModel.from_pretrained(path, **options)
    if kind not in ENCODERS:
        known = ", ".join((*ENCODERS, TimmConfig.model_type))
        raise ConfigError(f"{path}: model_type is {kind!r}, expected one of {known}")
    return ENCODERS[str(kind)].from_pretrained(path, **options)


class VisionEncoderDecoderModel(ImageToText, _Generates):
    """An image encoder and a text decoder: the model that reads.

    Args:
        config: configuration of both; parts that are not given are built from it with starting values.
        encoder: a `ViTModel`, `DeiTModel` or `TimmModel`.
        decoder: a `TrOCRForCausalLM`.
    Raises:
        ConfigError: neither a configuration nor both parts, or parts whose widths do not fit.
    """

    config_class = VisionEncoderDecoderConfig
    tables = hf.MODEL_TABLES

    def __init__(
        self,
        config: VisionEncoderDecoderConfig | None = None,
        encoder: ViTModel | TimmModel | None = None,
        decoder: TrOCRForCausalLM | None = None,
    ) -> None:
        if config is None:
            if encoder is None or decoder is None:
                raise ConfigError(
                    "VisionEncoderDecoderModel needs a configuration, or an encoder and a decoder"
                )
            config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder.config, decoder.config)
        _expect(config, VisionEncoderDecoderConfig, "VisionEncoderDecoderModel")
        if encoder is None:
            encoder = build_encoder(config.encoder)
        super().__init__(
            encoder=encoder,
            decoder=TrOCRForCausalLM(config.decoder) if decoder is None else decoder,
            projection=build.build_projection(config),
            start_token_id=config.decoder_start_token_id,
            pad_token_id=config.pad_token_id,
        )
        build.init_weights(self.enc_to_dec_proj, std=config.encoder.initializer_range)
        self.config = config
        self.generation_config = GenerationConfig.from_model(config, None)

    @property
    def config(self) -> VisionEncoderDecoderConfig:
        """The configuration; setting it hands the parts and the token ids on."""
        return self._config

    @config.setter
    def config(self, value: VisionEncoderDecoderConfig) -> None:
        self._config = value
        cast(ViTModel, self.encoder).config = value.encoder
        cast(TrOCRForCausalLM, self.decoder).config = value.decoder
        self.start_token_id = value.decoder_start_token_id
        self.pad_token_id = value.pad_token_id

    @classmethod
    def _build(cls, config: Any, has: Callable[[str], bool]) -> Self:
        return cls(config, encoder=build_encoder(config.encoder, with_pooler=has("encoder.pooler")))

    def _twin(self) -> nn.Module:
        return type(self)._build(self.config, lambda module: self.encoder.pooler is not None)

    @classmethod
    def from_encoder_decoder_pretrained(
        cls,
        encoder_pretrained_model_name_or_path: str | PathLike[str] | None = None,
        decoder_pretrained_model_name_or_path: str | PathLike[str] | None = None,
        *,
        encoder_model: ViTModel | TimmModel | None = None,
        decoder_model: TrOCRForCausalLM | None = None,
        **options: Any,
    ) -> Self:
        """Pair an encoder and a decoder from two directories or Hub ids.

        Args:
            encoder_pretrained_model_name_or_path: of a ViT or DeiT, or of a backbone of timm.
            decoder_pretrained_model_name_or_path: of a TrOCR decoder.
            encoder_model: instead of its name.
            decoder_model: instead of its name.
            options: those of `from_pretrained`, for both; with `encoder_` or `decoder_` before the name, for
                that part alone. Any other is a value of the pair's configuration.
        Raises:
            ConfigError: neither a part nor its name, the encoder's directory is of another kind of model, or
                an unknown option.
        """
        loading = {name: options.pop(name) for name in LOADING_OPTIONS if name in options}
        parts: dict[str, dict[str, Any]] = {"encoder": dict(loading), "decoder": dict(loading)}
        for name in [name for name in options if name.startswith(("encoder_", "decoder_"))]:
            part, _, option = name.partition("_")
            if option in LOADING_OPTIONS:
                parts[part][option] = options.pop(name)
        if encoder_model is None:
            encoder_model = _load_encoder(encoder_pretrained_model_name_or_path, parts["encoder"])
        if decoder_model is None:
            source = _given("decoder", decoder_pretrained_model_name_or_path)
            decoder_model = TrOCRForCausalLM.from_pretrained(source, **parts["decoder"])
        config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(
            encoder_model.config, decoder_model.config, **options
        )
        return cls(config, encoder=encoder_model, decoder=decoder_model).eval()

    @property
    def tied(self) -> dict[str, str]:
        """The tied parameters of both parts."""
        parts = {"encoder": cast(ViTModel, self.encoder), "decoder": cast(TrOCRForCausalLM, self.decoder)}
        return {
            f"{part}.{name}": f"{part}.{other}"
            for part, model in parts.items()
            for name, other in model.tied.items()
        }

    def get_encoder(self) -> nn.Module:
        """Return the image encoder."""
        return self.encoder

    def get_decoder(self) -> nn.Module:
        """Return the text decoder."""
        return self.decoder

    def get_input_embeddings(self) -> nn.Module:
        """Return the decoder's token embedding."""
        return self.decoder.embed_tokens

    def get_output_embeddings(self) -> nn.Module:
        """Return the decoder's output projection."""
        return self.decoder.output_projection

    def generate(
        self,
        pixel_values: Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        *,
        inputs: Tensor | None = None,
        **options: Any,
    ) -> Tensor | GenerateOutput:
        """Read images (B, C, height, width), which may also be called `inputs`.

        See `trocr.generation.generate` for options and results.
        """
        if inputs is None:
            return generate(self, pixel_values, generation_config=generation_config, **options)
        return generate(
            self, inputs, generation_config=generation_config, pixel_values=pixel_values, **options
        )
