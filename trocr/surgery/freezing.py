"""Which parameters train: frozen and let go by pattern, or by depth.

Source: original work.
"""

from collections import defaultdict
from collections.abc import Iterable
from typing import TYPE_CHECKING

from torch import nn

from trocr.decoder import TextDecoder
from trocr.encoder import ImageEncoder
from trocr.surgery.patterns import SurgeryError, match_parameters
from trocr.surgery.report import Change, SurgeryReport, report

if TYPE_CHECKING:
    from trocr.models import VisionEncoderDecoderModel


def freeze(model: nn.Module, patterns: str | Iterable[str]) -> SurgeryReport:
    """Stop training the parameters that patterns name.

    Args:
        model: `requires_grad` of its parameters is changed in place; no value changes.
        patterns: of parameters ("encoder.embeddings.cls_token") or of modules, with all that is in them
            ("encoder.blocks.[0-2]"); see `trocr.surgery.patterns.match_parameters`.
    Returns:
        The parameters that trained before, as "kept, frozen"; how many numbers train now.
    Raises:
        SurgeryError: a pattern matches nothing.
    """
    return _set_training("freeze", model, match_parameters(model, patterns), trains=False)


def unfreeze(model: nn.Module, patterns: str | Iterable[str]) -> SurgeryReport:
    """Train the parameters that patterns name; arguments and errors are those of `freeze`.

    Returns:
        The parameters that were frozen before, as "kept, trained"; how many numbers train now.
    """
    return _set_training("unfreeze", model, match_parameters(model, patterns), trains=True)


def freeze_depth(
    model: "VisionEncoderDecoderModel", *, encoder: int | None = None, decoder: int | None = None
) -> SurgeryReport:
    """Stop training the lower part of the encoder, of the decoder, or of both.

    Args:
        model: `requires_grad` of its parameters is changed in place; no value changes.
        encoder: the encoder's embeddings and so many of its first blocks; None leaves it.
        decoder: the decoder's embeddings and so many of its first blocks; None leaves it. An output
            projection that is one with the token embeddings is frozen with them.
    Returns:
        See `freeze`.
    Raises:
        SurgeryError: neither is given, more blocks than there are, or a stack of another library.
    """
    given = {part: depth for part, depth in (("encoder", encoder), ("decoder", decoder)) if depth is not None}
    if not given:
        raise SurgeryError("freeze_depth needs encoder= or decoder=, the number of first blocks to freeze")
    names: list[str] = []
    for part, depth in given.items():
        stack = getattr(model, part)
        lower = [name for name, _ in stack.named_children() if name.startswith("embed")]
        if not isinstance(stack, ImageEncoder | TextDecoder) or not lower:
            raise SurgeryError(
                f"{part}={depth}: the {part} is a {type(stack).__name__}, which has no blocks that are known "
                f'here; freeze it by patterns, such as "{part}.*"'
            )
        if type(depth) is not int or not 0 <= depth <= len(stack.blocks):
            raise SurgeryError(
                f"{part}={depth!r} is not a number of blocks from 0 to {len(stack.blocks)}, which it has"
            )
        lower += [f"blocks.{number}" for number in range(depth)]
        inside = tuple(f"{part}.{name}." for name in lower)
        names += [
            name for name, _ in model.named_parameters(remove_duplicate=False) if name.startswith(inside)
        ]
    return _set_training("freeze_depth", model, names, trains=False)


def _set_training(operation: str, model: nn.Module, names: Iterable[str], *, trains: bool) -> SurgeryReport:
    shared = defaultdict(list)
    for name, parameter in model.named_parameters(remove_duplicate=False):
        shared[parameter].append(name)
    wanted = {model.get_parameter(name) for name in names}
    changes, notes = [], []
    for parameter, (name, *others) in shared.items():
        if parameter not in wanted or parameter.requires_grad == trains:
            continue
        parameter.requires_grad_(trains)
        detail = "trained" if trains else "frozen"
        changes.append(Change(name=name, action="kept", shape=tuple(parameter.shape), detail=detail))
        notes += [f"{other} is {detail} too: it is one with {name}" for other in others]
    counts = {True: 0, False: 0}
    for parameter in model.parameters():
        counts[parameter.requires_grad] += parameter.numel()
    if not counts[True]:
        notes.append("nothing is left to train")
    numbers = {"trained_parameters": counts[True], "frozen_parameters": counts[False]}
    return report(operation, model, changes, numbers=numbers, notes=notes)
