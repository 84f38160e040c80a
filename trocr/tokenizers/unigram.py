"""Unigram segmentation: the most probable way to cut a word into vocabulary pieces.

Source: subword regularization (arXiv:1804.10959), 3.2; `tokenizers` 0.23 models/unigram/model.rs for ties,
the price of an unknown character and the fusing of unknown runs.
"""

import math
from collections.abc import Sequence

from trocr.tokenizers.errors import TokenizerError

UNKNOWN_PENALTY = 10.0  # an unknown character costs this much more than the least likely piece
_CACHE_SIZE = 1 << 14
_CACHED_LENGTH = 64
_NOT_A_PREFIX = float("nan")  # told apart by identity


class Unigram:
    """A vocabulary with log-probabilities and its Viterbi search.

    Attributes:
        vocab: (piece, score) pairs; the position is the id.
        unk_id: id of the unknown piece; None makes unknown characters an error.
        token_to_id: piece -> id; of a repeated piece the last id counts.
    """

    def __init__(self, vocab: Sequence[tuple[str, float]], *, unk_id: int | None) -> None:
        """Index the vocabulary.

        Raises:
            TokenizerError: no pieces, a score that is not finite, or `unk_id` outside the vocabulary.
        """
        if not vocab:
            raise TokenizerError("unigram vocabulary: got no pieces, expected at least the unknown piece")
        if unk_id is not None and not 0 <= unk_id < len(vocab):
            raise TokenizerError(f"unigram vocabulary: unk_id is {unk_id}, expected 0 to {len(vocab) - 1}")
        self.vocab = [(piece, float(score)) for piece, score in vocab]
        self.unk_id = unk_id
        self.token_to_id = {piece: index for index, (piece, _) in enumerate(self.vocab)}
        for index, (piece, score) in enumerate(self.vocab):
            if not math.isfinite(score):
                raise TokenizerError(
                    f"unigram vocabulary: piece {index} ({piece!r}) has score {score}, "
                    "expected a finite log-probability"
                )
        self._unk_piece = None if unk_id is None else self.vocab[unk_id][0]
        self._unk_score = min(score for _, score in self.vocab) - UNKNOWN_PENALTY
        self._table = _prefix_table(self.vocab)
        self._cache: dict[str, tuple[tuple[str, int], ...]] = {}

    def __len__(self) -> int:
        return len(self.vocab)

    def encode(self, word: str) -> tuple[tuple[str, int], ...]:
        """Cut `word` into pieces and look up their ids.

        Neighbouring unknown characters are one piece, with `unk_id`. The pieces concatenate to `word`. Time
        is linear in its length (times the longest piece).

        Raises:
            TokenizerError: an unknown character, and the vocabulary has no unknown piece.
        """
        tokens = self._cache.get(word)
        if tokens is None:
            pieces = self._backtrack(word, *self._best_path(word))
            tokens = tuple((piece, self._id_of(piece)) for piece in pieces)
            if len(word) <= _CACHED_LENGTH:
                if len(self._cache) >= _CACHE_SIZE:
                    self._cache.clear()
                self._cache[word] = tokens
        return tokens

    def _id_of(self, piece: str) -> int:
        found = self.token_to_id.get(piece, self.unk_id)
        if found is None:
            raise TokenizerError(
                f"{piece!r} is not in the vocabulary, expected known characters only: the tokenizer has no "
                "unknown piece (unk_id)"
            )
        return found

    def _best_path(self, word: str) -> tuple[list[int], list[bool]]:
        """Viterbi over character positions.

        Returns:
            for every end position, the start of the last piece of the best path to it, and whether that
            piece is an unknown character. Of equally good paths the one with the longest last piece wins, as
            in the source.
        """
        length = len(word)
        table, unk_score = self._table, self._unk_score
        best = [0.0] * (length + 1)
        start_of = [-1] * (length + 1)
        unknown = [False] * (length + 1)
        for start in range(length):
            so_far = best[start]
            for end in range(start + 1, length + 1):
                score = table.get(word[start:end], _NOT_A_PREFIX)
                if score is _NOT_A_PREFIX:
                    break
                if score is not None:
                    total = score + so_far
                    if start_of[end] < 0 or total > best[end]:
                        best[end], start_of[end], unknown[end] = total, start, False
            if table.get(word[start]) is None:  # not a piece by itself
                end = start + 1
                total = unk_score + so_far
                if start_of[end] < 0 or total > best[end]:
                    best[end], start_of[end], unknown[end] = total, start, True
        return start_of, unknown

    def _backtrack(self, word: str, start_of: list[int], unknown: list[bool]) -> list[str]:
        pieces: list[str] = []
        end = run_end = len(word)  # run_end: where the run of unknown characters around `end` stops
        while end > 0:
            start = start_of[end]
            piece = word[start:end]
            if not (unknown[end] or piece == self._unk_piece):
                if run_end > end:
                    pieces.append(word[end:run_end])
                pieces.append(piece)
                run_end = start
            end = start
        if run_end > 0:
            pieces.append(word[:run_end])
        pieces.reverse()
        return pieces


def _prefix_table(vocab: Sequence[tuple[str, float]]) -> dict[str, float | None]:
    """A trie as a dict: every piece with its score and every other prefix of a piece with None."""
    table: dict[str, float | None] = dict(vocab)
    for piece, _ in vocab:
        prefix = piece[:-1]
        while prefix and prefix not in table:
            table[prefix] = None
            prefix = prefix[:-1]
    return table
