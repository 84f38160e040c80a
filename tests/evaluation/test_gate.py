"""The gate on readers whose readings are told, so that numbers can be counted by hand; and on real ones."""

import json
from pathlib import Path

import pytest
from PIL import Image

from trocr import Reader, VisionEncoderDecoderModel
from trocr.data.records import LineRecord
from trocr.data.sources import open_source
from trocr.evaluation.distance import EditCounts, EvaluationError
from trocr.evaluation.gate import EXACT, LOSSY, Bounds, GateError, check_parity
from trocr.evaluation.paired import difference_interval, share_interval
from trocr.evaluation.report import bootstrap_units
from trocr.evaluation.twice import BATCHES_AHEAD, read_twice
from trocr.image import ImageError
from trocr.line import Line, Token

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
END = -1


class Told:
    """A reader that knows the texts: the shade of an image is the number of its line."""

    def __init__(self, texts, broken=()):
        self.texts, self.broken, self.calls, self.model = list(texts), broken, [], None

    def read(self, images, *, batch_size, on_error, **options):
        self.calls.append((len(images), batch_size, options))
        for place, image in enumerate(images):
            number = image.getpixel((0, 0))
            source = f"images[{place}]"
            if number in self.broken:
                on_error(source, ImageError(f"{source}: too odd"))
                continue
            text = self.texts[number]
            ids = [*map(ord, text), END]
            tokens = tuple(Token(id=id, text="", logprob=-0.1) for id in ids)
            yield Line(text=text, score=0.9, tokens=tokens, finished=True, source=source)


def lines(targets, groups=None, missing=()):
    def opener(number):
        def opened():
            if number in missing:
                raise ImageError(f"{number}: is missing")
            return Image.new("L", (10 + number % 7, 10), number)

        return opened

    return [
        LineRecord(name=f"{n}.png", text=text, group=groups and groups[n], opener=opener(n))
        for n, text in enumerate(targets)
    ]


TEXTS = ["abcd", "efgh", "ijkl", "mnop", "qrst"] * 8


def changed(**places):
    """`TEXTS` with some changed: `changed(_3="x")`."""
    return [places.get(f"_{number}", text) for number, text in enumerate(TEXTS)]


def check(candidate, targets=TEXTS, reference=TEXTS, **options):
    return check_parity(Told(reference), Told(candidate), lines(targets), **options)


def test_the_same_readings_pass_the_strictest_bounds():
    report = check(
        TEXTS,
        max_cer_increase=EXACT.max_cer_increase,
        min_same_text=EXACT.min_same_text,
        min_token_agreement=EXACT.min_token_agreement,
    )
    assert report.passed
    assert (report.num_lines, report.num_same, report.same_text, report.token_agreement) == (40, 40, 1, 1)
    assert (report.cer_increase, report.cer_interval) == (0, (0, 0))
    assert report.num_characters == 160
    assert report.differences == ()
    assert "parity gate passed, 40 lines" in report.text()
    report.require()


def test_every_number_is_that_of_the_texts():
    report = check(changed(_3="mnoX", _7="ij", _9="qrstu"), targets=changed(_9="qrstu"))
    assert (report.num_same, report.same_text) == (37, 37 / 40)
    assert report.tokens == EditCounts(hits=200 - 3, substitutions=1, insertions=1, deletions=2)
    assert report.token_agreement == pytest.approx(197 / 201)
    assert report.reference_cer == pytest.approx(1 / 161)
    assert report.candidate_cer == pytest.approx(3 / 161)
    assert report.cer_increase == pytest.approx(2 / 161)
    assert [line.name for line in report.differences] == ["3.png", "7.png", "9.png"]
    first = report.differences[0]
    assert (first.target, first.reference, first.candidate) == ("mnop", "mnop", "mnoX")
    assert not report.passed
    said = report.text()
    assert "parity gate NOT passed" in said
    assert "3.png: 'mnop' became 'mnoX'" in said
    assert "fails: 0.9250 of the lines have the same text, asked for 0.95" in said
    assert "fails: 0.9801 of the tokens are the same, asked for 0.99" in said
    assert "fails: CER grows by 0.0124, allowed 0.002" in said
    with pytest.raises(
        GateError, match=r"not passed: 0\.9250 of the lines.*; CER grows by .*higher precision"
    ):
        report.require()


