"""BERT's algorithm: clean a text and split it into words and marks, then each into the longest known pieces.

Source: arXiv:1810.04805 and its `tokenization.py`; tokenizers 0.23 `normalizers/bert.rs`,
`pre_tokenizers/bert.rs`, `models/wordpiece` (the classes of characters, unknown words).
"""

import re
import unicodedata
from collections.abc import Mapping
from functools import cache

from trocr.tokenizers import unicode_tables
from trocr.tokenizers.unicode_tables import character_class

CONTINUATION = "##"
# A longer word is unknown as a whole.
MAX_WORD = 100
# CJK ideographs, each of which is a word; 2b820 to 2b91f are not, as in the source.
_IDEOGRAPHS = "3400-4dbf 4e00-9fff f900-faff 20000-2a6df 2a700-2b73f 2b740-2b81f 2b920-2ceaf 2f800-2fa1f"
_CACHED_WORDS = 50_000


@cache
def _pattern(table: str) -> re.Pattern[str]:
    return re.compile(f"[{character_class(table)}]+")


@cache
def _late_lowercase() -> dict[int, int]:
    spans = unicode_tables.LATE_LOWERCASE
    return {code: code + offset for first, last, offset in spans for code in range(first, last + 1)}


@cache
def _word_pattern() -> re.Pattern[str]:
    marks = character_class(unicode_tables.BERT_PUNCTUATION)
    spaces = character_class(unicode_tables.WHITE_SPACE)
    return re.compile(f"[{marks}]|[^{marks}{spaces}]+")


def clean(text: str) -> str:
    """Drop control, private and replacement characters; make every white space a plain space."""
    if not text.isascii() or not text.isprintable():
        text = _pattern(unicode_tables.BERT_REMOVED).sub("", text)
        text = _pattern(unicode_tables.WHITE_SPACE).sub(lambda spaces: " " * len(spaces.group()), text)
    return text


def separate_ideographs(text: str) -> str:
    """Put a space on both sides of every CJK ideograph."""
    if text.isascii():
        return text
    return _pattern(_IDEOGRAPHS).sub(lambda run: "".join(f" {letter} " for letter in run.group()), text)


def strip_accents(text: str) -> str:
    """Decompose (NFD) and drop the accents."""
    if text.isascii():
        return text
    late = _pattern(unicode_tables.LATE_CANONICAL)
    parts, done = [], 0
    for match in late.finditer(text):
        parts += [unicodedata.normalize("NFD", text[done : match.start()]), match.group()]
        done = match.end()
    parts.append(unicodedata.normalize("NFD", text[done:]))
    return _pattern(unicode_tables.BERT_ACCENTS).sub("", "".join(parts))


def lowercase(text: str) -> str:
    """Lower-case letter by letter: a final sigma is a sigma like any other."""
    if not text.isascii():
        text = text.translate(_late_lowercase()).replace("Σ", "σ")
    return text.lower()


def split_words(text: str) -> list[str]:
    """Words and marks of a text that has been normalised."""
    words: list[str] = _word_pattern().findall(text)
    return words


class WordPiece:
    """The algorithm with one vocabulary.

    Args:
        vocab: token -> id; pieces inside a word start with "##".
        unknown: the token for a word that cannot be split into known pieces; it must be in the vocabulary.
    """

    def __init__(self, vocab: Mapping[str, int], unknown: str) -> None:
        self.vocab = vocab
        self.unknown = unknown
        self._longest = max(map(len, vocab), default=0)
        self._words: dict[str, list[tuple[str, int]]] = {}

    def encode(self, text: str) -> list[tuple[str, int]]:
        """(token, id) of a text that has been normalised."""
        tokens: list[tuple[str, int]] = []
        for word in split_words(text):
            found = self._words.get(word)
            if found is None:
                found = self._split(word)
                if len(self._words) < _CACHED_WORDS:
                    self._words[word] = found
            tokens += found
        return tokens

    def _split(self, word: str) -> list[tuple[str, int]]:
        pieces: list[tuple[str, int]] = []
        start = 0
        while start < len(word) <= MAX_WORD:
            prefix = CONTINUATION if start else ""
            for stop in range(min(len(word), start + self._longest), start, -1):
                piece = prefix + word[start:stop]
                if piece in self.vocab:
                    break
            else:
                break
            pieces.append((piece, self.vocab[piece]))
            start = stop
        return pieces if start == len(word) else [(self.unknown, self.vocab[self.unknown])]


def join_pieces(tokens: list[str]) -> str:
    """Text of tokens: continuations are joined, other tokens set apart, marks drawn to the word before.

    Source: tokenizers 0.23 `decoders/wordpiece.rs`, with its clean-up of each token.
    """
    parts = tokens[:1]
    parts += [
        token.removeprefix(CONTINUATION) if token.startswith(CONTINUATION) else " " + token
        for token in tokens[1:]
    ]
    return "".join(map(_clean_up, parts))


@cache
def _clean_up(token: str) -> str:
    for found, put in (
        (" .", "."),
        (" ?", "?"),
        (" !", "!"),
        (" ,", ","),
        (" ' ", "'"),
        (" n't", "n't"),
        (" 'm", "'m"),
        (" do not", " don't"),
        (" 's", "'s"),
        (" 've", "'ve"),
        (" 're", "'re"),
    ):
        token = token.replace(found, put)
    return token
