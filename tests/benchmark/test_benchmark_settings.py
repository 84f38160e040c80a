"""Suites from TOML, and what the file that comes with the project holds."""

import pytest

from trocr.benchmark.candidates import OURS
from trocr.benchmark.errors import BenchmarkError
from trocr.benchmark.settings import KINDS, Suite, load_suites
from trocr.benchmark.suites import text_makers, token_makers


def test_the_projects_file(repo):
    suites = load_suites(repo / "configs" / "benchmark.toml")
    assert {"base-batch1", "base-batch8", "small-batch1", "small-batch8", "memory", "load"} <= set(suites)
    assert {"shipped-engines", "shipped-transformers"} <= set(suites)
    assert {suite.kind for suite in suites.values()} == set(KINDS)
    for suite in suites.values():
        known = {"texts": text_makers, "memory": text_makers}.get(suite.kind, token_makers)()
        assert set(suite.candidates) <= set(known), suite.name
        if suite.kind in ("tokens", "texts"):
            assert suite.reference in suite.candidates
    assert suites["memory"].counts == (100, 10_000)
    assert "transformers-shipped" in suites["base-batch1"].against
    assert {"fast", "fast-bf16", "fast-int8"} <= set(suites["base-batch1"].candidates) & set(OURS)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("runs = 3", r"no suites; expected tables \[suites.NAME\]"),
        ("[suites.a", "cannot be read as TOML"),
        (
            '[suites.a]\nkind = "tokens"\ncandidats = ["x"]',
            "unknown key 'candidats', did you mean 'candidates'",
        ),
        ('[suites.a]\ncandidates = ["x"]', "suites.a has no kind; expected one of tokens"),
        ('[suites.a]\nkind = "token"\ncandidates = ["x"]', "kind is 'token', did you mean 'tokens'"),
        ('[suites.a]\nkind = "tokens"', r"candidates are \[\], expected names"),
        ('[suites.a]\nkind = "tokens"\ncandidates = ["x", "x"]', r"candidates are \['x', 'x'\]"),
        ('[suites.a]\nkind = "tokens"\ncandidates = ["x"]\nbatch = "8"', "batch is '8', expected a whole"),
        ('[suites.a]\nkind = "tokens"\ncandidates = ["x"]\nruns = 0', "runs is 0, expected at least 1"),
        ('[suites.a]\nkind = "tokens"\ncandidates = ["x"]\nruns = true', "runs is True, expected a whole"),
        ('[suites.a]\nkind = "tokens"\ncandidates = ["x"]\nreference = "y"', "reference 'y' is none of its"),
        ('[suites.a]\nkind = "tokens"\ncandidates = ["x"]\nagainst = ["y"]', "reference 'y' is none of its"),
        ('[suites.a]\nkind = "memory"\ncandidates = ["x"]\ncounts = [0]', r"counts are \[0\]"),
        ("suites = 3", "no suites"),
        ("[suites]\na = 3", "suites.a is 3, expected a table"),
    ],
)
def test_wrong_files(text, message, tmp_path):
    path = tmp_path / "suites.toml"
    path.write_text(text)
    with pytest.raises(BenchmarkError, match=message):
        load_suites(path)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(BenchmarkError, match=r"none\.toml: cannot be read"):
        load_suites(tmp_path / "none.toml")


def test_changes():
    suite = Suite(name="a", kind="tokens", candidates=("x", "y"), runs=4)
    assert suite.changed(runs=None, batch=3) == Suite(
        name="a", kind="tokens", candidates=("x", "y"), runs=4, batch=3
    )
    with pytest.raises(BenchmarkError, match="batch is 0"):
        suite.changed(batch=0)
