import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trocr.evaluation.distance import (
    EditCounts,
    EvaluationError,
    confusions,
    corpus_cer,
    count_edits,
    distance,
    marked,
    total,
)


@pytest.mark.parametrize(
    ("target", "reading", "hits", "substitutions", "insertions", "deletions"),
    [
        ("", "", 0, 0, 0, 0),
        ("abc", "", 0, 0, 0, 3),
        ("", "abc", 0, 0, 3, 0),
        ("kitten", "sitting", 4, 2, 1, 0),
        ("sitting", "kitten", 4, 2, 0, 1),
        ("a  b", "a b", 3, 0, 0, 1),
        ("naïve", "naive", 4, 1, 0, 0),
    ],
)
def test_hand_counted(target, reading, hits, substitutions, insertions, deletions):
    assert count_edits(target, reading) == EditCounts(
        hits=hits, substitutions=substitutions, insertions=insertions, deletions=deletions
    )


def test_words_are_symbols_too():
    assert count_edits(["the", "cat", "sat"], ["the", "bat", "sat", "down"]) == EditCounts(
        hits=2, substitutions=1, insertions=1
    )


@given(st.text("ab c", max_size=8), st.text("ab c", max_size=8))
def test_counts_fit_the_texts_and_the_distance(target, reading):
    counts = count_edits(target, reading)
    assert counts.length == len(target)
    assert counts.hits + counts.substitutions + counts.insertions == len(reading)
    assert counts.errors == distance(target, reading) == distance(reading, target)
    assert len(confusions(target, reading)) == counts.errors
    pieces = marked(target, reading)
    assert "".join(there for _, there, _ in pieces) == target
    assert "".join(read for _, _, read in pieces) == reading


def test_corpus_rate_is_not_the_mean_of_rates():
    assert corpus_cer(["a", "bbbbbbbbb"], ["x", "bbbbbbbbb"]) == pytest.approx(1 / 10)
    assert total([]).errors == 0


def test_confusions_name_nothing_as_an_empty_text():
    assert confusions("abc", "axcd") == [("b", "x"), ("", "d")]


def test_targets_without_text_have_no_rate():
    with pytest.raises(EvaluationError, match="hold no text"):
        corpus_cer(["", ""], ["a", ""])


def test_missing_rapidfuzz(monkeypatch):
    monkeypatch.setitem(sys.modules, "rapidfuzz.distance", None)
    with pytest.raises(EvaluationError, match=r"pip install 'trocr\[evaluate\]'"):
        corpus_cer(["a"], ["a"])
