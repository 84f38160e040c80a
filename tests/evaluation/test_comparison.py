"""Engines beside one another: each keeps the order, and one that fails costs its own row only."""

import importlib.util
import shutil
from pathlib import Path

import pytest
from PIL import Image

from trocr.data.records import LineRecord
from trocr.data.sources import open_source
from trocr.evaluation.comparison import compare, comparison_table, make_engines, open_records
from trocr.evaluation.distance import EvaluationError
from trocr.evaluation.engines import EngineReadings, tesseract, trocr_engine
from trocr.image import ImageError

REPO = Path(__file__).resolve().parents[2]
EXAMPLES = REPO / "examples"


def line(name, *, is_broken=False):
    def opener():
        if is_broken:
            raise ImageError("not an image")
        return Image.new("L", (20, 10))

    return LineRecord(name=name, text="TOTAL 5", opener=opener)


def reads(text):
    def engine(images):
        return EngineReadings(texts=(text,) * len(images), seconds=0.5 * len(images))

    return engine


def fails(images):
    raise EvaluationError("tesseract ended with status 1")


def absent():
    raise OSError("there is no directory 'nothere'")


def test_a_damaged_image_and_a_missing_model_cost_their_own_rows_only():
    records, images, skipped = open_records([line("a"), line("b", is_broken=True), line("c")])
    assert [record.name for record in records] == ["a", "c"]
    assert skipped == ["b: not an image"]
    engines = make_engines(
        {"good": lambda: reads("Total 5"), "bad": lambda: fails, "nothere": absent, "poor": lambda: reads("")}
    )
    rows = {
        row["engine"]: row
        for row in compare("x/sroie", records, images, engines, ignore_case=True, num_repeats=2)
    }
    assert rows["good"]["cer"] == 0
    assert rows["good"]["lines"] == 2
    assert rows["good"]["lines_per_s"] == [2, 2, 2]
    assert rows["poor"]["cer"] == 1
    assert rows["bad"]["problem"] == "tesseract ended with status 1"
    assert rows["nothere"]["problem"] == "there is no directory 'nothere'"
    table = comparison_table(list(rows.values()))
    assert "| sroie, no case | good | 2 | 0.0000 | 0.0000-0.0000 | 1.000 | 1.0000 | 2, 2, 2 |" in table
    assert "| sroie | nothere | | there is no directory 'nothere' |" in table


def test_no_image_at_all_is_a_row_too():
    rows = compare("x", *open_records([line("b", is_broken=True)])[:2], {"good": reads("x")})
    assert "no lines to evaluate" in rows[0]["problem"]


def test_our_engine_keeps_the_order():
    source = open_source(EXAMPLES)
    done = trocr_engine("tiny-printed", batch_size=4)([record.open() for record in source])
    assert list(done.texts) == [record.text for record in source]
    assert done.seconds > 0


@pytest.mark.skipif(shutil.which("tesseract") is None, reason="tesseract is not installed")
def test_tesseract_reads_a_list():
    source = open_source(EXAMPLES)
    records = [source[number] for number in (0, 1)]
    done = tesseract([record.open() for record in records])
    assert len(done.texts) == 2
    assert done.texts[0].split()[0] == records[0].text.split()[0]


def test_tesseract_that_is_not_there(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(EvaluationError, match="tesseract is not installed"):
        tesseract([Image.new("L", (10, 10))])


def test_the_script_knows_its_engines(monkeypatch, capsys):
    spec = importlib.util.spec_from_file_location("compare_engines", REPO / "scripts/compare_engines.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    for arguments, message in (
        (["--engine", "foo"], "invalid choice: 'foo'"),
        (["--json", "nowhere/r.json"], "there is no such folder"),
    ):
        monkeypatch.setattr("sys.argv", ["compare_engines.py", "--data", "examples", *arguments])
        with pytest.raises(SystemExit) as ended:
            script.main()
        assert ended.value.code == 2
        assert message in capsys.readouterr().err
