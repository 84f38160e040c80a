"""A model as graphs of plain tensors: no cache object, no option, nothing that depends on data.

Four graphs read a line: the encoder, the projection to the decoder's width where there is one, the
cross-attention's keys and values of all blocks, and the decoder's step. Letters as in `trocr.model`; n rows
(beams) belong to each image, P tokens are held, T are new. The rows of an image have an axis of their own
here, so that no size of a graph is a quotient of others.

Source: original work.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trocr.cache import LayerCache
from trocr.decoder import DecoderBlock, TextDecoderLM
from trocr.export.errors import ExportError
from trocr.models import VisionEncoderDecoderModel
from trocr.nn.attention import Attention, Core
from trocr.nn.embeddings import ImageEmbeddings, LearnedPositions, SinusoidalPositions


class EncoderGraph(nn.Module):
    """Images (B, C, height, width) to the encoder's states (B, S, D_enc).

    Args:
        model: whose encoder it is.
        any_width: take narrower images too, with the left part of the positions.
    """

    def __init__(self, model: VisionEncoderDecoderModel, *, any_width: bool) -> None:
        super().__init__()
        self.encoder = model.encoder
        self.any_width = any_width

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Encode."""
        encoder = self.encoder
        if not self.any_width:
            return encoder(pixel_values).last_hidden_state
        x = _embed(encoder.embeddings, pixel_values)
        for block in encoder.blocks:
            x = block(x)[0]
        return encoder.norm(x)


def _embed(embeddings: ImageEmbeddings, pixel_values: Tensor) -> Tensor:
    """What `embeddings(pixel_values, crop_pos_encoding=True)` gives.

    Differs: positions are looked up; to cut them would hold for images that are narrower, or for those that
    are not, whichever is the example.
    """
    patches = embeddings.patch_embeddings(pixel_values)  # (B, D, rows, columns)
    rows, columns = torch.arange(patches.shape[2]), torch.arange(patches.shape[3])
    places = (rows[:, None] * embeddings.grid[1] + columns[None, :]).flatten()
    table = embeddings.position_embeddings[0]  # (num_prefix + h*w, D)
    positions = torch.cat(
        (table[: embeddings.num_prefix], F.embedding(places + embeddings.num_prefix, table))
    )
    tokens = [embeddings.cls_token, embeddings.distillation_token]
    prefix = [token.expand(patches.shape[0], -1, -1) for token in tokens if token is not None]
    x = torch.cat((*prefix, patches.flatten(2).transpose(1, 2)), dim=1)  # (B, S, D)
    return embeddings.dropout(x + embeddings.positions(positions[None]))


class MemoryGraph(nn.Module):
    """The encoder's states (B, S, D_enc) to what cross-attention reads, (B, S, D_mem)."""

    def __init__(self, model: VisionEncoderDecoderModel) -> None:
        super().__init__()
        self.projection = model.enc_to_dec_proj

    def forward(self, states: Tensor) -> Tensor:
        """Project."""
        return self.projection(states)


class CrossGraph(nn.Module):
    """What cross-attention reads (B, S, D_mem) to its keys and values in every block, each (B, H, S, K)."""

    def __init__(self, model: VisionEncoderDecoderModel) -> None:
        super().__init__()
        parts = [cast(nn.Module, block.cross_attn) for block in blocks_of(model.decoder)]
        self.attentions = nn.ModuleList(parts)

    def forward(self, memory: Tensor) -> tuple[Tensor, ...]:
        """Project; keys and values of a block follow one another."""
        pairs = [cast(Attention, attention).keys_values(memory) for attention in self.attentions]
        return tuple(part.contiguous() for pair in pairs for part in pair)


class StepGraph(nn.Module):
    """New tokens (B, n, T) to the scores of what follows each, and to longer keys and values."""

    def __init__(self, model: VisionEncoderDecoderModel) -> None:
        super().__init__()
        self.decoder = model.decoder

    def forward(
        self,
        input_ids: Tensor,
        keep: Tensor,
        past_keep: Tensor,
        past: Sequence[Tensor],
        cross: Sequence[Tensor],
    ) -> tuple[Tensor, ...]:
        """Decode.

        Args:
            input_ids: (B, n, T).
            keep: (B, n, T), 1 = attend to that new token.
            past_keep: (B, n, P), 1 = attend to that earlier token.
            past: keys and values of every block, each (B, n, H, P, K).
            cross: those of `CrossGraph`, each (B, H, S, K).
        Returns:
            Scores (B, n, T, V), then keys and values of every block, each (B, n, H, P + T, K).
        """
        decoder = self.decoder
        images, group, length = input_ids.shape
        start = past_keep.shape[2]
        _same_sizes(input_ids, keep, past_keep, past, cross)
        ids = input_ids.flatten(0, 1)
        x = decoder.embed_tokens(ids)
        x = decoder.embed_norm(x + _positions(decoder.embed_positions, ids, start).to(x.dtype))
        mask = _self_mask(torch.cat((past_keep, keep), dim=2), length, x.dtype)
        grown: list[Tensor] = []
        for index, block in enumerate(blocks_of(decoder)):
            layer = LayerCache()
            layer.append(past[2 * index].flatten(0, 1), past[2 * index + 1].flatten(0, 1))
            layer.cross = cross[2 * index], cross[2 * index + 1]
            x = _decode(block, x, layer, mask, (images, group))
            for held in (layer.keys, layer.values):
                assert held is not None
                grown.append(held.reshape(images, group, *held.shape[1:]))
        scores = decoder.output_projection(x)  # (B*n, T, V)
        scores = scores.reshape(images, group, *scores.shape[1:])
        return (scores, *grown)


