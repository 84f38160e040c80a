"""`scripts/benchmark.py` on tiny models: every kind of suite, in seconds."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest
from click.testing import CliRunner

from trocr.benchmark.child import TASKS
from trocr.benchmark.errors import BenchmarkError
from trocr.benchmark.processes import ask, forget_file
from trocr.benchmark.settings import Suite
from trocr.benchmark.suites import profile_suite, run_suite


@pytest.fixture(scope="module")
def script() -> ModuleType:
    path = Path(__file__).resolve().parents[2] / "scripts" / "benchmark.py"
    spec = importlib.util.spec_from_file_location("benchmark_script", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def invoke(script, repo, *arguments):
    return CliRunner().invoke(script.main, ["--data", str(repo / "examples"), "--quick", *arguments])


def test_tokens_and_texts(script, repo, tmp_path):
    names = ("plain", "fast", "transformers")
    chosen = [part for name in names for part in ("--candidate", name)]
    small = ["--lines", "3", "--runs", "1", "--batch", "2", "--block", "2"]
    files = ["--output", str(tmp_path / "raw.json"), "--markdown", str(tmp_path / "tables.md")]
    done = invoke(
        script, repo, "--suite", "base-batch1", "--model", "tiny", *chosen, *small, *files, "--profile"
    )
    assert done.exit_code == 0, done.output
    values = json.loads((tmp_path / "raw.json").read_text())
    (suite,) = values["suites"]
    assert list(suite["measured"]) == list(names)
    assert suite["reference"] == "transformers"
    for name in names:
        item = suite["measured"][name]
        assert item["agreement"]["same"] == item["agreement"]["lines"] == 3
        assert [run["block"] for run in item["runs"]] == [0, 2]
        assert item["encoder"]["fraction"] > 0
    assert set(values["profiles"]["base-batch1"]) == {"plain", "fast"}
    tables = (tmp_path / "tables.md").read_text()
    assert tables.startswith("# Benchmark")
    assert "| fast |" in tables
    assert "Where the time of fast goes" in tables


def test_the_shipped_reader(script, repo, tmp_path):
    chosen = ["--candidate", "plain", "--candidate", "fast native", "--candidate", "transformers"]
    raw = tmp_path / "raw.json"
    done = invoke(
        script,
        repo,
        "--suite",
        "shipped-transformers",
        *chosen,
        "--lines",
        "2",
        "--runs",
        "1",
        "--output",
        raw,
    )
    assert done.exit_code == 0, done.output
    measured = json.loads(raw.read_text())["suites"][0]["measured"]
    assert [item["cer"] for item in measured.values()] == [0.0, 0.0, 0.0]
    assert all(item["agreement"]["same"] == 2 for item in measured.values())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--suite", "training"], "scripts/benchmark_training.py"),
        (["--suite", "base-batch2"], "no suite 'base-batch2', did you mean 'base-batch"),
        (
            ["--suite", "base-batch1", "--model", "tiny", "--candidate", "fst"],
            "no candidate 'fst', did you mean",
        ),
        (["--suite", "base-batch1", "--runs", "-1"], "runs is -1"),
        (["--suite", "load", "--output", "nowhere/raw.json"], "there is no such folder"),
        (["--suite", "base-batch1", "--model", "tiny", "--data", "nowhere"], "--data cannot be read"),
    ],
)
def test_what_cannot_be_done(script, repo, arguments, message):
    done = invoke(script, repo, *arguments)
    assert done.exit_code == 1
    assert message in str(done.exception.code)


def test_one_that_fails_costs_its_own_row(repo, monkeypatch):
    from trocr.benchmark import suites

    class Breaks:
        precision = "float32"

        def read(self, lines):
            raise RuntimeError("not enough memory")

    makers = suites.token_makers()
    broken = {**makers, "plain": lambda _: Breaks(), "transformers-shipped": missing}
    monkeypatch.setitem(suites.MAKERS, "tokens", lambda: broken)
    names = ("transformers-shipped", "plain", "fast")
    suite = Suite(name="s", kind="tokens", model="tiny", candidates=names, lines=2)
    found = run_suite(suite, data=str(repo / "examples"))
    assert set(found.measured) == {"fast"}
    assert found.problems == {
        "transformers-shipped": "ImportError: no such package",
        "plain": "RuntimeError: not enough memory",
    }
    assert "The reference transformers-shipped is not there; fast stands in for it." in found.notes
    with pytest.raises(
        BenchmarkError, match=r"none of its candidates can run: plain: RuntimeError: not enough"
    ):
        run_suite(suite.changed(candidates=("plain",)), data=str(repo / "examples"))


def missing(_):
    raise ImportError("no such package")


@pytest.fixture
def in_process(monkeypatch):
    """Do what child processes are asked for in this one: starting them takes seconds each."""

    def answer(request):
        try:
            return TASKS[request["task"]](request)
        except ValueError as error:
            raise BenchmarkError(str(error)) from error

    monkeypatch.setattr("trocr.benchmark.processes.ask", answer)


def test_processes_of_their_own(repo, in_process):
    data = str(repo / "examples")
    memory = Suite(name="m", kind="memory", model="tiny-printed", candidates=("fast", "none"), counts=(1, 2))
    found = run_suite(memory, data=data, threads=1)
    assert [run["images"] for run in found.runs] == [1, 2]
    assert all(run["peak_bytes"] > run["before_bytes"] - 2**22 > 0 for run in found.runs)  # counted in steps
    assert "there is no candidate 'none'" in found.problems["none"]
    assert "| fast | 2 |" in found.table


def test_loading_against_reading_the_file(repo, in_process):
    suite = Suite(name="l", kind="load", model="tiny", candidates=("plain",))
    found = run_suite(suite, data=str(repo / "examples"), threads=1)
    assert {(run["state"], run["candidate"]) for run in found.runs} == {
        (state, name) for state in ("cold", "warm") for name in ("", "plain")
    }
    assert all(run["seconds"] >= run.get("load_s", 0) > -1 for run in found.runs)
    assert found.table.count("| plain |") == 2


def test_a_process_that_fails_says_why(tmp_path):
    with pytest.raises(BenchmarkError, match=r"process of read_files ended with 1: FileNotFoundError"):
        ask({"task": "read_files", "files": [str(tmp_path / "none")]})
    file = tmp_path / "file"
    file.write_bytes(b"x")
    assert forget_file(file) in (True, False)
    assert file.read_bytes() == b"x"


def test_profiles_are_for_our_models():
    with pytest.raises(BenchmarkError, match="load cannot be profiled"):
        profile_suite(Suite(name="s", kind="load", candidates=("plain",)), data="x")
    with pytest.raises(BenchmarkError, match="no candidate that can be profiled"):
        profile_suite(Suite(name="s", kind="tokens", candidates=("transformers",)), data="x")
