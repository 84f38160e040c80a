"""`trocr evaluate` on the repository's examples, which the shipped reader reads without an error."""

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

from trocr.cli import main
from trocr.data.sources import open_source
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
    assert manifest["data"][0]["lines_in_the_data"] == manifest["data"][0]["lines"]
    assert len(manifest["data"][0]["sha256_of_images"]) == 64
    assert manifest["bootstrap"] == {"resamples": 1000, "seed": 0}
    assert manifest["options"]["native_width"] is True
    read_with = manifest["model"]["read_with"]
    assert read_with["num_beams"] == 1
    assert read_with["dtype"] == "float32"
    assert read_with["device"].split(":")[0] in ("cpu", "cuda")
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


@pytest.fixture
def no_reader(monkeypatch):
    """Nothing may be read where the mistake can be seen before."""

    def reader(*arguments, **options):
        raise AssertionError("a reader was made")

    monkeypatch.setattr("trocr.reader.Reader", reader)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--data", "nowhere"), "nowhere: there is no such file or folder"),
        (("--data", EXAMPLES, "--data", EXAMPLES), "is given more than once"),
        (("--data", EXAMPLES, "--spaces", "none"), "spaces='none', expected one of"),
        (("--data", EXAMPLES, "--convention", "best"), "examples: convention 'best' is unknown"),
        (("--data", EXAMPLES, "--convention", "sroie-image"), "these lines have no group"),
        (
            ("--data", EXAMPLES, "--json", "nowhere/r.json"),
            "there is no folder nowhere; make it, or give another",
        ),
        (("--data", EXAMPLES, "--html", EXAMPLES), "is a folder, expected a file to write"),
    ],
)
def test_mistakes_are_messages_before_anything_is_read(no_reader, arguments, message):
    done = run(*arguments)
    assert done.exit_code == 1
    assert message in done.output


def test_a_folder_of_predictions_is_refused():
    done = run("--data", EXAMPLES, "--predictions", EXAMPLES)
    assert done.exit_code == 2
    assert "is a directory" in done.output


def lines(folder, texts):
    """A data set in JSON lines: name -> text; grey images, one of them of another shape."""
    folder.mkdir()
    rows = []
    for place, (name, text) in enumerate(texts.items()):
        Image.new("L", (40 if place else 80, 10), 255).save(folder / name)
        rows.append(json.dumps({"file_name": name, "text": text}) + "\n")
    (folder / "metadata.jsonl").write_text("".join(rows))
    return folder


def test_broken_unicode_in_a_label_is_refused(tmp_path):
    data = lines(tmp_path / "lines", {"a.png": "a\ud800b", "b.png": "c"})
    done = run("--data", data)
    assert done.exit_code == 1
    assert "which is no character" in done.output
    assert "Traceback" not in done.output


def test_predictions_of_several_data_sets_are_read_back(tmp_path):
    one = lines(tmp_path / "one", {"a.png": "first", "b.png": "second"})
    two = lines(tmp_path / "two", {"a.png": "third"})
    made = tmp_path / "made.tsv"
    made.write_text(f"{one}/a.png\tfirst\nb.png\tsecond\n{two}/a.png\tthird\n")
    written, report = tmp_path / "written.tsv", tmp_path / "r.json"
    data = ("--data", one, "--data", two)
    done = run(*data, "--predictions", made, "--write-predictions", written)
    assert done.exit_code == 0, done.output
    done = run(*data, "--predictions", written, "--json", report)
    assert done.output.count("exact lines  1.0000") == 2
    first, second = json.loads(report.read_text())["manifest"]["data"]
    assert (first["lines"], second["lines"]) == (2, 1)
    assert first["sha256_of_images"] != second["sha256_of_images"]


def test_the_hash_of_images_is_of_what_they_show(tmp_path):
    data = lines(tmp_path / "lines", {"a.png": "a", "b.png": "b"})
    made, report = tmp_path / "made.tsv", tmp_path / "r.json"
    made.write_text("a.png\ta\nb.png\tb\n")

    def manifest_of_data():
        done = run("--data", data, "--predictions", made, "--json", report)
        assert done.exit_code == 0, done.output
        return json.loads(report.read_text())["manifest"]["data"][0], done.output

    before, shown = manifest_of_data()
    assert "by aspect ratio: 4-7: 0.0000 (1), 8-15: 0.0000 (1)" in shown
    Image.new("L", (40, 10), 254).save(data / "b.png")
    after, _ = manifest_of_data()
    assert before["sha256_of_targets"] == after["sha256_of_targets"]
    assert before["sha256_of_images"] != after["sha256_of_images"]
    (data / "b.png").write_bytes(b"not an image")
    gone, shown = manifest_of_data()
    assert gone["sha256_of_images"] is None
    assert "no aspect ratio of 1 lines: their images were not opened" in shown


def test_the_page_shows_what_was_compared(tmp_path):
    data = lines(tmp_path / "lines", {"a.png": "TOTAL", "b.png": "CASH"})
    made, page = tmp_path / "made.tsv", tmp_path / "r.html"
    made.write_text("a.png\tTotal\nb.png\tCosh\n")
    done = run("--data", data, "--predictions", made, "--ignore-case", "--html", page)
    assert done.exit_code == 0, done.output
    shown = page.read_text(encoding="utf-8")
    assert "Worst 1 lines" in shown
    assert "c<del>a</del>sh" in shown
