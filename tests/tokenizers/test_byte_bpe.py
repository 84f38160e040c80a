"""Byte-level BPE: bytes, words, merges."""

import random
from heapq import heappush
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trocr.tokenizers import RobertaTokenizer, TokenizerError, byte_bpe
from trocr.tokenizers.byte_bpe import BYTE_LETTERS, ByteBPE, join_bytes, word_pattern

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
MERGES = [("a", "b"), ("b", "c"), ("ab", "c"), ("a", "a"), ("aa", "aa"), ("c", "ab"), ("Ġ", "a"), ("Ã", "©")]


def bytes_with(merges: list[tuple[str, str]]) -> dict[str, int]:
    tokens = [*BYTE_LETTERS, *dict.fromkeys(left + right for left, right in merges)]
    return {token: index for index, token in enumerate(tokens)}


ALL_BYTES = bytes_with(MERGES)


def merge_slowly(bpe: ByteBPE, word: str) -> list[str]:
    """The definition: again and again, join the pair of the lowest rank, the leftmost of equals."""
    ranks = {pair: rank for rank, pair in reversed(list(enumerate(bpe.merges)))}
    parts = [BYTE_LETTERS[byte] for byte in word.encode()]
    while True:
        found = [(ranks[pair], at) for at, pair in enumerate(pairwise(parts)) if pair in ranks]
        if not found:
            return parts
        at = min(found)[1]
        parts[at : at + 2] = [parts[at] + parts[at + 1]]


def test_byte_letters() -> None:
    assert len(set(BYTE_LETTERS)) == 256
    assert BYTE_LETTERS[ord("a")] == "a"
    assert [BYTE_LETTERS[byte] for byte in b" \n\x00\xad"] == ["Ġ", "Ċ", "Ā", "Ń"]
    assert not any(letter.isspace() for letter in BYTE_LETTERS)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Hello  world 12a!?", ["Hello", " ", " world", " 12", "a", "!?"]),
        ("I'm we'll IT'S 'tis", ["I", "'m", " we", "'ll", " IT", "'", "S", " '", "tis"]),
        (" \n\n x\t\ty  ", [" \n\n", " x", "\t", "\t", "y", "  "]),
        ("²x Ⅷ٣ e\u0301\u1c89", ["²", "x", " Ⅷ٣", " e", "\u0301", "\u1c89"]),
        ("\x1c\u3000a", ["\x1c", "\u3000", "a"]),
    ],
)
def test_words(text: str, words: list[str]) -> None:
    assert word_pattern().findall(text) == words


@given(TEXT)
def test_the_words_are_the_text(text: str) -> None:
    assert "".join(word_pattern().findall(text)) == text


@given(TEXT)
def test_text_comes_back(text: str) -> None:
    """Nothing is lost, whatever the text."""
    bpe = ByteBPE(ALL_BYTES, MERGES)
    assert join_bytes([token for token, _ in bpe.encode(text)]) == text


@given(st.lists(st.sampled_from(MERGES), unique=True), st.text("abcé ", max_size=40))
def test_merges_happen_in_the_order_of_the_definition(merges: list[tuple[str, str]], text: str) -> None:
    bpe = ByteBPE(ALL_BYTES, merges)
    expected = [part for word in word_pattern().findall(text) for part in merge_slowly(bpe, word)]
    assert [token for token, _ in bpe.encode(text)] == expected
    assert bpe.encode(text) == bpe.encode(text)  # the second time from the cache


def test_ids_and_tokens_agree() -> None:
    vocab = bytes_with(MERGES)
    assert all(vocab[token] == token_id for token, token_id in ByteBPE(vocab, MERGES).encode("abcé aab"))


def test_a_byte_without_a_token_is_left_out() -> None:
    assert ByteBPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")]).encode("axb") == [("ab", 2)]


def test_a_merge_of_unknown_tokens_is_refused() -> None:
    with pytest.raises(
        TokenizerError, match=r"merge 2 joins 'b' and '日' .* no token '日'; .* from one tokenizer"
    ):
        ByteBPE(bytes_with(MERGES), [("a", "b"), ("b", "日")])
    with pytest.raises(TokenizerError, match=r"merge 1 joins 'b' and 'a' .* no token 'ba'"):
        RobertaTokenizer(bytes_with(MERGES), ["b a"])


def test_the_work_grows_with_the_length_and_not_its_square(monkeypatch: pytest.MonkeyPatch) -> None:
    candidates = []
    monkeypatch.setattr(
        byte_bpe, "heappush", lambda heap, item: (candidates.append(item), heappush(heap, item))
    )
    word = "".join(random.Random(0).choices("abc", k=20_000))
    tokens = ByteBPE(ALL_BYTES, MERGES).encode(word)
    assert "".join(token for token, _ in tokens) == word
    assert len(candidates) <= 2 * (len(word) - len(tokens))  # a merge makes at most two


def test_decoding_broken_utf8() -> None:
    tokens = [BYTE_LETTERS[byte] for byte in "é€".encode()]
    assert join_bytes(tokens) == "é€"
    assert join_bytes(tokens[:1] + tokens[2:4]) == "\ufffd\ufffd"
    assert join_bytes(tokens[:1], "ignore") == ""
    assert join_bytes(["<a b>", "日"]) == "<a b>日"  # added tokens with letters that stand for no byte
    with pytest.raises(UnicodeDecodeError):
        join_bytes(tokens[:1], "strict")
