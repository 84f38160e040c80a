"""Settings of image processors: what each may be, and the files they are kept in.

Source: transformers 5.23 `image_processing_utils.py`, `image_processing_base.py`,
`models/auto/image_processing_auto.py` (names, forms of a size, which file wins).
Differs: transformers sets whatever a file holds as an attribute; here a key that is not known is an error,
since it may change pixels.
"""

import json
import math
import os
from collections.abc import Callable, Mapping
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from PIL import Image

from trocr.atomic_write import write_files
from trocr.image_array import ImageError

CONFIG_FILE = "preprocessor_config.json"
NESTED_CONFIG_FILE = "processor_config.json"
"""Where transformers 5 keeps the same settings, under "image_processor"; it wins over CONFIG_FILE."""

FAMILIES = {  # spelling in a file -> family
    "ViTImageProcessor": "vit",
    "ViTImageProcessorFast": "vit",
    "ViTImageProcessorPil": "vit",
    "ViTFeatureExtractor": "vit",
    "DeiTImageProcessor": "deit",
    "DeiTImageProcessorFast": "deit",
    "DeiTImageProcessorPil": "deit",
    "DeiTFeatureExtractor": "deit",
}
"""`image_processor_type`, or `feature_extractor_type` of old files -> whose processor it is."""

_WITHOUT_EFFECT = {  # keys of files and calls -> why they may have any value
    "image_processor_type": "names the class",
    "feature_extractor_type": "the class's name before transformers 4.26",
    "processor_class": "names the class that holds tokenizer and image processor",
    "_valid_processor_keys": "written by transformers 4.4x",
    "auto_map": "where remote code would be",
    "transformers_version": "who wrote the file",
    "disable_grouping": "a matter of speed in torchvision's backend",
    "image_seq_length": "for models with image tokens in their text",
    "use_fast": "chooses a backend of transformers; this is Pillow's",
    "backend": "chooses a backend of transformers; this is Pillow's",
}
_ONE_VALUE = {  # keys -> the values that ask for what is done anyway, besides None
    "data_format": ("channels_first",),
    "default_to_square": (True,),
    "do_pad": (False,),
    "device": ("cpu",),
    "input_data_format": (),
    "pad_size": (),
    "return_tensors": (),
}


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise ImageError(f"{name}: {value!r}; expected true or false")
    return value


def _size(name: str, value: Any) -> dict[str, int]:
    """{"height", "width"} of a number, a (height, width) pair or such a dictionary."""
    if isinstance(value, Integral):
        pair: tuple[Any, ...] = (value, value)
    elif isinstance(value, Mapping):
        pair = (value["height"], value["width"]) if set(value) == {"height", "width"} else ()
    else:
        pair = tuple(value) if isinstance(value, list | tuple) else ()
    if len(pair) != 2 or any(isinstance(n, bool) or not isinstance(n, Integral) or n < 1 for n in pair):
        raise ImageError(
            f'{name}: {value!r}; expected {{"height": h, "width": w}} in pixels, (h, w), or one number for a '
            "square"
        )
    return {"height": int(pair[0]), "width": int(pair[1])}


