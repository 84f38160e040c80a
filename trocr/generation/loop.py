"""The loop of generation: score, process, choose, until nothing is left to choose.

Source: whisper's `DecodingTask` for the division of roles; `transformers` 5.23 for what a step keeps.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from trocr.generation.processors import Processor
from trocr.generation.search import Chooser
from trocr.generation.session import Session


@dataclass
class Trace:
    """Scores of every step, where they are wanted.

    Attributes:
        logits: (R, V) as the model gave them, in float32.
        scores: (R, V) as the chooser saw them.
    """

    with_logits: bool = False
    with_scores: bool = False
    logits: list[Tensor] = field(default_factory=list)
    scores: list[Tensor] = field(default_factory=list)


@torch.no_grad()
def steps(session: Session, chooser: Chooser, process: Processor, trace: Trace) -> Iterator[Tensor]:
    """Generate, one token a row at a time.

    Args:
        session: the model's side.
        chooser: holds the rows and the results.
        process: processors of the scores.
        trace: keeps what is wanted of every step.
    Yields:
        (R,) the newest token of every row; of beams, those of the rows that run on.
    """
    done = False
    while not done:
        logits = session.next_logits(chooser.ids)
        scores = process(chooser.ids, chooser.prepare(logits))
        if trace.with_logits:
            trace.logits.append(logits)
        if trace.with_scores:
            trace.scores.append(scores)
        choice = chooser.choose(scores, tuple(trace.scores) if trace.with_scores else None)
        done = choice.done
        if choice.rows is not None and not done:
            session.follow(choice.rows)
        yield choice.tokens
