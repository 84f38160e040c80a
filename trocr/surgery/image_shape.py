"""Take images of another size, with patches of another size, or in grey.

Source: positions: arXiv:2010.11929 sec. 3.2; patches: arXiv:2212.08013 sec. 3.4 (FlexiViT).
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

import torch
from torch import Tensor, nn

from trocr.config import ViTConfig
from trocr.nn.embeddings import ImageEmbeddings, resample_patches, resample_positions
from trocr.processor import TrOCRProcessor
from trocr.surgery.blocks import forget_adapter, refuse_adapter
from trocr.surgery.colours import COLOUR, GREY, to_colour, to_grey
from trocr.surgery.pairing import expect_processor
from trocr.surgery.patterns import SurgeryError
from trocr.surgery.report import Change, SurgeryReport, report

if TYPE_CHECKING:
    from trocr.models import VisionEncoderDecoderModel

Positions = Literal["resample", "extend"]
Size = int | Sequence[int]

_GREY_NOTE = (
    "the processor makes one channel, grey, of any image; that of transformers does so of grey ones (mode L) "
    "alone, and others must be converted first"
)


def resize_images(
    model: "VisionEncoderDecoderModel",
    *,
    processor: TrOCRProcessor,
    image_size: Size | None = None,
    patch_size: Size | None = None,
    num_channels: int | None = None,
    positions: Positions = "resample",
) -> SurgeryReport:
    """Change the images that a model takes, in place; its processor follows. What is None stays.

    Args:
        model: its encoder must be a ViT or DeiT.
        processor: of the model. Its size is set; whether it keeps the aspect ratio of lines stays.
        image_size: (height, width) in pixels, or one number for a square; a multiple of the patch.
        patch_size: (height, width) of a patch in pixels, or one number. The kernel is resampled so that a
            patch that is scaled to the new size gives the same token, exactly where patches grow; see
            `trocr.nn.embeddings.resample_patches`.
        num_channels: 1 (grey) or 3. Going to 1 adds up the kernel's colour planes: grey images give the same
            tokens. Going to 3 shares the plane out among red, green and blue as they make up grey.
        positions: "resample" interpolates the position table in two dimensions, for images that are scaled to
            the new size; "extend" keeps it and repeats its second half, for lines that keep their scale and
            are padded on the right. Repeated columns are a start for training, not a model that reads long
            lines. Class and distillation tokens keep their positions.
    Returns:
        What happened to the position table and to the patch embedding.
    Raises:
        SurgeryError: nothing is to be changed, an image size that is not a multiple of the patch, numbers
            that are not positive, channels other than 1 and 3, "extend" that is to change the rows of patches
            or to take columns away, or more than one and a half times as many are wanted; an encoder of
            another library, or a model with an adapter.
    """
    embeddings = _embeddings(model)
    refuse_adapter(model)
    expect_processor(processor)
    if image_size is None and patch_size is None and num_channels is None:
        raise SurgeryError("nothing to change: give image_size, patch_size or num_channels")
    image_hw = _pair("image_size", image_size) or embeddings.image_hw
    patch_hw = _pair("patch_size", patch_size) or embeddings.patch_hw
    if image_size is not None or patch_size is not None:
        _check_multiple(image_hw, patch_hw)
    old, grid = embeddings.grid, (image_hw[0] // patch_hw[0], image_hw[1] // patch_hw[1])
    table = _table(embeddings, grid, positions)
    kernel = _kernel(embeddings, processor, patch_hw, num_channels)
    conv = embeddings.patch_embeddings
    config = _config(
        cast(ViTConfig, model.config.encoder), image_hw, patch_hw, num_channels or conv.in_channels
    )
    changes = [
        *_put(embeddings, "position_embeddings", table, *_table_told(old, grid, positions)),
        *_put(conv, "weight", kernel.weight, kernel.action, kernel.detail),
        *_put(conv, "bias", kernel.bias, "composed", "the normalisation of grey is another"),
    ]
    embeddings.image_hw, embeddings.patch_hw = image_hw, patch_hw
    conv.in_channels, conv.kernel_size, conv.stride = config.num_channels, patch_hw, patch_hw
    model.config = dataclasses.replace(model.config, encoder=config)
    if image_size is not None:
        _set_size(processor, image_hw)
    for name, value in kernel.settings.items():
        setattr(processor.image_processor, name, value)
    notes = [_GREY_NOTE] if kernel.settings and num_channels == GREY else []
    notes += forget_adapter(model) if changes else []
    numbers = {"patches_before": old[0] * old[1], "patches": grid[0] * grid[1]}
    return report("resize_images", model, changes, numbers=numbers, notes=notes)


def _embeddings(model: "VisionEncoderDecoderModel") -> ImageEmbeddings:
    embeddings = getattr(model.encoder, "embeddings", None)
    if not isinstance(embeddings, ImageEmbeddings) or not isinstance(model.config.encoder, ViTConfig):
        kind = type(model.config.encoder).__name__
        raise SurgeryError(f"the encoder has a {kind}: only the images of a ViT or DeiT can be changed")
    return embeddings


def _pair(name: str, size: Any) -> tuple[int, int] | None:
    if size is None:
        return None
    values = (size, size) if isinstance(size, Integral) else size
    good = isinstance(values, tuple | list) and len(values) == 2
    if not good or any(isinstance(n, bool) or not isinstance(n, Integral) or n < 1 for n in values):
        raise SurgeryError(
            f"{name}={size!r}, expected (height, width) or one number, whole numbers of pixels above 0"
        )
    return int(values[0]), int(values[1])


def _check_multiple(image_hw: tuple[int, int], patch_hw: tuple[int, int]) -> None:
    if image_hw[0] % patch_hw[0] or image_hw[1] % patch_hw[1]:
        height, width = (max(1, round(n / unit)) * unit for n, unit in zip(image_hw, patch_hw, strict=True))
        raise SurgeryError(
            f"image size {image_hw[0]} x {image_hw[1]} (height x width) is not a multiple of the patch, "
            f"{patch_hw[0]} x {patch_hw[1]}; the nearest that is: {height} x {width}"
        )


def _table(embeddings: ImageEmbeddings, grid: tuple[int, int], positions: Positions) -> Tensor | None:
    """Make the position table of another grid; None where it stays."""
    if positions not in get_args(Positions):
        known = ", ".join(get_args(Positions))
        raise SurgeryError(f"positions={positions!r} is unknown, expected one of {known}")
    table = embeddings.position_embeddings.detach()
    if grid == embeddings.grid:
        return None
    if positions == "extend":
        return _extend(table, grid, embeddings.grid, embeddings.num_prefix)
    return resample_positions(table, grid=grid, old_grid=embeddings.grid, num_prefix=embeddings.num_prefix)


def _extend(table: Tensor, grid: tuple[int, int], old: tuple[int, int], num_prefix: int) -> Tensor:
    more, half = grid[1] - old[1], old[1] // 2
    if grid[0] != old[0] or not 0 <= more <= half:
        raise SurgeryError(
            f"positions of {old[0]} x {old[1]} patches (rows x columns) cannot be extended to {grid[0]} x "
            f'{grid[1]}: the rows must stay, and columns can grow up to {old[1] + half}; use "resample"'
        )
    prefix, patches = table[:, :num_prefix], table[:, num_prefix:]
    patches = patches.reshape(1, *old, -1)
    patches = torch.cat((patches, patches[:, :, half : half + more]), dim=2)
    return torch.cat((prefix, patches.flatten(1, 2)), dim=1)


def _table_told(old: tuple[int, int], grid: tuple[int, int], positions: Positions) -> tuple[Any, str]:
    told = f"{old[0]} x {old[1]} patches (rows x columns) to {grid[0]} x {grid[1]}"
    if positions == "extend":
        return "carried", f"{told}, the second half of the columns repeated"
    return "resampled", f"{told}, bicubic"


@dataclass(frozen=True, kw_only=True)
class _Kernel:
    """A new patch embedding, what to say about it, and settings of the processor that go with it.

    What is None stays.
    """

    weight: Tensor | None
    bias: Tensor | None
    action: Any
    detail: str
    settings: Mapping[str, Any]


def _kernel(
    embeddings: ImageEmbeddings, processor: TrOCRProcessor, patch_hw: tuple[int, int], channels: int | None
) -> _Kernel:
    """Make the patch embedding for patches of another size and images of other channels."""
    conv, old = embeddings.patch_embeddings, embeddings.patch_hw
    weight, bias = conv.weight.detach(), None
    assert conv.bias is not None
    details: list[str] = []
    settings: Mapping[str, Any] = {}
    if channels is not None and _are_other(channels, conv.in_channels, processor):
        change = to_grey if channels == GREY else to_colour
        weight, bias, settings = change(weight, conv.bias, processor.image_processor)
        bias = None if bias is conv.bias else bias
        details.append("colour planes added up" if channels == GREY else "shared out to three colours")
    if patch_hw != old:
        weight = resample_patches(weight, patch_hw=patch_hw)
        details.append(
            f"patches of {old[0]} x {old[1]} pixels (height x width) to {patch_hw[0]} x {patch_hw[1]}, by "
            "the pseudo-inverse of the resizing"
        )
    return _Kernel(
        weight=weight if details else None,
        bias=bias,
        action="resampled" if patch_hw != old else "composed",
        detail="; ".join(details),
        settings=settings,
    )


def _are_other(channels: int, old: int, processor: TrOCRProcessor) -> bool:
    """Whether channels are others than the old ones, once both are known to be possible."""
    if isinstance(channels, bool) or channels not in (GREY, COLOUR) or old not in (GREY, COLOUR):
        raise SurgeryError(
            f"num_channels={channels!r} instead of {old}, expected 1 (grey) or 3 (red, green, blue)"
        )
    made = processor.image_processor.num_channels
    if channels != old and made != old:
        raise SurgeryError(
            f"the processor makes images of {made} channels, the model takes {old}; give that of this model"
        )
    return channels != old


def _config(
    config: ViTConfig, image_hw: tuple[int, int], patch_hw: tuple[int, int], num_channels: int
) -> ViTConfig:
    changes: dict[str, Any] = {"num_channels": num_channels}
    for name, before, after in (
        ("image_size", config.image_hw, image_hw),
        ("patch_size", config.patch_hw, patch_hw),
    ):
        if before != after:
            changes[name] = after[0] if after[0] == after[1] else after
    return dataclasses.replace(config, **changes)


def _put(module: nn.Module, leaf: str, value: Tensor | None, action: Any, detail: str) -> list[Change]:
    """Replace a parameter of the image embeddings by a value that is not None."""
    if value is None:
        return []
    parameter = getattr(module, leaf)
    setattr(module, leaf, nn.Parameter(value, requires_grad=parameter.requires_grad))
    owner = "" if isinstance(module, ImageEmbeddings) else "patch_embeddings."
    return [
        Change(
            name=f"encoder.embeddings.{owner}{leaf}",
            action=action,
            shape=tuple(value.shape),
            before=tuple(parameter.shape),
            detail=detail,
        )
    ]


def _set_size(processor: TrOCRProcessor, image_hw: tuple[int, int]) -> None:
    """Set the size of images; where their middle is cut out, the middle's, and the whole's in proportion."""
    settings = processor.image_processor
    wanted = dict(zip(("height", "width"), image_hw, strict=True))
    if settings.do_center_crop and settings.crop_size is not None:
        old, crop = settings.size, settings.crop_size
        settings.size = {axis: max(1, round(wanted[axis] * old[axis] / crop[axis])) for axis in wanted}
        settings.crop_size = wanted
    else:
        settings.size = wanted
