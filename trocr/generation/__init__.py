"""Generation: options, the loop, choosers (greedy, sampling, beams), processors, a ranker.

Source: `transformers` 5.23 for behaviour; whisper's `decoding.py` for the roles.
"""

from trocr.generation.generate import generate, stream
from trocr.generation.options import GenerationConfig, GenerationError
from trocr.generation.results import GenerateOutput, transition_scores
from trocr.generation.streaming import Streamer

__all__ = [
    "GenerateOutput",
    "GenerationConfig",
    "GenerationError",
    "Streamer",
    "generate",
    "stream",
    "transition_scores",
]