def _decode(block: DecoderBlock, x: Tensor, layer: LayerCache, mask: Tensor, rows: tuple[int, int]) -> Tensor:
    """One block for (B*n, T, D); all rows of an image are queries to it."""
    images, group = rows
    assert block.cross_attn is not None
    x = block.attn_norm(x + block.self_attn(x, cache=layer, mask=mask)[0])
    queries = x.reshape(images, group * x.shape[1], x.shape[2])  # (B, n*T, D)
    branch = block.cross_attn(queries, memory=queries, cache=layer)[0]
    x = block.cross_attn_norm(x + branch.reshape(x.shape))
    return block.mlp_norm(x + block.mlp(x))


def _same_sizes(
    ids: Tensor, keep: Tensor, past_keep: Tensor, past: Sequence[Tensor], cross: Sequence[Tensor]
) -> None:
    """Tell the tracer which sizes are one, so that none of its conclusions holds for the example alone."""
    for axis in range(3):
        torch._check(keep.shape[axis] == ids.shape[axis])
    for part in (past_keep, *past):
        torch._check(part.shape[0] == ids.shape[0])
        torch._check(part.shape[1] == ids.shape[1])
    for part in past:
        torch._check(part.shape[3] == past_keep.shape[2])
    for part in cross:
        torch._check(part.shape[0] == ids.shape[0])
        torch._check(part.shape[2] == cross[0].shape[2])


def _positions(table: nn.Module, ids: Tensor, start: int) -> Tensor:
    """What `table(ids, start=start)` gives, without its check, which would bound every size of the graph."""
    if isinstance(table, LearnedPositions):
        places = torch.arange(ids.shape[1], device=ids.device)
        return F.embedding(places + (start + table.OFFSET), table.weight)  # (T, D)
    assert isinstance(table, SinusoidalPositions)
    real = ids.ne(table.padding_idx).long()
    return F.embedding((real.cumsum(dim=1) + start) * real + table.padding_idx, table.table)  # (B*n, T, D)


def _self_mask(keep: Tensor, length: int, dtype: torch.dtype) -> Tensor:
    """Numbers (B*n, 1, T, P + T) to add to scores, of `keep` (B, n, P + T)."""
    total = keep.shape[2]
    places = torch.arange(total, device=keep.device)
    causal = places[None, :] <= places[total - length :, None]  # (T, P + T)
    seen = causal & keep.flatten(0, 1).bool()[:, None, None, :]
    return torch.zeros(seen.shape, dtype=dtype, device=keep.device).masked_fill(~seen, torch.finfo(dtype).min)


def blocks_of(decoder: TextDecoderLM) -> Iterator[DecoderBlock]:
    """Give the decoder's blocks, in order."""
    return (cast(DecoderBlock, block) for block in decoder.blocks)


def check_expressible(model: object) -> VisionEncoderDecoderModel:
    """Give the model back where the graphs say what it does.

    Raises:
        ExportError: it is another kind of model, not on the CPU, or has parts that the graphs do not know.
    """
    if not isinstance(model, VisionEncoderDecoderModel):
        raise ExportError(
            f"a {type(model).__name__} cannot be exported, expected a VisionEncoderDecoderModel; export the "
            "model itself, before any transform for speed"
        )
    if model.device.type != "cpu":
        raise ExportError(f'the model is on {model.device}, expected cpu: use model.to("cpu")')
    problems = list(_unknown_parts(model.decoder))
    if problems:
        raise ExportError(
            f"this model has parts that its graphs could not express: {'; '.join(problems)}. Export takes "
            "decoders of trocr's own blocks, whose sizes may differ; put such blocks back"
        )
    return model


def _unknown_parts(decoder: TextDecoderLM) -> Iterator[str]:
    if type(decoder).forward is not TextDecoderLM.forward:
        yield f"decoder is a {type(decoder).__name__} with a forward of its own"
    if type(decoder.embed_positions) not in (LearnedPositions, SinusoidalPositions):
        yield f"decoder.embed_positions is a {type(decoder.embed_positions).__name__}"
    if len(decoder.blocks) == 0:
        yield "decoder.blocks is empty"
    for index, block in enumerate(decoder.blocks):
        name = f"decoder.blocks.{index}"
        if type(block) is not DecoderBlock:
            yield f"{name} is a {type(block).__name__}"
            continue
        for part in ("self_attn", "cross_attn"):
            if type(getattr(block, part)) is not Attention:
                yield f"{name}.{part} is a {type(getattr(block, part)).__name__}"


@contextmanager
def core_of(model: nn.Module, core: Core) -> Iterator[None]:
    """Use one attention core inside, in evaluation mode and without gradients; then all is as before."""
    attentions = [module for module in model.modules() if isinstance(module, Attention)]
    cores = [attention.core for attention in attentions]
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        for attention in attentions:
            attention.core = core
        with torch.inference_mode(False), torch.no_grad():
            yield
    finally:
        for attention, former in zip(attentions, cores, strict=True):
            attention.core = former
        for module, mode in modes:
            module.training = mode