def _resample(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value not in list(Image.Resampling):
        filters = ", ".join(f"{int(item)} {item.name.lower()}" for item in sorted(Image.Resampling))
        raise ImageError(f"{name}: {value!r}; expected one of Pillow's filters: {filters}")
    return int(value)


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise ImageError(f"{name}: {value!r}; expected a finite number")
    return float(value)


def _per_channel(name: str, value: Any) -> tuple[float, ...]:
    """Three numbers of one, or of a list of three; one of a list of one, for grey."""
    numbers = [value] * 3 if isinstance(value, Real) else value
    if not isinstance(numbers, list | tuple) or len(numbers) not in (1, 3):
        raise ImageError(
            f"{name}: {value!r}; expected three numbers, one a channel (red, green, blue), or a list of one "
            "for images of one channel, grey"
        )
    return tuple(_number(name, number) for number in numbers)


def _deviation(name: str, value: Any) -> tuple[float, ...]:
    numbers = _per_channel(name, value)
    if 0 in numbers:
        raise ImageError(f"{name}: {value!r}; expected numbers other than 0: pixels are divided by them")
    return numbers


def _pad_value(name: str, value: Any) -> str | int | tuple[int, ...]:
    levels = tuple(value) if isinstance(value, list | tuple) else (value,)
    if value == "median":
        return "median"
    if len(levels) not in (1, 3) or any(
        isinstance(level, bool) or not isinstance(level, int) or not 0 <= level <= 255 for level in levels
    ):
        raise ImageError(f'{name}: {value!r}; expected "median", a level 0..255, or [red, green, blue]')
    return levels if len(levels) == 3 else levels[0]


CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "do_convert_rgb": _flag,
    "do_resize": _flag,
    "size": _size,
    "resample": _resample,
    "do_center_crop": _flag,
    "crop_size": _size,
    "do_rescale": _flag,
    "rescale_factor": _number,
    "do_normalize": _flag,
    "image_mean": _per_channel,
    "image_std": _deviation,
    "pad_to_aspect_ratio": _flag,
    "pad_value": _pad_value,
    "do_grayscale": _flag,
}
"""Setting -> what checks it (name and value in, the form it is kept in out). None is checked by nobody."""

IMAGE_OPTIONS = frozenset([*CHECKS, *_WITHOUT_EFFECT, *_ONE_VALUE])
"""Every key that belongs to an image processor."""


def is_without_effect(name: str, value: Any) -> bool:
    """Whether a key that is no setting may be passed over: with this value it cannot change pixels."""
    return value is None or name in _WITHOUT_EFFECT or value in _ONE_VALUE.get(name, ())


def read_config(source: str | os.PathLike[str]) -> tuple[dict[str, Any], Path]:
    """Settings of an image processor as they are in a directory, or in one file.

    Args:
        source: directory with `preprocessor_config.json`, or with transformers 5's `processor_config.json`
            (whose "image_processor" part wins); or the path of either file.

    Returns:
        The settings, unchecked, and the file they come from.

    Raises:
        ImageError: there is no such file, or it does not hold settings.
    """
    path = Path(source)
    if path.is_file():
        data = _read_json(path)
        return data.get("image_processor", data), path
    nested = path / NESTED_CONFIG_FILE
    if nested.is_file() and "image_processor" in (data := _read_json(nested)):
        return _as_dict(data["image_processor"], nested), nested
    if not (path / CONFIG_FILE).is_file():
        raise ImageError(
            f"{path}: no {CONFIG_FILE} in it, and no {NESTED_CONFIG_FILE} with an image processor; expected "
            "the directory of a checkpoint: copy the file from the checkpoint this one was made from"
        )
    return _read_json(path / CONFIG_FILE), path / CONFIG_FILE


def write_config(directory: str | os.PathLike[str], data: Mapping[str, Any]) -> Path:
    """Write `preprocessor_config.json`, whole or not at all, and drop settings that would win over it.

    Returns:
        The file.
    """
    files = {CONFIG_FILE: _json_bytes(data)}
    nested = Path(directory) / NESTED_CONFIG_FILE
    if nested.is_file() and "image_processor" in (rest := _read_json(nested)):
        del rest["image_processor"]
        files[NESTED_CONFIG_FILE] = _json_bytes(rest)
    write_files(directory, files)
    return Path(directory) / CONFIG_FILE


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ImageError(
            f"{path}: cannot be read as JSON ({error}); expected settings: get it again"
        ) from error
    return _as_dict(data, path)


def _as_dict(data: Any, path: Path) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise ImageError(f"{path}: holds a {type(data).__name__}; expected a JSON object: get it again")
    return data


def _json_bytes(data: Mapping[str, Any]) -> bytes:
    return (json.dumps(data, indent=2, sort_keys=True) + "\n").encode("utf-8")
