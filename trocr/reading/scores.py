"""Log-probabilities of tokens that are known, in one pass.

Source: original work.
"""

from typing import Any

import torch
from torch import Tensor

SCORING_BYTES = 2**27
"""Size that a float32 table of logits may have while log-probabilities are computed."""


def token_log_probs(model: Any, memory: Tensor, sequences: Tensor) -> Tensor:
    """Compute the log-probability of every token of given sequences, without search.

    Args:
        model: any reading model.
        memory: (B, S, D) states that cross-attention reads.
        sequences: (B, T) ids, the start token first, padded on the right.
    Returns:
        (B, T-1) of `sequences[:, 1:]`, float32, in the model's own distribution: no generation option
        touches it.
    """
    rows_at_once = max(1, SCORING_BYTES // (4 * sequences.shape[1] * model.config.decoder.vocab_size))
    parts = []
    for first in range(0, len(sequences), rows_at_once):
        rows = slice(first, first + rows_at_once)
        ids = sequences[rows]
        out = model.decoder(input_ids=ids[:, :-1], encoder_hidden_states=memory[rows], use_cache=False)
        logits = out.logits.float()
        chosen = logits.gather(2, ids[:, 1:, None]).squeeze(2)  # (B, T-1)
        parts.append(chosen - logits.logsumexp(dim=2))
    return torch.cat(parts)