WIDE = {"max_cer_increase": 1.0, "min_same_text": 0.0, "min_token_agreement": 0.0}


@pytest.mark.parametrize(
    ("bound", "value", "word"),
    [
        ("min_same_text", 0.98, "text"),
        ("min_token_agreement", 0.996, "tokens"),
        ("max_cer_increase", 0.006, "CER"),
    ],
)
def test_each_bound_counts_alone(bound, value, word):
    options = {**WIDE, bound: value}
    report = check(changed(_3="mnoX"), **options)
    assert len(report.reasons) == 1
    assert word in report.reasons[0]
    assert check(changed(_3="mnoX"), **WIDE).passed


def test_bounds_are_reached_not_passed():
    report = check(changed(_3="mnoX"), **{**WIDE, "min_same_text": 39 / 40, "min_token_agreement": 199 / 200})
    assert report.passed


def test_luck_with_few_lines_is_not_enough():
    # one line got better and one worse: the rate is the same, and could as well have grown
    report = check(changed(_3="mnoX"), reference=changed(_5="abcX"), **{**WIDE, "max_cer_increase": 0.002})
    assert report.cer_increase == 0
    assert report.cer_interval[0] < 0 < 0.002 < report.cer_interval[1]
    assert "could grow by" in report.reasons[0]
    assert "more lines give a narrower interval" in report.reasons[0]


def test_a_candidate_that_gets_better_passes():
    report = check(changed(), reference=changed(_3="mnoX"), **{**WIDE, "max_cer_increase": 0.0})
    assert report.cer_increase < 0
    assert report.passed


def test_lines_without_texts_are_compared_with_each_other_only():
    report = check(changed(_3="mnoX"), targets=[""] * 40)
    assert (report.reference_cer, report.cer_increase, report.cer_interval) == (None, None, None)
    assert "not compared: the lines have no texts" in report.text()
    assert report.passed  # 39 of 40 lines, 199 of 200 tokens


def test_a_reference_that_reads_nothing_shows_nothing():
    report = check([""] * 40, reference=["", " "] * 20, **WIDE)
    assert "the reference reads no text on any line" in report.reasons[0]


def test_lines_that_cannot_be_read_are_named():
    source = lines(TEXTS, missing=(2,))
    report = check_parity(Told(TEXTS, broken=(4,)), Told(TEXTS), source)
    assert report.num_lines == 38
    assert report.passed
    assert [message.split(":")[0] for message in report.skipped] == ["2.png", "4.png"]
    assert "left out: 2.png: 2: is missing" in report.text()


def test_a_line_that_only_the_reference_reads_differs():
    report = check_parity(Told(TEXTS), Told(TEXTS, broken=(4,)), lines(TEXTS))
    assert [(line.reference, line.candidate) for line in report.differences] == [("qrst", "")]


def test_nothing_to_compare_is_an_error():
    with pytest.raises(GateError, match=r"none of the 2 lines can be read.*0\.png: 0: is missing"):
        check_parity(Told("ab"), Told("ab"), lines("ab", missing=(0, 1)))
    with pytest.raises(GateError, match=r"none of the 0 lines can be read.*there are none"):
        check_parity(Told(""), Told(""), [])


@pytest.mark.parametrize("name", ["max_cer_increase", "min_same_text", "min_token_agreement"])
@pytest.mark.parametrize("value", [-0.1, 1.5, float("nan")])
def test_bounds_have_a_range(name, value):
    with pytest.raises(GateError, match=f"{name} is .*, expected a number from 0 to 1"):
        check(TEXTS, **{name: value})


def test_exact_is_stricter_than_lossy():
    assert Bounds(max_cer_increase=0, min_same_text=1, min_token_agreement=1) == EXACT
    assert EXACT.max_cer_increase < LOSSY.max_cer_increase
    assert EXACT.min_same_text > LOSSY.min_same_text


def test_the_report_is_plain_values():
    found = json.loads(json.dumps(check(changed(_3="mnoX")).to_dict()))
    assert found["passed"] is False
    assert found["same_text"] == 39 / 40
    assert found["bounds"]["min_same_text"] == 0.95
    assert found["differences"][0]["candidate"] == "mnoX"
    assert found["tokens"]["substitutions"] == 1


