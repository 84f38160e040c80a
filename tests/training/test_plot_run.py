"""What scripts/plot_run.py reads of a run."""

import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts/plot_run.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("plot_run_script", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_line_that_was_cut_is_left_out(script, tmp_path):
    lines = [
        '{"step": 3, "loss": 1.5}',
        '{"step": 3, "cer": 0.5}',
        '{"step": 6, "ce{"step": 6, "cer": 0.9}',  # killed here, and resumed
        '{"step": 6, "cer": 0.25}',
        '{"step": 9, "c',
    ]
    (tmp_path / "log.jsonl").write_text("\n".join(lines), encoding="utf-8")
    assert script.read(tmp_path) == ([3.0, 6.0], [0.5, 0.25])


def test_a_run_that_is_missing_is_named(script, tmp_path):
    with pytest.raises(SystemExit, match=r"none/log\.jsonl: No such file or directory; name folders that"):
        script.read(tmp_path / "none")
