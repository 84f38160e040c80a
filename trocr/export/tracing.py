"""Graphs with example inputs and names: what every exporter needs of a model.

Source: `torch.export` of PyTorch 2.14 for dynamic sizes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from trocr.encoder import ImageEncoder
from trocr.export.errors import ExportError, first_line
from trocr.export.graphs import CrossGraph, EncoderGraph, MemoryGraph, StepGraph, blocks_of
from trocr.models import VisionEncoderDecoderModel
from trocr.nn.embeddings import ImageEmbeddings

MOST_ROWS = 2**16
"""Most images, states or rows per image that a graph is traced for; it is far more than memory holds."""


@dataclass(frozen=True, kw_only=True)
class Graph:
    """A part of a model, ready to be traced.

    Attributes:
        name: "encoder", "memory", "cross" or "step".
        module: gives a tensor, or a tuple of them.
        inputs: an example: tensors and lists of them.
        sizes: what differs from call to call, nested as `inputs`: one {axis: size} for each tensor.
        input_names: one for each tensor, lists flattened.
        output_names: likewise.
    """

    name: str
    module: nn.Module
    inputs: tuple[Any, ...]
    sizes: tuple[Any, ...]
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]

    def traced(self) -> ExportedProgram:
        """Trace the module.

        Raises:
            ExportError: it does something that depends on data, or that is not known to the tracer; or
                PyTorch is too old.
        """
        if "prefer_deferred_runtime_asserts_over_guards" not in signature(torch.export.export).parameters:
            raise ExportError(
                f"torch {torch.__version__} is too old to trace a model for all sizes; install torch 2.14, "
                "which this was made with, or newer"
            )
        try:
            return torch.export.export(
                self.module,
                self.inputs,
                dynamic_shapes=self.sizes,
                strict=False,
                prefer_deferred_runtime_asserts_over_guards=True,
            )
        except Exception as error:  # whatever a module of the user's, or of timm, or the tracer raises
            raise ExportError(
                f"the {self.name} of this model cannot be traced by torch {torch.__version__} "
                f"({type(error).__name__}: {first_line(error)}); a part of it cannot be expressed as a "
                "graph: replace that part, or read with the model itself"
            ) from error


def takes_any_width(model: VisionEncoderDecoderModel) -> bool:
    """Whether the encoder can cut its positions for narrower images; timm's, and unusual ones, cannot."""
    encoder = model.encoder
    return type(encoder).forward is ImageEncoder.forward and type(encoder.embeddings) is ImageEmbeddings


def image_shape(model: VisionEncoderDecoderModel) -> tuple[int, int, int]:
    """(channels, height, width) of the images that the model is made for."""
    channels = model.config.encoder.num_channels
    return channels, *model.encoder.embeddings.image_hw


def graphs_of(model: VisionEncoderDecoderModel) -> list[Graph]:
    """Take a model apart; it must be in evaluation mode and without gradients."""
    images, group, length = Dim("images", max=MOST_ROWS), Dim("rows", max=MOST_ROWS), 2
    states_axis = Dim("states", max=MOST_ROWS)
    pixels = torch.zeros(3, *image_shape(model), dtype=model.dtype)
    any_width = takes_any_width(model)
    wide: dict[int, Any] = {0: images}
    embeddings = model.encoder.embeddings
    if any_width and embeddings.grid[1] > 1:
        wide[3] = embeddings.patch_hw[1] * Dim("columns", max=embeddings.grid[1])
    encoder = EncoderGraph(model, any_width=any_width)
    states = encoder(pixels)
    graphs = [
        Graph(
            name="encoder",
            module=encoder,
            inputs=(pixels,),
            sizes=(wide,),
            input_names=("pixel_values",),
            output_names=("states",),
        )
    ]
    sizes = {0: images, 1: states_axis}
    if not isinstance(model.enc_to_dec_proj, nn.Identity):
        graphs.append(
            Graph(
                name="memory",
                module=MemoryGraph(model),
                inputs=(states.contiguous(),),
                sizes=(sizes,),
                input_names=("states",),
                output_names=("memory",),
            )
        )
    memory = model.enc_to_dec_proj(states).contiguous()
    cross = CrossGraph(model)
    names = _names("cross", len(model.decoder.blocks))
    graphs.append(
        Graph(
            name="cross",
            module=cross,
            inputs=(memory,),
            sizes=(sizes,),
            input_names=("memory",),
            output_names=names,
        )
    )
    return [*graphs, _step(model, cross(memory), (images, group, states_axis), length)]


def _step(
    model: VisionEncoderDecoderModel, cross: Sequence[Tensor], dims: tuple[Any, Any, Any], length: int
) -> Graph:
    images, group, states = dims
    held, new = Dim("held", min=0, max=MOST_ROWS), Dim("new", max=MOST_ROWS)
    rows = (len(cross[0]), 2)
    past = empty_past(layer_shapes(model), rows, length=3, dtype=model.dtype)
    tokens = torch.zeros(*rows, length, dtype=torch.long)
    count = len(model.decoder.blocks)
    names = (*_names("past", count), *_names("cross", count))
    return Graph(
        name="step",
        module=StepGraph(model),
        inputs=(tokens, torch.ones_like(tokens), torch.ones(*rows, 3, dtype=torch.long), past, list(cross)),
        sizes=(
            {0: images, 1: group, 2: new},
            {0: images, 1: group, 2: new},
            {0: images, 1: group, 2: held},
            [{0: images, 1: group, 3: held}] * len(past),
            [{0: images, 2: states}] * len(cross),
        ),
        input_names=("input_ids", "keep", "past_keep", *names),
        output_names=("logits", *_names("present", count)),
    )


def _names(prefix: str, count: int) -> tuple[str, ...]:
    return tuple(f"{prefix}_{part}_{index}" for index in range(count) for part in ("key", "value"))


def layer_shapes(model: VisionEncoderDecoderModel) -> list[tuple[int, int]]:
    """(H, K) of every block's self-attention."""
    parts = [block.self_attn for block in blocks_of(model.decoder)]
    return [(part.num_heads, part.head_dim) for part in parts]


def empty_past(
    layers: Sequence[Sequence[int]], rows: tuple[int, ...], *, length: int = 0, dtype: torch.dtype
) -> list[Tensor]:
    """Make keys and values (*rows, H, length, K) of zeros for every block."""
    return [
        torch.zeros(*rows, heads, length, width, dtype=dtype) for heads, width in layers for _ in range(2)
    ]
