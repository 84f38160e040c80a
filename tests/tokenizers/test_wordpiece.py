"""BERT's steps one by one, with cases one can check by eye."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trocr.tokenizers.wordpiece import (
    WordPiece,
    clean,
    join_pieces,
    lowercase,
    separate_ideographs,
    strip_accents,
)

PIECES = WordPiece(
    {
        token: i
        for i, token in enumerate(["[UNK]", "un", "##aff", "##able", "##a", "able", "a", ",", "##,", "é"])
    },
    "[UNK]",
)


def test_clean() -> None:
    assert clean("a\x00\ufffd\u200d\ue000b\t\n\u3000\x1cc\x7f") == "ab   c"
    assert clean("plain ASCII, 12!") == "plain ASCII, 12!"


def test_separate_ideographs() -> None:
    assert separate_ideographs("a漢字b ひ한") == "a 漢  字 b ひ한"


def test_strip_accents() -> None:
    assert strip_accents("éÀ\u0323ñ ﬁ") == "eAn ﬁ"
    assert strip_accents("\U00011938") == "\U00011938"  # decomposes since Unicode 13 only


def test_lowercase() -> None:
    assert lowercase("ÀΣΟΣ İ \ua7da") == "àσοσ i̇ \ua7db"


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("unaffable", ["un", "##aff", "##able"]),
        ("un,able", ["un", ",", "able"]),
        ("unx a", ["[UNK]", "a"]),
        ("a" * 100, ["a"] + ["##a"] * 99),
        ("a" * 101 + ",", ["[UNK]", ","]),
        ("", []),
        (" \u3000 ", []),
    ],
)
def test_pieces(text: str, tokens: list[str]) -> None:
    assert [token for token, _ in PIECES.encode(text)] == tokens
    assert all(PIECES.vocab[token] == token_id for token, token_id in PIECES.encode(text))


@given(st.text("unafble, ", max_size=30))
def test_joined_pieces_are_the_words(text: str) -> None:
    tokens = [token for token, _ in PIECES.encode(text)]
    if "[UNK]" not in tokens:
        joined = "".join(token.removeprefix("##") for token in tokens)
        assert joined == text.replace(" ", "")


def test_join() -> None:
    assert join_pieces(["un", "##aff", "able", ",", "it", "'s", "##", "!"]) == "unaff able, it's!"
    assert join_pieces(["##a", "b"]) == "##a b"
    assert join_pieces([]) == ""
