"""The text decoder: tokens through post-norm Transformer blocks that also look at the image.

Source: arXiv:2109.10282 sec. 2.2; `transformers` 5.23 (`modeling_trocr.py`) for the order of operations.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from trocr.cache import DecoderCache, LayerCache
from trocr.nn.attention import Attention
from trocr.nn.embeddings import LearnedPositions, SinusoidalPositions, TokenEmbedding
from trocr.nn.mlp import MLP
from trocr.outputs import CausalLMOutput, DecoderOutput


class DecoderBlock(nn.Module):
    """Post-norm block: norm(x + self_attn(x)), norm(x + cross_attn(x)), norm(x + mlp(x)).

    Args:
        self_attn: attention to this and earlier tokens.
        cross_attn: attention to the encoder's states, or None for a decoder without an encoder.
        mlp: feed-forward part.
        width: D, for the norms.
        dropout: probability on each branch before it is added.
    """

    def __init__(
        self,
        *,
        self_attn: Attention,
        cross_attn: Attention | None,
        mlp: MLP,
        width: int,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.self_attn = self_attn
        self.attn_norm = nn.LayerNorm(width)
        self.cross_attn = cross_attn
        self.cross_attn_norm = nn.Identity() if cross_attn is None else nn.LayerNorm(width)
        self.mlp = mlp
        self.mlp_norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Tensor,
        memory: Tensor | None = None,
        mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
        cache: LayerCache | None = None,
        need_weights: bool = False,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Decode one block further.

        Args:
            x: (B, T, D).
            memory: (B', S, D_mem) encoder states, one row for B / B' rows of `x`; or None.
            mask: added to the scores of self-attention, (B, 1, T, T'); None means causal.
            memory_mask: added to the scores of cross-attention, (B', 1, 1, S).
            cache: of this block.
            need_weights: give the probabilities back.
        Returns:
            (B, T, D), self-attention's probabilities and cross-attention's, where asked for.
        """
        is_causal = mask is None and (cache is None or cache.is_empty)
        branch, self_weights = self.self_attn(
            x, cache=cache, mask=mask, is_causal=is_causal, need_weights=need_weights
        )
        x = self.attn_norm(x + self.dropout(branch))
        cross_weights = None
        if memory is None and cache is not None and cache.cross is not None:
            memory = x  # stands for the encoder states, which the cache holds
        if memory is not None and self.cross_attn is not None:
            branch, cross_weights = self.cross_attn(
                x, memory=memory, cache=cache, mask=memory_mask, need_weights=need_weights
            )
            x = self.cross_attn_norm(x + self.dropout(branch))
        x = self.mlp_norm(x + self.dropout(self.mlp(x)))
        return x, self_weights, cross_weights