def test_long_lists_are_cut_in_the_text_only():
    report = check([text + "!" for text in TEXTS])
    assert len(report.differences) == 40
    assert "and 30 more lines that differ" in report.text()


def test_a_name_cannot_disturb_the_terminal():
    source = lines(TEXTS[:1])
    odd = [LineRecord(name="a\x1b[2Jb", text="abcd", opener=source[0].opener)]
    said = check_parity(Told(["abcd"]), Told(["x\x1b"]), odd).text()
    assert "\x1b" not in said


def test_both_take_turns_with_the_options():
    reference, candidate = Told(TEXTS), Told(TEXTS)
    seen = []
    read_twice(
        reference,
        candidate,
        lines(TEXTS),
        batch_size=4,
        progress=lambda: seen.append(1),
        native_width=True,
        num_beams=2,
    )
    size = BATCHES_AHEAD * 4
    assert [call[0] for call in reference.calls] == [size, size, 40 - 2 * size]
    assert reference.calls == candidate.calls
    assert reference.calls[0][1:] == (4, {"native_width": True, "num_beams": 2})
    assert len(seen) == 40


# ---- intervals -----------------------------------------------------------------------------------------


def edits(errors, length=10):
    return EditCounts(hits=length - errors, substitutions=errors)


def test_what_both_have_in_common_falls_out():
    hard = [edits(number % 9) for number in range(60)]
    assert difference_interval(hard, hard, [None] * 60) == (0, 0)
    worse = [edits(number % 9 + 1) for number in range(60)]
    assert difference_interval(hard, worse, [None] * 60) == pytest.approx((0.1, 0.1))


def test_whole_groups_are_drawn():
    before = [edits(0)] * 40
    after = [edits(1 if number < 10 else 0) for number in range(40)]  # all in one receipt
    by_line = difference_interval(before, after, [None] * 40)
    by_group = difference_interval(before, after, [str(number // 10) for number in range(40)])
    assert by_group[1] - by_group[0] > 1.5 * (by_line[1] - by_line[0])
    assert by_line[0] < 0.025 < by_line[1]


def test_an_interval_needs_text():
    with pytest.raises(EvaluationError, match="no text"):
        difference_interval([EditCounts()], [EditCounts()], [None])


def test_units_of_the_bootstrap():
    assert bootstrap_units(["a", "b", "a"]) == ("groups", [[0, 2], [1]])
    assert bootstrap_units(["a", "a"]) == ("lines", [[0], [1]])
    assert bootstrap_units(["a", None]) == ("lines", [[0], [1]])


def test_interval_of_a_share():
    low, high = share_interval(8, 8)
    assert (low, high) == (pytest.approx(0.6756, abs=1e-4), pytest.approx(1.0))
    low, high = share_interval(95, 100)
    assert (low, high) == (pytest.approx(0.8882, abs=1e-4), pytest.approx(0.9785, abs=1e-4))
    assert share_interval(0, 3)[0] == 0


# ---- a real reader -------------------------------------------------------------------------------------


def test_the_shipped_reader_with_itself_and_with_a_damaged_one():
    source = open_source(EXAMPLES)
    reader, other = Reader(optimize=False), Reader(optimize=False)
    assert isinstance(other.model, VisionEncoderDecoderModel)
    report = check_parity(reader, other, source, native_width=True)
    assert report.passed
    assert report.same_text == 1
    assert report.reference_cer == report.candidate_cer == 0
    other.model.decoder.embed_tokens.weight.data.mul_(-2.0)
    report = check_parity(reader, other, source, native_width=True, max_new_tokens=12)
    assert not report.passed
    assert len(report.reasons) == 3


def test_an_optimized_model_in_float32_reads_exactly_the_same():
    source = open_source(EXAMPLES)
    plain, quick = Reader(optimize=False), Reader(device="cpu")
    exact = {"max_cer_increase": 0.0, "min_same_text": 1.0, "min_token_agreement": 1.0}
    assert check_parity(plain, quick, source, **exact).passed
    with pytest.raises(GateError, match=r"cuts lines otherwise.*optimize the reference too"):
        check_parity(plain, quick, source, native_width=True)
