"""What reading gives: a line of text and its tokens.

Source: original work.
"""

from dataclasses import dataclass
from itertools import accumulate, pairwise, takewhile
from typing import Any

from trocr.tokenizers import Tokenizer


@dataclass(frozen=True, slots=True)
class Token:
    """One token of a line.

    Attributes:
        id: in the model's vocabulary.
        text: what it adds to the line's text; empty for special tokens, and for all but the last of the
            tokens that make up one character.
        logprob: natural logarithm of the probability that the model gave it after the tokens before it.
    """

    id: int
    text: str
    logprob: float


@dataclass(frozen=True, slots=True)
class Line:
    """The text of one image.

    Attributes:
        text: without special tokens.
        score: geometric mean of the probabilities of `tokens`, the end token included: a number in 0..1 that
            does not shrink with the length of the line. It is the model's own opinion, not calibrated: it
            orders lines by how doubtful they are, and is no estimate of how many of them are right.
        tokens: what the model wrote, in order, with the end token where it ended.
        finished: whether it ended by itself; False means that the text was cut at the length limit.
        source: the path that was given, or "images[3]" for the fourth of other things.
    """

    text: str
    score: float
    tokens: tuple[Token, ...]
    finished: bool
    source: str

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: path, text, score, finished, tokens."""
        return {
            "path": self.source,
            "text": self.text,
            "score": round(self.score, 6),
            "finished": self.finished,
            "tokens": [{"id": t.id, "text": t.text, "logprob": round(t.logprob, 6)} for t in self.tokens],
        }


def token_texts(tokenizer: Tokenizer, ids: list[int], text: str) -> list[str]:
    """Split a decoded text into what each token adds to it; the parts joined are the text."""
    prefixes = (tokenizer.decode(ids[:stop], skip_special_tokens=True) for stop in range(1, len(ids)))
    ends = (_shared_start(prefix, text) for prefix in prefixes)
    bounds = [0, *accumulate(ends, max), len(text)]
    return [text[start:end] for start, end in pairwise(bounds)]


def _shared_start(one: str, other: str) -> int:
    """Number of characters that two strings begin with alike."""
    if other.startswith(one):
        return len(one)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))
