"""Write any checkpoint this project reads as a Hugging Face directory.

Source: original work.
"""

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from trocr.config_base import BaseConfig
from trocr.hub import PROCESSOR_FILES, locate
from trocr.models import VisionEncoderDecoderModel
from weights_conversion.commands.source import (
    Hints,
    Source,
    find_config,
    load_model,
    official_model,
    same_architecture,
)
from weights_conversion.files import open_weights

VOCABULARIES = ("tokenizer.json", "vocab.json", "sentencepiece.bpe.model", "vocab.txt")
_ORDER = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a conversion did.

    Attributes:
        config_origin: where the configuration comes from.
        memory: precision that config.json names.
        storage: precision of the weights written.
        ignored: (key, reason) of tensors left out.
        copied: tokenizer and image files taken along.
        notes: what the user should know or still do.
    """

    config_origin: str
    memory: torch.dtype
    storage: torch.dtype
    ignored: tuple[tuple[str, str], ...]
    copied: tuple[str, ...]
    notes: tuple[str, ...]


def convert(
    source: Source,
    target: Path,
    *,
    hints: Hints | None = None,
    storage: torch.dtype | None = None,
    processor: str | None = None,
) -> Report:
    """Convert a checkpoint.

    Args:
        source: what to read.
        target: directory to write; weights and configurations in it are replaced.
        hints: what the files do not say.
        storage: precision of the weights in the file; None keeps the source's. config.json keeps the
            precision it names, which is the one in memory.
        processor: directory or Hub id to take tokenizer and image processor files from, instead of the
            source's.
    Raises:
        ValueError: see `find_config` and `load_model`.
        OSError: the target cannot be written.
    """
    hints = hints or Hints()
    with open_weights(source.path) as weights:
        config, origin = find_config(source, weights, hints)
        table = source.dialect.table
        covered = [(key, stem) for key in weights.shapes for stem in table.matches(key)]
        ignored = [(key, table.ignored[stem]) for key, stem in covered if stem in table.ignored]
        stored = _widest({weights.dtypes[key] for key, stem in covered if stem in table.rules})
    memory, notes = _memory_dtype(config, stored)
    model = load_model(source, config, dtype=memory)
    model.save_pretrained(target, storage_dtype=storage or stored)
    copied = _copy_processor(source, target, processor)
    if isinstance(model, VisionEncoderDecoderModel):
        written, more = image_settings(config, target, hints)
        copied += written
        notes += more + tokenizer_note(config, target)
    return Report(
        config_origin=origin,
        memory=memory,
        storage=storage or stored,
        ignored=tuple(ignored),
        copied=tuple(copied),
        notes=tuple(notes),
    )


def _widest(dtypes: set[torch.dtype]) -> torch.dtype:
    """The one floating precision that holds all of these; float32 for float16 beside bfloat16."""
    floats = {dtype for dtype in dtypes if dtype.is_floating_point}
    if not floats <= set(_ORDER) or len(floats) != 1:
        return torch.float64 if torch.float64 in floats else torch.float32
    return floats.pop()


def _memory_dtype(config: BaseConfig, stored: torch.dtype) -> tuple[torch.dtype, list[str]]:
    """The configuration's precision; the file's where the former would lose digits."""
    named = getattr(torch, getattr(config, "dtype", None) or "float32")
    if torch.promote_types(named, stored) == named:
        return named, []
    note = f"config.json said {_name(named)}, which loses digits of the file; it now says {_name(stored)}"
    return stored, [note]


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _copy_processor(source: Source, target: Path, processor: str | None) -> list[str]:
    folder = source.directory
    if processor is not None:
        folder = locate(processor, want=PROCESSOR_FILES)
    if folder is None or folder.resolve() == target.resolve():
        return []
    names = [name for name in PROCESSOR_FILES if (folder / name).is_file()]
    for name in names:
        shutil.copyfile(folder / name, target / name)
    return names


def image_settings(config: BaseConfig, target: Path, hints: Hints) -> tuple[list[str], list[str]]:
    """Write preprocessor_config.json where the model is an official one and the file is absent."""
    if any((target / name).is_file() for name in ("preprocessor_config.json", "processor_config.json")):
        return [], []
    models = [official_model(hints.official)] if hints.official else same_architecture(config)
    if not models:
        return [], [
            "no preprocessor_config.json: nothing says how images are prepared; add the model's own, or "
            "convert again with --processor DIRECTORY"
        ]
    text = json.dumps(dict(models[0].image_processor), indent=2, sort_keys=True)
    (target / "preprocessor_config.json").write_text(text + "\n", encoding="utf-8")
    return ["preprocessor_config.json"], [f"preprocessor_config.json is that of {models[0].name}"]


def tokenizer_note(config: BaseConfig, target: Path) -> list[str]:
    """Say how to add a tokenizer where the target has none."""
    if any((target / name).is_file() for name in VOCABULARIES):
        return []
    models = same_architecture(config)
    like = f"; {models[0].name} on the Hub has it ({models[0].tokenizer})" if models else ""
    return [
        f"no tokenizer: the source holds none{like}. Copy its files into {target}, or convert again with "
        "--processor DIRECTORY_OR_HUB_ID"
    ]


def describe(source: Source, target: Path, report: Report) -> Iterator[str]:
    """What a conversion did, as lines of text."""
    yield f"read     {source.path} ({source.dialect.title})"
    yield f"config   {report.config_origin}; {_name(report.memory)} in memory"
    yield f"written  {target} ({_name(report.storage)} in the file)"
    for reason in dict.fromkeys(reason for _, reason in report.ignored):
        keys = [key for key, why in report.ignored if why == reason]
        yield f"ignored  {', '.join(keys)}: {reason}"
    if report.copied:
        yield f"with     {', '.join(report.copied)}"
    for note in report.notes:
        yield f"note     {note}"
