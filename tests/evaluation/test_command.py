"""`trocr evaluate` on the repository's examples, which the shipped reader reads without an error."""

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

from trocr.cli import main
from trocr.data.sources import open_source
from trocr.evaluation.distance import EvaluationError
from trocr.evaluation.engines import comparison_table, tesseract, trocr_engine
from trocr.evaluation.manifest import file_hash

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def run(*arguments):
    return CliRunner().invoke(main, ["evaluate", *map(str, arguments)])


def test_examples_are_read_without_an_error(tmp_path):
    files = {name: tmp_path / name for name in ("r.json", "r.html", "r.tsv")}
    done = run(
        *("--data", EXAMPLES, "--json", files["r.json"], "--html", files["r.html"]),
        *("--write-predictions", files["r.tsv"], "--native-width"),
    )
    assert done.exit_code == 0, done.output
    assert "CER          0.0000" in done.output
    found = json.loads(files["r.json"].read_text())
    assert found["results"][0]["report"]["exact"] == 1
    manifest = found["manifest"]
    shipped = Path(__file__).resolve().parents[2] / "trocr/pretrained/tiny-printed/model.safetensors"
    assert manifest["model"]["sha256"]["model.safetensors"] == file_hash(shipped)
    assert manifest["data"][0]["lines"] == len(open_source(EXAMPLES))
    assert manifest["options"]["native_width"] is True
    assert "torch" in manifest["versions"]
    assert "<h1>" in files["r.html"].read_text()
    labels = (EXAMPLES / "labels.tsv").read_text()
    assert files["r.tsv"].read_text() == labels


def test_predictions_made_elsewhere(tmp_path):
    file = tmp_path / "p.tsv"
    rows = [row.split("\t") for row in (EXAMPLES / "labels.tsv").read_text().splitlines()]
    file.write_text("".join(f"{name}\t{text.upper()}\n" for name, text in rows))
    plain = run("--data", EXAMPLES, "--predictions", file, "--convention", "exact")
    assert "CER          0.0000" not in plain.output
    folded = run("--data", EXAMPLES, "--predictions", file, "--ignore-case", "--convention", "exact")
    assert "CER          0.0000" in folded.output
    file.write_text("other.png\ttext\n")
    done = run("--data", EXAMPLES, "--predictions", file)
    assert done.exit_code == 1
    assert "lines have no reading" in done.output
    assert "'other.png'" in done.output


def test_a_damaged_image_is_named_and_costs_the_status(tmp_path):
    place = tmp_path / "lines"
    shutil.copytree(EXAMPLES, place)
    broken = next(place.glob("*.png"))
    broken.write_bytes(b"not an image")
    done = run("--data", place, "--resamples", "10")
    assert done.exit_code == 1
    assert broken.name in done.output
    assert "CER          0.0000" in done.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--data", "nowhere"), "nowhere: there is no such file or folder"),
        (("--data", EXAMPLES, "--spaces", "none"), "spaces='none', expected one of"),
        (("--data", EXAMPLES, "--convention", "best"), "convention 'best' is unknown"),
    ],
)
def test_mistakes_are_messages(arguments, message):
    done = run(*arguments)
    assert done.exit_code == 1
    assert message in done.output


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


def test_the_comparison_shows_what_is_missing():
    row = {
        "data": "x/uw3",
        "engine": "ours",
        "lines": 2,
        "ignore_case": True,
        "cer": 0.1,
        "exact": 0.5,
        "f1": 1,
    }
    row |= {"interval": (0.05, 0.2), "lines_per_s": [1.0, 2.0, 3.0]}
    text = comparison_table([row, {"data": "x/uw3", "engine": "other", "problem": "is not installed"}])
    assert "| uw3, no case | ours | 2 | 0.1000 | 0.0500-0.2000 | 0.500 | 1.0000 | 1, 2, 3 |" in text
    assert "| uw3 | other | | is not installed |" in text
