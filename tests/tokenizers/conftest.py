"""Fixtures of the tokenizer tests: directories with real vocabularies, BERT vocabularies, the corpus."""

from pathlib import Path

import pytest
from corpus import corpus, long_strings

from trocr.tokenizers import wordpiece

BERT_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


@pytest.fixture(scope="session")
def roberta_dir(reference: Path) -> Path:
    return reference / "roberta-bpe"


@pytest.fixture(scope="session")
def tiny_dir(repo: Path) -> Path:
    """The 512-token byte-level BPE of the shipped checkpoint."""
    return repo / "trocr" / "pretrained" / "tiny-printed"


@pytest.fixture(scope="session")
def strings() -> list[str]:
    return [*corpus(), *long_strings()]


def make_bert_vocab(texts: list[str]) -> dict[str, int]:
    """A WordPiece vocabulary: letters of many scripts, half of the words, common beginnings and endings."""
    tokens = dict.fromkeys(BERT_SPECIAL)
    for index, text in enumerate(texts):
        plain = wordpiece.clean(text)
        for normal in (plain, wordpiece.lowercase(wordpiece.strip_accents(plain))):
            for place, word in enumerate(normal.split()):
                tokens |= dict.fromkeys(word[:100:3])
                tokens |= dict.fromkeys(f"##{letter}" for letter in word[1:100:2])
                tokens |= dict.fromkeys((word[:4], f"##{word[2:5]}")) if len(word) > 4 else {}
                tokens |= {word[:30]: None} if (place + index) % 2 else {}
    return {token: token_id for token_id, token in enumerate(tokens)}


@pytest.fixture(scope="session")
def bert_vocab(strings: list[str]) -> dict[str, int]:
    """Some 17,000 tokens."""
    return make_bert_vocab(strings[:3000])


@pytest.fixture(scope="session")
def small_bert_vocab(strings: list[str]) -> dict[str, int]:
    """Some 1,500 tokens, for tests that save and load it often."""
    return make_bert_vocab(strings[:100])
