"""Recipes: operations in a TOML file, done one after another.

    [[operation]]
    name = "keep_blocks"
    stack = "decoder"
    blocks = "last:2"

Source: original work.
"""

import importlib
import inspect
import tomllib
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trocr.nearest import nearest
from trocr.surgery.patterns import SurgeryError
from trocr.surgery.report import SurgeryReport

if TYPE_CHECKING:
    from trocr.models import VisionEncoderDecoderModel
    from trocr.processor import TrOCRProcessor

OPERATIONS: Mapping[str, str] = {
    "extend_vocabulary": "trocr.surgery.vocabulary",
    "shrink_vocabulary": "trocr.surgery.vocabulary",
    "replace_tokenizer": "trocr.surgery.vocabulary",
    "resize_images": "trocr.surgery.image_shape",
    "keep_blocks": "trocr.surgery.depth",
    "drop_blocks": "trocr.surgery.depth",
    "prune_heads": "trocr.surgery.pruning",
    "prune_units": "trocr.surgery.pruning",
    "merge_adapter": "trocr.surgery.adapters",
    "replace_encoder": "trocr.surgery.parts",
    "replace_decoder": "trocr.surgery.parts",
}
"""Function -> its module. Each takes a model, keywords, and its `processor` where it needs it."""


def read_recipe(path: str | PathLike[str]) -> list[tuple[Callable[..., SurgeryReport], dict[str, Any]]]:
    """Read the operations of a file, each with its keywords.

    Raises:
        SurgeryError: it is no TOML, or an operation or keyword does not exist; the nearest is told.
    """
    try:
        content = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SurgeryError(f"{path}: cannot be read as TOML ({error})") from error
    tables = content.get("operation")
    is_list = isinstance(tables, list) and all(isinstance(table, dict) for table in tables)
    if set(content) != {"operation"} or not is_list or not tables:
        raise SurgeryError(f"{path}: expected tables [[operation]] and nothing else")
    return [_operation(dict(table), f"{path}, operation {place + 1}") for place, table in enumerate(tables)]


def apply_recipe(
    model: "VisionEncoderDecoderModel",
    recipe: Sequence[tuple[Callable[..., SurgeryReport], Mapping[str, Any]]],
    *,
    processor: "TrOCRProcessor",
) -> list[SurgeryReport]:
    """Do the operations of a recipe on a model and its processor, in place, in order.

    Raises:
        SurgeryError: one cannot be done, which is named by its number; those before it are done.
    """
    reports = []
    for number, (function, keywords) in enumerate(recipe, start=1):
        needs = {"processor": processor} if "processor" in inspect.signature(function).parameters else {}
        try:
            reports.append(function(model, **needs, **keywords))
        except SurgeryError as error:
            raise SurgeryError(f"operation {number} ({function.__name__}): {error}") from error
    return reports


def _operation(table: dict[str, Any], where: str) -> tuple[Callable[..., SurgeryReport], dict[str, Any]]:
    name = table.pop("name", None)
    if not isinstance(name, str) or name not in OPERATIONS:
        raise SurgeryError(f"{where}: name={name!r} is unknown{nearest(str(name), OPERATIONS)}")
    function = getattr(importlib.import_module(OPERATIONS[name]), name)
    parameters = inspect.signature(function).parameters
    known = [key for key in parameters if key not in ("model", "processor")]
    for key in table:
        if key not in known:
            raise SurgeryError(f"{where}: {name} has no {key!r}{nearest(key, known)}")
    missing = [
        key for key in known if parameters[key].default is inspect.Parameter.empty and key not in table
    ]
    if missing:
        raise SurgeryError(f"{where}: {name} needs {', '.join(missing)}")
    return function, table
