"""Hand-computed scores of every convention."""

import pytest

from trocr.evaluation.conventions import CONVENTIONS, Pair, score
from trocr.evaluation.distance import EvaluationError


def pairs(*rows):
    return [Pair(target=row[0], reading=row[1], group=row[2] if len(row) > 2 else None) for row in rows]


@pytest.mark.parametrize(
    ("name", "rows", "scores"),
    [
        ("raw", [("abcd", "abxd"), ("ef", "ef")], {"cer": 1 / 6, "wer": 1 / 2}),
        ("raw", [("", "ab"), ("cd", "")], {"cer": 4 / 2, "wer": 2 / 1}),
        ("raw", [("a  b", "a b")], {"cer": 1 / 4, "wer": 0}),
        # é is two bytes: one substitution of a code point is two edits of three bytes.
        ("raw", [("é", "e")], {"cer": 1, "wer": 1}),
        ("unilm-bytes", [("éa", "ea")], {"cer": 2 / 3, "wer": 1}),
        # fastwer splits at each space: "a  b" is a, nothing, b; the last one ends a word and begins none.
        ("unilm-bytes", [("a  b", "a b")], {"cer": 1 / 4, "wer": 1 / 3}),
        ("unilm-bytes", [("a b ", "a b")], {"cer": 1 / 4, "wer": 0}),
        ("unilm-bytes", [("a b", "")], {"cer": 1, "wer": 1}),
        ("unilm-bytes", [("a", "a b  ")], {"cer": 4, "wer": 2}),
        # A lone surrogate is three bytes.
        ("unilm-bytes", [("\ud800a", "a")], {"cer": 3 / 4, "wer": 1}),
        ("evaluate-old", [(" a  b ", "a b")], {"cer": 0, "wer": 0}),
        ("evaluate-new", [(" a  b ", "a b")], {"cer": 1 / 4, "wer": 0}),
        # jiwer makes runs of white space one space; a tab or a no-break space alone stays, splits nothing.
        ("evaluate-old", [("a\tb", "a b")], {"cer": 1 / 3, "wer": 2}),
        ("evaluate-old", [("a\u00a0b", "a b")], {"cer": 1 / 3, "wer": 2}),
        ("evaluate-old", [("a\u3000\tb", "a b")], {"cer": 0, "wer": 0}),
        ("evaluate-new", [("a\tb\u3000", "a b")], {"cer": 1 / 3, "wer": 2}),
        ("evaluate-new", [("a\t b", "a b")], {"cer": 1 / 4, "wer": 0}),
        ("hf-notebook", [("a\tb", "a b")], {"cer": 1 / 3}),
        ("hf-notebook", [("CHARLES , 39 , who", "CHARLES, 39, who")], {"cer": 0}),
        ("hf-notebook", [("do n't", "don't")], {"cer": 0}),
        ("macro", [("a", "x"), ("bbbb", "bbbb"), ("", "z")], {"cer": 1 / 2}),
        ("exact", [("a", "a"), ("b", "B")], {"accuracy": 1 / 2}),
        ("acc-ed", [("ab", "ab"), ("abc", "x")], {"accuracy": 1 / 2, "edits_per_line": 3 / 2}),
        ("wpa", [("It's", "its!"), ("A-1", "a2"), ("...", "??")], {"accuracy": 2 / 3}),
        ("1-ned", [("abcd", "abxd"), ("", ""), ("a", "")], {"1-ned": (3 / 4 + 1 + 0) / 3}),
        ("parseq", [("A-b", "ab"), ("12", "13")], {"accuracy": 1 / 2, "1-ned": 3 / 4}),
        # Accents and spaces go; a label without any of 0-9a-z is left out, however it is read.
        ("parseq", [("É t", "et"), ("ﬁ", "fi"), ("...", "x"), ("ж", "")], {"accuracy": 1, "1-ned": 1}),
        (
            "doctr",
            [("Été", "été"), ("Été", "Ete"), ("Été", "ete"), ("a", "a")],
            {"raw": 1 / 4, "caseless": 2 / 4, "anyascii": 2 / 4, "unicase": 4 / 4},
        ),
        (
            "kraken",
            [("Ab c", "ab c")],
            {
                "character_accuracy": 3 / 4,
                "caseless_character_accuracy": 1,
                "word_accuracy": 1 / 2,
                "latin_accuracy": 2 / 3,
                "common_accuracy": 1,
            },
        ),
        # What is read and not there belongs to no script.
        (
            "kraken",
            [("жи1", "ж11x")],
            {
                "character_accuracy": 1 - 2 / 3,
                "caseless_character_accuracy": 1 - 2 / 3,
                "word_accuracy": 0,
                "cyrillic_accuracy": 1 / 2,
                "common_accuracy": 1,
            },
        ),
        ("openocr", [("A b", "ab"), ("cd", "ce")], {"accuracy": 1 / 2, "1-ned": 3 / 4}),
    ],
)
def test_hand_computed(name, rows, scores):
    assert score(name, pairs(*rows)) == pytest.approx(scores)


def test_repeated_words_count_once_each():
    # Read "1 1 x": there are "1", "1", "2"; both 1 match, x does not.
    found = score("sroie-line", pairs(("1 2 1", "1 1 x")))
    assert found == pytest.approx({"precision": 2 / 3, "recall": 2 / 3, "f1": 2 / 3})
    # One occurrence there, three read: one match.
    found = score("sroie-line", pairs(("1", "1 1 1")))
    assert found == pytest.approx({"precision": 1 / 3, "recall": 1, "f1": 1 / 2})


def test_a_receipt_pools_words_and_a_line_does_not():
    rows = [("TOTAL 5.00", "5.00", "r1"), ("CASH", "TOTAL CASH", "r1"), ("A", "B", "r2")]
    line = score("sroie-line", pairs(*rows))
    image = score("sroie-image", pairs(*rows))
    assert line == pytest.approx({"precision": 2 / 4, "recall": 2 / 4, "f1": 1 / 2})
    assert image == pytest.approx({"precision": 3 / 4, "recall": 3 / 4, "f1": 3 / 4})


def test_nothing_read_is_no_division_by_zero():
    assert score("sroie-line", pairs(("a b", ""))) == {"precision": 0, "recall": 0, "f1": 0}


def test_every_convention_scores_perfect_readings():
    rows = pairs(("Total 5.00", "Total 5.00", "r1"), ("it's né", "it's né", "r2"))
    for name in CONVENTIONS:
        for key, value in score(name, rows).items():
            assert value == (0 if key in ("cer", "wer", "edits_per_line") else 1), (name, key)


@pytest.mark.parametrize(
    ("name", "rows", "message"),
    [
        ("cer2", [("a", "a")], "'cer2' is unknown, expected one of raw, unilm-bytes"),
        ("raw", [], "no lines to score"),
        ("raw", [("", "a")], "hold no text"),
        ("macro", [("", "a")], "hold no text"),
        ("sroie-image", [("a", "a")], "these lines have no group"),
        ("parseq", [("...", "a")], "no target holds any of them"),
    ],
)
def test_mistakes_are_named(name, rows, message):
    with pytest.raises(EvaluationError, match=message):
        score(name, pairs(*rows))
