"""Token merging: like patches of an image become one token on their way through the encoder.

After the attention of every block the tokens that are most alike are averaged in pairs, so the later blocks,
the last norm and the decoder's cross-attention have fewer tokens to read. Nothing is trained and no weight
changes; the text may. It is off unless asked for, and `TokenMerging.remove` takes it back.

Source: arXiv:2210.09461 (ToMe), sec. 3: bipartite soft matching on the mean of the attention's keys, averages
weighted by the patches that a token stands for, proportional attention.
Differs: class and distillation tokens stay out of the matching; the merged tokens go on to cross-attention,
where they count once each; tokens keep their order, which changes nothing but is easier to follow.
"""

import math
import threading
from types import TracebackType
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from trocr.encoder import EncoderBlock, ImageEncoder


class TokenMergingError(ValueError):
    """Token merging that cannot be done with this model or these numbers."""


class _Progress(threading.local):
    """What one pass through an encoder knows so far; each thread has its own.

    Attributes:
        sizes: (B, S) patches that every token stands for, prefix tokens too; None before the first block.
        keys: (B, S, H*K) of the block that is running.
        count: tokens to merge in each block of this pass.
    """

    sizes: Tensor | None = None
    keys: Tensor | None = None
    count: int = 0

    def __deepcopy__(self, memo: dict[int, Any]) -> "_Progress":
        return _Progress()

    def __reduce__(self) -> tuple[type["_Progress"], tuple[()]]:
        return _Progress, ()


