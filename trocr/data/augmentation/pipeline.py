"""Presets of augmentation by name, with settings: the one place where pipelines are made.

Source: da2 and scene-text: arXiv:2109.10282 sec. 3.1 and FastAutoAugment's successor RandAugment
(arXiv:1909.13719) as timm has it; the others are original.
"""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from PIL import Image

from trocr.data.augmentation.da2 import DA2
from trocr.data.augmentation.elastic import Elastic
from trocr.data.degradations import ON_IMAGE, Degradation, Tone
from trocr.data.records import DataError
from trocr.nearest import nearest

Augment = Callable[[Image.Image, np.random.Generator], Image.Image]


class AugmentationError(DataError):
    """A preset or a setting does not exist, or a value is out of range."""


@dataclass(frozen=True)
class RandAugment:
    """timm's RandAugment, or the image as it is.

    Attributes:
        config: timm's description: "rand-m5-n3-mstd0.5-inc1" is magnitude 5, 3 operations, its deviation, and
            a set of operations in which more magnitude is more change.
        intact: probability of no change, 0..1.
    """

    config: str = "rand-m5-n3-mstd0.5-inc1"
    intact: float = 0.5

    @cached_property
    def _transform(self) -> Any:
        return _timm_transform(self.config)

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        """Augment; timm draws from the global random numbers, which are put back afterwards."""
        if rng.random() < self.intact:
            return image
        before, before_numpy = random.getstate(), np.random.get_state()
        random.seed(int(rng.integers(2**63)))
        np.random.seed(int(rng.integers(2**32)))
        try:
            changed: Image.Image = self._transform(image.convert("RGB"))
        finally:
            random.setstate(before)
            np.random.set_state(before_numpy)
        return changed if image.mode == "RGB" else changed.convert(image.mode)


def _timm_transform(config: str) -> Any:
    """Make timm's transform.

    Raises:
        AugmentationError: timm does not know the description.
    """
    from timm.data.auto_augment import rand_augment_transform

    try:
        return rand_augment_transform(config, {"img_mean": (255, 255, 255)})
    except (AssertionError, AttributeError, ValueError, KeyError, IndexError, TypeError) as error:
        reason = f": {error}" if str(error) else ""
        raise AugmentationError(
            f'rand_augment={config!r} must be timm\'s description, such as "rand-m5-n3-mstd0.5-inc1"{reason}'
        ) from error


@dataclass(frozen=True)
class Degrade:
    """Degradations of `trocr.data.degradations`, each with its probability.

    Attributes:
        probabilities: name -> probability, in the order in which they are applied.
    """

    probabilities: Mapping[str, float]

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        """Apply those that happen; the channels of a coloured image change alike."""
        grey = np.asarray(image.convert("L"))
        low, high = np.percentile(grey, (5, 95))
        tone = Tone(paper=int(high), ink=int(min(low, max(0, high - 1))))
        for name, chance in self.probabilities.items():
            if rng.random() < chance:
                image = _on_channels(ON_IMAGE[name], image, rng, tone)
        return image


def _on_channels(
    operation: Degradation, image: Image.Image, rng: np.random.Generator, tone: Tone
) -> Image.Image:
    if image.mode == "L":
        return operation(image, rng, tone)
    state = rng.bit_generator.state
    channels = []
    for channel in image.split():
        rng.bit_generator.state = state
        channels.append(operation(channel, rng, tone))
    return Image.merge(image.mode, channels)


@dataclass(frozen=True)
class Sometimes:
    """An operation with a probability."""

    operation: Augment
    probability: float

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        """Apply it, or not."""
        return self.operation(image, rng) if rng.random() < self.probability else image


@dataclass(frozen=True)
class Chain:
    """Operations one after the other."""

    operations: tuple[Augment, ...]

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        """Apply all."""
        for operation in self.operations:
            image = operation(image, rng)
        return image


@dataclass(frozen=True, kw_only=True)
class _Settings:
    """Settings that presets take.

    Attributes:
        elastic: probability of an elastic distortion.
        elastic_strength: its largest shift, as a share of the height.
        intact: probability of an untouched image, for scene-text.
        rand_augment: timm's description, for scene-text.
        degradations: name -> probability.
        da2: probability of one of the paper's seven operations.
    """

    elastic: float = 0.0
    elastic_strength: float = 0.06
    intact: float = 0.5
    rand_augment: str = "rand-m5-n3-mstd0.5-inc1"
    degradations: Mapping[str, float] = field(default_factory=dict)
    da2: float = 0.0


