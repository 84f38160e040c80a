"""A model made for reading: `optimize` builds it from a trained one, which stays as it is.

Source: original work.
"""

import copy
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from typing import Any

import torch
from torch import Tensor, nn

from trocr.config import VisionEncoderDecoderConfig, ViTConfig
from trocr.fast.allocation import keep_freed_memory
from trocr.fast.decoder import FastDecoder
from trocr.fast.encoder import FastEncoder
from trocr.fast.layers import Kernels
from trocr.fast.linear import FastLinear
from trocr.fast.weights import OptimizeError, under
from trocr.generation import GenerateOutput, GenerationConfig, generate
from trocr.outputs import BaseModelOutput


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a model was optimized.

    Attributes:
        dtype: "float32" or "bfloat16".
        quantize: None or "int8".
        compile: whether PyTorch's compiler is used for the encoder.
    """

    dtype: str = "float32"
    quantize: str | None = None
    compile: bool = False


class FastModel:
    """A model that reads, and does nothing else: no gradients, no attentions, no parameters.

    It has what generation and `Reader` ask of a model. Made by `trocr.optimize`, or by
    `trocr.fast.load_optimized`.

    Args:
        config: of the model.
        generation_config: its own, a copy.
        tensors: see `trocr.fast.weights.collect`.
        kernels: see `Kernels`.
        settings: what was asked for.
        encoder: an encoder that is used as it is, instead of one made from tensors.

    Attributes:
        device: where it computes.
        dtype: precision of its layers; with int8, that of the rest.
    """

    def __init__(
        self,
        config: VisionEncoderDecoderConfig,
        generation_config: GenerationConfig,
        tensors: Mapping[str, Tensor],
        kernels: Kernels,
        settings: Settings,
        *,
        encoder: nn.Module | None = None,
    ) -> None:
        self.config, self.settings = config, settings
        self.generation_config = copy.deepcopy(generation_config)
        self.dtype = kernels.dtype
        self.device = tensors["decoder.tokens"].device
        if self.device.type == "cpu":
            keep_freed_memory()
        self.encoder: Any = encoder
        if encoder is None:
            assert isinstance(config.encoder, ViTConfig)
            floats = dataclasses.replace(
                kernels, packed=False, by_head=False
            )  # what the compiler can see into
            self.encoder = FastEncoder(
                config.encoder, under("encoder", tensors), floats if settings.compile else kernels
            )
            if settings.compile:
                self.encoder.compile()
        self.decoder = FastDecoder(config.decoder, under("decoder", tensors), kernels)
        projection = under("projection", tensors)
        self.projection: FastLinear | None = kernels.linear(projection) if projection else None

    @property
    def num_states(self) -> int:
        """Encoder states of an image of full size; 1 where an encoder of timm does not tell."""
        return self.encoder.positions.shape[1] if isinstance(self.encoder, FastEncoder) else 1

    @torch.no_grad()
    def encode(self, pixel_values: Tensor, **options: Any) -> BaseModelOutput:
        """Encode images (B, C, height, width); options as in `FastEncoder`."""
        return self.encoder(pixel_values, **options)

    @torch.no_grad()
    def memory(self, encoded: BaseModelOutput) -> Tensor:
        """Give the states (B, S, D_mem) that cross-attention reads."""
        states = encoded.last_hidden_state
        return states if self.projection is None else self.projection(states).float()

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
        if inputs is not None:
            pixel_values, options = inputs, {**options, "pixel_values": pixel_values}
        with torch.inference_mode():
            found = generate(self, pixel_values, generation_config=generation_config, **options)
        if isinstance(found, Tensor):
            return _ordinary(found)
        return dataclasses.replace(found, **{name: _ordinary(value) for name, value in vars(found).items()})

    def save_pretrained(
        self, directory: str | PathLike[str], *, report: Mapping[str, Any] | None = None
    ) -> None:
        """Write an optimized checkpoint; see `trocr.fast.save_optimized`."""
        from trocr.fast.files import save_optimized  # which builds such models

        save_optimized(self, directory, report=report)

    def stored(self) -> dict[str, Tensor]:
        """Give the tensors that this model can be made of again."""
        if not isinstance(self.encoder, FastEncoder):
            raise OptimizeError("an encoder of timm is used as it is: save the model that it comes from")
        parts: dict[str, Any] = {"encoder": self.encoder, "decoder": self.decoder}
        if self.projection is not None:
            parts["projection"] = self.projection
        return {f"{part}.{name}": t for part, layers in parts.items() for name, t in layers.stored().items()}

    def __getstate__(self) -> Any:
        """Refuse to be copied or pickled: packed weights cannot be.

        Raises:
            OptimizeError: always.
        """
        raise OptimizeError(
            "a FastModel cannot be copied or sent to another process: optimize the model again there, or "
            "share this one, which threads may do"
        )

    def __repr__(self) -> str:
        """Name the settings."""
        shown = ", ".join(f"{name}={value!r}" for name, value in dataclasses.asdict(self.settings).items())
        return f"FastModel({shown})"


def _ordinary(value: Any) -> Any:
    """Give tensors that may be changed in place and used with gradients, which those of inference may not."""
    if isinstance(value, Tensor) and value.is_inference() and not torch.is_inference_mode_enabled():
        return value.clone()
    return tuple(_ordinary(item) for item in value) if isinstance(value, tuple) else value