class TextDecoder(nn.Module):
    """Token and position embeddings and the blocks; there is no norm after the last block.

    Args:
        embed_tokens: ids to vectors.
        embed_positions: learned or sinusoidal.
        embed_norm: norm after the sum of both, or `nn.Identity()`.
        blocks: any number of `DecoderBlock`s, in order.
        dropout: probability after the embeddings.
        layerdrop: probability of skipping a block in training.
        use_cache: whether a cache is made when the caller does not say.

    Attributes:
        gradient_checkpointing: recompute blocks in the backward pass of training instead of keeping their
            activations; no cache is made then.
    """

    def __init__(
        self,
        *,
        embed_tokens: TokenEmbedding,
        embed_positions: LearnedPositions | SinusoidalPositions,
        embed_norm: nn.Module,
        blocks: Sequence[DecoderBlock],
        dropout: float = 0.0,
        layerdrop: float = 0.0,
        use_cache: bool = True,
    ) -> None:
        super().__init__()
        self.embed_tokens = embed_tokens
        self.embed_positions = embed_positions
        self.embed_norm = embed_norm
        self.blocks = nn.ModuleList(blocks)
        self.dropout = nn.Dropout(dropout)
        self.layerdrop = layerdrop
        self.use_cache = use_cache
        self.gradient_checkpointing = False

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        past_key_values: DecoderCache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        return_dict: bool | None = None,
    ) -> DecoderOutput | tuple[Any, ...]:
        """Decode ids (B, T) to states (B, T, D); the arguments are those of `TextDecoderLM.forward`."""
        checkpointing = self.gradient_checkpointing and self.training
        use_cache = (self.use_cache if use_cache is None else use_cache) and not checkpointing
        cache = past_key_values
        if cache is None and use_cache:
            cache = DecoderCache(len(self.blocks))
        start = 0 if cache is None else cache.length
        x = self._embed(input_ids, inputs_embeds, start)
        mask = _self_mask(x, start, attention_mask)
        memory_mask = None if encoder_attention_mask is None else _hide(encoder_attention_mask, x.dtype)
        states = [x]
        self_probs: list[Tensor] = []
        cross_probs: list[Tensor] = []
        for block, layer in zip(self.blocks, self._layers(cache), strict=True):
            if self.training and self.layerdrop > 0 and float(torch.rand([])) < self.layerdrop:
                if output_hidden_states:
                    states.append(x)
                continue
            inputs = (x, encoder_hidden_states, mask, memory_mask, layer, output_attentions)
            if checkpointing:
                x, self_weights, cross_weights = checkpoint(block, *inputs, use_reentrant=False)
            else:
                x, self_weights, cross_weights = block(*inputs)
            if output_hidden_states:
                states.append(x)
            if self_weights is not None:
                self_probs.append(self_weights)
            if cross_weights is not None:
                cross_probs.append(cross_weights)
        output = DecoderOutput(
            last_hidden_state=x,
            past_key_values=cache if use_cache else None,
            hidden_states=tuple(states) if output_hidden_states else None,
            attentions=tuple(self_probs) if output_attentions else None,
            cross_attentions=tuple(cross_probs) if cross_probs else None,
        )
        return output.to_tuple() if return_dict is False else output

    def _embed(self, input_ids: Tensor | None, inputs_embeds: Tensor | None, start: int) -> Tensor:
        if (input_ids is None) == (inputs_embeds is None):
            both = "both" if input_ids is not None else "neither"
            raise ValueError(f"expected either token ids or their embeddings, {both} were given")
        if inputs_embeds is None:
            assert input_ids is not None
            if input_ids.is_floating_point() or input_ids.numel() == 0:
                raise ValueError(
                    f"token ids have shape {tuple(input_ids.shape)} and type {input_ids.dtype}, expected at "
                    "least one whole number (rows, tokens)"
                )
            input_ids = input_ids.view(-1, input_ids.shape[-1])
            inputs_embeds = self.embed_tokens(input_ids)
        elif input_ids is None:  # positions of embeddings that stand for no particular token
            filler = (self.embed_tokens.padding_idx or 0) + 1
            input_ids = torch.full(inputs_embeds.shape[:2], filler, device=inputs_embeds.device)
        x = inputs_embeds + self.embed_positions(input_ids, start=start).to(inputs_embeds.dtype)
        return self.dropout(self.embed_norm(x))

    def _layers(self, cache: DecoderCache | None) -> Sequence[LayerCache | None]:
        if cache is None:
            return [None] * len(self.blocks)
        if len(cache) != len(self.blocks):
            raise ValueError(
                f"the cache is for {len(cache)} blocks, the decoder has {len(self.blocks)}; make a new "
                "DecoderCache after changing the blocks"
            )
        return cache.layers


