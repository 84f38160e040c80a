"""The two stacks of blocks of a model, and a configuration that follows them.

Source: original work.
"""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

from torch import nn

from trocr.config_shapes import StackConfig
from trocr.surgery.adapter_state import find_adapted, get_state, set_state
from trocr.surgery.patterns import SurgeryError

if TYPE_CHECKING:
    from trocr.models import VisionEncoderDecoderModel

Stack = Literal["encoder", "decoder"]
STACKS: tuple[Stack, ...] = get_args(Stack)

FOREIGN = "transformers cannot load this checkpoint: its config.json has block_shapes, as blocks differ"


def has_blocks(model: "VisionEncoderDecoderModel", stack: Stack) -> bool:
    """Whether a stack has blocks of this library; an encoder of another one has none."""
    return isinstance(getattr(model.config, stack), StackConfig)


def blocks_of(model: "VisionEncoderDecoderModel", stack: Stack) -> nn.ModuleList:
    """Give the blocks of a stack.

    Raises:
        SurgeryError: no such stack, or an encoder that is not a ViT or DeiT.
    """
    if stack not in STACKS:
        raise SurgeryError(f"stack={stack!r} is unknown, expected one of {', '.join(STACKS)}")
    if not has_blocks(model, stack):
        kind = type(getattr(model.config, stack)).__name__
        raise SurgeryError(f"the {stack} has a {kind}: only the blocks of a ViT or DeiT can be changed")
    return cast(nn.ModuleList, getattr(model, stack).blocks)


def set_stacks(model: "VisionEncoderDecoderModel", configs: Mapping[Stack, StackConfig]) -> None:
    """Give a model other configurations of its stacks."""
    changed: dict[Any, Any] = dict(configs)
    model.config = dataclasses.replace(model.config, **changed)


def refuse_adapter(model: nn.Module) -> None:
    """Refuse a model, or a part, with an adapter, which would no longer be on the model that it was made for.

    Raises:
        SurgeryError: it has one that is not merged.
    """
    found = find_adapted(model)
    if found:
        raise SurgeryError(
            f"{len(found)} layers have an adapter ({next(iter(found))} ...), which would no longer fit; "
            "merge it first (merge_adapter), or take it out"
        )


def forget_adapter(model: nn.Module) -> list[str]:
    """Forget a merged adapter, as it was made for another model, and say so in notes for the report."""
    if get_state(model) is None:
        return []
    set_state(model, None)
    return ["the adapter that was merged can no longer be taken out: the model around it has changed"]
