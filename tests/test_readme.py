"""README and docs: every command is run, every example prints what it says, every link and table row is true.

Commands that download run against a Hub on the loopback interface, which has the shipped checkpoint under the
official name. `make` targets are not run from here, where they would start the tests again: CI runs them.
"""

import importlib
import os
import re
import shlex
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest
from fake_hub import FakeHub

from trocr import OFFICIAL_MODELS, DeiTConfig
from trocr.hub import locate

REPO = Path(__file__).resolve().parents[1]
README = (REPO / "README.md").read_text(encoding="utf-8")
PAGES = [REPO / "README.md", *sorted((REPO / "docs").glob("*.md"))]
BLOCKS = [
    block
    for page in PAGES
    for block in re.findall(
        r"^```(\w+)\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL
    )
]
COMMANDS = [line for kind, body in BLOCKS if kind == "sh" for line in body.splitlines()]
PROGRAMS = [body for kind, body in BLOCKS if kind == "python"]
LABELS = dict(line.split("\t") for line in (REPO / "examples/labels.tsv").read_text().splitlines())
HUB_ID = "microsoft/trocr-base-printed"
FAIRSEQ_FILE = "trocr-base-printed.pt"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the examples and a fairseq file, and an environment that knows the local Hub."""
    folder = tmp_path_factory.mktemp("readme")
    for name in ("examples", "configs", "scripts"):
        (folder / name).symlink_to(REPO / name, target_is_directory=True)
    write_fairseq_file(folder / FAIRSEQ_FILE)
    hub = FakeHub().start()
    hub.add(HUB_ID, locate("tiny-printed"))
    env = {
        **os.environ,
        "HF_ENDPOINT": hub.url,
        "HF_HUB_CACHE": str(folder / "cache"),
        "PYTHONPATH": str(REPO),
    }
    env.pop("HF_HUB_OFFLINE", None)
    yield folder, env
    hub.stop()


def write_fairseq_file(path: Path) -> None:
    """A tiny model in the layout of the original files."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(REPO / "tests" / "weights_conversion")
        torch, fake, tiny = map(importlib.import_module, ("torch", "fake_fairseq", "tiny_models"))
    encoder = {"hidden_size": 24, "num_attention_heads": 12}
    model = tiny.pair("learned", encoder=encoder, decoder={"cross_attention_hidden_size": 24})
    args = fake.arguments("learned", deit_arch="beit_base_patch16_384", decoder_attention_heads=3)
    torch.save({"model": fake.weights(model.state_dict()), "args": args}, path)


def run(words: list[str], place) -> subprocess.CompletedProcess[str]:
    folder, env = place
    return subprocess.run(words, cwd=folder, env=env, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def done(place) -> dict[str, subprocess.CompletedProcess[str]]:
    """What every command gave, run in the order of the pages: later ones use what earlier ones wrote."""
    starts = {
        "trocr": [sys.executable, "-c", "from trocr.cli import main; main()"],
        "python": [sys.executable],
    }
    words = {command: shlex.split(command) for command in COMMANDS}
    return {
        command: run([*starts[first], *rest], place)
        for command, (first, *rest) in words.items()
        if first in starts
    }


def test_there_is_something_to_test():
    assert len(COMMANDS) >= 8
    assert len(PROGRAMS) == 10
    assert {command.split()[0] for command in COMMANDS} == {"make", "trocr", "python"}


@pytest.mark.parametrize("command", [line for line in COMMANDS if line.startswith("make ")])
def test_make_targets_exist(command):
    """And would run something; `--question` alone would find a stray file of that name good enough."""
    assert (
        "make: ***"
        not in subprocess.run(
            [*shlex.split(command), "--dry-run"], cwd=REPO, capture_output=True, text=True, check=True
        ).stderr
    )
    phony = re.search(r"^\.PHONY: (.*)$", (REPO / "Makefile").read_text(), flags=re.MULTILINE)
    assert command.split()[1] in phony.group(1).split()


@pytest.mark.parametrize("command", [line for line in COMMANDS if line.startswith("trocr read ")])
def test_read_commands(command, done, place):
    words = shlex.split(command)
    assert done[command].returncode == 0, done[command].stderr
    output = done[command].stdout
    if "--output" in words:
        output = (place[0] / words[words.index("--output") + 1]).read_text(encoding="utf-8")
    names = [name for name in LABELS if words[-1] == "examples" or fnmatch(f"examples/{name}", words[-1])]
    assert names
    assert len(output.splitlines()) == len(names)
    for name, line in zip(names, output.splitlines(), strict=True):
        assert LABELS[name] in line


OTHERS = [line for line in COMMANDS if not line.startswith(("trocr read ", "make "))]


@pytest.mark.parametrize("command", OTHERS)
def test_other_commands(command, done):
    assert done[command].returncode == 0, done[command].stderr
    if " verify " in command:
        assert done[command].stdout.splitlines()[-1] == "passed"


@pytest.mark.parametrize("program", PROGRAMS)
def test_programs(program, place):
    ran = run([sys.executable, "-c", program], place)
    assert ran.returncode == 0, ran.stderr
    assert LABELS["book.png"] in ran.stdout or "Reader(" not in program


def test_printed_text_of_make_read():
    shown = next(body for kind, body in BLOCKS if kind == "text")
    rows = [line.split(maxsplit=1) for line in shown.splitlines()]
    assert rows == [[f"examples/{name}", text] for name, text in LABELS.items()]


def test_other_commands_in_the_text():
    """Of `pip install '.[extra]'` the extra exists; installing is what CI does."""
    extras = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = re.findall(r"`pip install '?\.(?:\[(\w+)\])?'?`", README)
    assert len(named) == README.count("pip install") == 4
    assert set(filter(None, named)) <= set(extras)
    targets = re.findall(r"`make (\w+)`", README)
    assert targets
    for target in targets:
        test_make_targets_exist(f"make {target}")


def test_links_lead_somewhere():
    for page in PAGES:
        links = re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text(encoding="utf-8"))
        assert [link for link in links if not (page.parent / link).exists()] == [], page
    assert "docs/README.md" in README


def test_table_of_official_models():
    rows = re.findall(r"^\| `(trocr-\S+)` \|(.*)\|$", README, flags=re.MULTILINE)
    assert [f"microsoft/{name}" for name, _ in rows] == list(OFFICIAL_MODELS)
    for name, cells in rows:
        model = OFFICIAL_MODELS[f"microsoft/{name}"]
        encoder, decoder = model.config.encoder, model.config.decoder
        kind = "DeiT" if isinstance(encoder, DeiTConfig) else "ViT"
        assert [cell.strip() for cell in cells.split("|")] == [
            f"{kind}, {encoder.num_hidden_layers} x {encoder.hidden_size}",
            f"{decoder.decoder_layers} x {decoder.d_model}",
            "learned" if decoder.use_learned_position_embeddings else "sinusoidal",
            {"XLMRobertaTokenizer": "XLM-R", "RobertaTokenizer": "RoBERTa"}[model.tokenizer],
            f"{model.num_parameters:,}",
        ]
