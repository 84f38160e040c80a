"""Backbones of timm: any of its models that gives states of places can be an image encoder.

How features are taken follows from the arguments that the backbone is made with:

| `model_args` | features |
|---|---|
| `features_only=true` | the last feature map that is asked for (`out_indices`) |
| `global_pool=""` | the backbone's output, which nothing pools: with its last norm |
| neither | `forward_features`: before the head, whose parameters stay without use |

Source: timm 1.0 (`create_model`, `forward_features`, `feature_info`).
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from trocr.nearest import nearest

OLDEST = (1, 0, 22)
"""The first timm whose models can be made on the meta device."""

MOST_PREFIX_TOKENS = 16
"""States beyond a whole grid that count as prefix tokens."""


class BackboneError(ValueError):
    """timm has no such backbone, or it cannot be an encoder of images of this size."""


@dataclass(frozen=True)
class States:
    """What a backbone gives for images of one size.

    Attributes:
        count: S, states of an image.
        width: D.
        grid: (rows, columns) of places, or None where the states form none that is known.
        is_map: whether they are a map of features that is flattened.
    """

    count: int
    width: int
    grid: tuple[int, int] | None
    is_map: bool


def create_backbone(
    architecture: str, model_args: Mapping[str, Any], *, pretrained: bool = False, **options: Any
) -> Any:
    """Make a backbone without classifier, with random weights or timm's.

    Args:
        architecture: a name of timm, with a tag where weights are wanted.
        model_args: what it is made with.
        pretrained: let timm fetch weights.
        options: others of `timm.create_model`.
    Raises:
        BackboneError: timm is not installed or too old, has no such model, or cannot make it so.
    """
    try:
        import timm
    except ImportError as error:
        raise BackboneError(f"{architecture}: timm is not installed; pip install timm") from error
    if tuple(map(int, re.findall(r"\d+", timm.__version__)[:3])) < OLDEST:
        raise BackboneError(
            f"timm {timm.__version__} cannot make models on the meta device; pip install "
            f"'timm>={'.'.join(map(str, OLDEST))}'"
        )
    known = timm.list_models()
    if architecture.partition(".")[0] not in known:
        hint = nearest(architecture, known, otherwise="; see timm.list_models()")
        raise BackboneError(f"timm {timm.__version__} has no model {architecture!r}{hint}")
    try:
        return timm.create_model(
            architecture, pretrained=pretrained, num_classes=0, **_as_arguments(model_args), **options
        )
    except (TypeError, ValueError, RuntimeError, AssertionError, OSError, KeyError, IndexError) as error:
        what = "its weights cannot be had, or it" if pretrained else "it"
        raise BackboneError(
            f"timm cannot make {architecture} with {dict(model_args)}: {what} does not take them "
            f"({type(error).__name__}: {error})"
        ) from error


def _as_arguments(model_args: Mapping[str, Any]) -> dict[str, Any]:
    """JSON's lists as the tuples that timm expects."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in model_args.items()}


def measure(
    architecture: str, model_args: Mapping[str, Any], *, image_hw: tuple[int, int], channels: int
) -> States:
    """Find out what a backbone gives, on the meta device, where it costs no memory.

    Args:
        architecture: a name of timm.
        model_args: what it is made with.
        image_hw: (height, width) in pixels.
        channels: C.
    Raises:
        BackboneError: it cannot be made so, does not take such images, or does not give one map of features
            or one sequence of states.
    """
    return _measure(architecture, json.dumps(dict(model_args), sort_keys=True), image_hw, channels)


@lru_cache(maxsize=64)
def _measure(architecture: str, model_args: str, image_hw: tuple[int, int], channels: int) -> States:
    arguments = json.loads(model_args)
    with torch.device("meta"):
        backbone = create_backbone(architecture, arguments).eval()
        _check_patches(backbone, architecture, image_hw)
        try:
            with torch.no_grad():
                features = take_features(backbone, arguments, torch.empty(1, channels, *image_hw))
        except (TypeError, ValueError, RuntimeError, AssertionError, IndexError) as error:
            raise BackboneError(
                f"{architecture} does not take images of {image_hw[0]} x {image_hw[1]} pixels (height x "
                f"width) with {channels} channels: {error}"
            ) from error
    if not isinstance(features, Tensor) or features.dim() not in (3, 4):
        shape = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
        raise BackboneError(
            f"{architecture} gives {shape}, expected one map of features or one sequence of states; take "
            "another"
        )
    states = flatten(features, is_last=has_channels_last(backbone))
    count, width = states.shape[1:]
    is_map = features.dim() == 4
    if is_map:
        grid = _map_grid(features, is_last=has_channels_last(backbone))
        return States(count, width, grid, is_map)
    return States(count, width, _sequence_grid(backbone, count, image_hw), is_map)


def _check_patches(backbone: Any, architecture: str, image_hw: tuple[int, int]) -> None:
    """Refuse images of which plain patches would leave out the last rows or columns in silence."""
    from timm.layers import PatchEmbed

    for part in backbone.modules():
        if not isinstance(part, PatchEmbed) or getattr(part, "dynamic_img_pad", False):
            continue
        height, width = part.patch_size
        if image_hw[0] % height or image_hw[1] % width:
            raise BackboneError(
                f"images of {image_hw[0]} x {image_hw[1]} pixels (height x width) are not a multiple of the "
                f"patch of {architecture}, {height} x {width}"
            )


