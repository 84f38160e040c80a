"""Attention for reading: no masks where none are needed, scores scaled beforehand, kernels by precision.

Queries come with the scale of the scores in them. Letters: b images, R rows, H heads, K width of a head.

Source: arXiv:1706.03762; the choice of kernels is measured, see `encoder_attention`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

LONG = 256
"""Keys from which on one product for each head beats the fused kernel, where that runs AVX2 code."""


def encoder_attention(qkv: Tensor, *, num_heads: int, by_head: bool = False) -> Tensor:
    """Let every token of an image attend to all.

    On CPUs, plain products are faster in bf16 than PyTorch's fused kernel; in float32 the fused kernel is,
    but for processors on which it runs AVX2 code and oneDNN AVX-512. Milliseconds, 12 heads of 64, 577
    tokens, one Zen 5 thread: bf16 fused 25, products 10; float32 fused 24, products by head 14, all at once
    27.

    Args:
        qkv: (b, S, 3*H*K) queries, keys and values beside each other.
        num_heads: H.
        by_head: whether float32 goes head by head through oneDNN where there are many keys.
    Returns:
        (b, S, H*K).
    """
    b, s, width = qkv.shape
    q, k, v = qkv.view(b, s, 3, num_heads, width // (3 * num_heads)).permute(2, 0, 3, 1, 4)  # (b, H, S, K)
    if qkv.dtype is torch.float32 or qkv.device.type != "cpu":
        if by_head and s >= LONG:
            return _by_head(q, k, v)
        out = F.scaled_dot_product_attention(q, k, v, scale=1.0)
    else:
        out = torch.matmul(torch.matmul(q, k.transpose(-2, -1)).softmax(dim=-1), v)
    return out.transpose(1, 2).reshape(b, s, width // 3)


def _by_head(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attend head by head with oneDNN's products; each (b, H, S, K); gives (b, S, H*K)."""
    b, heads, s, width = q.shape
    out = q.new_empty(b, s, heads, width)
    product = torch.ops.mkldnn._linear_pointwise
    values = v.transpose(-2, -1).contiguous()  # (b, H, K, S)
    for image in range(b):
        for head in range(heads):
            keys = k[image, head].contiguous()
            scores = product(q[image, head].contiguous(), keys, None, "none", [], "")
            out[image, :, head] = product(scores.softmax(dim=-1), values[image, head], None, "none", [], "")
    return out.view(b, s, heads * width)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Let a few queries attend, by plain products.

    Args:
        q: (R, H, T, K).
        k, v: (R, H, S, K).
        mask: added to the scores (R, H, T, S), or None.
    Returns:
        (R, H, T, K).
    """
    scores = torch.matmul(q, k.transpose(-2, -1))
    if mask is not None:
        scores = scores + mask.to(scores.dtype)
    return torch.matmul(scores.softmax(dim=-1), v)


def look(q: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    """Let a few queries attend to an image, whose keys and values are read from memory at every step.

    Both products have the large matrix at the left, which is how they are quickest. Microseconds, 8 rows, 16
    heads of 64, 577 states, float32, one Zen 5 thread: scores 736 (913 with the query at the left), mixing
    684 (1704).

    Args:
        q: (R, H, T, K).
        keys: (R, H, S, K).
        values: (R, H, K, S).
        mask: added to the scores (R, H, T, S), or None.
    Returns:
        (R, H, T, K).
    """
    scores = torch.matmul(keys, q.transpose(-2, -1)).transpose(-2, -1)  # (R, H, T, S)
    if mask is not None:
        scores = scores + mask.to(scores.dtype)
    weights = scores.softmax(dim=-1)
    return torch.matmul(values, weights.transpose(-2, -1)).transpose(-2, -1)
