"""What a checkpoint holds, as text, without loading a tensor.

Source: original work.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from trocr.config_base import BaseConfig
from trocr.pretrained_model import PretrainedModel
from weights_conversion.commands.source import Hints, Source, find_config, model_class, same_architecture
from weights_conversion.configs import DerivationError
from weights_conversion.files import WeightFile, open_weights
from weights_conversion.rename import KeyMapError

_SHOWN = {
    "encoder": (
        ("hidden_size", "wide"),
        ("num_hidden_layers", "blocks"),
        ("num_attention_heads", "heads"),
        ("intermediate_size", "feed-forward"),
        ("image_size", "image"),
        ("patch_size", "patch"),
        ("qkv_bias", "qkv bias"),
    ),
    "decoder": (
        ("d_model", "wide"),
        ("decoder_layers", "blocks"),
        ("decoder_attention_heads", "heads"),
        ("decoder_ffn_dim", "feed-forward"),
        ("vocab_size", "tokens"),
        ("max_position_embeddings", "positions"),
        ("activation_function", "activation"),
        ("use_learned_position_embeddings", "learned positions"),
        ("layernorm_embedding", "embedding norm"),
        ("scale_embedding", "scaled embedding"),
        ("tie_word_embeddings", "tied projection"),
    ),
}


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One tensor of the file under our name.

    Attributes:
        name: our name; the file's where no rule covers it.
        shape: as ours, after a fused tensor is cut.
        dtype: in the file.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def count(self) -> int:
        """Numbers in the tensor."""
        return math.prod(self.shape)

    @property
    def size(self) -> int:
        """Bytes in the file."""
        return self.count * self.dtype.itemsize


def summarize(source: Source, hints: Hints) -> tuple[list[str], bool]:
    """Describe a checkpoint.

    Returns:
        Lines of text, and whether configuration and weights fit each other (True where none is known).
    """
    with open_weights(source.path) as weights:
        entries, ignored, unknown = _entries(source, weights)
        lines = _header(source, weights)
        fits = True
        try:
            config, origin = find_config(source, weights, hints)
        except DerivationError as error:
            lines.append(f"configuration  unknown: {error}")
        else:
            lines += [f"configuration  {origin}", *_config_lines(config)]
            lines.append(f"architecture   {_architecture(config)}")
            kind = model_class(source, config)
            model = kind.skeleton(weights, config, table=source.dialect.table)
            problem = _misfit(source, weights, model)
            fits = problem is None
            entries = [entry for entry in entries if entry.name not in model.tied]
            lines += ["", *_table(entries)]
            if problem is not None:
                lines += ["", problem]
            return lines + _left_out(ignored, unknown), fits
    return [*lines, "", *_table(entries), *_left_out(ignored, unknown)], fits


def _entries(source: Source, weights: WeightFile) -> tuple[list[Entry], list[tuple[str, str]], list[str]]:
    table = source.dialect.table
    entries: list[Entry] = []
    ignored, unknown = [], []
    for key, shape in weights.shapes.items():
        hits = table.matches(key)
        if not hits:
            unknown.append(key)
        elif hits[0] in table.ignored:
            ignored.append((key, table.ignored[hits[0]]))
        else:
            targets = table.targets(key, hits[0])
            cut = (shape[0] // len(targets), *shape[1:]) if len(targets) > 1 else shape
            entries += [Entry(name=name, shape=cut, dtype=weights.dtypes[key]) for name in targets]
    return entries, ignored, unknown


def _header(source: Source, weights: WeightFile) -> list[str]:
    shards = source.path.name.endswith(".index.json")
    pattern = source.path.name.removesuffix(".index.json").replace(".", "-*.") if shards else source.path.name
    size = sum(path.stat().st_size for path in source.path.parent.glob(pattern))
    dtypes = sorted({str(dtype).removeprefix("torch.") for dtype in weights.dtypes.values()})
    return [
        f"weights        {source.path} ({weights.kind}, {size:,} bytes, {len(weights.shapes)} tensors)",
        f"dialect        {source.dialect.table.name}: {source.dialect.title}",
        f"stored as      {', '.join(dtypes)}",
    ]


def _config_lines(config: BaseConfig) -> Iterator[str]:
    values = config.to_dict()
    parts = {name: values[name] for name in ("encoder", "decoder") if isinstance(values.get(name), dict)}
    if not parts:
        parts = {"decoder" if config.model_type == "trocr" else "encoder": values}
    for name, part in parts.items():
        shown = ", ".join(f"{label} {_value(part[key])}" for key, label in _SHOWN[name])
        yield f"  {name:<13}{part['model_type']}: {shown}"
    yield f"in memory      {config.dtype or 'float32'}"


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return " x ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _architecture(config: BaseConfig) -> str:
    models = same_architecture(config)
    if not models:
        return "not one of the official models'"
    return f"that of {', '.join(model.name for model in models)}: {models[0].num_parameters:,} parameters"


def _misfit(source: Source, weights: WeightFile, model: PretrainedModel) -> str | None:
    expected = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    try:
        source.dialect.table.plan(weights.shapes, expected, tied=model.tied, origin=str(source.path))
    except KeyMapError as error:
        return str(error)
    return None


def _table(entries: list[Entry]) -> Iterator[str]:
    """One row per tensor, blocks of one kind together, and sums."""
    rows = [("module", "tensor", "shape", "dtype", "parameters", "bytes")]
    for members in _grouped(entries).values():
        first = members[0]
        module, _, leaf = _collapsed(members).rpartition(".")
        count, size = sum(entry.count for entry in members), sum(entry.size for entry in members)
        shape = " x ".join(map(str, first.shape)) or "1 number"
        dtype = str(first.dtype).removeprefix("torch.")
        rows.append((module, leaf, shape, dtype, f"{count:,}", f"{size:,}"))
    for label, chosen in _sums(entries):
        count, size = sum(entry.count for entry in chosen), sum(entry.size for entry in chosen)
        rows.append((label, "", "", "", f"{count:,}", f"{size:,}"))
    widths = [max(len(row[column]) for row in rows) for column in range(6)]
    for row in rows:
        left = "  ".join(cell.ljust(width) for cell, width in zip(row[:4], widths, strict=False))
        yield f"{left}  {row[4]:>{widths[4]}}  {row[5]:>{widths[5]}}"


def _grouped(entries: list[Entry]) -> dict[Any, list[Entry]]:
    groups: dict[Any, list[Entry]] = {}
    for entry in entries:
        pattern = re.sub(r"\.\d+\.", ".{}.", entry.name)
        groups.setdefault((pattern, entry.shape, entry.dtype), []).append(entry)
    return groups


def _collapsed(members: list[Entry]) -> str:
    numbers = sorted(int(found[1]) for entry in members if (found := re.search(r"\.(\d+)\.", entry.name)))
    if len(members) == 1 or not numbers:
        return members[0].name
    whole = numbers == list(range(numbers[0], numbers[-1] + 1))
    spelled = f"{numbers[0]}-{numbers[-1]}" if whole else ",".join(map(str, numbers))
    return re.sub(r"\.\d+\.", f".{{{spelled}}}.", members[0].name)


def _sums(entries: list[Entry]) -> Iterator[tuple[str, list[Entry]]]:
    poolers = [entry for entry in entries if "pooler" in entry.name.split(".")]
    rest = [entry for entry in entries if entry not in poolers]
    for part in ("encoder", "decoder", "enc_to_dec_proj"):
        chosen = [entry for entry in rest if entry.name.split(".")[0] == part]
        if chosen and len(chosen) < len(rest):
            yield f"{part}, sum", chosen
    if poolers:
        yield "pooler, which reading never uses, sum", poolers
    yield "sum without pooler" if poolers else "sum", rest


def _left_out(ignored: list[tuple[str, str]], unknown: list[str]) -> list[str]:
    lines = [f"ignored  {key}: {reason}" for key, reason in ignored]
    lines += [f"unknown  {key}" for key in unknown]
    return ["", *lines] if lines else []
