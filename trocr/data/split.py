"""Split lines into parts by writer, receipt or document, never by line, and write down what is where.

Lines of one writer look alike: a part that shares writers with the training lines tells nothing about new
ones.

Source: original work.
"""

import hashlib
import json
import math
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from trocr.data.packing import Packed, staged, write_shards
from trocr.data.records import DataError, LineSource
from trocr.data.sources import Subset
from trocr.image_array import ImageError

MANIFEST = "split.json"


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part of a split.

    Attributes:
        name: "train", "val" ...
        lines: its lines.
        groups: whole writers, receipts or documents in it, sorted.
    """

    name: str
    lines: Subset
    groups: tuple[str, ...]


def split_by_group(source: LineSource, shares: Mapping[str, float], *, seed: int = 0) -> list[Part]:
    """Deal groups out, so that each part has about its share of the lines.

    Groups come in random order, and each goes to the part that is furthest below its share.

    Args:
        source: lines with groups.
        shares: name of the part -> its share, in any unit.
        seed: of the order.
    Raises:
        DataError: lines have no group, there are fewer groups than parts, or a share is not a number above 0.
    """
    if not shares or not all(0 < share < math.inf for share in shares.values()):
        raise DataError(f"shares {dict(shares)} must all be above 0, and numbers")
    members: dict[str, list[int]] = defaultdict(list)
    for number in range(len(source)):
        record = source[number]
        if record.group is None:
            raise DataError(
                f"{record.name} has no group: a split by line would put lines of one writer on both sides. "
                "Give labels.tsv a third column with the writer, receipt or document"
            )
        members[record.group].append(number)
    if len(members) < len(shares):
        raise DataError(f"{len(members)} groups cannot be dealt to {len(shares)} parts")
    names = sorted(members)
    order = np.random.default_rng(seed).permutation(len(names))
    total = sum(shares.values())
    wanted = {part: len(source) * share / total for part, share in shares.items()}
    dealt: dict[str, list[str]] = {part: [] for part in shares}
    counts = dict.fromkeys(shares, 0)
    for place, number in enumerate(order):
        group = names[number]
        empty = [part for part in shares if not dealt[part]]
        choices = empty if len(order) - place <= len(empty) else list(shares)
        part = max(choices, key=lambda name: (wanted[name] - counts[name]) / wanted[name])
        dealt[part].append(group)
        counts[part] += len(members[group])
    return [
        Part(
            name=part,
            lines=Subset(source, sorted(number for group in groups for number in members[group])),
            groups=tuple(sorted(groups)),
        )
        for part, groups in dealt.items()
    ]


def write_parts(
    parts: Sequence[Part], folder: str | os.PathLike[str], *, origin: str, seed: int
) -> list[Packed]:
    """Write parts as folders of shards, and what is in them as split.json: all of it, or nothing.

    Args:
        parts: of a split.
        folder: made where it is missing; it must not hold anything of the parts' names.
        origin: where the lines are from, for the manifest.
        seed: of the split, for the manifest.
    Returns:
        What was packed of each part.
    Raises:
        DataError: two parts hold the same image, no line of a part can be read, or the folder cannot be
            written.
    """
    place = Path(folder)
    taken = [
        str(place / name) for name in (MANIFEST, *(part.name for part in parts)) if (place / name).exists()
    ]
    if taken:
        raise DataError(f"{', '.join(taken)}: is there already; choose an empty folder")
    described = manifest(parts, origin=origin, seed=seed)
    written = []
    with staged(place) as stage:
        for part in parts:
            packed = write_shards(part.lines, stage / part.name)
            described["parts"][part.name] |= {
                "lines": packed.num_lines,
                "skipped": list(packed.skipped),
                "sha256_of_files": {file.name: _file_hash(file) for file in packed.files},
            }
            files = tuple(place / part.name / file.name for file in packed.files)
            written.append(replace(packed, files=files))
        text = json.dumps(described, indent=1, ensure_ascii=False) + "\n"
        (stage / MANIFEST).write_bytes(text.encode("utf-8"))
    return written


def manifest(parts: Sequence[Part], *, origin: str, seed: int) -> dict[str, Any]:
    """Describe a split: groups, counts of lines that can be read, and hashes of their labels and images.

    Raises:
        DataError: two parts hold an image with the same pixels; the message names both lines.
    """
    seen: dict[str, tuple[str, str]] = {}
    described: dict[str, Any] = {}
    for part in parts:
        labels, images, num_lines = hashlib.sha256(), hashlib.sha256(), 0
        for record in part.lines:
            try:
                digest = pixel_hash(record.open())
            except ImageError:
                continue  # packing names it
            num_lines += 1
            labels.update(f"{record.name}\t{record.text}\n".encode())
            images.update(digest.encode())
            other, name = seen.setdefault(digest, (part.name, record.name))
            if other != part.name:
                raise DataError(
                    f"{record.name} of {part.name} and {name} of {other} are the same image; remove one "
                    "before splitting"
                )
        described[part.name] = {
            "lines": num_lines,
            "groups": list(part.groups),
            "sha256_of_labels": labels.hexdigest(),
            "sha256_of_pixels": images.hexdigest(),
        }
    return {"source": origin, "seed": seed, "parts": described}


def _file_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def pixel_hash(image: Any) -> str:
    """SHA-256 of an image's size, mode and pixels."""
    digest = hashlib.sha256(f"{image.mode} {image.size}".encode())
    digest.update(image.tobytes())
    return digest.hexdigest()
