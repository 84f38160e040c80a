"""The unigram search, against brute force and against tokenizers' Unigram."""

import itertools
import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_spm import sentences, train
from tokenizers.models import Unigram as Judge

from trocr.tokenizers.errors import TokenizerError
from trocr.tokenizers.sentencepiece_model import SentencePieceModel
from trocr.tokenizers.unigram import UNKNOWN_PENALTY, Unigram


def pieces_of(model: Unigram, word: str) -> tuple[str, ...]:
    return tuple(piece for piece, _ in model.encode(word))


def ids_of(model: Unigram, word: str) -> list[int]:
    return [token_id for _, token_id in model.encode(word)]


SPECIALS = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]


def brute_force(vocab: list[tuple[str, float]], word: str) -> float:
    """Best total score over all ways to cut `word`."""
    scores = dict(vocab)
    unknown = min(scores.values()) - UNKNOWN_PENALTY
    best = float("-inf")
    for cuts in itertools.product((False, True), repeat=len(word) - 1):
        pieces, start = [], 0
        for end in [i + 1 for i, cut in enumerate(cuts) if cut] + [len(word)]:
            pieces.append(word[start:end])
            start = end
        if all(piece in scores or len(piece) == 1 for piece in pieces):
            best = max(best, sum(scores.get(piece, unknown) for piece in pieces))
    return best


def total(vocab: list[tuple[str, float]], pieces: tuple[str, ...]) -> float:
    scores = dict(vocab)
    unknown = min(scores.values()) - UNKNOWN_PENALTY
    return sum(scores[piece] if piece in scores else unknown * len(piece) for piece in pieces)


letters = st.text("abc", min_size=1, max_size=4)
vocabularies = st.dictionaries(letters, st.floats(-20, 0), min_size=1, max_size=12).map(
    lambda pieces: [*SPECIALS, *pieces.items()]
)
tied_vocabularies = st.dictionaries(letters, st.integers(-3, 0).map(float), min_size=1, max_size=12).map(
    lambda pieces: [*SPECIALS, *pieces.items()]
)


@given(vocabularies, st.text("abcd", min_size=1, max_size=9))
@settings(max_examples=150, deadline=None)
def test_the_best_cut_is_found(vocab, word):
    pieces = pieces_of(Unigram(vocab, unk_id=3), word)
    assert "".join(pieces) == word
    assert total(vocab, pieces) == pytest.approx(brute_force(vocab, word), abs=1e-9)


@given(
    st.one_of(vocabularies, tied_vocabularies), st.lists(st.text("abcd", min_size=1, max_size=12), max_size=8)
)
@settings(max_examples=300, deadline=None)
def test_pieces_and_ids_as_the_judge_also_in_ties(vocab, words):
    ours, judge = Unigram(vocab, unk_id=3), Judge(vocab, 3, False)
    for word in words:
        expected = judge.tokenize(word)
        assert ours.encode(word) == tuple((token.value, token.id) for token in expected)


@pytest.mark.parametrize(
    ("word", "pieces", "ids"),
    [
        ("abcd", ("abcd",), [8]),
        ("abx", ("ab", "x"), [6, 3]),
        ("xyab", ("xy", "ab"), [3, 6]),
        ("xaby☃", ("x", "ab", "y☃"), [3, 6, 3]),
        ("", (), []),
        ("<unk>☃", ("<unk>☃",), [3]),  # the unknown piece itself joins a run of unknown characters
        ("☃☃", ("☃☃",), [9]),  # two unknown characters that spell a piece together get its id
        ("a<pad>", ("a", "<pad>"), [4, 1]),
    ],
)
def test_unknown_characters(word, pieces, ids):
    vocab = [*SPECIALS, ("a", -1.0), ("b", -1.0), ("ab", -1.5), ("cd", -9.0), ("abcd", -2.0), ("☃☃", -500.0)]
    ours, judge = Unigram(vocab, unk_id=3), Judge(vocab, 3, False)
    assert ours.encode(word) == tuple(zip(pieces, ids, strict=True))
    assert [token.id for token in judge.tokenize(word)] == ids


