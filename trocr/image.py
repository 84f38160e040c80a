"""Image processors: any image in, `pixel_values` for a ViT or DeiT encoder out.

An image is made 8-bit grey or RGB, resized by Pillow, cropped, and looked up in a table of 256 floats a
channel, which holds what rescaling and normalising give.

Source: transformers 5.23 `image_processing_backends.py` (`PilBackend`), `image_processing_pil_vit.py`,
`image_processing_pil_deit.py`: the same bits for the same 8-bit image and settings.
Differs: every image is converted to RGB, whatever `do_convert_rgb` says (transformers refuses other modes
unless it is true); floating point images in 0..1 are never rescaled twice; results are float32 for float64
images too; transformers' default is torchvision's backend, whose resizing is up to two levels of 255 away.
"""

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from PIL import Image

from trocr.batch_feature import BatchFeature
from trocr.image_array import Array, ImageError, Pixels
from trocr.image_input import flatten_images, load_pixels, open_image
from trocr.image_pixels import center_crop, write_pixels
from trocr.image_settings import CHECKS, FAMILIES, is_without_effect, read_config, write_config

__all__ = [
    "BatchFeature",
    "DeiTImageProcessor",
    "ImageError",
    "ImageProcessor",
    "ViTImageProcessor",
    "load_image_processor",
    "open_image",
]


