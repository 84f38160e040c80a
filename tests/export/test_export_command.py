"""`trocr export` from the command line."""

import json

import pytest
from click.testing import CliRunner

from trocr.commands.export import export
from trocr.commands.late_group import LateGroup
from trocr.export import onnx_export
from trocr.export.manifest import MANIFEST


def trocr(*args: object):
    group = LateGroup(late={"export": ("trocr.commands.export", "Write a model for another runtime.")})
    return CliRunner().invoke(group, ["export", *map(str, args)])


def test_help():
    assert "FOLDER" in trocr("onnx", "--help").output
    assert "C++ compiler" in trocr("package", "--help").output
    assert set(export.commands) == {"onnx", "package"}


def test_onnx_checked_on_lines(repo, tmp_path):
    """In int8, on the lines of the examples."""
    labels = repo / "examples" / "labels.tsv"
    bounds = ("--max-cer-increase", "0.05", "--min-same-text", "0.8")
    done = trocr("onnx", "tiny-printed", tmp_path / "onnx", "--quantize", "int8", "--check", labels, *bounds)
    assert done.exit_code == 0, done.output
    assert "parity gate passed, 8 lines" in done.output
    assert "noise: " in done.output
    assert f"written: {tmp_path / 'onnx'}" in done.output
    values = json.loads((tmp_path / "onnx" / MANIFEST).read_text(encoding="utf-8"))
    assert values["quantize"] == "int8"
    assert (tmp_path / "onnx" / "preprocessor_config.json").is_file()


def test_lines_that_are_read_otherwise(repo, tmp_path, monkeypatch):
    """The lines' gate refuses what noise lets pass."""
    from trocr.evaluation import gate

    def check(reference, candidate, source, **options):
        assert options["min_same_text"] == 1.0  # float32: nothing may differ
        raise gate.GateError("the parity gate is not passed: 0.5 of the lines")

    monkeypatch.setattr(gate, "check_parity", check)
    done = trocr(
        "onnx",
        "tiny-printed",
        tmp_path / "onnx",
        "--check",
        repo / "examples" / "labels.tsv",
        "--num-lines",
        2,
    )
    assert done.exit_code == 1
    assert "Error: the parity gate is not passed" in done.output
    assert list(tmp_path.iterdir()) == []


def test_errors_are_messages(tmp_path, monkeypatch):
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "a").touch()
    done = trocr("onnx", "tiny-printed", tmp_path / "used")
    assert done.exit_code == 1
    assert "used has files in it, expected a new or empty folder to export into" in done.output
    done = trocr("onnx", "tiny-printed", tmp_path / "new", "--opset", 7)
    assert "opset is 7, expected 18 to 23" in done.output
    done = trocr("onnx", "no-such-model", tmp_path / "new")
    assert done.exit_code == 1
    assert "no-such-model" in done.output
    done = trocr("onnx", "tiny-printed", tmp_path / "new", "--num-lines", 3)
    assert done.exit_code == 2
    assert "--num-lines is about the check" in done.output
    assert not (tmp_path / "new").exists()


def test_a_package_names_what_is_missing(tmp_path, monkeypatch):
    from trocr.export import packages
    from trocr.export.errors import ExportError

    def missing() -> None:
        raise ExportError("packages are compiled by a C++ compiler, and none was found")

    monkeypatch.setattr(packages, "check_compiler", missing)
    done = trocr("package", "tiny-printed", tmp_path / "new")
    assert done.exit_code == 1
    assert "Error: packages are compiled by a C++ compiler" in done.output


@pytest.mark.parametrize("name", ["onnx", "package"])
def test_commands_import_no_torch(name):
    import subprocess
    import sys

    code = (
        "import sys; from trocr.commands.export import export; "
        f"export.main(['{name}', '--help'], standalone_mode=False); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    assert onnx_export.OPSET == 18  # what the help says
