import json

import pytest

from trocr.evaluation.distance import EvaluationError
from trocr.evaluation.report import Reading, evaluate_readings
from trocr.evaluation.table import report_text
from trocr.evaluation.texts import Normalisation, alphanumeric

READINGS = [
    Reading(name="a.png", target="abcd", reading="abxd", group="r1", aspect=3.0, score=0.5),
    Reading(name="b.png", target="ef", reading="ef", group="r1", aspect=1.0, score=0.9),
    Reading(name="c.png", target="ghijkl", reading="", group="r2", aspect=9.0, score=0.2),
    Reading(name="d.png", target="m", reading="m m m m m", group="r2", aspect=1.5, score=0.1, finished=False),
]


def test_numbers_by_hand():
    report = evaluate_readings(READINGS)
    assert report.cer == pytest.approx((1 + 0 + 6 + 8) / 13)
    assert (report.characters.substitutions, report.characters.insertions) == (1, 8)
    assert report.characters.deletions == 6
    assert report.wer == pytest.approx((1 + 0 + 1 + 4) / 4)
    assert report.exact == 1 / 4
    assert report.empty == 1 / 4
    assert report.overlong == 1 / 4
    assert report.unfinished == 1 / 4
    assert [(s.label, s.num_lines) for s in report.by_length] == [("0-4", 3), ("5-9", 1)]
    assert report.by_length[1].cer == 1.0
    assert [(s.label, s.num_lines) for s in report.by_aspect] == [("0-1", 2), ("2-3", 1), ("8-15", 1)]
    assert ("c", "x", 1) in report.top_confusions
    assert report.top_confusions[0][2] == 4
    assert report.mean_score == pytest.approx(0.425)
    # bins .5: wrong, .9: right, .2 and .1: wrong
    assert report.calibration_error == pytest.approx((0.5 + 0.1 + 0.2 + 0.1) / 4)
    assert report.risk_coverage == pytest.approx((0 + 1 / 2 + 2 / 3 + 3 / 4) / 4)


def test_intervals_hold_the_rate_and_are_the_same_for_a_seed():
    texts = ["abcdefghij", "abcdefghij", "abcdefghij", "abcdefghix"] * 20
    readings = [Reading(name=str(i), target=texts[0], reading=text) for i, text in enumerate(texts)]
    report = evaluate_readings(readings)
    assert report.cer == pytest.approx(0.025)
    assert report.cer_interval[0] < report.cer < report.cer_interval[1]
    assert report.cer_interval == pytest.approx((0.0163, 0.0350), abs=0.003)  # a binomial's, by its deviation
    assert evaluate_readings(readings).cer_interval == report.cer_interval
    assert evaluate_readings(readings, seed=1).cer_interval != report.cer_interval
    assert report.resampled == "lines"
    assert report.mean_score is None


def test_groups_are_drawn_whole():
    readings = [
        Reading(name=f"{g}-{i}", target="aaaa", reading="aaaa" if g else "bbbb", group=str(g))
        for g in range(4)
        for i in range(30)
    ]
    report = evaluate_readings(readings)
    assert report.resampled == "groups"
    assert report.cer == 0.25
    assert report.cer_interval == (0.0, 0.75)  # by lines it would be about .17 to .33


def test_normalisation_is_for_all_numbers():
    readings = [Reading(name="a", target="Total: 5", reading="TOTAL 5")]
    clean = Normalisation(ignore_case=True, ignore_punctuation=True)
    assert evaluate_readings(readings).cer > 0
    report = evaluate_readings(readings, normalisation=clean)
    assert report.cer == 0
    assert report.exact == 1


@pytest.mark.parametrize(
    ("settings", "text", "found"),
    [
        ({}, " a  b \n", " a  b "),
        ({"spaces": "strip"}, " a  b ", "a  b"),
        ({"spaces": "collapse"}, " a  b ", "a b"),
        ({"spaces": "drop"}, " a  b ", "ab"),
        ({"form": "NFC"}, "e\u0301", "é"),
        ({"form": "NFKC"}, "ﬁn", "fin"),
        ({"ignore_case": True}, "STRASSE ß", "strasse ss"),
        ({"ignore_punctuation": True}, "a,b“c”–", "abc"),
    ],
)
def test_normalisation(settings, text, found):
    assert Normalisation(**settings)(text) == found


def test_folding_case_keeps_the_form():
    # Folded, ΐ is three code points; composed again, it is what a reading in NFC has.
    clean = Normalisation(form="NFC", ignore_case=True)
    assert clean("ΐ") == clean("Ϊ\u0301") == "ΐ"


def test_alphanumeric():
    assert alphanumeric("It's Né-1") == "itsn1"


def test_mistakes_are_named():
    with pytest.raises(EvaluationError, match="no lines to evaluate"):
        evaluate_readings([])
    with pytest.raises(EvaluationError, match="spaces='some', expected one of keep"):
        Normalisation(spaces="some")
    with pytest.raises(EvaluationError, match="hold no text"):
        evaluate_readings([Reading(name="a", target="", reading="a")])


def test_conventions_that_do_not_apply_are_told_or_refused_where_they_are_named():
    readings = [Reading(name="a", target="...", reading="..")]
    report = evaluate_readings(readings)
    assert set(report.left_out) == {"sroie-image", "parseq"}
    assert "these lines have no group" in report.left_out["sroie-image"]
    assert not set(report.left_out) & set(report.conventions)
    text = report_text(report, title="r")
    assert "left out: sroie-image: sroie-image pools" in text
    assert "no aspect ratio of 1 lines" in text
    with pytest.raises(EvaluationError, match="these lines have no group"):
        evaluate_readings(readings, conventions=["exact", "sroie-image"])


def test_json_and_text():
    report = evaluate_readings(READINGS)
    values = json.loads(json.dumps(report.to_dict()))
    assert values["cer"] == report.cer
    assert values["conventions"]["sroie-image"]["f1"] == report.conventions["sroie-image"]["f1"]
    text = report_text(report, title="r", lines_per_s=12.5)
    assert "CER          1.1538" in text
    assert "12.5 lines/s" in text
    assert "∅>" in text