class TextDecoderLM(TextDecoder):
    """A text decoder with the output projection to the vocabulary.

    Args:
        output_projection: linear layer (D to V) without bias.
        parts: see `TextDecoder`.
    """

    def __init__(self, *, output_projection: nn.Module, **parts: object) -> None:
        super().__init__(**parts)  # type: ignore[arg-type]
        self.output_projection = output_projection

    def states(self, **inputs: Any) -> DecoderOutput:
        """Decode to states without scoring the vocabulary; arguments as in `forward`."""
        out = super().forward(**inputs)
        assert isinstance(out, DecoderOutput)
        return out

    def forward(  # type: ignore[override]  # `labels` stands where scripts for `transformers` expect it
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        past_key_values: DecoderCache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        return_dict: bool | None = None,
        logits_to_keep: int = 0,
    ) -> CausalLMOutput | tuple[Tensor, ...]:
        """Decode and score the vocabulary.

        Args:
            input_ids: (B, T) token ids; with a filled cache, only those that it does not hold.
            attention_mask: (B, T'), 1 for tokens to attend to, 0 for padding; T' counts cached tokens too.
            encoder_hidden_states: (B', S, D_mem); B may be a multiple n of B', then n neighbouring rows read
                the same image. Not read, and not needed, once the cache holds their keys and values.
            encoder_attention_mask: (B', S), 1 for encoder states to attend to.
            past_key_values: a cache to continue, extended in place.
            inputs_embeds: (B, T, D) instead of ids.
            labels: (B, T) ids that `logits[:, t]` should predict, not shifted here; -100 is ignored.
            use_cache: make or extend a cache and give it back; None means the configuration's value.
            output_attentions: give every block's probabilities; uses the eager core.
            output_hidden_states: give the embedding output and every block's output.
            return_dict: False gives a plain tuple of the fields that are present.
            logits_to_keep: score the last so many positions only; 0 means all.
        Raises:
            IndexError: a token id outside the vocabulary.
            ValueError: ids and embeddings both or neither given, ids that are not whole numbers, more tokens
                than positions, a cache that does not fit.
        """
        out = super().forward(
            input_ids=input_ids,
            attention_mask=attention_mask,
            encoder_hidden_states=encoder_hidden_states,
            encoder_attention_mask=encoder_attention_mask,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
        )
        assert isinstance(out, DecoderOutput)
        logits = self.output_projection(out.last_hidden_state[:, -logits_to_keep:])
        output = CausalLMOutput(
            loss=None if labels is None else token_loss(logits, labels),
            logits=logits,
            past_key_values=out.past_key_values,
            hidden_states=out.hidden_states,
            attentions=out.attentions,
            cross_attentions=out.cross_attentions,
        )
        return output.to_tuple() if return_dict is False else output


def token_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of (B, T, V) logits against (B, T) labels; labels of -100 do not count.

    It is computed, and returned, in float32 for logits of half precision.

    Raises:
        ValueError: the shapes do not match, or a label is outside the vocabulary.
    """
    if logits.shape[:2] != labels.shape:
        raise ValueError(f"labels have shape {tuple(labels.shape)}, logits are for {tuple(logits.shape[:2])}")
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    try:
        return F.cross_entropy(logits.flatten(0, 1), labels.flatten().long(), ignore_index=-100)
    except (IndexError, RuntimeError) as error:
        low, high = int(labels.min()), int(labels.max())
        if high < logits.shape[-1] and low >= 0:
            raise
        raise ValueError(
            f"labels range from {low} to {high}, expected ids 0 to {logits.shape[-1] - 1}, or -100 "
            "for positions that do not count; does the tokenizer belong to this model?"
        ) from error


def _hide(keep: Tensor, dtype: torch.dtype) -> Tensor:
    """Turn a (B, S) mask of 1 = attend into (B, 1, 1, S) numbers to add to scores."""
    return _additive(keep.bool()[:, None, None, :], dtype)


def _additive(keep: Tensor, dtype: torch.dtype) -> Tensor:
    # The lowest number instead of -inf: a row that may attend to nothing then attends evenly, without NaN.
    return torch.zeros(keep.shape, dtype=dtype, device=keep.device).masked_fill(~keep, torch.finfo(dtype).min)


def _self_mask(x: Tensor, start: int, attention_mask: Tensor | None) -> Tensor | None:
    """Mask (B, 1, T, start + T) of tokens after `start` cached ones; None where causality is enough."""
    length = x.shape[1]
    if attention_mask is None and (start == 0 or length == 1):
        return None
    return _additive(kept_tokens(start, length, attention_mask, device=x.device), x.dtype)


def kept_tokens(start: int, length: int, attention_mask: Tensor | None, *, device: torch.device) -> Tensor:
    """Say what `length` new tokens after `start` cached ones attend to, (B or 1, 1, T, start + T) bools.

    Raises:
        ValueError: `attention_mask` (B, T') does not cover cached and new tokens.
    """
    keep = torch.ones(length, start + length, dtype=torch.bool, device=device).tril(start)[None, None]
    if attention_mask is None:
        return keep
    if attention_mask.shape[-1] != start + length:
        raise ValueError(
            f"attention_mask covers {attention_mask.shape[-1]} tokens, expected {start + length}: "
            f"{start} cached and {length} new"
        )
    return keep & attention_mask.bool()[:, None, None, :]
