"""Keep, drop, repeat or reorder the blocks of the encoder or the decoder.

Source: original work. Which blocks to keep: arXiv:1909.11556 (every other one, after training with blocks
left out at random), arXiv:2004.03844 (upper ones can go first), arXiv:2010.13002 (few blocks, evenly spaced).
"""

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import nn

from trocr.surgery.blocks import FOREIGN, Stack, blocks_of, forget_adapter, refuse_adapter, set_stacks
from trocr.surgery.patterns import SurgeryError, choose_blocks
from trocr.surgery.report import Change, SurgeryReport, report

if TYPE_CHECKING:
    from trocr.models import VisionEncoderDecoderModel


def keep_blocks(
    model: "VisionEncoderDecoderModel", blocks: str | Sequence[int], *, stack: Stack
) -> SurgeryReport:
    """Make a stack of some of its blocks, in a given order, in place.

    Args:
        model: its encoder must be a ViT or DeiT, where that is to be changed.
        blocks: which, in which order: "last:2", "every:2", "2,0,0-1" or numbers; see
            `trocr.surgery.patterns.choose_blocks`. One that comes twice is copied: the two start alike and
            train apart.
        stack: "encoder" or "decoder".
    Returns:
        What moved where. Blocks that keep their number are not touched.
    Raises:
        SurgeryError: blocks that are not there, or none; no such stack; a model with an adapter.
    """
    numbers = choose_blocks(blocks, len(blocks_of(model, stack)))
    return _rearrange("keep_blocks", model, numbers, stack)


def drop_blocks(
    model: "VisionEncoderDecoderModel", blocks: str | Sequence[int], *, stack: Stack
) -> SurgeryReport:
    """Take blocks out of a stack, in place; the others keep their order.

    Args:
        model: its encoder must be a ViT or DeiT, where that is to be changed.
        blocks: which, as in `keep_blocks`; an empty list takes none.
        stack: "encoder" or "decoder".
    Returns:
        What is gone and what moved.
    Raises:
        SurgeryError: blocks that are not there, or all of them; no such stack; a model with an adapter.
    """
    count = len(blocks_of(model, stack))
    gone = choose_blocks(blocks, count) if isinstance(blocks, str) or blocks else []
    kept = [number for number in range(count) if number not in gone]
    if not kept:
        raise SurgeryError(f"blocks {blocks!r} are all {count} of the {stack}; at least one must stay")
    return _rearrange("drop_blocks", model, kept, stack)


def _rearrange(
    operation: str, model: "VisionEncoderDecoderModel", numbers: list[int], stack: Stack
) -> SurgeryReport:
    """Make a stack of the blocks of these numbers."""
    refuse_adapter(model)
    old, before = blocks_of(model, stack), model.num_parameters()
    config = getattr(model.config, stack)
    config = config.with_shapes(config.shapes[number] for number in numbers)
    originals = _places_of_originals(numbers)
    blocks = [
        old[number] if originals[number] == place else copy.deepcopy(old[number])
        for place, number in enumerate(numbers)
    ]
    changes = _changes(old, numbers, originals, f"{stack}.blocks")
    stays = numbers == list(range(len(old)))
    if not stays:
        new = nn.ModuleList(blocks)
        new.training = old.training
        getattr(model, stack).blocks = new
        set_stacks(model, {stack: config})
    notes = [f"the {stack} now has its old blocks {', '.join(map(str, numbers))}, in this order"]
    notes += [] if stays else forget_adapter(model)
    notes += [FOREIGN] if config.block_shapes is not None else []
    return report(
        operation,
        model,
        changes,
        numbers={
            "blocks_before": len(old),
            "blocks": len(numbers),
            "parameters_before": before,
            "parameters": model.num_parameters(),
        },
        notes=notes,
    )


def _places_of_originals(numbers: list[int]) -> dict[int, int]:
    """Number of an old block -> place where it goes itself; elsewhere it is copied."""
    places: dict[int, int] = {}
    for place, number in enumerate(numbers):
        if number == place:
            places[number] = place
        else:
            places.setdefault(number, place)
    return places


def _changes(old: nn.ModuleList, numbers: list[int], originals: dict[int, int], prefix: str) -> list[Change]:
    changes = []
    for place, number in enumerate(numbers):
        if place == number:
            continue
        is_copy = originals[number] != place
        for name, parameter in old[number].named_parameters():
            changes.append(
                Change(
                    name=f"{prefix}.{place}.{name}",
                    action="carried" if is_copy else "moved",
                    shape=tuple(parameter.shape),
                    source=f"{prefix}.{number}.{name}",
                    detail="a copy, which trains apart" if is_copy else "",
                )
            )
    for number, block in enumerate(old):
        if number not in originals:
            for name, parameter in block.named_parameters():
                changes.append(
                    Change(name=f"{prefix}.{number}.{name}", action="removed", shape=tuple(parameter.shape))
                )
    return changes
