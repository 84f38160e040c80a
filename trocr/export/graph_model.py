"""A model that reads with exported graphs, by the methods that generation and `Reader` ask for.

Source: original work.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from trocr.cache import DecoderCache
from trocr.config import TrOCRConfig, VisionEncoderDecoderConfig
from trocr.config_read import read_json
from trocr.export.errors import ExportedModelError
from trocr.export.manifest import Manifest
from trocr.generation import GenerateOutput, GenerationConfig, generate
from trocr.outputs import BaseModelOutput, CausalLMOutput

Run = Callable[[Sequence[Tensor]], Sequence[Tensor]]
"""Runs one graph: its inputs in order, lists flattened, to its outputs."""


class GraphCache:
    """Keys and values of a decoder as tensors.

    Attributes:
        past: of every block's self-attention, each (R, H, P, K).
        cross: of every block's cross-attention, each (B, H, S, K); R is a multiple of B.
    """

    def __init__(self, past: list[Tensor], cross: list[Tensor]) -> None:
        self.past = past
        self.cross = cross

    @property
    def length(self) -> int:
        """Tokens held: the position of the next one."""
        return self.past[0].shape[2]

    def get_seq_length(self) -> int:
        """Second name of `length`."""
        return self.length

    def truncate(self, length: int) -> None:
        """Forget all tokens but the first `length`: those that speculation guessed wrong.

        Raises:
            ExportedModelError: there are not as many.
        """
        if not 0 <= length <= self.length:
            raise ExportedModelError(
                f"the cache holds {self.length} tokens and cannot be cut to {length}; expected 0 to "
                f"{self.length}"
            )
        self.past = [part[:, :, :length] for part in self.past]

    def select(self, rows: Tensor) -> None:
        """Keep the given decoder rows (R',), in this order; an index may occur more than once."""
        self.past = [part.index_select(0, rows) for part in self.past]

    def keep_images(self, rows: Tensor) -> None:
        """Keep the given images, in this order: the cross-attention part alone."""
        self.cross = [part.index_select(0, rows) for part in self.cross]


class GraphDecoder:
    """A text decoder made of two graphs; see `trocr.generation.session.Decoder`.

    Args:
        config: of the decoder.
        layers: (H, K) of every block's self-attention.
        cross: memory (B, S, D_mem) to keys and values.
        step: see `trocr.export.graphs.StepGraph`.
        dtype: of keys and values.
    """

    def __init__(
        self,
        config: TrOCRConfig,
        layers: Sequence[Sequence[int]],
        *,
        cross: Run,
        step: Run,
        dtype: torch.dtype,
    ) -> None:
        self.config = config
        self.layers = layers
        self.dtype = dtype
        self._cross = cross
        self._step = step

    def __call__(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        past_key_values: GraphCache | DecoderCache | None = None,
        use_cache: bool | None = None,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        logits_to_keep: int = 0,
    ) -> CausalLMOutput:
        """Decode and score the vocabulary; arguments as in `trocr.decoder.TextDecoderLM.forward`.

        Raises:
            ExportedModelError: attentions or hidden states are wanted, the cache is another model's, there is
                no image, or sizes do not fit.
            IndexError: a token id outside the vocabulary.
        """
        if output_attentions or output_hidden_states:
            raise ExportedModelError(
                "an exported model gives no attentions and no hidden states; read with the model itself for "
                "those"
            )
        use_cache = self.config.use_cache if use_cache is None else use_cache
        cache = self._begin(past_key_values, encoder_hidden_states, input_ids)
        rows, length = input_ids.shape
        self._check(input_ids, cache, attention_mask)
        images, held = cache.cross[0].shape[0], cache.length
        keep = input_ids.new_ones(rows, held + length) if attention_mask is None else attention_mask
        given = (input_ids, keep[:, held:], keep[:, :held])
        outputs = self._step(
            [
                *(_by_image(part.to(torch.long), images) for part in given),
                *(_by_image(part, images) for part in cache.past),
                *cache.cross,
            ]
        )
        logits = outputs[0].flatten(0, 1)[:, -logits_to_keep:]  # (R, T', V)
        cache.past = [part.flatten(0, 1) for part in outputs[1:]]
        return CausalLMOutput(logits=logits, past_key_values=cast(DecoderCache, cache) if use_cache else None)

    def _begin(
        self, cache: GraphCache | DecoderCache | None, memory: Tensor | None, ids: Tensor
    ) -> GraphCache:
        if isinstance(cache, GraphCache):
            return cache
        if cache is not None:
            raise ExportedModelError(
                f"past_key_values is a {type(cache).__name__}, expected the cache that this model gave"
            )
        if memory is None:
            raise ExportedModelError(
                "encoder_hidden_states is missing: an exported decoder reads images only; pass "
                "model.memory(model.encode(pixel_values))"
            )
        past = _empty(self.layers, len(ids), self.dtype)
        return GraphCache(past, list(self._cross([memory])))

    def _check(self, ids: Tensor, cache: GraphCache, mask: Tensor | None) -> None:
        rows, images = ids.shape[0], cache.cross[0].shape[0]
        if rows % images or rows != cache.past[0].shape[0]:
            raise ExportedModelError(
                f"{rows} rows of tokens for {images} images and {cache.past[0].shape[0]} rows of earlier "
                "tokens: every image needs the same number of rows, and every row its own earlier tokens"
            )
        total, room = cache.length + ids.shape[1], self.config.max_position_embeddings
        if total > room:
            raise ExportedModelError(
                f"{total} tokens are more than the {room} positions of this decoder "
                "(max_position_embeddings); shorten the text or the generation limit"
            )
        if mask is not None and mask.shape != (rows, total):
            raise ExportedModelError(
                f"attention_mask has shape {tuple(mask.shape)}, expected ({rows}, {total})"
            )
        if int(ids.min()) < 0 or int(ids.max()) >= self.config.vocab_size:
            raise IndexError(
                f"token ids from {int(ids.min())} to {int(ids.max())} were given, the vocabulary has ids 0 "
                f"to {self.config.vocab_size - 1}; does the tokenizer belong to this model?"
            )


def _by_image(rows: Tensor, images: int) -> Tensor:
    """(R, ...) as (B, n, ...)."""
    return rows.reshape(images, len(rows) // images, *rows.shape[1:])


def _empty(layers: Sequence[Sequence[int]], rows: int, dtype: torch.dtype) -> list[Tensor]:
    return [torch.empty(rows, heads, 0, width, dtype=dtype) for heads, width in layers for _ in range(2)]


class GraphModel:
    """A model that reads with exported graphs.

    Args:
        manifest: of the folder.
        config: of the model.
        generation_config: its settings of generation.
        runs: name -> what runs that graph: "encoder", "cross", "step", and "memory" where there is one.

    Attributes:
        decoder: see `GraphDecoder`.
        device: the CPU.
        dtype: of pixels, states and scores.
    """

    device = torch.device("cpu")

    def __init__(
        self,
        manifest: Manifest,
        config: VisionEncoderDecoderConfig,
        generation_config: GenerationConfig,
        runs: Mapping[str, Run],
    ) -> None:
        self.manifest = manifest
        self.config = config
        self.generation_config = generation_config
        self.dtype: torch.dtype = getattr(torch, manifest.dtype)
        self._runs = runs
        self.decoder = GraphDecoder(
            config.decoder, manifest.layers, cross=runs["cross"], step=runs["step"], dtype=self.dtype
        )

    @property
    def patch_hw(self) -> tuple[int, int]:
        """(height, width) in pixels between places of the image."""
        return self.manifest.patch_hw

    def encode(
        self,
        pixel_values: Tensor,
        *,
        interpolate_pos_encoding: bool = False,
        crop_pos_encoding: bool = False,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
    ) -> BaseModelOutput:
        """Encode images (B, C, height, width).

        Args:
            pixel_values: of the size that the model is made for.
            interpolate_pos_encoding: must be false.
            crop_pos_encoding: accept narrower images; see `ImageEncoder.forward`.
            output_attentions, output_hidden_states: must be false.
        Raises:
            ExportedModelError: an option that must be false is not, or images of another size.
        """
        wanted = {
            "interpolate_pos_encoding": interpolate_pos_encoding,
            "output_attentions": output_attentions,
            "output_hidden_states": output_hidden_states,
        }
        for name, value in wanted.items():
            if value:
                raise ExportedModelError(
                    f"an exported model has no {name}; read with the model itself for it"
                )
        pixel_values = self._sized(pixel_values, is_cropped=crop_pos_encoding)
        states = self._runs["encoder"]([pixel_values.to("cpu", self.dtype)])[0]
        return BaseModelOutput(last_hidden_state=states)

    def _sized(self, pixels: Tensor, *, is_cropped: bool) -> Tensor:
        """Check images; where the graph has one width only, give narrower ones flat columns on the right."""
        channels, height, width = self.manifest.image
        narrow = pixels.dim() == 4 and 0 < pixels.shape[3] < width
        if is_cropped and narrow and not self.manifest.any_width:
            pixels = torch.cat((pixels, pixels[..., -1:].expand(-1, -1, -1, width - pixels.shape[3])), dim=3)
        if is_cropped and narrow and self.manifest.any_width:
            width = pixels.shape[3] // self.patch_hw[1] * self.patch_hw[1]
            pixels = pixels[..., :width]  # whole patches
        if tuple(pixels.shape[1:]) != (channels, height, width) or not len(pixels) or not width:
            wanted = ", ".join(map(str, self.manifest.image))
            raise ExportedModelError(
                f"pixel_values has shape {tuple(pixels.shape)}, expected (images, {wanted}); let the "
                "processor resize, or pass crop_pos_encoding=True for lines without their padding"
            )
        return pixels

    def memory(self, encoded: BaseModelOutput) -> Tensor:
        """Give the states (B, S, D_mem) that cross-attention reads for what the encoder gave."""
        if "memory" not in self._runs:
            return encoded.last_hidden_state
        return self._runs["memory"]([encoded.last_hidden_state])[0]

    def generate(
        self,
        pixel_values: Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        *,
        inputs: Tensor | None = None,
        **options: Any,
    ) -> Tensor | GenerateOutput:
        """Read images (B, C, height, width); see `trocr.models.VisionEncoderDecoderModel.generate`."""
        if inputs is None:
            return generate(self, pixel_values, generation_config=generation_config, **options)
        return generate(
            self, inputs, generation_config=generation_config, pixel_values=pixel_values, **options
        )


def read_configs(folder: Path) -> tuple[VisionEncoderDecoderConfig, GenerationConfig]:
    """Read both configurations of an exported model.

    Raises:
        ConfigError, GenerationError: a file is missing or wrong.
    """
    config = VisionEncoderDecoderConfig.from_pretrained(folder)
    file = folder / "generation_config.json"
    return config, GenerationConfig.from_model(config, read_json(file), origin=str(file))
