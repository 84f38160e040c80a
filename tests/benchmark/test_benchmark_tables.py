"""Figures and their tables, from runs whose numbers are known."""

import json

from trocr.benchmark.lines import BenchmarkLine
from trocr.benchmark.report import Report
from trocr.benchmark.results import SuiteResult, sum_up
from trocr.benchmark.roofline import PRECISIONS, Roofline, Work
from trocr.benchmark.runs import BlockRun
from trocr.benchmark.table import markdown, profile_table, suite_table

MACHINE = Roofline(flops={f"{name} a": 1.0 for name in PRECISIONS}, read_bytes=40.0, problems={"x": "no"})
WORK = Work(encode_flops=1, project_flops=0, token_flops=1, weights=0, encoder_weights=0, states=0)


def block(first, seconds, answers, encode_s=None, peak=None):
    return BlockRun(
        block=first,
        lines=len(answers),
        seconds=seconds,
        first_s=seconds / 2,
        chunks=((len(answers), seconds),),
        encode_s=encode_s,
        peak_bytes=peak,
        page_faults=0,
        answers=tuple(answers),
    )


def lines_of(*texts, length=2):
    return [BenchmarkLine(name=text, text=text, image=None, length=length) for text in texts]


def summed(runs, lines, **options):
    return sum_up(
        runs,
        reference="slow",
        against=["slow"],
        lines=lines,
        precisions=dict.fromkeys(runs, "float32"),
        batch=1,
        **options,
    )


def cells(table):
    head, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines())
    return {row[0]: dict(zip(head, row, strict=True)) for row in rows}


def test_ids_with_encoder_and_decoder():
    runs = {
        "slow": [block(0, 8.0, [(1, 2)], 4.0, 2**20), block(1, 8.0, [(1, 2)], 4.0, 2**21)] * 2,
        "quick": [block(0, 2.0, [(1, 2)], 1.0), block(1, 4.0, [(1, 3)], 1.0)] * 2,
    }
    found = summed(runs, lines_of("a", "b"), work=WORK, roofline=MACHINE)
    quick = found["quick"]
    assert quick.lines_per_s.median == 2 / 6.0
    assert quick.lines_per_s.count == 2
    assert (quick.p50_s, round(quick.p95_s, 6)) == (3.0, 4.0)
    assert quick.ratios["slow"].median == 3.0
    assert (quick.ratios["slow"].low, quick.ratios["slow"].high) == (2.0, 4.0)
    assert "slow" not in found["slow"].ratios
    assert quick.agreement.same == 2
    assert quick.encoder.seconds_a_line == 1.0
    assert quick.encoder.fraction == 1.0
    assert quick.decoder.seconds_a_line == 2.0
    assert quick.decoder.fraction == 1.0  # two tokens of one second each, in 1 and 3 seconds
    assert quick.cer is None
    result = SuiteResult(
        name="s", reference="slow", against=["slow"], measured=found, problems={"gone": "a|b"}, notes=["n"]
    )
    rows = cells(suite_table(result).replace(r"a\|b", "a/b"))
    assert rows["quick"]["lines/s"] == "0.33 (0.33 to 0.33)"
    assert rows["quick"]["same as slow"] == "NO: 2 of 4 lines, 75.0% of places"
    assert rows["quick"]["times as fast as slow"] == "3.00 (2.00 to 4.00)"
    assert rows["quick"]["encoder"] == "1000.0 ms a line, 100% of the limit"
    assert rows["slow"]["peak, MiB"] == "2"
    assert rows["slow"]["same as slow"] == ""
    assert rows["gone"]["lines/s"] == "not there: a/b"


def test_texts_with_their_errors():
    runs = {
        "slow": [block(0, 2.0, ["abcd", "efgh"])],
        "quick": [block(0, 1.0, ["abcd", "efgx"])],
    }
    found = summed(runs, lines_of("abcd", "efgh"))
    assert (found["slow"].cer, found["quick"].cer) == (0.0, 0.125)
    assert found["quick"].encoder is None
    result = SuiteResult(name="s", reference="slow", against=["slow"], measured=found, problems={})
    rows = cells(suite_table(result))
    assert rows["quick"]["CER"] == "0.1250"
    assert "encoder" not in rows["quick"]
    assert rows["slow"]["lines/s"] == "1.00 (one run)"


def test_report_holds_machine_limits_and_raw_numbers():
    report = Report.begin(MACHINE)
    found = summed({"slow": [block(0, 2.0, [(1, 2)], 1.0)]}, lines_of("a"))
    result = SuiteResult(name="s", reference="slow", against=["slow"], measured=found, problems={})
    report.results.append(result)
    report.profiles["s"] = {"slow": {"encoder": {"aten::x": 0.75}, "rest": {"aten::y": 0.25}}}
    head = report.head()
    assert "threads; allocator" in head
    assert "| x | not measured: no |" in head
    section = report.section(result, "What it is.")
    assert section.startswith("## s\n\nWhat it is.")
    assert "| encoder | 750.0 | 75.0% | aten::x 75% |" in section
    values = json.loads(json.dumps(report.to_dict()))
    assert values["suites"][0]["measured"]["slow"]["runs"][0]["seconds"] == 2.0
    assert values["roofline"]["read_bytes"] == 40.0
    assert values["machine"]["versions"]["torch"]


def test_plain_tables():
    assert markdown(["a", "b"], [["1", "x|y"]]) == "| a | b |\n| --- | --- |\n| 1 | x\\|y |"
    assert profile_table({}).count("\n") == 1
