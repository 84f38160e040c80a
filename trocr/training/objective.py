"""What is minimised: cross-entropy of the text, and CTC of the encoder where there is a head.

Source: arXiv:2109.10282 sec. 2.4 (cross-entropy); label smoothing: arXiv:1512.00567 sec. 7.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from trocr.model import ImageToText
from trocr.outputs import BaseModelOutput, DecoderOutput
from trocr.training.ctc import CTCHead


@dataclass(frozen=True, slots=True)
class Losses:
    """Sums over a batch, so that batches of any make-up can be added up.

    Attributes:
        tokens: cross-entropy summed over the tokens of the labels, in nats, with a gradient.
        characters: CTC loss summed over lines, or None without a head.
        distilled: what a teacher adds, summed over the tokens of the labels and weighted, or None without.
    """

    tokens: Tensor
    characters: Tensor | None
    distilled: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Pass:
    """What a model computes of a batch.

    Attributes:
        encoded: of the images.
        decoded: of the labels, shifted.
        logits: (tokens that count, V), in float32.
    """

    encoded: BaseModelOutput
    decoded: DecoderOutput
    logits: Tensor


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
        self,
        pixel_values: Tensor,
        labels: Tensor,
        ctc_targets: Sequence[Sequence[int]] | None = None,
        teacher_pixel_values: Tensor | None = None,
    ) -> Losses:
        """Compute the losses of a batch.

        The vocabulary is scored only at the positions that count, so padding costs nothing there.

        Args:
            pixel_values: (B, C, height, width), at most as large as the model's images; narrower ones are
                lines whose padding on the right was left out.
            labels: (B, T), -100 where a position does not count.
            ctc_targets: for the head: B lists of classes.
            teacher_pixel_values: for a teacher that sees other images; see `trocr.training.distillation`.
        """
        return self.losses(read(self.model, pixel_values, labels), labels, ctc_targets)

    def losses(self, found: Pass, labels: Tensor, ctc_targets: Sequence[Sequence[int]] | None) -> Losses:
        """Compare what the model computed with the labels."""
        tokens = F.cross_entropy(
            found.logits, labels[labels != -100], reduction="sum", label_smoothing=self.label_smoothing
        )
        characters = None
        if self.ctc is not None and ctc_targets is not None:
            characters = self.ctc.loss(found.encoded.last_hidden_state, ctc_targets)
        return Losses(tokens, characters)


def read(
    model: ImageToText,
    pixel_values: Tensor,
    labels: Tensor,
    *,
    hidden_states: bool = False,
    attentions: bool = False,
) -> Pass:
    """Run a model over images and labels.

    Args:
        model: in training or evaluation mode.
        pixel_values: see `Objective.forward`.
        labels: (B, T), -100 where a position does not count.
        hidden_states: keep the states of every block.
        attentions: keep the attention probabilities of every block; uses the eager core.
    """
    kept = {"output_hidden_states": hidden_states, "output_attentions": attentions}
    is_smaller = tuple(pixel_values.shape[2:]) != model.encoder.embeddings.image_hw
    encoded = model.encode(pixel_values, crop_pos_encoding=is_smaller, **kept)
    decoded = model.decoder.states(
        input_ids=model.prepare_decoder_input_ids_from_labels(labels),
        encoder_hidden_states=model.memory(encoded),
        use_cache=False,
        **kept,
    )
    logits = model.decoder.output_projection(decoded.last_hidden_state[labels != -100])
    return Pass(encoded, decoded, logits.float())
