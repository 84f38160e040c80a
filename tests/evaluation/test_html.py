from PIL import Image

from trocr.evaluation.html import Section, report_html, worst_lines
from trocr.evaluation.report import Reading, compared, evaluate_readings
from trocr.evaluation.texts import Normalisation


def page_of(readings, **options):
    worst = [(reading, None) for reading in worst_lines(readings, 9)]
    section = Section(title="data", report=evaluate_readings(readings), worst=worst, **options)
    return report_html([section], {})


def test_the_page_needs_nothing_else_and_escapes():
    target, reading = '<b>"x" & y</b>', '<i>"x" & z</i>'
    readings = [Reading(name="<script>.png", target=target, reading=reading, score=0.5)]
    shown = [(readings[0], Image.new("RGB", (2000, 60), "white"))]
    section = Section(title="data <1>", report=evaluate_readings(readings), worst=shown)
    page = report_html([section], {"model": "<m>"})
    assert "<script" not in page
    assert "&lt;script&gt;.png" in page
    assert "data:image/png;base64," in page
    assert "http" not in page.replace("http-equiv", "")
    assert "<del>y</del>" in page
    assert "<ins>z</ins>" in page
    assert page.count("<img") == 1


def test_the_page_has_all_numbers():
    readings = [
        Reading(name="a", target="abcd", reading="abxd", group="r1", score=0.5, finished=False),
        Reading(name="b", target="ef", reading="ef", group="r2", score=0.9),
    ]
    page = page_of(readings, lines_per_s=12.5, skipped=["c.png: not an image"])
    for row in (
        'lines</td><td class="number" dir="auto">2 in 2 groups',
        'cut at the longest length</td><td class="number" dir="auto">0.5000',
        'confidence on average</td><td class="number" dir="auto">0.700',
        'calibration error</td><td class="number" dir="auto">0.300',
        'area under risk and coverage</td><td class="number" dir="auto">0.250',
        'lines/s</td><td class="number" dir="auto">12.5',
        "bootstrap over groups",
        "c.png: not an image",
        'image not opened</td><td class="number" dir="auto">2',
    ):
        assert row in page
    ungrouped = page_of([Reading(name="a", target="abcd", reading="abxd")])
    assert "left out: sroie-image pools" in ungrouped
    assert "confidence" not in ungrouped
    assert "lines/s" not in ungrouped


def test_what_differs_is_seen_and_nothing_disturbs_the_page():
    page = page_of([Reading(name="a\x07", target="x y\u202ez ", reading="x\u00a0y\u202ez\u0301")])
    assert "<del>␣</del>yU+202Ez" in page
    assert "<ins>U+00A0</ins>" in page
    assert "◌\u0301" in page
    assert "aU+0007" in page
    assert "\u202e" not in page
    assert '<td dir="auto">␣</td>' in page
    assert page.count('<div class="text" dir="auto">') == 2


def test_worst_lines_are_those_of_the_texts_that_are_compared():
    readings = [
        Reading(name="case", target="TOTAL AMOUNT", reading="Total Amount"),
        Reading(name="error", target="TOTAL", reading="Totai"),
    ]
    assert [reading.name for reading in worst_lines(readings, 2)] == ["case", "error"]
    worst = worst_lines(compared(readings, Normalisation(ignore_case=True)), 2)
    assert [(reading.name, reading.target, reading.reading) for reading in worst] == [
        ("error", "total", "totai")
    ]


def test_worst_lines_come_first():
    texts = {"a": "ab", "b": "abcd", "c": "abcdefgh", "d": "abcd"}
    readings = [Reading(name=name, target="abcd", reading=text) for name, text in texts.items()]
    assert [reading.name for reading in worst_lines(readings, 1)] == ["c"]
    assert [reading.name for reading in worst_lines(readings, 9)] == ["c", "a"]
