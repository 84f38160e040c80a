"""Cross-attention for reading, in two ways: with keys and values, or on the encoder's states themselves.

With keys and values, those of every block are projected once for an image; a step reads them. On the states,
a step's queries go through the projection of the keys, and what they find through that of the values: all
blocks read the same states, nothing is projected beforehand, and an image takes two bytes a feature instead
of eight a feature and block. A step's arithmetic is that of longer queries, `D_mem / K` times as much, which
only products in bf16 make up for, and only for several rows. Milliseconds a block and step, 16 heads of 64,
577 states of 768, one Zen 5 thread: one row .2 and .5, eight rows 1.7 to 1.8 and 1.7 (float32: 1.7 and 4.8);
the projection of an image that is saved takes 4 to 5 a block.

Source: arXiv:1706.03762; both ways compute the same, by the associativity of products.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from trocr.fast.attention import join_heads, lay_out, look
from trocr.fast.layers import Kernels
from trocr.fast.weights import under
from trocr.nn.attention import fold_rows, unfold_rows

MANY = 3072
"""Images times D_mem from which on bf16 reads the states themselves; below, projecting them once pays.

Milliseconds a line of 20 tokens, bf16 and int8, projected and not, one Zen 5 thread: base shape, 4 images 194
and 144, 128 and 98; small shape (D_mem 384), 4 images 23 and 21, 22 and 21, 8 images 18.9 and 14.9, 17.4 and
15.1; the shipped reader (256), 8 images 2.5 and 2.5, 2.0 and 2.2.
"""

PRECISION = torch.bfloat16
"""Precision of models that may read states; it is also the states'."""

Remembered = tuple[Tensor, Tensor]
"""Keys (B', H, S, K) and values (B', H, K, S); or states (B', S, D_mem) less their mean, and the mean of each
image (B', 1, D_mem)."""

_LINEAR = ("cross_q", "cross_k", "cross_v", "cross_out")


class CrossAttention:
    """Cross-attention of one block.

    Args:
        tensors: of the block, by name.
        num_heads: H.
        head_dim: K.
        kernels: see `Kernels`.

    Attributes:
        dtype: precision of keys, values and scores, where those are projected.
        in_half: whether it may read states instead.
    """

    def __init__(
        self, tensors: Mapping[str, Tensor], *, num_heads: int, head_dim: int, kernels: Kernels
    ) -> None:
        self.num_heads, self.head_dim = num_heads, head_dim
        self.linear = {name: kernels.linear(under(name, tensors)) for name in _LINEAR}
        device = tensors["cross_q.weight"].device
        self.dtype = kernels.few_queries(device)
        self.in_half = device.type == "cpu" and kernels.dtype is PRECISION
        if self.in_half:
            self._to_states = self._by_head(under("cross_k", tensors))  # (H, K, D_mem)
            self._from_states = self._by_head(under("cross_v", tensors)).transpose(1, 2).contiguous()

    def can_read_states(self, num_images: int) -> bool:
        """Whether reading the states of so many images is possible, and quicker."""
        return self.in_half and num_images * self._to_states.shape[2] >= MANY

    def _by_head(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Give a projection's weight (H, K, D_mem) in `PRECISION`; of int8, what the products take it for."""
        weight = tensors["weight"]
        if "scale" in tensors:
            weight = weight * tensors["scale"][:, None]
        return weight.to(PRECISION, copy=True).view(self.num_heads, self.head_dim, -1)

    def project(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Project encoder states (B', S, D_mem) to keys and values (B', S, H*K), without their biases.

        Those are where they cost nothing, see `trocr.fast.weights.plain_with_values`.
        """
        return self.linear["cross_k"](memory), self.linear["cross_v"](memory)

    def keys_values(self, memory: Tensor) -> Remembered:
        """Project encoder states (B', S, D_mem) to keys (B', H, S, K) and values (B', H, K, S)."""
        (b, s, _), heads, width = memory.shape, self.num_heads, self.head_dim
        keys = memory.new_empty(b, heads, s, width, dtype=self.dtype)
        values = memory.new_empty(b, heads, width, s, dtype=self.dtype)
        for image in zip(*self.project(memory), keys, values, strict=True):
            lay_out(*image)
        return keys, values

    def add(self, x: Tensor, remembered: Remembered, mask: Tensor | None) -> Tensor:
        """Add to `x` what its tokens find in their images.

        Args:
            x: (R, T, D) float32, the R / B' rows of an image beside each other; may be overwritten.
            remembered: what `keys_values` or `centred` gives for the images.
            mask: added to the scores, (B', 1, 1, S), or None.
        """
        q = self.linear["cross_q"](x)
        found = self._in_states if remembered[0].dim() == 3 else self._in_keys
        return self.linear["cross_out"].add(found(q, remembered, mask), x)

    def _in_keys(self, q: Tensor, remembered: Remembered, mask: Tensor | None) -> Tensor:
        """Attend with queries (R, T, H*K) to keys and values."""
        keys, values = remembered
        rows, length, _ = q.shape
        q = q.to(self.dtype).view(rows, length, self.num_heads, self.head_dim).transpose(1, 2)
        shared = rows // len(keys)
        if shared > 1:
            mixed = unfold_rows(look(fold_rows(q, shared), keys, values, mask), shared)
        else:
            mixed = look(q, keys, values, mask)
        return join_heads(mixed)

    def _in_states(self, q: Tensor, remembered: Remembered, mask: Tensor | None) -> Tensor:
        """Attend with queries (R, T, H*K) to states; letters below: M queries of all images, m of one."""
        states, mean = remembered
        rows, length, inner = q.shape
        count, wide = rows * length, states.shape[2]
        q = q.to(states.dtype).view(count, self.num_heads, self.head_dim).transpose(0, 1)  # (H, M, K)
        q = torch.bmm(q, self._to_states).transpose(0, 1).reshape(len(states), -1, wide)  # (B', m*H, D_mem)
        scores = torch.bmm(q, states.transpose(1, 2))  # (B', m*H, S)
        if mask is not None:
            scores += mask[:, 0].to(scores.dtype)
        torch.softmax(scores, dim=-1, out=scores)
        found = torch.baddbmm(mean, scores, states).view(count, self.num_heads, wide).transpose(0, 1)
        mixed = torch.bmm(found, self._from_states)  # (H, M, K)
        return mixed.transpose(0, 1).reshape(rows, length, inner)


def centred(memory: Tensor) -> Remembered:
    """Give encoder states (B', S, D_mem) in `PRECISION`, less their image's mean, and that (B', 1, D_mem).

    What all states have in common adds the same to all scores of a query, which the softmax takes away again;
    without it the scores are smaller numbers, and bf16 rounds them less.
    """
    mean = memory.mean(dim=1, keepdim=True)
    return (memory - mean).to(PRECISION), mean.to(PRECISION)