@dataclass(kw_only=True)
class ImageProcessor:
    """Base of the image processors: settings, and what they do to a batch of images.

    Settings are checked when they are set; None sets the class's default. `size` and `crop_size` read back as
    {"height": h, "width": w}, `image_mean` and `image_std` as three numbers, or one for grey.

    Attributes:
        do_convert_rgb: kept for the file's sake: images are always converted (see the module's header).
        do_resize: resize to `size`.
        size: pixels, {"height": h, "width": w}; a number (square) or (height, width) may be given.
        resample: Pillow's filter, as a number: 2 bilinear, 3 bicubic ...
        do_center_crop: cut the middle out, or pad with black where `crop_size` is larger.
        crop_size: as `size`.
        do_rescale: multiply levels 0..255 by `rescale_factor`.
        rescale_factor: 1/255 maps levels to 0..1.
        do_normalize: subtract `image_mean`, divide by `image_std`.
        image_mean, image_std: per channel, red green blue, on the scale of rescaled pixels. Lists of one
            number make images of one channel, grey; transformers does so with images that are grey ("L").
        pad_to_aspect_ratio: resize a line of text to `size`'s height with its aspect kept, then pad it on the
            right to `size`'s width; a line wider than that is squeezed. Part of resizing: `do_resize=False`
            switches both off. transformers has no such setting.
        pad_value: what it is padded with: a level 0..255, [red, green, blue], or "median", the middle level
            of the resized line (of each channel, rounded down).
        do_grayscale: convert to grey (ITU-R 601-2 luma, three equal channels) before resizing. None: where
            lines are padded with their median grey, as checkpoints that ask for it have seen grey lines only.
    """

    do_convert_rgb: bool | None = None
    do_resize: bool = True
    size: Any = (224, 224)
    resample: int = 2
    do_center_crop: bool | None = None
    crop_size: Any = None
    do_rescale: bool = True
    rescale_factor: float = 1 / 255
    do_normalize: bool = True
    image_mean: Any = (0.5, 0.5, 0.5)
    image_std: Any = (0.5, 0.5, 0.5)
    pad_to_aspect_ratio: bool = False
    pad_value: Any = "median"
    do_grayscale: bool | None = None

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in CHECKS:
            raise AttributeError(f"{type(self).__name__} has no setting {name!r}; it has {', '.join(CHECKS)}")
        if value is None:
            value = type(self).__dataclass_fields__[name].default
        object.__setattr__(self, name, None if value is None else CHECKS[name](name, value))

    def __post_init__(self) -> None:
        self.num_channels  # noqa: B018  # checked

    @property
    def num_channels(self) -> int:
        """Channels of the images that it makes: 3, or 1 (grey).

        Raises:
            ImageError: `image_mean` and `image_std` have numbers for different channels.
        """
        mean, std = len(self.image_mean), len(self.image_std)
        if mean != std:
            raise ImageError(
                f"image_mean has {mean} numbers, image_std {std}; expected as many of both: 3, or 1 for grey"
            )
        return mean

    @property
    def model_input_names(self) -> list[str]:
        """Names of the arrays it makes."""
        return ["pixel_values"]

    # ---- images -> pixel_values ----

    def __call__(
        self,
        images: Any,
        return_tensors: str | None = None,
        input_data_format: str | None = None,
        **overrides: Any,
    ) -> BatchFeature:
        """Make `pixel_values` of images; see `preprocess`."""
        return self.preprocess(images, return_tensors, input_data_format, **overrides)

    def preprocess(
        self,
        images: Any,
        return_tensors: str | None = None,
        input_data_format: str | None = None,
        **overrides: Any,
    ) -> BatchFeature:
        """Make `pixel_values` of images.

        Args:
            images: an image, or a list of images, nested lists and (B, H, W, C) or (B, C, H, W) arrays
                included. An image is whatever `open_image` reads.
            return_tensors: "pt" or "np" for one array, None for a list of numpy arrays.
            input_data_format: "channels_first" or "channels_last" for arrays; None infers it.
            overrides: settings of this one call, by name; None leaves the setting.

        Returns:
            `pixel_values`: (B, 3, H, W) float32, (B, 1, H, W) where `image_mean` has one number. Levels that
            are neither rescaled nor normalised stay uint8.

        Raises:
            ImageError: an image cannot be read, or images of several sizes cannot make one array.
            TypeError: an override is not a setting.
        """
        if return_tensors not in (None, "pt", "np"):
            raise ImageError(f"return_tensors: {return_tensors!r}; expected 'pt', 'np' or None")
        settings = self._with(overrides)
        loaded = [
            settings._prepare(load_pixels(image, name=name, input_data_format=input_data_format))
            for name, image in flatten_images(images)
        ]
        pixel_values = settings._stack(loaded, one_array=return_tensors is not None)
        if return_tensors == "pt":
            import torch

            pixel_values = torch.from_numpy(pixel_values)
        return BatchFeature(pixel_values=pixel_values)

    def _with(self, overrides: Mapping[str, Any]) -> Self:
        """Settings of one call."""
        changes = {}
        for name, value in overrides.items():
            if name in CHECKS:
                changes[name] = value
            elif not is_without_effect(name, value):
                raise TypeError(
                    f"{type(self).__name__} has no setting {name!r} (given {value!r}); it has "
                    f"{', '.join(CHECKS)}"
                )
        changes = {name: value for name, value in changes.items() if value is not None}
        return dataclasses.replace(self, **changes) if changes else self

    def _prepare(self, pixels: Pixels) -> tuple[Array, float | None]:
        """Resized and cropped (H, W) or (H, W, 3) array of one image, and what it is to be multiplied by."""
        grey = self.do_grayscale
        if grey is None:
            grey = self.pad_to_aspect_ratio and self.pad_value == "median"
        if self.num_channels == 1 and (isinstance(pixels.data, Image.Image) or pixels.data.ndim == 3):
            grey = True
        factor = self.rescale_factor if self.do_rescale else None
        if self.do_resize or grey or isinstance(pixels.data, Image.Image):
            image = pixels.to_image()
            image = image.convert("L") if grey else image
            array = np.asarray(self._resized(image) if self.do_resize else image)
            if pixels.is_fraction and factor is None:
                factor = 1 / 255  # not asked to leave 0..1, where the image came from
        else:
            array = pixels.data
            if pixels.is_fraction and factor is not None:
                factor *= 255
        if self.do_center_crop:
            if self.crop_size is None:
                raise ImageError("crop_size: not set, while do_center_crop is true; set it")
            array = center_crop(array, self.crop_size["height"], self.crop_size["width"])
        return array, factor

    def _resized(self, image: Image.Image) -> Image.Image:
        height, width = self.size["height"], self.size["width"]
        resample = Image.Resampling(self.resample)
        if not self.pad_to_aspect_ratio:
            return image.resize((width, height), resample)
        line_width = min(width, max(1, round(image.width * height / image.height)))
        line = image.resize((line_width, height), resample)
        if line_width == width:
            return line
        fill = self.pad_value
        if fill == "median":
            fill = tuple(int(np.median(np.asarray(band))) for band in line.split())
        elif isinstance(fill, int):
            fill = (fill,) * len(line.getbands())
        elif self.num_channels == 1:
            fill = (Image.new("RGB", (1, 1), fill).convert("L").tobytes()[0],)
        elif line.mode == "L":
            line = line.convert("RGB")
        canvas = Image.new(line.mode, (width, height), fill if len(fill) > 1 else fill[0])
        canvas.paste(line)
        return canvas

    def _stack(self, images: list[tuple[Array, float | None]], *, one_array: bool) -> Any:
        """Rescaled, normalised (C, H, W) arrays: one (B, C, H, W), or a list."""
        shapes = [array.shape[:2] for array, _ in images]
        levels_only = not self.do_normalize and all(
            factor is None and array.dtype == np.uint8 for array, factor in images
        )
        dtype = np.uint8 if levels_only else np.float32
        if len(set(shapes)) == 1:
            stack = np.empty((len(images), self.num_channels, *shapes[0]), dtype)
            targets = list(stack)
        elif one_array:
            raise ImageError(
                f"images of different sizes, {sorted(set(shapes))} (height, width), cannot make one array: "
                "set do_resize, or return_tensors=None for a list"
            )
        else:
            targets = [np.empty((self.num_channels, *shape), dtype) for shape in shapes]
        mean, std = (self.image_mean, self.image_std) if self.do_normalize else (None, None)
        for target, (array, factor) in zip(targets, images, strict=True):
            write_pixels(target, array, factor, mean, std)
        return stack if one_array else targets

    # ---- files ----

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], **overrides: Any) -> Self:
        """Build from the content of `preprocessor_config.json`.

        Args:
            data: settings by name; keys that cannot change pixels (class names and the like) are passed over.
            overrides: settings that win over `data`.
        Raises:
            ImageError: a value is wrong, or a key is not known.
        """
        settings = {**data, **overrides}
        unknown = [
            key for key, value in settings.items() if key not in CHECKS and not is_without_effect(key, value)
        ]
        if unknown:
            given = ", ".join(f"{key}={settings[key]!r}" for key in unknown)
            raise ImageError(f"not settings of {cls.__name__}: {given}; it has {', '.join(CHECKS)}")
        return cls(**{key: value for key, value in settings.items() if key in CHECKS})

    @classmethod
    def from_pretrained(cls, directory: str | os.PathLike[str], **overrides: Any) -> Self:
        """Load from a checkpoint's directory, or from its `preprocessor_config.json` itself.

        Hub ids are for `TrOCRProcessor.from_pretrained`.

        Raises:
            ImageError: there is no such file, or its settings are wrong.
        """
        data, path = read_config(directory)
        try:
            return cls.from_dict(data, **overrides)
        except ImageError as error:
            raise ImageError(f"{path}: {error}") from error

    def to_dict(self) -> dict[str, Any]:
        """Content of `preprocessor_config.json`: JSON values, without what is not set."""
        data = {key: list(value) if isinstance(value, tuple) else value for key, value in vars(self).items()}
        if not self.pad_to_aspect_ratio:
            del data["pad_to_aspect_ratio"], data["pad_value"]
        data = {key: dict(value) if isinstance(value, dict) else value for key, value in data.items()}
        return {key: value for key, value in data.items() if value is not None} | {
            "image_processor_type": type(self).__name__
        }

    def save_pretrained(
        self, directory: str | os.PathLike[str], *, processor_class: str | None = None
    ) -> list[str]:
        """Write `preprocessor_config.json`, which transformers 4 and 5 read.

        Args:
            directory: made if it does not exist. A `processor_config.json` of transformers 5 in it loses its
                image processor, which would win over the new file.
            processor_class: name of the class that holds this image processor and a tokenizer, if one does.

        Returns:
            Paths of the files written.
        """
        data = self.to_dict() | ({} if processor_class is None else {"processor_class": processor_class})
        return [str(write_config(directory, data))]


