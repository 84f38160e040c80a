"""What is minimised: cross-entropy of the text, and CTC of the encoder where there is a head.

Source: arXiv:2109.10282 sec. 2.4 (cross-entropy); label smoothing: arXiv:1512.00567 sec. 7.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from trocr.model import ImageToText
from trocr.training.ctc import CTCHead


@dataclass(frozen=True, slots=True)
class Losses:
    """Sums over a batch, so that batches of any make-up can be added up.

    Attributes:
        tokens: cross-entropy summed over the tokens of the labels, in nats, with a gradient.
        characters: CTC loss summed over lines, or None without a head.
    """

    tokens: Tensor
    characters: Tensor | None


class Objective(nn.Module):
    """A model with its losses, as one module that DDP and FSDP can wrap.

    Args:
        model: what is trained.
        ctc: auxiliary head on its encoder, or None.
        label_smoothing: 0..1, share of the target that is spread over the vocabulary.
    """

    def __init__(
        self, model: ImageToText, *, ctc: CTCHead | None = None, label_smoothing: float = 0.0
    ) -> None:
        super().__init__()
        self.model = model
        self.ctc = ctc
        self.label_smoothing = label_smoothing

    def forward(
        self, pixel_values: Tensor, labels: Tensor, ctc_targets: Sequence[Sequence[int]] | None = None
    ) -> Losses:
        """Compute the losses of a batch.

        The vocabulary is scored only at the positions that count, so padding costs nothing there.

        Args:
            pixel_values: (B, C, height, width), at most as large as the model's images; narrower ones are
                lines whose padding on the right was left out.
            labels: (B, T), -100 where a position does not count.
            ctc_targets: for the head: B lists of classes.
        """
        encoder = self.model.encoder
        is_smaller = tuple(pixel_values.shape[2:]) != encoder.embeddings.image_hw
        encoded = self.model.encode(pixel_values, crop_pos_encoding=is_smaller)
        states = self.model.decoder.states(
            input_ids=self.model.prepare_decoder_input_ids_from_labels(labels),
            encoder_hidden_states=self.model.memory(encoded),
            use_cache=False,
        )
        counted = labels != -100
        logits = self.model.decoder.output_projection(states[counted]).float()  # (tokens that count, V)
        tokens = F.cross_entropy(
            logits, labels[counted], reduction="sum", label_smoothing=self.label_smoothing
        )
        characters = None
        if self.ctc is not None and ctc_targets is not None:
            characters = self.ctc.loss(encoded.last_hidden_state, ctc_targets)
        return Losses(tokens, characters)
