"""A patch embedding for grey images from one for colours, and back.

Source: grey is ITU-R 601-2 luma, as in Pillow and in the image processor; adding up the colour planes is
`adapt_input_conv` of timm 1.0 (`models/_manipulate.py`).
Differs: exact where colours are normalised differently, too; and one plane is shared out by the parts that
colours have in grey, not evenly, so that coloured images give what their grey gave.
"""

from typing import Any

import torch
from torch import Tensor

from trocr.image import ImageProcessor

GREY, COLOUR = 1, 3
"""Channels."""

LUMA = (0.299, 0.587, 0.114)
"""Parts of red, green and blue in grey."""


@torch.no_grad()
def to_grey(weight: Tensor, bias: Tensor, settings: ImageProcessor) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Make a kernel that gives for grey what the old one gives for three equal channels.

    Where a channel's normalisation is of its own, so is its number for one level of grey; the new
    normalisation takes the means of theirs, and kernel and bias make up for the rest.

    Args:
        weight: (D, 3, height, width).
        bias: (D,).
        settings: of the processor that makes the three channels.
    Returns:
        (D, 1, height, width), the bias (the given one, where it need not change), and new settings.
    """
    means, deviations = settings.image_mean, settings.image_std
    mean, deviation = sum(means) / 3, sum(deviations) / 3
    kernel = weight.double()
    if not settings.do_normalize or (len(set(means)) == 1 and len(set(deviations)) == 1):
        mean, deviation = means[0], deviations[0]
    else:
        column = torch.tensor([means, deviations], dtype=torch.float64, device=weight.device)[..., None, None]
        kernel = kernel / column[1]
        offset = (kernel * (mean - column[0])).sum(dim=(1, 2, 3))
        bias = (bias.double() + offset).to(bias.dtype)
        kernel = kernel * deviation
    changed = {"image_mean": [mean], "image_std": [deviation], "do_convert_rgb": False}
    return kernel.sum(dim=1, keepdim=True).to(weight.dtype), bias, changed


@torch.no_grad()
def to_colour(
    weight: Tensor, bias: Tensor, settings: ImageProcessor
) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Make a kernel that gives for red, green and blue what the old one gives for their grey.

    Args:
        weight: (D, 1, height, width).
        bias: (D,).
        settings: of the processor that makes the one channel.
    Returns:
        (D, 3, height, width), the bias, and new settings.
    """
    shares = torch.tensor(LUMA, dtype=torch.float64, device=weight.device)[:, None, None]
    changed = {"image_mean": list(settings.image_mean) * 3, "image_std": list(settings.image_std) * 3}
    return (weight.double() * shares).to(weight.dtype), bias, {**changed, "do_convert_rgb": True}
