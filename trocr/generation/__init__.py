"""Generation: options, the loop, choosers (greedy, sampling, beams), processors, a ranker, drafts.

Source: `transformers` 5.23 for behaviour; whisper's `decoding.py` for the roles.
"""

from trocr.generation.drafts import Draft, DraftError, ModelDraft
from trocr.generation.generate import generate, stream
from trocr.generation.ngram import NGramDraft
from trocr.generation.options import GenerationConfig, GenerationError
from trocr.generation.results import GenerateOutput, transition_scores
from trocr.generation.streaming import Streamer

__all__ = [
    "Draft",
    "DraftError",
    "GenerateOutput",
    "GenerationConfig",
    "GenerationError",
    "ModelDraft",
    "NGramDraft",
    "Streamer",
    "generate",
    "stream",
    "transition_scores",
]