def choose_arguments(
    architecture: str, model_args: Mapping[str, Any], *, image_hw: tuple[int, int], channels: int
) -> tuple[dict[str, Any], States, list[str]]:
    """Complete the arguments of a backbone: the size of its images, and how features are taken.

    The size is given where the backbone takes one. Of the ways of the module's table the first is taken that
    gives more than one state and needs all parameters; else the one that gives most states.

    Args:
        architecture: a name of timm.
        model_args: what the caller wants; a way that is named in it is taken.
        image_hw: (height, width) in pixels.
        channels: C.
    Returns:
        The arguments, what the backbone gives, and names of parameters that the features do not need.
    Raises:
        BackboneError: no way gives states.
    """
    given = dict(model_args) if channels == 3 else {**model_args, "in_chans": channels}
    ways: list[dict[str, Any]] = [{"global_pool": ""}, {}, {"features_only": True}]
    if "global_pool" in given or "features_only" in given:
        ways = [{}]
    found: list[tuple[dict[str, Any], States, list[str]]] = []
    problems: list[BackboneError] = []
    for way in ways:
        try:
            arguments, states = _sized({**given, **way}, architecture, image_hw, channels)
        except BackboneError as error:
            problems.append(error)
            continue
        unused = unused_parameters(architecture, arguments, image_hw=image_hw, channels=channels)
        if states.count > 1 and not unused:
            return arguments, states, unused
        found.append((arguments, states, unused))
    if not found:
        raise problems[0]
    return max(found, key=lambda way: way[1].count)


def _sized(
    model_args: dict[str, Any], architecture: str, image_hw: tuple[int, int], channels: int
) -> tuple[dict[str, Any], States]:
    """Give a backbone the size of its images, unless it takes none or has it already."""
    if "img_size" not in model_args:
        sized = {**model_args, "img_size": list(image_hw)}
        try:
            return sized, measure(architecture, sized, image_hw=image_hw, channels=channels)
        except BackboneError as error:
            if "'img_size'" not in str(
                error.__cause__
            ):  # "... got an unexpected keyword argument 'img_size'"
                raise
    return model_args, measure(architecture, model_args, image_hw=image_hw, channels=channels)


def unused_parameters(
    architecture: str, model_args: Mapping[str, Any], *, image_hw: tuple[int, int], channels: int
) -> list[str]:
    """Name the parameters that could train and that the features do not need; found on the meta device."""
    with torch.device("meta"), torch.inference_mode(False), torch.enable_grad():
        backbone = create_backbone(architecture, model_args).train()
        features = take_features(backbone, model_args, torch.empty(2, channels, *image_hw))
        features.sum().backward()
    trained = {name: p for name, p in backbone.named_parameters() if p.requires_grad}
    return [name for name, parameter in trained.items() if parameter.grad is None]


def take_features(backbone: Any, model_args: Mapping[str, Any], pixel_values: Tensor) -> Any:
    """Give the features of images (B, C, height, width) as the backbone does; see the module's table."""
    if model_args.get("features_only"):
        return backbone(pixel_values)[-1]
    if model_args.get("global_pool") == "":
        return backbone(pixel_values)
    return backbone.forward_features(pixel_values)


def flatten(features: Tensor, *, is_last: bool) -> Tensor:
    """Flatten a map (B, D, rows, columns), or (B, rows, columns, D), to (B, S, D); (B, S, D) stays."""
    if features.dim() == 3:
        return features
    if is_last:
        return features.flatten(1, 2)
    return features.flatten(2).transpose(1, 2)


def has_channels_last(backbone: Any) -> bool:
    """Whether the maps of a backbone are (B, rows, columns, D)."""
    return getattr(backbone, "output_fmt", None) == "NHWC"


def _map_grid(features: Tensor, *, is_last: bool) -> tuple[int, int]:
    rows, columns = features.shape[1:3] if is_last else features.shape[2:]
    return rows, columns


def _sequence_grid(backbone: Any, count: int, image_hw: tuple[int, int]) -> tuple[int, int] | None:
    """The grid that a sequence of states was, with at most a few prefix tokens before it."""
    grids = []
    size = getattr(getattr(backbone, "patch_embed", None), "grid_size", None)
    if isinstance(size, Sequence) and len(size) == 2:
        grids.append((int(size[0]), int(size[1])))
    info = list(getattr(backbone, "feature_info", None) or [])
    stride = info[-1].get("reduction") if info and isinstance(info[-1], Mapping) else None
    if isinstance(stride, int) and stride > 0:
        grids.append((-(-image_hw[0] // stride), -(-image_hw[1] // stride)))
    fitting = [
        (rows, columns) for rows, columns in grids if 0 <= count - rows * columns <= MOST_PREFIX_TOKENS
    ]
    return min(fitting, key=lambda grid: count - grid[0] * grid[1], default=None)
