"""Whatever a person calls an image: a path, bytes, an open file, a PIL image, an array, a tensor.

Images come out upright (EXIF orientation applied), with transparency laid on white, as 8-bit grey or RGB.
PIL's modes `I;16`, `I` and `F` are read as `image_array.py` reads uint16, other integers and floats.

Source: transformers 5.23 `image_utils.py`, `image_transforms.py` (white background); Exif 2.32, tag 0x0112.
Differs: transformers converts only where `do_convert_rgb` says so and refuses the rest, clips modes `I`,
`I;16` and `F` at 255, and turns an image by its EXIF tag only when it opens the file itself.
"""

import io
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from PIL import Image, UnidentifiedImageError

from trocr.image_array import ImageError, Pixels, is_array, on_white, read_array, to_numpy

MAX_IMAGE_PIXELS = 2**26
"""Largest image that is read, in pixels: 8192 x 8192, 192 MiB as RGB. Checked before anything is decoded."""

MAX_STREAM_BYTES = 2**28
"""Most that is read from a stream that cannot seek, in bytes."""

_ORIENTATION = 0x0112  # EXIF tag
_UPRIGHT = {  # its value -> what turns the stored image upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_READABLE = "an image file (PNG, JPEG, TIFF, BMP, GIF, WebP ...)"


def open_image(source: Any, *, input_data_format: str | None = None) -> Image.Image:
    """Read an image from anything that holds one.

    Args:
        source: path (str or Path), encoded bytes, file open in binary mode (read from its start), PIL image
            of any mode, or numpy array or torch tensor: (H, W), (H, W, C) or (C, H, W) with C 1, 3 (RGB) or
            4 (RGBA), in the types and ranges `image_array.py` lists. Of several frames the first is read; a
            PIL image is taken at the frame it stands at.
        input_data_format: "channels_first" or "channels_last", for arrays with both ends like channels; None
            takes the first axis then, as transformers does.

    Returns:
        Mode "RGB", upright, transparency on white. May be `source` itself, which is never changed.

    Raises:
        ImageError: it cannot be read; the message says which image and why.
    """
    return _in_mode(load_pixels(source, input_data_format=input_data_format).to_image(), "RGB")


def load_pixels(source: Any, *, name: str = "", input_data_format: str | None = None) -> Pixels:
    """Read an image as `open_image` does, leaving grey images grey and floating point values exact.

    Args:
        source: as for `open_image`.
        name: what errors call the image, such as "images[3]"; empty for a single one.
        input_data_format: as for `open_image`.
    Raises:
        ImageError: it cannot be read.
    """
    if isinstance(source, Image.Image):
        with _quiet():
            return _from_pil(source, _label(name, f"PIL image {source.mode} {source.width}x{source.height}"))
    if isinstance(source, str | os.PathLike):
        return _from_path(Path(source), _label(name, os.fspath(source)))
    if isinstance(source, bytes | bytearray | memoryview):
        return _from_stream(io.BytesIO(source), _label(name, f"{len(source)} bytes"))
    if hasattr(source, "read"):
        return _from_file(source, _label(name, f"file {getattr(source, 'name', type(source).__name__)!r}"))
    if is_array(source):
        array = to_numpy(source)
        label = _label(name, f"array of shape {array.shape}, {array.dtype}")
        return read_array(array, input_data_format, label)
    raise ImageError(
        f"{_label(name, type(source).__name__)}: not an image; expected a path, bytes, an open file, a PIL "
        "image, a numpy array, a torch tensor, or a list of those"
    )


def flatten_images(images: Any) -> list[tuple[str, Any]]:
    """Single images out of a batch: lists (nested ones too) and 4-D arrays are taken apart, in order.

    Returns:
        (name, image) pairs; the name is "images[i]" where there are several, empty for a single one.
    Raises:
        ImageError: there is none.
    """
    found = list(_walk(images))
    if not found:
        raise ImageError("images: none in the batch; expected at least one")
    if len(found) == 1:
        return [("", found[0])]
    return [(f"images[{index}]", image) for index, image in enumerate(found)]


def _walk(images: Any) -> Iterator[Any]:
    if isinstance(images, list | tuple):
        for image in images:
            yield from _walk(image)
    elif is_array(images) and images.ndim == 4:
        yield from images
    else:
        yield images


def _label(name: str, what: str) -> str:
    return f"{name} ({what})" if name else what


def _from_path(path: Path, label: str) -> Pixels:
    if str(path).startswith(("http:/", "https:/")):
        raise ImageError(f"{label}: a web address; expected the path of {_READABLE}: download it first")
    try:
        if path.is_dir():
            raise ImageError(f"{label}: a directory; expected the path of {_READABLE}: list the files in it")
        if not path.exists():
            raise ImageError(f"{label}: no such file; expected the path of {_READABLE}: check the spelling")
        if not path.is_file():
            raise ImageError(f"{label}: not a regular file; expected the path of {_READABLE}")
        with path.open("rb") as stream:
            return _from_stream(stream, label)
    except ImageError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        raise ImageError(
            f"{label}: cannot be opened ({error}); expected {_READABLE}: check the path and its permissions"
        ) from error


def _from_file(stream: Any, label: str) -> Pixels:
    """From a file object, which stays open. One that cannot seek is read whole, up to MAX_STREAM_BYTES."""
    try:
        if isinstance(stream.read(0), str):
            raise ImageError(f"{label}: opened as text; expected {_READABLE}: open it with mode 'rb'")
        if hasattr(stream, "seekable") and stream.seekable():
            return _from_stream(stream, label)
        data = stream.read(MAX_STREAM_BYTES + 1)
    except ImageError:
        raise
    except (OSError, ValueError) as error:  # ValueError: the file is closed
        raise ImageError(
            f"{label}: cannot be read ({error}); expected {_READABLE} open for reading"
        ) from error
    if len(data) > MAX_STREAM_BYTES:
        raise ImageError(
            f"{label}: a stream of over {MAX_STREAM_BYTES} bytes; expected {_READABLE}: save it to a file"
        )
    return _from_stream(io.BytesIO(data), label)


def _from_stream(stream: Any, label: str) -> Pixels:
    """Decode the first frame of a seekable binary stream."""
    stream.seek(0)
    start = stream.read(16)
    if not start:
        raise ImageError(f"{label}: empty (0 bytes); expected {_READABLE}")
    try:
        with _quiet(), Image.open(stream) as image:
            return _from_pil(image, label)
    except ImageError:
        raise
    except Image.DecompressionBombError as error:  # Pillow's own limit, above ours
        raise ImageError(_too_large(label, str(error))) from error
    except UnidentifiedImageError as error:
        raise ImageError(
            f"{label}: not an image that Pillow {PIL.__version__} can read (it starts with {start!r}); "
            f"expected {_READABLE}: convert it, or get it again"
        ) from error
    except Exception as error:  # what Pillow's plug-ins raise on damaged files is not one family of errors
        raise ImageError(_damaged(label, error)) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence Pillow's remarks on metadata, and on sizes, which are checked here.

    The filters of `warnings` are global: with threads, one that ignores Pillow may outlive the block.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
        yield


def _damaged(label: str, error: Exception) -> str:
    reason = str(error) or type(error).__name__
    return f"{label}: damaged or cut short ({reason}); expected {_READABLE}: get the file again"


def _too_large(label: str, found: str) -> str:
    return f"{label}: {found}; expected at most {MAX_IMAGE_PIXELS} pixels: crop it, or scale it down"


def _from_pil(image: Image.Image, label: str) -> Pixels:
    """Upright 8-bit grey or RGB of a PIL image of any mode; the image itself is not changed."""
    width, height = image.size
    if width < 1 or height < 1:
        raise ImageError(
            f"{label}: {width}x{height} pixels (width x height); expected at least one: check the crop"
        )
    if width * height > MAX_IMAGE_PIXELS:
        raise ImageError(_too_large(label, f"{width}x{height} = {width * height} pixels"))
    try:
        image.load()
        turn = _UPRIGHT.get(_orientation(image))
        if image.mode in ("I", "F") or image.mode.startswith("I;16"):
            pixels = _from_wide_mode(image, label)
        else:
            pixels = Pixels(_to_8_bit(image))
    except ImageError:
        raise
    except Exception as error:  # as in _from_stream: load() is where a lazily opened file is decoded
        raise ImageError(_damaged(label, error)) from error
    if turn is None:
        return pixels
    turned = pixels.to_image().transpose(turn)
    turned.info = {}  # with EXIF and XMP: whoever reads it next must not turn it again
    return Pixels(turned, pixels.is_fraction)


def _orientation(image: Image.Image) -> int:
    """Value of the EXIF orientation tag; 1, upright, where there is none or EXIF is damaged."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # Pillow raises SyntaxError, struct.error and others here, while the pixels are fine
        return 1
    return value if isinstance(value, int) else 1


def _to_8_bit(image: Image.Image) -> Image.Image:
    """Mode "L" or "RGB" of an image with at most 8 bits a channel."""
    if image.has_transparency_data:
        straight = image.convert("LA") if image.mode == "La" else image
        return on_white(straight.convert("RGBA"))
    return _in_mode(image, "L" if image.mode in ("1", "L") else "RGB")


def _in_mode(image: Image.Image, mode: str) -> Image.Image:
    """The image in a mode; the same object where nothing is to be done and no file hangs on it."""
    return image if image.mode == mode and type(image) is Image.Image else image.convert(mode)


def _from_wide_mode(image: Image.Image, label: str) -> Pixels:
    """Modes I, F, I;16 and its byte orders: one channel of more than 8 bits."""
    array = np.asarray(image)
    pixels = read_array(array, None, label)
    key = image.info.get("transparency")  # of a 16-bit PNG: one grey value is transparent
    if isinstance(key, int) and isinstance(pixels.data, Image.Image):
        return Pixels(Image.fromarray(np.where(array == key, np.uint8(255), np.asarray(pixels.data))))
    return pixels
