"""Attention for reading: no masks where none are needed, scores scaled beforehand, kernels by precision.

Queries come with the scale of the scores in them. Letters: b images, R rows, H heads, K width of a head.

Source: arXiv:1706.03762; the choice of kernels is measured, see `encoder_attention`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

LONG = 256
"""Keys from which on a few heads at a time, in float32 one, beat all at once."""

HEADS = 3
"""Heads of bf16 that attend together. Milliseconds, 12 heads of 64, 577 tokens, one thread and two: one head
5.4 and 4.2, two 5.7 and 3.9, three 5.6 and 3.6, all 6.9 and 4.3."""


def encoder_attention(qkv: Tensor, *, num_heads: int, by_head: bool = False) -> Tensor:
    """Let every token of an image attend to all.

    On CPUs, plain products are faster in bf16 than PyTorch's fused kernel; in float32 the fused kernel is,
    but for processors on which it runs AVX2 code and oneDNN AVX-512. With many keys a head's scores go
    through the softmax where they are, before those of the next: they stay in the second cache. Milliseconds,
    12 heads of 64, 577 tokens, one Zen 5 thread: bf16 fused 14, all heads in new memory 13, a few at a time
    5.6; float32 fused 12.6, by head 8.1.

    Args:
        qkv: (b, S, 3*H*K) queries, keys and values beside each other.
        num_heads: H.
        by_head: whether float32 goes head by head through oneDNN where there are many keys.
    Returns:
        (b, S, H*K).
    """
    b, s, width = qkv.shape
    q, k, v = qkv.view(b, s, 3, num_heads, width // (3 * num_heads)).permute(2, 0, 3, 1, 4)  # (b, H, S, K)
    in_float = qkv.dtype is torch.float32
    if qkv.device.type != "cpu" or (in_float and not (by_head and s >= LONG)):
        out = F.scaled_dot_product_attention(q, k, v, scale=1.0)
    elif torch.compiler.is_compiling():
        out = torch.matmul(torch.matmul(q, k.transpose(-2, -1)).softmax(dim=-1), v)
    elif s >= LONG:
        return _by_head(q, k, v) if in_float else _by_few_heads(q, k, v)
    else:
        scores = torch.matmul(q, k.transpose(-2, -1))
        out = torch.matmul(torch.softmax(scores, dim=-1, out=scores), v)
    return out.transpose(1, 2).reshape(b, s, width // 3)


def _by_head(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attend head by head with oneDNN's products; each (b, H, S, K); gives (b, S, H*K)."""
    b, heads, s, width = q.shape
    out = q.new_empty(b, s, heads, width)
    product = torch.ops.mkldnn._linear_pointwise
    for image in range(b):
        values = transposed(v[image].transpose(0, 1).reshape(s, -1)).view(heads, width, s)
        for head in range(heads):
            keys = k[image, head].contiguous()
            scores = product(q[image, head].contiguous(), keys, None, "none", [], "")
            torch.softmax(scores, dim=-1, out=scores)
            out[image, :, head] = product(scores, values[head], None, "none", [], "")
    return out.view(b, s, heads * width)


def _by_few_heads(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attend a few heads at a time, with one buffer for the scores; each (b, H, S, K); gives (b, S, H*K)."""
    b, heads, s, width = q.shape
    few = min(heads, max(HEADS, torch.get_num_threads()))
    out, buffer = q.new_empty(b, s, heads, width), q.new_empty(few, s, s)
    for image in range(b):
        for first in range(0, heads, few):
            some = slice(first, min(heads, first + few))
            scores = buffer[: some.stop - first]
            torch.bmm(q[image, some], k[image, some].transpose(1, 2), out=scores)
            torch.softmax(scores, dim=-1, out=scores)
            out[image, :, some] = torch.bmm(scores, v[image, some]).transpose(0, 1)
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


def join_heads(heads: Tensor) -> Tensor:
    """(R, H, T, K) to (R, T, H*K)."""
    return heads.transpose(1, 2).flatten(2)


def transposed(matrix: Tensor) -> Tensor:
    """Transpose (n, m) in memory.

    PyTorch does a contiguous matrix block by block, and a part of one number by number: 577 x 1024 in 0.25 ms
    and 1.1, and a copy first takes 0.05.
    """
    out: Tensor = matrix.contiguous().t().contiguous()
    return out


def lay_out(keys: Tensor, values: Tensor, to_keys: Tensor, to_values: Tensor) -> None:
    """Write an image's keys and values, each (S, H*K), where `look` reads them: (H, S, K) and (H, K, S)."""
    heads, width, _ = to_values.shape
    to_keys.copy_(keys.view(-1, heads, width).transpose(0, 1))
    to_values.copy_(transposed(values).view(heads, width, -1))


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
