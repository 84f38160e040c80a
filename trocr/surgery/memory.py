"""How cross-attention reads an encoder of another width: directly, or through a projection.

Source: the rule of `VisionEncoderDecoderModel` of `transformers` 5.23: a projection leads to the decoder's
width, where `cross_attention_hidden_size` is null and the widths differ.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn

from trocr.config import TrOCRConfig
from trocr.decoder import DecoderBlock, TextDecoder
from trocr.nn.attention import Attention
from trocr.nn.linear import Linear
from trocr.surgery.patterns import SurgeryError
from trocr.surgery.report import Change

PROJECTIONS = ("k_proj", "v_proj")


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """What is to become of the keys' and values' projections in cross-attention.

    Attributes:
        cross_attention_hidden_size: of the decoder's new configuration.
        encoder_width: features of the encoder's states.
        width: features that cross-attention reads.
        old_width: features that it read before.
        has_projection: whether a linear layer leads from the encoder's width to that.
    """

    cross_attention_hidden_size: int | None
    encoder_width: int
    width: int
    old_width: int
    has_projection: bool

    @property
    def fate(self) -> Literal["kept", "padded", "new"]:
        """Weights stay, get columns of zeros, or are drawn anew."""
        if self.width == self.old_width:
            return "kept"
        return "padded" if self.has_projection else "new"


def plan_memory(decoder: TrOCRConfig, *, encoder_width: int, projection: bool) -> MemoryPlan:
    """Decide how a decoder reads an encoder.

    Args:
        decoder: its configuration.
        encoder_width: features of the encoder's states.
        projection: keep what cross-attention has learned and put a projection before it, where widths differ.
    Raises:
        SurgeryError: a projection leads to fewer features than cross-attention reads.
    """
    size, width = decoder.cross_attention_hidden_size, decoder.d_model
    old = width if size is None else size
    if encoder_width == old:
        return _plan(size, encoder_width, old, old)
    if encoder_width == width or (size is not None and not projection):
        return _plan(None if size is None else encoder_width, encoder_width, encoder_width, old)
    if old > width:
        raise SurgeryError(
            f"a projection leads to the decoder's width, {width} features, and cross-attention reads {old}: "
            "its weights cannot be kept; leave projection out, for new ones"
        )
    return _plan(None, encoder_width, width, old)


def _plan(size: int | None, encoder_width: int, width: int, old: int) -> MemoryPlan:
    return MemoryPlan(
        cross_attention_hidden_size=size,
        encoder_width=encoder_width,
        width=width,
        old_width=old,
        has_projection=encoder_width != width,
    )


def check_decoder(decoder: nn.Module) -> None:
    """Check that a decoder attends to an image in every block.

    Raises:
        SurgeryError: a block does not.
    """
    for number, block in enumerate(cast(TextDecoder, decoder).blocks):
        if cast(DecoderBlock, block).cross_attn is None:
            raise SurgeryError(
                f"block {number} of the decoder has no cross-attention, and cannot read an encoder"
            )


@torch.no_grad()
def read_memory(decoder: nn.Module, plan: MemoryPlan, *, std: float) -> Iterator[Change]:
    """Give cross-attention projections of another width, as a plan says; names are those in the whole model.

    Args:
        decoder: changed in place.
        plan: of this decoder.
        std: deviation of new weights.
    """
    if plan.fate == "kept":
        return
    for number, block in enumerate(cast(TextDecoder, decoder).blocks):
        attention = cast(Attention, cast(DecoderBlock, block).cross_attn)
        for name in PROJECTIONS:
            old = cast(nn.Linear, getattr(attention, name))
            new = _other_width(old, plan, std)
            setattr(attention, name, new)
            stem = f"decoder.blocks.{number}.cross_attn.{name}"
            is_padded = plan.fate == "padded"
            yield Change(
                name=f"{stem}.weight",
                action="carried" if is_padded else "new",
                shape=tuple(new.weight.shape),
                before=tuple(old.weight.shape),
                detail=f"columns beyond {plan.old_width} are zero" if is_padded else f"normal, {std:g}",
            )
            if new.bias is not None and not is_padded:
                yield Change(name=f"{stem}.bias", action="new", shape=tuple(new.bias.shape), detail="zeros")


def _other_width(old: nn.Linear, plan: MemoryPlan, std: float) -> nn.Linear:
    new = Linear(plan.width, old.out_features, bias=old.bias is not None)
    if plan.fate == "padded":
        new.weight.zero_()[:, : plan.old_width] = old.weight.to(new.weight)
    else:
        new.weight.normal_(0.0, std)
    if new.bias is not None:
        new.bias.copy_(old.bias if plan.fate == "padded" else torch.zeros_like(new.bias))
        new.bias.requires_grad_(old.bias.requires_grad)
    new.weight.requires_grad_(old.weight.requires_grad)
    return new.to(old.weight.device, old.weight.dtype).train(old.training)


@torch.no_grad()
def make_projection(
    old: nn.Module, plan: MemoryPlan, *, like: Tensor, std: float
) -> tuple[nn.Module, list[Change]]:
    """Give the layer between encoder and decoder, the old one where it fits, and what became of it.

    Args:
        old: a linear layer or the identity.
        plan: what is wanted.
        like: on whose device and in whose precision.
        std: deviation of new weights.
    """
    name = "enc_to_dec_proj"
    had = old if isinstance(old, nn.Linear) else None
    if not plan.has_projection:
        gone = {} if had is None else dict(had.named_parameters())
        return nn.Identity().train(old.training), [
            Change(name=f"{name}.{leaf}", action="removed", shape=tuple(parameter.shape))
            for leaf, parameter in gone.items()
        ]
    if had is not None and had.in_features == plan.encoder_width and had.out_features == plan.width:
        return had, []
    new = Linear(plan.encoder_width, plan.width)
    new.weight.normal_(0.0, std)
    new.bias.zero_()
    before = None if had is None else tuple(had.weight.shape)
    return new.to(like.device, like.dtype).train(old.training), [
        Change(
            name=f"{name}.weight",
            action="new",
            shape=tuple(new.weight.shape),
            before=before,
            detail=f"normal, {std:g}",
        ),
        Change(name=f"{name}.bias", action="new", shape=tuple(new.bias.shape), detail="zeros"),
    ]