@pytest.mark.parametrize(("score", "pieces"), [(-9.75, ("xy", "z")), (-10.25, ("x", "yz"))])
def test_an_unknown_character_costs_ten_more_than_the_least_likely_piece(score, pieces):
    vocab = [*SPECIALS, ("xy", -20.0), ("z", score), ("yz", 0.0)]  # -30 with the unknown x; or -20 + score
    assert pieces_of(Unigram(vocab, unk_id=3), "xyz") == pieces
    assert tuple(token.value for token in Judge(vocab, 3, False).tokenize("xyz")) == pieces


def test_equal_scores_prefer_the_longest_last_piece():
    vocab = [*SPECIALS, ("a", -1.0), ("aa", -2.0), ("aaa", -3.0)]
    assert pieces_of(Unigram(vocab, unk_id=3), "aaaa") == ("a", "aaa")
    assert [token.value for token in Judge(vocab, 3, False).tokenize("aaaa")] == ["a", "aaa"]


def test_a_trained_model_as_the_judge():
    model = SentencePieceModel.from_bytes(train())
    vocab = [*SPECIALS, *((p.text, p.score) for p in model.pieces[3:])]
    ours, judge = Unigram(vocab, unk_id=3), Judge(vocab, 3, False)
    rng = random.Random(0)
    words = ["▁" + word for line in sentences(200, seed=99) for word in line.split()]
    words += ["".join(rng.choice(vocab)[0] for _ in range(rng.randint(1, 6))) for _ in range(2000)]
    for word in words:
        assert ids_of(ours, word) == [token.id for token in judge.tokenize(word)], word


def test_repeated_pieces_keep_the_last_id():
    vocab = [*SPECIALS, ("a", -1.0), ("b", -4.0), ("a", -9.0), ("ab", -12.0)]
    ours, judge = Unigram(vocab, unk_id=3), Judge(vocab, 3, False)
    assert ids_of(ours, "aab") == [token.id for token in judge.tokenize("aab")] == [6, 7]
    assert len(ours) == 8


def test_time_is_linear_in_the_length():
    ours = Unigram([*SPECIALS, *((f"{'a' * n}", -float(n)) for n in range(1, 17))], unk_id=3)

    def seconds(length: int) -> float:
        started = time.process_time()
        pieces = pieces_of(ours, "a" * length)
        assert sum(map(len, pieces)) == length
        return time.process_time() - started

    short = min(seconds(20_000) for _ in range(3))
    assert seconds(160_000) < 8 * 4 * short  # quadratic time would be 64 times


def test_the_cache_is_bounded_and_transparent():
    ours = Unigram([*SPECIALS, ("a", -1.0), ("b", -2.0)], unk_id=3)
    words = [format(n, "b").replace("0", "a").replace("1", "b") for n in range(20_000)]
    first = [ids_of(ours, word) for word in words]
    assert len(ours._cache) < len(words)
    assert [ids_of(ours, word) for word in words] == first
    assert first[5] == [5, 4, 5]


@pytest.mark.parametrize(
    ("vocab", "unk_id", "message"),
    [
        ([], 0, "got no pieces, expected at least the unknown piece"),
        (SPECIALS, 4, "unk_id is 4, expected 0 to 3"),
        (SPECIALS, -1, "unk_id is -1, expected 0 to 3"),
        ([("a", float("nan"))], None, r"piece 0 \('a'\) has score nan, expected a finite"),
        ([("a", 0.0), ("b", float("-inf"))], None, r"piece 1 \('b'\) has score -inf"),
    ],
)
def test_bad_vocabularies(vocab, unk_id, message):
    with pytest.raises(TokenizerError, match=message):
        Unigram(vocab, unk_id=unk_id)


def test_an_unknown_character_without_an_unknown_piece():
    ours = Unigram([("a", -1.0)], unk_id=None)
    assert ids_of(ours, "aa") == [0, 0]
    with pytest.raises(TokenizerError, match=r"'☃' is not in the vocabulary, expected known .*unk_id"):
        ours.encode("a☃")