_PRINTED = {"stretch": 0.2, "rotation": 0.2, "thicken": 0.05, "thin": 0.05, "blur": 0.3, "fading": 0.2}
_PRINTED |= {"gradient": 0.1, "noise": 0.3, "jpeg": 0.3}
_HANDWRITING = {"stretch": 0.5, "slant": 0.5, "rotation": 0.3, "blur": 0.15, "noise": 0.2, "gradient": 0.1}

_DEFAULTS = {
    "none": _Settings(),
    "da2": _Settings(da2=1.0),
    "scene-text": _Settings(),
    "printed": _Settings(degradations=_PRINTED),
    "handwriting": _Settings(da2=0.5, elastic=0.5, degradations=_HANDWRITING),
}

_TAKES = {
    "none": (),
    "da2": ("da2", "elastic", "elastic_strength"),
    "scene-text": ("intact", "rand_augment", "elastic", "elastic_strength"),
    "printed": ("degradations", "da2", "elastic", "elastic_strength"),
    "handwriting": ("degradations", "da2", "elastic", "elastic_strength"),
}

PRESETS = tuple(_DEFAULTS)
"""Names of the pipelines."""


def build_augmentation(
    preset: str,
    settings: Mapping[str, Any] | None = None,
    *,
    image_hw: tuple[int, int] = (384, 384),
    keeps_aspect: bool = False,
) -> Augment | None:
    """Make a pipeline.

    Args:
        preset: one of `PRESETS`; "none" changes nothing.
        settings: instead of the preset's own; see docs/augmentation.md.
        image_hw: (height, width) of the model's images in pixels.
        keeps_aspect: the processor scales lines by their height and pads them.
    Returns:
        A function of an image and random numbers, which can be pickled; None for "none".
    Raises:
        AugmentationError: a name does not exist, with the nearest that does; a value is out of range.
    """
    if preset not in _DEFAULTS:
        raise AugmentationError(f"augmentation.preset={preset!r} is unknown{nearest(preset, PRESETS)}")
    given = dict(settings or {})
    for key in given:
        if key not in _TAKES[preset]:
            near = nearest(key, _TAKES[preset])
            raise AugmentationError(f"augmentation.settings.{key} is unknown to the preset {preset!r}{near}")
    chosen, own = _DEFAULTS[preset], given.pop("degradations", {})
    if not isinstance(own, Mapping):
        raise AugmentationError(f"degradations={own!r} must be a table of names and probabilities")
    table = {**chosen.degradations, **own}
    chosen = replace(chosen, **given, degradations=table)
    _check(chosen)
    operations: list[Augment] = []
    if preset == "scene-text":
        _timm_transform(chosen.rand_augment)  # a mistake is found here, not by a worker
        operations.append(RandAugment(chosen.rand_augment, chosen.intact))
    if chosen.elastic:
        operations.append(Sometimes(Elastic(strength=chosen.elastic_strength), chosen.elastic))
    if chosen.degradations:
        operations.append(Degrade({name: table[name] for name in ON_IMAGE if name in table}))
    if chosen.da2:
        paper = DA2(image_hw, keeps_aspect)
        operations.append(paper if chosen.da2 == 1 else Sometimes(paper, chosen.da2))
    return Chain(tuple(operations)) if operations else None


def _check(settings: _Settings) -> None:
    numbers = {
        "elastic": settings.elastic,
        "elastic_strength": settings.elastic_strength,
        "intact": settings.intact,
        "da2": settings.da2,
    }
    for name in settings.degradations:
        if name not in ON_IMAGE:
            raise AugmentationError(f"degradations.{name} is unknown{nearest(name, tuple(ON_IMAGE))}")
    numbers |= {f"degradations.{name}": chance for name, chance in settings.degradations.items()}
    for name, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
            raise AugmentationError(f"augmentation.settings.{name}={value!r} must be a number from 0 to 1")
