"""Models as files that other runtimes read: ONNX graphs, and packages of `torch.export`.

Names are imported when they are first used: reading needs no exporter.

Source: original work; lazy attributes after PEP 562.
"""

import importlib
from typing import TYPE_CHECKING, Any

_HOMES = {
    "ExportError": "trocr.export.errors",
    "ExportedModelError": "trocr.export.errors",
    "OnnxModel": "trocr.export.onnx_model",
    "PackagedModel": "trocr.export.package_model",
    "export_onnx": "trocr.export.onnx_export",
    "export_package": "trocr.export.packages",
    "is_onnx_folder": "trocr.export.manifest",
    "is_package_folder": "trocr.export.manifest",
}

__all__ = [
    "ExportError",
    "ExportedModelError",
    "OnnxModel",
    "PackagedModel",
    "export_onnx",
    "export_package",
    "is_onnx_folder",
    "is_package_folder",
]

if TYPE_CHECKING:
    from trocr.export.errors import ExportedModelError, ExportError
    from trocr.export.manifest import is_onnx_folder, is_package_folder
    from trocr.export.onnx_export import export_onnx
    from trocr.export.onnx_model import OnnxModel
    from trocr.export.package_model import PackagedModel
    from trocr.export.packages import export_package


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'trocr.export' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
