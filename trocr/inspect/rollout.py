"""Attention rollout: how much of each input token is in each output token of a stack of attentions.

Source: arXiv:2005.00928 sec. 3.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from trocr.inspect.hooks import capture
from trocr.inspect.reading import Reading, evaluating
from trocr.inspect.taps import list_taps
from trocr.models import VisionEncoderDecoderModel
from trocr.surgery.patterns import SurgeryError

NOT_ONE = 0.02
"""How far probabilities may be from adding up to 1, in half precision."""


def attention_rollout(probs: Sequence[Tensor]) -> Tensor:
    """Multiply the attentions of a stack, each averaged over heads and mixed half and half with the identity.

    Args:
        probs: (B, H, S, S) of each block, in order.
    Returns:
        (B, S, S) in float64, rows add up to 1: how much of each input token is in each output token.
    Raises:
        SurgeryError: there is no block.
    Source: arXiv:2005.00928 sec. 3, equation 1 and the 0.5 of its residual connections.
    """
    if not probs:
        raise SurgeryError("rollout: no attention was given, expected that of at least one block")
    mixed: Tensor | None = None
    for found in probs:
        mean = found.double().mean(dim=1)
        step = (mean + torch.eye(mean.shape[-1], dtype=mean.dtype, device=mean.device)) / 2
        mixed = step if mixed is None else step @ mixed
    assert mixed is not None
    return mixed


def check_rollout(model: VisionEncoderDecoderModel) -> list[str]:
    """Name the taps of the attention probabilities of a model's encoder.

    Raises:
        SurgeryError: there are none.
    """
    names = [tap.name for tap in list_taps(model.encoder) if tap.kind == "probs"]
    if not names:
        raise SurgeryError(
            f"rollout needs the attentions of the encoder, and {type(model.encoder).__name__} gives none"
        )
    return names


@torch.no_grad()
def encoder_attention(model: VisionEncoderDecoderModel, reading: Reading) -> list[Tensor]:
    """Give the probabilities (1, H, S, S) of all blocks of the encoder, for an image that was read.

    Raises:
        SurgeryError: there are none, or an attention (of a backbone of timm) is not one among all S states:
            in windows, among features, of the class token alone.
    """
    names = check_rollout(model)
    with evaluating(model), capture(model.encoder, names) as captured:
        model.encode(reading.pixel_values, **reading.encoding)
    states = reading.memory.shape[1]
    for name, calls in captured.items():
        shapes = [tuple(call.shape) for call in calls]
        wanted = [(1, *shape[1:2], states, states) for shape in shapes[:1]]
        if not calls or shapes != wanted or float((calls[0].float().sum(dim=-1) - 1).abs().max()) > NOT_ONE:
            raise SurgeryError(
                f"rollout needs probabilities among all {states} states in each block of the encoder, and "
                f"{name} gives {', '.join(map(str, shapes)) or 'nothing'}"
            )
    return [calls[0] for calls in captured.values()]
