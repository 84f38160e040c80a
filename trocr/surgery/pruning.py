"""Take attention heads and feed-forward units out of a model, by number or by measured importance.

The width of a head stays what it was. A model without a head computes what the whole one computes where the
head's columns of the output projection are zero, and the same holds for a unit and the second linear layer.

Source: arXiv:1905.10650 (heads), arXiv:1611.06440 (units). transformers 5 has no pruning of heads any more;
that of 4.x knew no TrOCR decoder.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from trocr.config_shapes import StackConfig
from trocr.data.sources import open_source
from trocr.nn.attention import Attention
from trocr.nn.mlp import MLP
from trocr.surgery.blocks import (
    FOREIGN,
    STACKS,
    Stack,
    blocks_of,
    forget_adapter,
    has_blocks,
    refuse_adapter,
    set_stacks,
)
from trocr.surgery.importance import head_importance, line_batches, unit_importance
from trocr.surgery.patterns import SurgeryError
from trocr.surgery.pruning_choice import (
    Kept,
    Numbers,
    Part,
    choose_parts,
    count_share,
    keep_all_but,
    keep_important,
    keep_number,
)
from trocr.surgery.report import Change, SurgeryReport, report

if TYPE_CHECKING:
    from trocr.models import VisionEncoderDecoderModel
    from trocr.processor import TrOCRProcessor


def prune_heads(
    model: "VisionEncoderDecoderModel",
    heads: Mapping[str, Numbers] | None = None,
    *,
    share: float | None = None,
    keep_heads: int | None = None,
    modules: str | Sequence[str] = "*",
    importance: Mapping[str, Tensor] | None = None,
    data: str | None = None,
    max_lines: int = 256,
    processor: "TrOCRProcessor | None" = None,
) -> SurgeryReport:
    """Take attention heads out, in place. Exactly one of `heads`, `share` and `keep_heads` is given.

    Args:
        model: the model.
        heads: name or pattern of attentions ("decoder.blocks.0.cross_attn", "encoder.*") -> numbers of the
            heads that go, or a mask with true for those.
        share: share of all heads that go, the least important of all attentions first; one always stays in
            each attention.
        keep_heads: heads that stay in each attention, the most important ones.
        modules: with `share` or `keep_heads`: names or patterns of the attentions that count.
        importance: with these: what `head_importance` gives; else it is measured on `data`.
        data: lines with their texts, see `trocr.data.sources.open_source`.
        max_lines: of `data` that are measured on.
        processor: of the model; needed with `data`.
    Returns:
        What is left of each attention. A model without a head cannot be loaded by transformers: its
        `config.json` has `block_shapes`.
    Raises:
        SurgeryError: not one of the three, a pattern without a match, numbers that are not there, an
            attention that would lose its last head, nothing to measure importance on, or a model with an
            adapter.
        DataError: there is nothing that can be read at `data`.
    """
    ways = _Ways(
        what="head",
        named=heads,
        share=share,
        keep=keep_heads,
        modules=modules,
        importance=importance,
        data=data,
        max_lines=max_lines,
    )
    return _prune("prune_heads", model, dict(_attentions(model)), ways, processor)


def prune_units(
    model: "VisionEncoderDecoderModel",
    units: Mapping[str, Numbers] | None = None,
    *,
    share: float | None = None,
    keep_units: int | None = None,
    modules: str | Sequence[str] = "*",
    importance: Mapping[str, Tensor] | None = None,
    data: str | None = None,
    max_lines: int = 256,
    processor: "TrOCRProcessor | None" = None,
) -> SurgeryReport:
    """Take units out of feed-forward parts, in place. One of `units`, `share` and `keep_units` is given.

    Args:
        model: the model.
        units: name or pattern of feed-forward parts ("decoder.blocks.0.mlp", "encoder.*") -> numbers of the
            units that go, or a mask with true for those.
        share: share of all units that go, the least important of all parts first.
        keep_units: units that stay in each part, the most important ones.
        modules, importance, data, max_lines, processor: see `prune_heads`; the importance is what
            `unit_importance` gives.
    Returns:
        What is left of each part. Where all blocks of a stack have the same number of units, its
        configuration says it as that of any model, and transformers loads it.
    Raises:
        SurgeryError, DataError: as `prune_heads`.
    """
    ways = _Ways(
        what="unit",
        named=units,
        share=share,
        keep=keep_units,
        modules=modules,
        importance=importance,
        data=data,
        max_lines=max_lines,
    )
    return _prune("prune_units", model, dict(_feed_forwards(model)), ways, processor)


@dataclass(frozen=True, kw_only=True)
class _Ways:
    """How what goes is chosen; see `prune_heads`."""

    what: str
    named: Mapping[str, Numbers] | None
    share: float | None
    keep: int | None
    modules: str | Sequence[str]
    importance: Mapping[str, Tensor] | None
    data: str | None
    max_lines: int

    def check(self) -> None:
        """Check that the options fit together."""
        ways = {f"{self.what}s": self.named, "share": self.share, f"keep_{self.what}s": self.keep}
        given = [name for name, value in ways.items() if value is not None]
        if len(given) != 1:
            raise SurgeryError(f"{' and '.join(given) or 'nothing'} given, expected one of {', '.join(ways)}")
        modules = None if self.modules == "*" else self.modules
        others = {"modules": modules, "importance": self.importance, "data": self.data}
        needless = [name for name, value in others.items() if value is not None]
        if self.named is not None and needless:
            raise SurgeryError(
                f"{' and '.join(needless)} given, but {given[0]} names what goes: leave out one or the other"
            )
        for name, number in ((f"keep_{self.what}s", self.keep), ("max_lines", self.max_lines)):
            if number is not None and (type(number) is not int or number < 1):
                raise SurgeryError(f"{name}={number!r}, expected a whole number above 0")


def _choose(
    model: "VisionEncoderDecoderModel",
    parts: Mapping[str, Part],
    ways: _Ways,
    processor: "TrOCRProcessor | None",
) -> tuple[Mapping[str, Part], Kept]:
    """Give the parts that count, and what stays of those that lose anything."""
    ways.check()
    if ways.named is not None:
        return parts, keep_all_but(parts, ways.named, ways.what)
    parts = choose_parts(parts, ways.modules, ways.what)
    count = 0 if ways.share is None else count_share(parts, ways.share, ways.what)
    importance = _measured(model, ways, processor) if ways.importance is None else ways.importance
    if ways.keep is None:
        return parts, keep_important(parts, importance, count, ways.what)
    return parts, keep_number(parts, importance, ways.keep, ways.what)


def _measured(
    model: "VisionEncoderDecoderModel", ways: _Ways, processor: "TrOCRProcessor | None"
) -> Mapping[str, Tensor]:
    measure = head_importance if ways.what == "head" else unit_importance
    if ways.data is None or processor is None:
        missing = (
            "data to measure it on" if ways.data is None else "the processor that makes images of the data"
        )
        raise SurgeryError(f"importance is missing: give what {measure.__name__} measures, or {missing}")
    longest = model.config.decoder.max_position_embeddings
    source = open_source(ways.data)
    return measure(model, line_batches(source, processor, max_lines=ways.max_lines, max_tokens=longest))


def _attentions(model: "VisionEncoderDecoderModel") -> Iterator[tuple[str, Part]]:
    for stack, place, name, block in _blocks(model):
        for attention in ("self_attn", "cross_attn"):
            module = getattr(block, attention, None)
            if isinstance(module, Attention):
                field = "num_heads" if stack == "encoder" else f"{attention}_heads"
                part = Part(module=module, stack=stack, place=place, field=field, size=module.num_heads)
                yield f"{name}.{attention}", part


def _feed_forwards(model: "VisionEncoderDecoderModel") -> Iterator[tuple[str, Part]]:
    for stack, place, name, block in _blocks(model):
        field = "intermediate_size" if stack == "encoder" else "ffn_dim"
        size = block.mlp.fc1.out_features
        yield f"{name}.mlp", Part(module=block.mlp, stack=stack, place=place, field=field, size=size)


def _blocks(model: "VisionEncoderDecoderModel") -> Iterator[tuple[Stack, int, str, Any]]:
    for stack in STACKS:
        if has_blocks(model, stack):
            for place, block in enumerate(blocks_of(model, stack)):
                yield stack, place, f"{stack}.blocks.{place}", block


def _prune(
    operation: str,
    model: "VisionEncoderDecoderModel",
    parts: Mapping[str, Part],
    ways: _Ways,
    processor: "TrOCRProcessor | None",
) -> SurgeryReport:
    """Take heads or units out, once everything is known to fit."""
    refuse_adapter(model)
    parts, kept = _choose(model, parts, ways, processor)
    configs = _configs(model, parts, kept)
    numbers = {
        f"{ways.what}s_before": sum(part.size for part in parts.values()),
        f"{ways.what}s": sum(len(kept.get(name, range(part.size))) for name, part in parts.items()),
        "parameters_before": model.num_parameters(),
    }
    changes: list[Change] = []
    for name, rows in kept.items():
        module = parts[name].module
        changes += (
            _keep_heads(module, rows, name)
            if isinstance(module, Attention)
            else _keep_units(module, rows, name)
        )
    notes = [_told(name, parts[name].size, rows, ways.what) for name, rows in kept.items()]
    if kept:
        set_stacks(model, configs)
        notes += forget_adapter(model)
    if any(config.block_shapes is not None for config in configs.values()):
        notes.append(FOREIGN)
    numbers["parameters"] = model.num_parameters()
    return report(operation, model, changes, numbers=numbers, notes=notes)


def _told(name: str, size: int, kept: list[int], what: str) -> str:
    which = f": {', '.join(map(str, kept))}" if what == "head" else ""
    return f"{name}: {len(kept)} of {size} {what}s stay{which}"


def _configs(
    model: "VisionEncoderDecoderModel", parts: Mapping[str, Part], kept: Kept
) -> dict[Stack, StackConfig]:
    """Configurations of the stacks, once only what is kept is left."""
    found: dict[Stack, StackConfig] = {}
    for stack in STACKS:
        if not has_blocks(model, stack):
            continue
        config: StackConfig = getattr(model.config, stack)
        shapes = list(config.shapes)
        for name, rows in kept.items():
            part = parts[name]
            if part.stack == stack:
                shapes[part.place] = dataclasses.replace(shapes[part.place], **{part.field: len(rows)})
        found[stack] = config.with_shapes(shapes)
    return found


def _keep_heads(attention: Attention, heads: list[int], name: str) -> Iterable[Change]:
    width, detail = attention.head_dim, f"{len(heads)} of {attention.num_heads} heads stay"
    rows = [head * width + place for head in heads for place in range(width)]
    for leaf in ("q_proj", "k_proj", "v_proj"):
        yield from _slice(getattr(attention, leaf), rows, 0, f"{name}.{leaf}", detail)
    yield from _slice(attention.out_proj, rows, 1, f"{name}.out_proj", detail)
    attention.num_heads = len(heads)


def _keep_units(mlp: nn.Module, units: list[int], name: str) -> Iterable[Change]:
    assert isinstance(mlp, MLP)
    detail = f"{len(units)} of {mlp.fc1.out_features} units stay"
    yield from _slice(mlp.fc1, units, 0, f"{name}.fc1", detail)
    yield from _slice(mlp.fc2, units, 1, f"{name}.fc2", detail)


@torch.no_grad()
def _slice(linear: nn.Linear, kept: list[int], axis: int, name: str, detail: str) -> list[Change]:
    """Keep some rows of a linear layer (axis 0: outputs) or some columns (axis 1: inputs)."""
    changes = []
    for leaf, parameter in list(linear.named_parameters(recurse=False)):
        if axis >= parameter.dim():
            continue  # the bias of the outputs, all of which stay
        index = torch.tensor(kept, device=parameter.device)
        part = nn.Parameter(parameter.index_select(axis, index), requires_grad=parameter.requires_grad)
        setattr(linear, leaf, part)
        changes.append(
            Change(
                name=f"{name}.{leaf}",
                action="sliced",
                shape=tuple(part.shape),
                before=tuple(parameter.shape),
                detail=detail,
            )
        )
    if axis == 0:
        linear.out_features = len(kept)
    else:
        linear.in_features = len(kept)
    return changes
