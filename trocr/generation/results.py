"""What generation gives back, with the field names of `transformers`, and log-probabilities of the tokens.

Source: `GenerateEncoderDecoderOutput`, `GenerateBeamEncoderDecoderOutput` and `compute_transition_scores` of
`transformers` 5.23.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trocr.cache import DecoderCache
from trocr.outputs import ModelOutput


@dataclass(frozen=True, kw_only=True)
class GenerateOutput(ModelOutput):
    """Generated rows; N is images times `num_return_sequences`, R the rows that were searched.

    Attributes:
        sequences: (N, T) ids from the start token on, padded.
        sequences_scores: (N,) score of every result of beam search.
        scores: per step (R, V) what the chooser saw, with `output_scores`: processed logits, or
            log-probabilities in beam search.
        logits: per step (R, V) what the model gave, with `output_logits`.
        beam_indices: (N, T') the row that every new token came from, -1 after the end; of beam search.
        encoder_attentions, encoder_hidden_states: of the image encoder.
        decoder_attentions, cross_attentions, decoder_hidden_states: per step a tuple over blocks.
        attentions, hidden_states: the same of a decoder without encoder.
        past_key_values: the cache, where one was used.
        finished: (N,) whether the row ended by an end token of its own; False means it was cut.
        token_log_probs: (N, T') log-probability of every new token after processing, 0 after the end.
    Differs: one class for all ways of searching; `sequences_scores` do not wait for `output_scores`;
    `finished` and `token_log_probs` are ours.
    """

    sequences: Tensor
    sequences_scores: Tensor | None = None
    scores: tuple[Tensor, ...] | None = None
    logits: tuple[Tensor, ...] | None = None
    beam_indices: Tensor | None = None
    encoder_attentions: tuple[Tensor, ...] | None = None
    encoder_hidden_states: tuple[Tensor, ...] | None = None
    decoder_attentions: tuple[tuple[Tensor, ...], ...] | None = None
    cross_attentions: tuple[tuple[Tensor, ...], ...] | None = None
    decoder_hidden_states: tuple[tuple[Tensor, ...], ...] | None = None
    attentions: tuple[tuple[Tensor, ...], ...] | None = None
    hidden_states: tuple[tuple[Tensor, ...], ...] | None = None
    past_key_values: DecoderCache | None = None
    finished: Tensor
    token_log_probs: Tensor | None = None


def transition_scores(
    sequences: Tensor,
    scores: Sequence[Tensor],
    beam_indices: Tensor | None = None,
    normalize_logits: bool = False,
) -> Tensor:
    """Give the score of every generated token, from the scores of all tokens.

    Args:
        sequences: (N, T) of a `GenerateOutput`.
        scores: per step (R, V); `scores` or `logits` of the same output.
        beam_indices: (N, T') of beam search.
        normalize_logits: make every step's scores log-probabilities first.
    Returns:
        (N, T'), 0 after the end of beam search's results.
    Source: `compute_transition_scores` of `transformers` 5.23.
    """
    if beam_indices is None:
        own = torch.arange(sequences.shape[0], device=sequences.device)
        rows = own[:, None].expand(-1, len(scores))
    else:
        rows = beam_indices[:, : int((beam_indices >= 0).sum(dim=1).max())]
    tokens = sequences[:, sequences.shape[1] - rows.shape[1] :]
    picked = torch.zeros(rows.shape, dtype=scores[0].dtype, device=scores[0].device)
    for step, values in enumerate(scores[: rows.shape[1]]):
        if normalize_logits:
            values = values.log_softmax(dim=-1)
        picked[:, step] = values[rows[:, step].clamp(min=0), tokens[:, step]]
    return torch.where(rows >= 0, picked, 0.0)
