"""The text decoder for reading: a step of a few products for each block, with the cache of `trocr.cache`.

Source: the same computation as `trocr.decoder.TextDecoderLM`, whose docstrings give its sources.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from trocr.cache import DecoderCache, LayerCache
from trocr.config import TrOCRConfig
from trocr.config_shapes import DecoderBlockShape
from trocr.decoder import kept_tokens
from trocr.fast.attention import attend, join_heads
from trocr.fast.cross import CrossAttention, centred
from trocr.fast.layers import Kernels, Norm
from trocr.fast.weights import OptimizeError, under
from trocr.nn.embeddings import check_room
from trocr.outputs import CausalLMOutput

_LINEAR = ("qkv", "out", "fc1", "fc2")
_NORMS = ("attn_norm", "cross_norm", "mlp_norm")
_EPS = 1e-5  # the decoder's norms have PyTorch's


class DecoderLayers:
    """One post-norm block.

    Args:
        tensors: of the block, by name.
        shape: its heads.
        head_dim: K.
        activation: of the feed-forward part.
        kernels: see `Kernels`.
    """

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        *,
        shape: DecoderBlockShape,
        head_dim: int,
        activation: str,
        kernels: Kernels,
    ) -> None:
        self.num_heads = shape.self_attn_heads
        self.head_dim = head_dim
        self.dtype = kernels.few_queries(tensors["qkv.weight"].device)
        self.linear = {
            name: kernels.linear(under(name, tensors), activation if name == "fc1" else None)
            for name in _LINEAR
        }
        self.norms = {name: Norm(under(name, tensors), _EPS) for name in _NORMS}
        self.cross = CrossAttention(
            tensors, num_heads=shape.cross_attn_heads, head_dim=head_dim, kernels=kernels
        )

    def __call__(
        self,
        x: Tensor,
        cache: LayerCache,
        *,
        mask: Tensor | None = None,
        cross_mask: Tensor | None = None,
    ) -> Tensor:
        """Decode one block further.

        Args:
            x: (R, T, D) float32; may be overwritten.
            cache: of this block, its cross-attention part filled.
            mask: added to the scores of self-attention, (R or 1, 1, T, T'), or None.
            cross_mask: added to the scores of cross-attention, (B', 1, 1, S), or None.
        Returns:
            (R, T, D) float32.
        """
        linear, norms = self.linear, self.norms
        rows, length, _ = x.shape
        qkv = linear["qkv"](x).to(self.dtype).view(rows, length, 3, self.num_heads, self.head_dim)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (R, H, T, K)
        k, v = cache.append(k, v)
        x = norms["attn_norm"](linear["out"].add(join_heads(attend(q, k, v, mask)), x))
        assert cache.cross is not None
        x = norms["cross_norm"](self.cross.add(x, cache.cross, cross_mask))
        return norms["mlp_norm"](linear["fc2"].add(linear["fc1"](x), x))

    def stored(self) -> dict[str, Tensor]:
        """Give the tensors that the block can be made of again."""
        parts: dict[str, Any] = {**self.linear, **self.cross.linear, **self.norms}
        return {f"{part}.{name}": t for part, layer in parts.items() for name, t in layer.stored().items()}


class FastDecoder:
    """A text decoder built from tensors, called as generation calls `TextDecoderLM`.

    Args:
        config: of the decoder.
        tensors: see `trocr.fast.weights.collect_decoder`.
        kernels: see `Kernels`.
    """

    def __init__(self, config: TrOCRConfig, tensors: Mapping[str, Tensor], kernels: Kernels) -> None:
        self.config = config
        self.tokens = tensors["tokens"].clone()
        self.positions = tensors["positions"].to(torch.float32, copy=True)
        self.scale = math.sqrt(config.d_model) if config.scale_embedding else 1.0
        embed_norm = under("embed_norm", tensors)
        self.embed_norm = Norm(embed_norm, _EPS) if embed_norm else None
        self.blocks = [
            DecoderLayers(
                under(f"blocks.{number}", tensors),
                shape=shape,
                head_dim=config.head_dim,
                activation=config.activation_function,
                kernels=kernels,
            )
            for number, shape in enumerate(config.shapes)
        ]
        self.head = kernels.linear(under("head", tensors))

    @torch.no_grad()
    def __call__(
        self,
        *,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        past_key_values: DecoderCache | None = None,
        use_cache: bool | None = True,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        logits_to_keep: int = 0,
        **others: Any,
    ) -> CausalLMOutput:
        """Decode and score; arguments as in `TextDecoderLM.forward`.

        Raises:
            OptimizeError: attentions, hidden states or something else is asked for that reading does not
                need, or there is no image to read.
            IndexError: a token id outside the vocabulary.
            ValueError: more tokens than positions.
        """
        if output_attentions or output_hidden_states:
            raise OptimizeError("an optimized decoder keeps no attentions or states; ask the model itself")
        others.pop("return_dict", None)
        unknown = sorted(name for name, value in others.items() if value is not None)
        if unknown:
            raise OptimizeError(
                f"{', '.join(unknown)}: an optimized decoder does nothing but read; ask the model itself"
            )
        cache = DecoderCache(len(self.blocks)) if past_key_values is None else past_key_values
        start, length = cache.length, input_ids.shape[1]
        self.remember(cache, encoder_hidden_states)
        x = self.embed(input_ids, start)
        x = self.run(x, cache, mask=causal_mask(start, length, attention_mask, device=x.device))
        logits = self.head(x[:, -logits_to_keep:] if logits_to_keep else x)
        return CausalLMOutput(logits=logits, past_key_values=None if use_cache is False else cache)

    def remember(self, cache: DecoderCache, memory: Tensor | None) -> None:
        """Let a cache that has none yet have what cross-attention reads of encoder states (B', S, D_mem)."""
        missing = [pair for pair in zip(self.blocks, cache.layers, strict=True) if pair[1].cross is None]
        if not missing:
            return
        if memory is None:
            raise OptimizeError("encoder_hidden_states is missing: the first step needs the image")
        shared = centred(memory) if self.reads_states(len(memory)) else None
        for block, layer in missing:
            layer.cross = block.cross.keys_values(memory) if shared is None else shared

    def reads_states(self, num_images: int) -> bool:
        """Whether all blocks read the states of so many images, instead of keys and values of their own."""
        return all(block.cross.can_read_states(num_images) for block in self.blocks)

    def embed(self, ids: Tensor, start: int | Tensor) -> Tensor:
        """Embed ids (R, T) that follow `start` tokens, one number or (R,), as (R, T, D) float32.

        Raises:
            IndexError: an id outside the vocabulary.
            ValueError: more tokens than positions.
        """
        most = int(start.max()) if isinstance(start, Tensor) else start
        check_room(most + ids.shape[1], self.config.max_position_embeddings)
        first = start[:, None] if isinstance(start, Tensor) else start
        if self.config.use_learned_position_embeddings:
            steps = torch.arange(ids.shape[1], device=ids.device) + first
        else:
            assert self.config.pad_token_id is not None
            real = ids.ne(self.config.pad_token_id).long()
            steps = (real.cumsum(dim=1) + first) * real + self.config.pad_token_id
        try:
            x = F.embedding(ids, self.tokens).float()
        except IndexError as error:
            raise IndexError(
                f"token ids from {int(ids.min())} to {int(ids.max())} were given, the vocabulary has ids 0 "
                f"to {len(self.tokens) - 1}; does the tokenizer belong to this model?"
            ) from error
        if self.scale != 1.0:
            x = x * self.scale
        x = x + F.embedding(steps, self.positions)
        return x if self.embed_norm is None else self.embed_norm(x)

    def run(
        self, x: Tensor, cache: DecoderCache, *, mask: Tensor | None, cross_mask: Tensor | None = None
    ) -> Tensor:
        """Take (R, T, D) through the blocks; see `DecoderLayers`."""
        for block, layer in zip(self.blocks, cache.layers, strict=True):
            x = block(x, layer, mask=mask, cross_mask=cross_mask)
        return x

    def stored(self) -> dict[str, Tensor]:
        """Give the tensors that the decoder can be made of again."""
        found = {"tokens": self.tokens, "positions": self.positions}
        if self.embed_norm is not None:
            found.update({f"embed_norm.{name}": t for name, t in self.embed_norm.stored().items()})
        for number, block in enumerate(self.blocks):
            found.update({f"blocks.{number}.{name}": t for name, t in block.stored().items()})
        found.update({f"head.{name}": tensor for name, tensor in self.head.stored().items()})
        return found


def causal_mask(
    start: int, length: int, attention_mask: Tensor | None, *, device: torch.device
) -> Tensor | None:
    """Mask (R or 1, 1, T, start + T) of tokens after `start` cached ones, to add to scores; None for no need.

    Raises:
        ValueError: `attention_mask` (R, T') does not cover cached and new tokens.
    """
    if attention_mask is None and length == 1:
        return None
    keep = kept_tokens(start, length, attention_mask, device=device)
    lowest = torch.finfo(torch.float32).min / 2  # also finite once it is rounded to bf16
    return torch.zeros(keep.shape, device=keep.device).masked_fill(~keep, lowest)
