"""Images for a model, made ready in another thread while the model reads those before.

Source: original work.
"""

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from os import PathLike
from typing import Any

from torch import Tensor

from trocr.image import ImageError

AHEAD = 1
"""Batches that are made ready while the model reads."""

WIDTH_STEP = 4
"""Patches by which the width of a line at its native width is rounded up, so that more lines are alike."""


@dataclass(frozen=True, slots=True)
class ReadyImage:
    """One image.

    Attributes:
        number: its place among all images.
        source: its path, or "images[3]".
        pixels: (C, height, width), or what went wrong: an `ImageError` where the image is bad, anything else
            where the iterable of the images, or what prepares them, has failed.
    """

    number: int
    source: str
    pixels: Tensor | Exception


def ready_batches(
    images: Any, prepare: Callable[[Any], Tensor], batch_size: int
) -> Generator[list[ReadyImage]]:
    """Give images in batches, in order.

    Args:
        images: one image, or any iterable of them, taken as they are needed: two batches are on the way. What
            it raises comes as the last image, after those before it.
        prepare: makes pixel values (1, C, height, width) of an image; called in another thread.
        batch_size: images in a batch.
    """
    sources = _numbered(images)
    pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="trocr-images")
    try:
        waiting: deque[Future[list[ReadyImage]]] = deque()
        while batch := list(islice(sources, batch_size)):
            waiting.append(pool.submit(_prepare_all, batch, prepare))
            del batch
            if len(waiting) > AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


@dataclass(frozen=True, slots=True)
class _Failure:
    """What an iterable of images has raised."""

    error: Exception


def _numbered(images: Any) -> Iterator[tuple[int, Any]]:
    """Number the images; an error of their iterable is the last."""
    number = 0
    try:
        for image in each(images):
            yield number, image
            del image
            number += 1
    except Exception as error:
        yield number, _Failure(error)


def _prepare_all(batch: list[tuple[int, Any]], prepare: Callable[[Any], Tensor]) -> list[ReadyImage]:
    return [_prepare(number, image, prepare) for number, image in batch]


def _prepare(number: int, image: Any, prepare: Callable[[Any], Tensor]) -> ReadyImage:
    is_path = isinstance(image, str | PathLike)
    source = os.fspath(image) if is_path else f"images[{number}]"
    if isinstance(image, _Failure):
        return ReadyImage(number, source, image.error)
    try:
        pixels = prepare(image)
        if len(pixels) != 1:
            raise ImageError(f"{len(pixels)} images in one; expected a flat list of images")
        return ReadyImage(number, source, pixels[0])
    except ImageError as error:
        return ReadyImage(number, source, error if is_path else ImageError(f"{source}: {error}"))
    except Exception as error:
        return ReadyImage(number, source, error)


def each(images: Any) -> Iterator[Any]:
    """Give the images of an iterable, or the single one."""
    single = isinstance(images, str | PathLike | bytes | bytearray | memoryview) or hasattr(images, "read")
    ndim = getattr(images, "ndim", None)
    if ndim == 4:
        return iter(images)
    if single or ndim is not None or not isinstance(images, Iterable):
        return iter((images,))
    return iter(images)


def at_native_width(pixels: Tensor, *, patch_px: int) -> Tensor:
    """Leave out a line's padding on the right, and the memory that it takes.

    Args:
        pixels: (1, C, height, width).
        patch_px: width of the model's patches.
    Returns:
        (1, C, height, width'): whole steps of `WIDTH_STEP` patches, at most width.
    """
    width = inked_width(pixels, multiple=WIDTH_STEP * patch_px)
    return pixels if width == pixels.shape[3] else pixels[..., :width].clone()


def without_padding(pixels: Tensor, *, multiple: int) -> Tensor:
    """Cut the columns on the right that are flat in every image of a batch.

    Args:
        pixels: (B, C, height, width).
        multiple: of the width that is kept, a patch's; between the last column that is not flat and the edge
            at least one column more is kept.
    Returns:
        (B, C, height, width'), width' at most width.
    """
    return pixels[..., : inked_width(pixels, multiple=multiple)]


def inked_width(pixels: Tensor, *, multiple: int) -> int:
    """Give the width that `without_padding` keeps of (B, C, height, width)."""
    is_flat = (pixels == pixels[..., -1:]).flatten(0, 2).all(dim=0)  # (width,)
    inked = (~is_flat).nonzero()
    last = int(inked[-1]) + 1 if len(inked) else 0
    return min(pixels.shape[3], (last // multiple + 1) * multiple)
