"""Byte-level byte-pair encoding: text to bytes to tokens, with no text that cannot be encoded.

Source: GPT-2 `encoder.py` (bytes as letters, the pattern); tokenizers 0.23 `models/bpe` and
`pre_tokenizers/byte_level.rs` (order of the merges, bytes without a token).
"""

import re
from collections.abc import Iterable, Mapping
from functools import cache
from heapq import heapify, heappop, heappush
from itertools import pairwise

from trocr.tokenizers import unicode_tables
from trocr.tokenizers.errors import TokenizerError

# So many words are kept with their tokens; longer ones than that many characters are not.
_CACHED_WORDS = 50_000
_CACHED_LENGTH = 64


def _byte_letters() -> list[str]:
    """The letter that stands for each byte: itself where it is visible Latin-1, else one from U+0100 on."""
    visible = {*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte) if byte in visible else chr(next(others)) for byte in range(256)]


BYTE_LETTERS = _byte_letters()
_BYTE_OF = {letter: byte for byte, letter in enumerate(BYTE_LETTERS)}


@cache
def word_pattern() -> re.Pattern[str]:
    r"""The pattern that cuts a text into words before any merge; the words together are the text.

    It is GPT-2's, with `\p{L}`, `\p{N}` and `\s` written out so that they never change.
    """
    letters = unicode_tables.character_class(unicode_tables.LETTERS)
    numbers = unicode_tables.character_class(unicode_tables.NUMBERS)
    spaces = unicode_tables.character_class(unicode_tables.WHITE_SPACE)
    return re.compile(
        f"'s|'t|'re|'ve|'m|'ll|'d| ?[{letters}]+| ?[{numbers}]+| ?[^{spaces}{letters}{numbers}]+"
        f"|[{spaces}]+(?![^{spaces}])|[{spaces}]+"
    )


class ByteBPE:
    """The algorithm with one vocabulary and one list of merges.

    Args:
        vocab: token -> id; tokens are written in byte letters.
        merges: pairs of tokens, the most important first.
    Raises:
        TokenizerError: a merge names a token that the vocabulary lacks.
    """

    def __init__(self, vocab: Mapping[str, int], merges: Iterable[tuple[str, str]]) -> None:
        self.vocab = vocab
        self.merges = list(merges)
        self._tokens = {token_id: token for token, token_id in vocab.items()}
        self._byte_ids = [vocab.get(letter) for letter in BYTE_LETTERS]
        self._ranks: dict[tuple[int, int], tuple[int, int]] = {}  # pair of ids -> (rank, id of the whole)
        for rank, (left, right) in enumerate(self.merges):
            for token in (left, right, left + right):
                if token not in vocab:
                    raise TokenizerError(
                        f"merge {rank + 1} joins {left!r} and {right!r} but the vocabulary has no token "
                        f"{token!r}; vocabulary and merges must come from one tokenizer"
                    )
            self._ranks[vocab[left], vocab[right]] = (rank, vocab[left + right])
        self._words: dict[str, list[tuple[str, int]]] = {}

    def encode(self, text: str) -> list[tuple[str, int]]:
        """(token, id) of a text; a byte that has no token of its own is left out."""
        tokens: list[tuple[str, int]] = []
        for word in word_pattern().findall(text):
            found = self._words.get(word)
            if found is None:
                found = [(self._tokens[token_id], token_id) for token_id in self._merge(word.encode("utf-8"))]
                if len(word) <= _CACHED_LENGTH and len(self._words) < _CACHED_WORDS:
                    self._words[word] = found
            tokens += found
        return tokens

    def _merge(self, word: bytes) -> list[int]:
        """Ids of a word: join the pair of lowest rank, the leftmost of equals, until no pair is a merge.

        A heap holds the candidates and a linked list the parts, so n bytes take n log n steps.
        """
        ids = [token_id for token_id in map(self._byte_ids.__getitem__, word) if token_id is not None]
        ranks, size = self._ranks, len(ids)
        following = list(range(1, size + 1))
        before = list(range(-1, size - 1))
        heap = [(*ranks[pair], position) for position, pair in enumerate(pairwise(ids)) if pair in ranks]
        heapify(heap)
        while heap:
            rank, whole, left = heappop(heap)
            right = following[left]
            # A candidate is stale where one of its parts has been joined to something else since.
            if ids[left] < 0 or right >= size or ranks.get((ids[left], ids[right])) != (rank, whole):
                continue
            after = following[right]
            ids[left], ids[right] = whole, -1
            following[left] = after
            if after < size:
                before[after] = left
            for start, end in ((before[left], left), (left, after)):
                if start >= 0 and end < size:
                    candidate = ranks.get((ids[start], ids[end]))
                    if candidate:
                        heappush(heap, (*candidate, start))
        return [token_id for token_id in ids if token_id >= 0]


@cache
def _token_bytes(token: str) -> bytes:
    try:
        return bytes([_BYTE_OF[letter] for letter in token])
    except KeyError:
        return token.encode("utf-8")  # an added token with a letter that stands for no byte


def join_bytes(tokens: Iterable[str], errors: str = "replace") -> str:
    """Text of tokens; `errors` says what becomes of bytes that are no UTF-8, as in `bytes.decode`."""
    return b"".join(map(_token_bytes, tokens)).decode("utf-8", errors)
