"""Multi-head attention, one class for self-attention and cross-attention.

Source: arXiv:1706.03762 sec. 3.2; the single class for both uses is whisper's `model.py`.
"""

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trocr.cache import LayerCache
from trocr.nn.linear import Linear

Core = Literal["sdpa", "eager"]

FEW_QUERIES = 10
"""Up to so many queries of a row (a token, or one for each beam) count as a decoding step on a CPU.

577 keys, 8 rows, 16 heads of 64, two AVX2 cores, PyTorch 2.14: fused kernel 2.4 ms, products 1.0 ms.
"""

HALF_PRODUCTS = torch.backends.cpu.get_cpu_capability().startswith("AVX512")
"""Whether a CPU trains in bf16 by plain products, whose weights then take memory until the backward pass.

Forward and backward, one Zen 4 core (AVX512_BF16), PyTorch 2.15: 4 rows, 6 heads of 64, 578 tokens: fused
kernel 113 ms, products 67 ms; 16 rows, 4 heads, 121 tokens: 28 and 10 ms. In float32 the kernel is quicker.
"""


class Attention(nn.Module):
    """Attention with separate projections for query, key, value and output.

    Args:
        width: D, features of the queries and of the output.
        num_heads: H.
        head_dim: K; None means D / H, and D must be a multiple of H then.
        kv_width: features of the states that keys and values come from; None means D.
        qkv_bias: whether query, key and value projections have a bias; the output projection always has.
        dropout: probability of dropping an attention weight in training.

    Attributes:
        core: "sdpa" (PyTorch's fused kernel) or "eager" (plain products, which can give the weights back).
            Set it for a whole model with `set_attention`.
        probs: identity through which the eager core passes its weights (B, H, T, S), for hooks; n rows of `x`
            that share a row of memory come folded, (B', H, n*T, S).
        attn_out: identity through which the heads' results (B, H, T, K) pass, for hooks.
    """

    def __init__(
        self,
        *,
        width: int,
        num_heads: int,
        head_dim: int | None = None,
        kv_width: int | None = None,
        qkv_bias: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.head_dim = head_dim or width // num_heads
        self.dropout = dropout
        self.core: Core = "sdpa"
        inner = num_heads * self.head_dim
        self.q_proj = Linear(width, inner, bias=qkv_bias)
        self.k_proj = Linear(kv_width or width, inner, bias=qkv_bias)
        self.v_proj = Linear(kv_width or width, inner, bias=qkv_bias)
        self.out_proj = Linear(inner, width)
        self.probs = nn.Identity()  # (B, H, T, S)
        self.attn_out = nn.Identity()  # (B, H, T, K)

    def keys_values(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """Project (B, S, kv_width) to keys and values, each (B, H, S, K)."""
        return self._split(self.k_proj(states)), self._split(self.v_proj(states))

    def forward(
        self,
        x: Tensor,
        *,
        memory: Tensor | None = None,
        cache: LayerCache | None = None,
        mask: Tensor | None = None,
        is_causal: bool = False,
        need_weights: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend.

        Args:
            x: (B, T, D) queries.
            memory: (B', S, kv_width) states to attend to; None means `x` itself. B may be a multiple n of B':
                then n neighbouring rows of `x` share one row of memory.
            cache: in self-attention, extended by the keys and values of `x`; in cross-attention, filled by
                the first call and read afterwards, when `memory` is no longer looked at.
            mask: added to the scores, broadcastable to (B, H, T, S), or (B', 1, 1, S) for all rows of an
                image; 0 keeps, very negative hides.
            is_causal: position t attends to positions up to t; not together with `mask`.
            need_weights: give the probabilities back, for which the eager core is used.
        Returns:
            (B, T, D), and the probabilities (B, H, T, S) or None.
        Raises:
            ValueError: B is not a multiple of B'.
        """
        q = self._split(self.q_proj(x))  # (B, H, T, K)
        k, v = self._keys_values(x, memory, cache)
        shared = _rows_per_image(q, k)
        if shared > 1:
            if mask is not None and mask.shape[0] == q.shape[0]:  # else it is per image and fits all its rows
                mask = fold_rows(mask.expand(-1, q.shape[1], q.shape[2], -1), shared)
            q = fold_rows(q, shared)
        if need_weights or self.core == "eager" or _is_decoding_step(q) or _is_half_training(q):
            out, weights = self._eager(q, k, v, mask, is_causal)
        else:
            out, weights = self._sdpa(q, k, v, mask, is_causal), None
        if shared > 1:
            out = unfold_rows(out, shared)
            weights = None if weights is None else unfold_rows(weights, shared)
        out = self.attn_out(out).transpose(1, 2).flatten(2)  # (B, T, H*K)
        return self.out_proj(out), weights if need_weights else None

    def _split(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:-1], self.num_heads, self.head_dim).transpose(1, 2)  # (B, H, T, K)

    def _keys_values(
        self, x: Tensor, memory: Tensor | None, cache: LayerCache | None
    ) -> tuple[Tensor, Tensor]:
        if memory is None:
            k, v = self.keys_values(x)
            return (k, v) if cache is None else cache.append(k, v)
        if cache is None:
            return self.keys_values(memory)
        if cache.cross is None:
            k, v = self.keys_values(memory)
            cache.cross = k.contiguous(), v.contiguous()  # read at every step: the fused kernel is faster so
        return cache.cross

    def _sdpa(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, is_causal: bool) -> Tensor:
        dropout = self.dropout if self.training else 0.0
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=is_causal)

    def _eager(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, is_causal: bool
    ) -> tuple[Tensor, Tensor]:
        scores = (q * self.head_dim**-0.5) @ k.transpose(-2, -1)  # (B, H, T, S)
        if is_causal:
            hidden = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
            scores = scores.masked_fill(hidden, torch.finfo(scores.dtype).min)
        if mask is not None:
            scores = scores + mask
        wide = torch.promote_types(q.dtype, torch.float32)
        weights = self.probs(scores.softmax(dim=-1, dtype=wide).to(q.dtype))
        dropped = F.dropout(weights, self.dropout, self.training)
        return dropped @ v, weights


def _is_decoding_step(q: Tensor) -> bool:
    """Whether plain products beat the fused kernel, which scales all keys anew for a handful of queries."""
    return not torch.compiler.is_compiling() and (
        q.shape[2] <= FEW_QUERIES and q.device.type == "cpu" and not torch.is_grad_enabled()
    )


def _is_half_training(q: Tensor) -> bool:
    """Whether plain products beat the fused kernel, whose backward pass is slow in bf16 on a CPU."""
    return not torch.compiler.is_compiling() and (
        HALF_PRODUCTS and q.requires_grad and q.dtype == torch.bfloat16 and q.device.type == "cpu"
    )


def _rows_per_image(q: Tensor, k: Tensor) -> int:
    if not torch.compiler.is_compiling() and q.shape[0] % k.shape[0]:
        raise ValueError(
            f"{q.shape[0]} rows of tokens for {k.shape[0]} images: every image needs the same number of rows"
        )
    return q.shape[0] // k.shape[0]


def fold_rows(q: Tensor, n: int) -> Tensor:
    """Put n neighbouring rows of (B, H, T, K) into one, (B/n, H, n*T, K)."""
    rows, heads, length, width = q.shape
    q = q.view(rows // n, n, heads, length, width).transpose(1, 2)  # (B', H, n, T, K)
    return q.reshape(rows // n, heads, n * length, width)


def unfold_rows(x: Tensor, n: int) -> Tensor:
    """Take (B', H, n*T, K) apart to (n*B', H, T, K), which `fold_rows` put together."""
    images, heads, length, width = x.shape
    x = x.view(images, heads, n, length // n, width).transpose(1, 2)  # (B', n, H, T, K)
    return x.reshape(images * n, heads, length // n, width)


def set_attention(model: nn.Module, core: Core) -> None:
    """Choose the attention core of every `Attention` inside a model.

    Raises:
        ValueError: no such core, or the model has no attention.
    """
    if core not in get_args(Core):
        raise ValueError(f"attention core {core!r} is unknown, expected one of {', '.join(get_args(Core))}")
    found = [module for module in model.modules() if isinstance(module, Attention)]
    if not found:
        raise ValueError(f"{type(model).__name__} has no attention whose core could be set")
    for module in found:
        module.core = core