@dataclass(kw_only=True)
class ViTImageProcessor(ImageProcessor):
    """For ViT encoders, the base and large models: bilinear to 224 x 224 unless told otherwise."""


@dataclass(kw_only=True)
class DeiTImageProcessor(ImageProcessor):
    """For DeiT encoders, the small models: bicubic to 256 x 256, then the middle 224 x 224."""

    size: Any = (256, 256)
    resample: int = 3
    do_center_crop: bool | None = True
    crop_size: Any = (224, 224)


_CLASSES: dict[str, type[ImageProcessor]] = {"vit": ViTImageProcessor, "deit": DeiTImageProcessor}


def load_image_processor(directory: str | os.PathLike[str], **overrides: Any) -> ImageProcessor:
    """Load the image processor of a checkpoint's directory, of the class its file names.

    Args:
        directory: holds `preprocessor_config.json` (old ones, with `feature_extractor_type`, too) or
            transformers 5's `processor_config.json`.
        overrides: settings that win over the file's.
    Raises:
        ImageError: the file is missing, names another class, or holds wrong settings.
    """
    data, path = read_config(directory)
    name = data.get("image_processor_type") or data.get("feature_extractor_type")
    if name not in FAMILIES:
        raise ImageError(
            f"{path}: image_processor_type is {name!r}; expected one of {', '.join(sorted(FAMILIES))}: set "
            "it to what the encoder was trained with"
        )
    return _CLASSES[FAMILIES[name]].from_pretrained(directory, **overrides)
