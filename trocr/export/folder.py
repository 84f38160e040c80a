"""Folders of exported models: all of one appears at once, after it was compared with the model.

Source: original work.
"""

import dataclasses
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import trocr
from trocr.export.comparison import INT8_AGREEMENT, compare
from trocr.export.errors import ExportedModelError, ExportError
from trocr.export.graph_model import GraphModel
from trocr.export.manifest import MANIFEST, Manifest, facts
from trocr.export.tracing import image_shape, layer_shapes, takes_any_width
from trocr.models import VisionEncoderDecoderModel
from trocr.processor import TrOCRProcessor

Accept = Callable[[GraphModel], None]
"""Raises an error where an exported model must not be written: the command line's parity gate does."""


@contextmanager
def staged(folder: str | PathLike[str]) -> Iterator[Path]:
    """Give a folder that becomes `folder` once all went well, and is gone otherwise.

    Raises:
        ExportError: `folder` is a file, or holds something.
        OSError: it cannot be written.
    """
    target = Path(folder)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        what = "has files in it" if target.is_dir() else "is a file"
        raise ExportError(f"{target} {what}, expected a new or empty folder to export into")
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        part.mkdir(parents=True)
        yield part
        if target.is_dir():
            target.rmdir()
        os.replace(part, target)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def finish(
    part: Path,
    model: VisionEncoderDecoderModel,
    *,
    kind: str,
    graphs: Mapping[str, str],
    made_with: Mapping[str, Any],
    processor: TrOCRProcessor | None,
    load: Callable[[Path], GraphModel],
    check: Tensor | None,
    accept: Accept | None = None,
    quantize: str | None = None,
    min_agreement: float | None = None,
) -> Manifest:
    """Write everything beside the graphs, then compare, and keep what was found.

    Args:
        part: holds the graphs' files.
        model: that they were made of.
        kind: "onnx" or "package".
        graphs: name -> file.
        made_with: versions of what wrote them.
        processor: is written too.
        load: reads such a folder.
        check: images to compare on, or None for noise.
        accept: is asked too.
        quantize: None or "int8".
        min_agreement: see `compare`; None for int8 takes `INT8_AGREEMENT`.
    Raises:
        ExportError: the exported model cannot be loaded, or does not read as the model does.
    """
    dtype = str(model.dtype).removeprefix("torch.")
    config = dataclasses.replace(model.config, dtype=dtype)
    values = {**config.to_dict(), "architectures": [type(model).__name__]}
    for name, content in (
        ("config.json", values),
        ("generation_config.json", model.generation_config.to_dict()),
    ):
        (part / name).write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    written = sorted(path.name for path in part.iterdir() if path.suffix != ".json")
    if processor is not None:
        processor.save_pretrained(part)
    manifest = Manifest(
        kind=kind,
        dtype=dtype,
        quantize=quantize,
        image=image_shape(model),
        patch_hw=model.encoder.embeddings.patch_hw,
        any_width=takes_any_width(model),
        layers=tuple(layer_shapes(model)),
        graphs=graphs,
        files=facts(part, written),
        made_with={"trocr": trocr.__version__, "torch": str(torch.__version__), **made_with},
        check={},
    )
    (part / MANIFEST).write_bytes(manifest.to_json())
    if quantize is not None and min_agreement is None:
        min_agreement = INT8_AGREEMENT["noise" if check is None else "images"]
    try:
        exported = load(part)
    except ExportedModelError as error:
        raise ExportError(f"what was exported cannot be loaded: {error}") from error
    found = compare(model, exported, check, min_agreement=min_agreement)
    if accept is not None:
        accept(exported)
    manifest = dataclasses.replace(
        manifest, check={**found.to_dict(), "on": "noise" if check is None else "images"}
    )
    (part / MANIFEST).write_bytes(manifest.to_json())
    return manifest
