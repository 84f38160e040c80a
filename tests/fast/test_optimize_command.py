"""`trocr optimize` with the shipped reader on the examples, and with a model that reads otherwise."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from trocr import Reader, VisionEncoderDecoderModel
from trocr.commands.late_group import LateGroup
from trocr.fast.hardware import Hardware
from trocr.hub import PRETRAINED

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
GROUP = LateGroup(name="trocr", late={"optimize": ("trocr.commands.optimize", "Make a model quick.")})
QUICK = ("--max-new-tokens", "12")
INT8 = ("tiny-printed", "--quantize", "int8", "--dtype", "float32")


def run(*arguments):
    return CliRunner().invoke(GROUP, ["optimize", *map(str, arguments)])


@pytest.fixture
def damaged(monkeypatch):
    """Optimizing makes a model that reads otherwise."""

    def optimize(model, **options):
        other = VisionEncoderDecoderModel.from_pretrained("tiny-printed")
        with torch.no_grad():
            other.decoder.embed_tokens.weight.mul_(-2.0)
        return other

    monkeypatch.setattr("trocr.fast.optimize", optimize)


@pytest.fixture
def nothing_is_read(monkeypatch):
    """Nothing may be loaded where the mistake can be seen before."""

    def reader(*arguments, **options):
        raise AssertionError("a reader was made")

    monkeypatch.setattr("trocr.reader.Reader", reader)


def test_what_passes_is_written_and_reads_the_same(tmp_path):
    out, report = tmp_path / "deep" / "out", tmp_path / "r.json"
    done = run(*INT8, out, "--check", EXAMPLES, "--json", report, "--native-width")
    assert done.exit_code == 0, done.output
    assert "parity gate passed, 8 lines" in done.output
    assert "at least 0.95" in done.output
    assert f"written: {out}" in done.output
    rows = [row.split("\t") for row in (EXAMPLES / "labels.tsv").read_text().splitlines()]
    reader = Reader(out, device="cpu")
    images = [EXAMPLES / name for name, _ in rows]
    assert [line.text for line in reader.read(images, native_width=True)] == [text for _, text in rows]
    found = json.loads(report.read_text())
    assert found["passed"] is True
    assert found["num_lines"] == 8
    kept = json.loads((out / "optimized.json").read_text())["report"]
    assert kept["passed"] is True
    assert kept["differences"] == 0  # their number: the texts of lines do not travel with the model
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_a_float32_model_must_read_exactly_the_same(tmp_path):
    done = run("tiny-printed", "--check", EXAMPLES, "--num-lines", 3, *QUICK)
    assert done.exit_code == 0, done.output
    assert "parity gate passed, 3 lines" in done.output
    assert "at least 1:" in done.output
    assert "at most +0\n" in done.output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("damaged")
def test_what_does_not_pass_is_not_written(tmp_path):
    report = tmp_path / "r.json"
    done = run(*INT8, tmp_path / "out", "--check", EXAMPLES, "--json", report, *QUICK)
    assert done.exit_code == 1
    assert "parity gate NOT passed" in done.output
    assert "Error: the parity gate is not passed: " in done.output
    assert [path.name for path in tmp_path.iterdir()] == ["r.json"]
    found = json.loads(report.read_text())
    assert found["passed"] is False
    assert found["reasons"]
    assert found["differences"]


@pytest.mark.usefixtures("damaged")
def test_bounds_can_be_set():
    wide = ("--min-same-text", 0, "--min-token-agreement", 0)
    done = run(*INT8, "--check", EXAMPLES, *wide, *QUICK)
    assert done.exit_code == 1
    assert done.output.count("  fails: ") == 1
    assert "  fails: CER grows by" in done.output


def test_without_a_check_nothing_is_compared(tmp_path):
    done = run(*INT8, tmp_path / "out", "--no-check")
    assert done.exit_code == 0, done.output
    assert "parity" not in done.output
    assert Reader(tmp_path / "out", device="cpu")


def test_calibration_gets_pixels(monkeypatch, tmp_path):
    seen = []

    def optimize(model, *, dtype, quantize, calibration):
        seen.extend([dtype, quantize, *(batch.shape for batch in calibration)])
        return model

    monkeypatch.setattr("trocr.fast.optimize", optimize)
    data = tmp_path / "lines"
    shutil.copytree(EXAMPLES, data)
    next(data.glob("*.png")).write_bytes(b"not an image")
    some = ("--calibrate", data, "--calibration-lines", 7, "--batch-size", 4)
    done = run(*INT8, *some, "--check", EXAMPLES, "--num-lines", 1, *QUICK)
    assert done.exit_code == 0, done.output
    assert seen[:2] == [torch.float32, "int8"]
    assert 6 <= sum(shape[0] for shape in seen[2:]) <= 7
    assert all(shape[0] <= 4 and len(shape) == 4 for shape in seen[2:])


def test_what_was_written_is_read_before_it_gets_its_name(monkeypatch, tmp_path):
    import trocr.fast.files

    right = trocr.fast.files.save_optimized

    def wrong(model, folder, **options):
        right(model, folder, **options)
        from safetensors.torch import load_file, save_file

        path = Path(folder) / trocr.fast.files.WEIGHTS_FILE
        tensors = load_file(path)
        save_file({name: tensor.flip(0) for name, tensor in tensors.items()}, path)

    monkeypatch.setattr("trocr.fast.files.save_optimized", wrong)
    done = run(*INT8, tmp_path / "out", "--check", EXAMPLES, "--num-lines", 2)
    assert done.exit_code == 1
    assert "what was written reads otherwise" in done.output
    assert list(tmp_path.iterdir()) == []


def test_nothing_half_written_stays_after_an_error(monkeypatch, tmp_path):
    def full(self, folder):
        raise OSError(28, "No space left on device", str(folder))

    monkeypatch.setattr("trocr.processor.TrOCRProcessor.save_pretrained", full)
    done = run(*INT8, tmp_path / "out", "--no-check")
    assert done.exit_code == 1
    assert "No space left on device" in done.output
    assert list(tmp_path.iterdir()) == []


CHECK = ("--check", EXAMPLES)


@pytest.mark.usefixtures("nothing_is_read")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("m",), "nothing to do: give OUTPUT, or --check DATA"),
        (("m", "out"), "give --check DATA, lines with their texts, or say --no-check"),
        (("m", "out", "--no-check", *CHECK), "--check and --no-check contradict each other"),
        (("m", "out", "--no-check", "--calibrate", "x"), "--calibrate is for int8: give --quantize int8 too"),
        (("m", "out", "--no-check", "--json", "r"), "--json is about the check: give --check DATA too"),
        (("m", "out", "--no-check", "--min-same-text", 1), "--min-same-text is about the check"),
        (("m", "--quantize", "int4", *CHECK), "'int4' is not 'int8'"),
        (("m", "--max-cer-increase", 2, *CHECK), "2.0 is not in the range 0<=x<=1"),
        (("m", "out", "--dtype", "float32", *CHECK), "A float32 model is not stored"),
        (("m", "--native-width", *CHECK), "in float32 --native-width compares widths, not models"),
    ],
)
def test_contradictions_are_usage_errors(arguments, message):
    done = run(*arguments)
    assert done.exit_code == 2
    assert message in " ".join(done.output.split())


@pytest.mark.usefixtures("nothing_is_read")
def test_mistakes_are_messages_before_anything_is_loaded(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("x")
    Path("full").mkdir()
    Path("full/x").write_text("x")
    shutil.copytree(PRETRAINED / "tiny-printed", "model")
    Path("made").mkdir()
    Path("made/optimized.json").write_text("{}")
    Path("none").mkdir()
    Path("none/labels.tsv").write_text("")
    for arguments, message in (
        (("model", "file", *CHECK), "file: is a file, expected a folder"),
        (("model", "full", *CHECK), "full: is a folder with files in it; give a new folder"),
        (("model", "file/out", *CHECK), "file/out: cannot be written"),
        (("model", "./model", *CHECK), "model: is MODEL itself"),
        (("made", *CHECK), "made: was optimized already; give the model that it was made of"),
        (("model", "out", "--check", "nowhere"), "nowhere: there is no such file or folder"),
        (("model", "--check", "none"), "none"),
        (("model", *CHECK, "--json", "nowhere/r.json"), "there is no folder nowhere"),
        (("model", *CHECK, "--dtype", "float16"), "dtype float16 is not for this processor"),
    ):
        done = run(*arguments)
        assert done.exit_code == 1, (arguments, done.output)
        assert message in done.output
        assert "Traceback" not in done.output


@pytest.mark.usefixtures("nothing_is_read")
def test_a_machine_without_bfloat16(monkeypatch, tmp_path):
    plain = Hardware(onednn="3.12.0", int8_engines=("fbgemm",), instructions=("avx2",))
    monkeypatch.setattr("trocr.fast.hardware.find_hardware", lambda: plain)
    done = run("tiny-printed", "--dtype", "bfloat16", *CHECK)
    assert done.exit_code == 1
    assert "it would be emulated" in done.output
    done = run("tiny-printed", tmp_path / "out", "--dtype", "auto", *CHECK)
    assert done.exit_code == 2
    assert "the precision is float32: bfloat16 would be emulated" in " ".join(done.output.split())


def test_lines_that_cannot_be_opened(tmp_path):
    Image.new("L", (40, 10), 255).save(tmp_path / "a.png")
    (tmp_path / "a.png").write_bytes(b"not an image")
    (tmp_path / "labels.tsv").write_text("a.png\ttext\n")
    done = run(*INT8, "--check", tmp_path, *QUICK)
    assert done.exit_code == 1
    assert "none of the 1 lines can be read" in done.output
    assert "a.png" in done.output