class TokenMerging:
    """Token merging that is switched on; also a context manager, which switches it off at the end.

    Made by `merge_tokens`.

    Attributes:
        encoder: whose tokens are merged.
        tokens_per_block: tokens that go in each block, or None where `ratio` says it.
        ratio: share of the image's patches that have gone after the last block, or None.
        proportional: whether attention counts a merged token as often as the patches that it stands for.
    """

    def __init__(
        self, encoder: ImageEncoder, *, tokens_per_block: int | None, ratio: float | None, proportional: bool
    ) -> None:
        self.encoder = encoder
        self.tokens_per_block = tokens_per_block
        self.ratio = ratio
        self.proportional = proportional
        self._progress = _Progress()
        self._handles: list[RemovableHandle] = []
        for index, block in enumerate(encoder.blocks):
            assert isinstance(block, EncoderBlock)
            is_first = index == 0
            before = _Before(self, is_first=is_first)
            self._handles += [
                block.self_attn.register_forward_pre_hook(before, with_kwargs=True),
                block.self_attn.k_proj.register_forward_hook(_KeepKeys(self)),
                block.attn_resid.register_forward_hook(_Merge(self)),
            ]

    def __repr__(self) -> str:
        how = f"ratio={self.ratio}" if self.ratio is not None else f"tokens_per_block={self.tokens_per_block}"
        return f"TokenMerging({how}, proportional={self.proportional}, on={self.is_on})"

    @property
    def is_on(self) -> bool:
        """Whether tokens are merged."""
        return bool(self._handles)

    def remove(self) -> None:
        """Switch it off: the encoder is what it was. A second time does nothing."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()

    def begin(self, num_tokens: int) -> None:
        """Begin a pass with `num_tokens` tokens, prefix included.

        Raises:
            TokenMergingError: blocks would be computed again for the backward pass.
        """
        if self.encoder.training and self.encoder.gradient_checkpointing:
            raise TokenMergingError(
                "token merging does not go together with gradient checkpointing, which runs blocks twice; "
                "switch one of them off"
            )
        progress = self._progress
        progress.sizes = None
        patches = num_tokens - self.encoder.embeddings.num_prefix
        if self.ratio is not None:
            progress.count = math.ceil(self.ratio * patches / len(self.encoder.blocks))
        else:
            progress.count = self.tokens_per_block or 0


class _Before:
    """Hook before a block's attention: begin a pass, and weigh the tokens where that is wanted."""

    def __init__(self, merging: TokenMerging, *, is_first: bool) -> None:
        self.merging = merging
        self.is_first = is_first

    def __call__(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if self.is_first:
            self.merging.begin(args[0].shape[1])
        sizes = self.merging._progress.sizes
        if sizes is None or not self.merging.proportional:
            return None
        weights = sizes.log()[:, None, None, :].to(args[0].dtype)  # (B, 1, 1, S)
        return args, {**kwargs, "mask": weights}


class _KeepKeys:
    """Hook after a block's key projection: keep the keys, by which tokens are compared."""

    def __init__(self, merging: TokenMerging) -> None:
        self.merging = merging

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        self.merging._progress.keys = output


class _Merge:
    """Hook after a block's attention: merge."""

    def __init__(self, merging: TokenMerging) -> None:
        self.merging = merging

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        encoder, progress = self.merging.encoder, self.merging._progress
        keys, progress.keys = progress.keys, None
        prefix = encoder.embeddings.num_prefix
        count = min(progress.count, (output.shape[1] - prefix) // 2)
        if keys is None or count == 0:
            return output
        sizes = progress.sizes
        if sizes is None:
            sizes = torch.ones(output.shape[:2], dtype=torch.float32, device=output.device)
        block = encoder.blocks[0]
        assert isinstance(block, EncoderBlock)
        metric = keys.view(*keys.shape[:2], -1, block.self_attn.head_dim).mean(dim=2)  # (B, S, K)
        merged, merged_sizes = merge(
            output[:, prefix:], sizes[:, prefix:], metric[:, prefix:].detach(), count=count
        )
        progress.sizes = torch.cat((sizes[:, :prefix], merged_sizes), dim=1)
        return torch.cat((output[:, :prefix], merged), dim=1)


def merge(x: Tensor, sizes: Tensor, metric: Tensor, *, count: int) -> tuple[Tensor, Tensor]:
    """Merge the `count` tokens that are most like one of their partners.

    Every second token is matched with the token in between that it is most like (by the cosine of the
    metric); the best `count` of these matches become averages, weighted by size.

    Args:
        x: (B, S, D).
        sizes: (B, S) patches that every token stands for.
        metric: (B, S, K) what tokens are compared by.
        count: tokens that go, at most S // 2.
    Returns:
        (B, S - count, D) and (B, S - count), in the order of the tokens that stay.
    Source: arXiv:2210.09461 sec. 3 and appendix D.
    """
    metric = F.normalize(metric.float(), dim=-1)
    likeness = metric[:, 1::2] @ metric[:, ::2].transpose(1, 2)  # (B, S // 2, S - S // 2)
    best, partner = likeness.max(dim=2)
    going = best.topk(count, dim=1).indices  # (B, count)
    source = 2 * going + 1
    target = 2 * partner.gather(1, going)  # even tokens stay
    weighted = x * sizes[..., None].to(x.dtype)
    moved = weighted.gather(1, source[..., None].expand(-1, -1, x.shape[2]))
    weighted = weighted.scatter_add(1, target[..., None].expand_as(moved), moved)
    total = sizes.scatter_add(1, target, sizes.gather(1, source))
    stays = torch.ones(sizes.shape, dtype=torch.bool, device=x.device).scatter(1, source, False)
    rows = x.shape[0]
    kept = stays.nonzero()[:, 1].view(rows, -1)  # (B, S - count), ascending
    total = total.gather(1, kept)
    weighted = weighted.gather(1, kept[..., None].expand(-1, -1, x.shape[2]))
    return weighted / total[..., None].to(x.dtype), total


def merge_tokens(
    model: nn.Module,
    *,
    tokens_per_block: int | None = None,
    ratio: float | None = None,
    proportional: bool = False,
) -> TokenMerging:
    """Switch token merging on in a model's image encoder.

    From then on `model.encode`, `model.generate` and a `Reader` with this model work on merged tokens. Files
    are not touched by it: a saved model is the plain one. An optimised or exported copy does not merge.

    Args:
        model: a `VisionEncoderDecoderModel`, or its encoder.
        tokens_per_block: tokens that go in each block; a block halves the patches at most.
        ratio: instead, the share of an image's patches that have gone after the last block, above 0 and
            below 1. It follows the image's width where padding is left out.
        proportional: count a merged token in the encoder's attention as often as the patches it stands for.
    Returns:
        A handle; its `remove` switches merging off, and so does leaving a `with` block.
    Raises:
        TokenMergingError: no encoder of this library's blocks, numbers out of range, or merging is on.
    """
    if (tokens_per_block is None) == (ratio is None):
        raise TokenMergingError("give either tokens_per_block or ratio")
    if tokens_per_block is not None and (isinstance(tokens_per_block, bool) or tokens_per_block < 1):
        raise TokenMergingError(f"tokens_per_block is {tokens_per_block}, expected 1 or more")
    if ratio is not None and not 0.0 < ratio < 1.0:
        raise TokenMergingError(f"ratio is {ratio}, expected a share above 0 and below 1")
    encoder = model if isinstance(model, ImageEncoder) else getattr(model, "encoder", None)
    if (
        not isinstance(encoder, ImageEncoder)
        or len(encoder.blocks) == 0
        or not all(isinstance(block, EncoderBlock) for block in encoder.blocks)
    ):
        raise TokenMergingError(
            f"{type(model).__name__} has no image encoder of this library's blocks; token merging is for "
            "ViTModel, DeiTModel and models with one of them"
        )
    if is_merging(encoder):
        raise TokenMergingError("tokens of this encoder are merged already; remove() that first")
    return TokenMerging(encoder, tokens_per_block=tokens_per_block, ratio=ratio, proportional=proportional)


def is_merging(encoder: nn.Module) -> bool:
    """Whether token merging is on in an encoder, so that a transform of it can refuse."""
    return any(
        isinstance(hook, _Merge) for module in encoder.modules() for hook in module._forward_hooks.values()
    )
