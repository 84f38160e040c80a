"""What a number was measured on: hashes of model and data, options, versions, machine.

Source: original work.
"""

import hashlib
import importlib.metadata
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from trocr.evaluation.report import Reading

PACKAGES = ("trocr", "torch", "numpy", "pillow", "rapidfuzz")


def file_hash(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_hashes(folder: str | os.PathLike[str]) -> dict[str, str]:
    """SHA-256 of each file of a folder, by name."""
    return {path.name: file_hash(path) for path in sorted(Path(folder).iterdir()) if path.is_file()}


def targets_hash(readings: Sequence[Reading]) -> str:
    """SHA-256 of names and targets, in order: the same for the same lines and labels wherever they lie."""
    digest = hashlib.sha256()
    for reading in readings:  # names and labels can be broken Unicode
        digest.update(f"{reading.name}\t{reading.target}\n".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def image_hash(image: Image.Image) -> str:
    """SHA-256 of an image's mode, size and pixels: the same for the same picture in whatever file."""
    digest = hashlib.sha256(f"{image.mode} {image.width} {image.height}\n".encode())
    digest.update(image.tobytes())
    return digest.hexdigest()


def images_hash(readings: Sequence[Reading]) -> str | None:
    """SHA-256 of all images' hashes, in order; None where an image was not opened."""
    digest = hashlib.sha256()
    for reading in readings:
        if reading.image_sha256 is None:
            return None
        digest.update(f"{reading.image_sha256}\n".encode())
    return digest.hexdigest()


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that numbers depend on."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, Any]:
    """Processor, cores and threads."""
    import torch

    from trocr.fast.probes import processor_name

    return {
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "system": platform.platform(terse=True),
    }
