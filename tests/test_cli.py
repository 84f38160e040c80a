import fcntl
import json
import os
import pty
import resource
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from click.testing import CliRunner

from trocr import __version__
from trocr.cli import COMMANDS, main
from trocr.commands.paths import PathError, expand, natural_key
from trocr.commands.read import read
from trocr.hub import locate
from trocr.reader import DEFAULT_BATCH_SIZE, DEFAULT_MODEL

RUN = [sys.executable, "-c", "from trocr.cli import main; main(prog_name='trocr')"]
HEAVY = ("torch", "timm", "transformers", "tokenizers", "huggingface_hub", "torch._dynamo", "sympy", "tqdm")
START_UP_S = 1.5
"""What `trocr read` may take on one image beyond `import torch`, with the shipped model."""


@pytest.fixture
def examples(repo, monkeypatch) -> list[tuple[str, str]]:
    """(path, text) of the example images, relative to the working directory."""
    monkeypatch.chdir(repo)
    rows = Path("examples/labels.tsv").read_text(encoding="utf-8").splitlines()
    return [(f"examples/{name}", text) for name, text in (row.split("\t") for row in rows)]


def trocr(*args: object, stdin: str | None = None):
    return CliRunner().invoke(main, [str(arg) for arg in args], input=stdin)


# ---- the group ------------------------------------------------------------------------------------


def test_version():
    assert trocr("--version").output == f"trocr, version {__version__}\n"


def test_help_lists_the_commands():
    output = trocr("--help").output
    assert all(name in output and summary in output for name, (_, summary) in COMMANDS.items())


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_help(name):
    done = trocr(name, "--help")
    assert done.exit_code == 0
    assert COMMANDS[name][1].rstrip(".").split()[0] in done.output


def test_unknown_command():
    done = trocr("raed", "x.png")
    assert done.exit_code == 2
    assert "No such command 'raed'" in done.stderr


def test_defaults_are_those_of_the_reader():
    defaults = {option.name: option.default for option in read.params}
    assert defaults["model"] == DEFAULT_MODEL
    assert defaults["batch_size"] == DEFAULT_BATCH_SIZE


@pytest.mark.parametrize(
    "args", [["--help"], ["--version"], ["read", "--help"], ["read", "nothing-here.png"]]
)
def test_start_up_is_light(args):
    code = f"""
import sys
from trocr.cli import main
try:
    main({args!r})
except SystemExit:
    print("heavy:", sorted(set({HEAVY!r}) & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "heavy: []"


def test_errors_of_others_are_not_hidden(monkeypatch, examples):
    def broken(*args, **options):
        raise ValueError("a bug")

    monkeypatch.setattr("trocr.reader.Reader", broken)
    done = trocr("read", examples[0][0])
    assert type(done.exception) is ValueError


# ---- read: what it prints -------------------------------------------------------------------------


def test_prints_one_line_for_each_image(examples):
    done = trocr("read", "examples")
    assert done.output.splitlines() == [text for _, text in examples]
    assert done.exit_code == 0


def test_names(examples):
    done = trocr("read", "--names", "examples/*.png")
    wanted = [f"{path}\t{text}" for path, text in examples if path.endswith("png")]
    assert done.output.splitlines() == wanted


def test_json(examples):
    done = trocr("read", "--json", "examples", "--beams", 2, "--batch-size", 3)
    rows = [json.loads(line) for line in done.output.splitlines()]
    assert [(row["path"], row["text"]) for row in rows] == examples
    for row in rows:
        assert row["finished"] is True
        assert 0 < row["score"] <= 1
        assert "".join(token["text"] for token in row["tokens"]) == row["text"]


def test_json_and_names_exclude_each_other(examples):
    done = trocr("read", "--json", "--names", "examples")
    assert done.exit_code == 2
    assert "leave --names out" in done.stderr


def test_list_on_standard_input(examples):
    done = trocr("read", "-", stdin="".join(f"{path}\n" for path, _ in examples[2:4]) + "\n")
    assert done.output.splitlines() == [text for _, text in examples[2:4]]


def test_a_line_of_text_is_one_line(examples, monkeypatch):
    monkeypatch.setattr("trocr.tokenizers.RobertaTokenizer.decode", lambda *args, **options: "two\nlines")
    assert trocr("read", examples[0][0]).output == "two lines\n"


def test_other_precision_and_device(examples):
    done = trocr("read", examples[0][0], "--dtype", "bfloat16", "--device", "cpu")
    assert done.output.splitlines() == [examples[0][1]]


# ---- read: what goes wrong ------------------------------------------------------------------------


def test_an_unreadable_file_costs_a_line_and_the_status(examples, tmp_path):
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"\x89PNG\r\n\x1a\n broken")
    done = trocr("read", examples[0][0], bad, examples[1][0])
    assert done.exit_code == 1
    assert done.stdout.splitlines() == [examples[0][1], examples[1][1]]
    (message,) = done.stderr.splitlines()
    assert message.startswith(f"{bad}: ")


def test_paths_that_lead_nowhere(examples, tmp_path):
    done = trocr("read", "none.png", tmp_path, "*.zip", examples[0][0])
    assert done.exit_code == 1
    assert done.stdout.splitlines() == [examples[0][1]]
    first, second, third = done.stderr.splitlines()
    assert first == "none.png: no such file or folder"
    assert second.startswith(f"{tmp_path}: no image in this folder (.bmp ")
    assert third == "*.zip: nothing matches this pattern"


def test_nothing_at_all():
    done = trocr("read", "none.png")
    assert (done.exit_code, done.stderr) == (1, "none.png: no such file or folder\n")
    assert trocr("read").exit_code == 2


def test_a_cut_text_is_announced(examples):
    done = trocr("read", examples[0][0], "--max-new-tokens", 3)
    assert done.exit_code == 0
    assert done.stderr == (
        f"{examples[0][0]}: the text is cut after 3 tokens, before its end; --max-new-tokens sets the limit\n"
    )


def test_a_text_cut_by_the_model_is_announced_once(examples, tmp_path):
    for path in locate("tiny-printed").iterdir():
        (tmp_path / path.name).symlink_to(path)
    options = tmp_path / "generation_config.json"
    changed = {**json.loads(options.read_text()), "max_new_tokens": 3}
    options.unlink()
    options.write_text(json.dumps(changed))
    done = trocr("read", examples[0][0], "--model", tmp_path)
    assert done.stderr.count("\n") == 1
    assert "the text is cut after 3 tokens" in done.stderr


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--model", "tiny"], "Error: there is no directory 'tiny'"),
        (["--device", "cuda:99"], "Error: device 'cuda:99': this machine has"),
        (["--max-new-tokens", "500"], "Error: max_new_tokens=500 asks for rows of 501 tokens"),
        (
            ["--output", "/none/text.txt"],
            "Error: /none/text.txt: cannot be written (No such file or directory)",
        ),
    ],
)
def test_our_errors_are_one_line(examples, args, message):
    done = trocr("read", examples[0][0], *args)
    assert done.exit_code == 1
    assert done.stderr.startswith(message)
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


# ---- read: --output -------------------------------------------------------------------------------


def test_output_file(examples, tmp_path):
    file = tmp_path / "text.txt"
    file.write_text("old")
    done = trocr("read", "examples", "--output", file)
    assert done.output == ""
    assert file.read_text(encoding="utf-8").splitlines() == [text for _, text in examples]
    assert list(tmp_path.iterdir()) == [file]


def test_a_failure_leaves_the_old_output(examples, tmp_path):
    file = tmp_path / "text.txt"
    file.write_text("old")
    done = trocr("read", examples[0][0], "--output", file, "--max-new-tokens", 500)
    assert done.exit_code == 1
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_output_to_a_device(examples):
    assert trocr("read", examples[0][0], "--output", "/dev/null").exit_code == 0
    assert not Path("/dev/null").is_file()


# ---- read: processes ------------------------------------------------------------------------------


def test_text_is_utf8_in_any_locale(examples, tmp_path):
    name = os.fsencode(tmp_path) + b"/caf\xe9.png"
    os.symlink(os.path.abspath(examples[0][0]), name)
    env = {**os.environ, "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    done = subprocess.run([*RUN, "read", "--names", name], capture_output=True, env=env, check=True)
    path, text = done.stdout.decode().rstrip("\n").split("\t")
    assert path.endswith("caf\\udce9.png")
    assert text == examples[0][1]


def test_a_reader_of_the_pipe_may_leave(examples):
    command = subprocess.Popen(
        [*RUN, "read", *["examples"] * 4], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert command.stdout.readline().decode().rstrip("\n") == examples[0][1]
    command.stdout.close()
    assert command.stderr.read() == b""
    assert command.wait() == 1


def on_a_terminal(args: list[str]) -> str:
    """What a command writes to standard error when that is a terminal."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    command = subprocess.Popen([*RUN, *args], stdout=subprocess.DEVNULL, stderr=theirs)
    os.close(theirs)
    written = b""
    while True:
        try:
            chunk = os.read(ours, 4096)
        except OSError:  # Linux: the other end is closed
            break
        if not chunk:
            break
        written += chunk
    os.close(ours)
    assert command.wait() == 0
    return written.decode()


def test_progress_on_a_terminal(examples):
    assert "8/8" in on_a_terminal(["read", "examples"])
    assert on_a_terminal(["read", examples[0][0]]) == ""


def cpu_s(command: list[str]) -> float:
    """CPU time of a command in one thread: what it takes on a machine that does nothing else."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(command, env=env, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_start_up_time(examples):
    ours = min(cpu_s([*RUN, "read", examples[0][0]]) for _ in range(2))
    torch = min(cpu_s([sys.executable, "-c", "import torch"]) for _ in range(2))
    assert ours - torch < START_UP_S


def test_reading_imports_nothing_it_does_not_need(examples):
    code = f"""
import sys, torch
before = set(sys.modules)
from trocr.cli import main
main(["read", {examples[0][0]!r}], standalone_mode=False)
print("heavy:", sorted(set({HEAVY!r}) & (set(sys.modules) - before)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [examples[0][1], "heavy: []"]


def test_what_the_system_says_about_a_file_is_a_message(tmp_path):
    (tmp_path / "file").write_text("")
    done = CliRunner().invoke(main, ["data", "pack", "examples", str(tmp_path / "file/packed")])
    assert done.exit_code == 1
    assert done.stderr.startswith("Error: ")
    assert "Not a directory" in done.stderr
    assert "Traceback" not in done.output


# ---- paths ----------------------------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = "b/line10.png b/line2.PNG b/line1.jpg a.txt b/.hidden.png b/.thumbs/x.png b/c/deep.tiff z.webp"
    for name in names.split():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    return tmp_path


def test_folders_are_searched_in_natural_order(tree):
    assert list(expand(".")) == [
        "./b/c/deep.tiff",
        "./b/line1.jpg",
        "./b/line2.PNG",
        "./b/line10.png",
        "./z.webp",
    ]


def test_a_named_file_is_taken_whatever_its_ending(tree):
    assert list(expand("a.txt")) == ["a.txt"]
    assert list(expand("b/.hidden.png")) == ["b/.hidden.png"]


def test_patterns(tree):
    assert list(expand("b/line*")) == ["b/line1.jpg", "b/line2.PNG", "b/line10.png"]
    assert list(expand("?")) == ["b/c/deep.tiff", "b/line1.jpg", "b/line2.PNG", "b/line10.png"]
    assert list(expand("**/*.png")) == ["b/line10.png"]
    assert list(expand("**/*1*")) == ["b/line1.jpg", "b/line10.png"]


def test_a_file_whose_name_is_a_pattern(tree):
    Path("page[1].png").touch()
    assert list(expand("page[1].png")) == ["page[1].png"]


def test_linked_folders_are_not_followed(tree):
    Path("b/loop").symlink_to(tree)
    Path("b/line11.png").symlink_to(tree / "z.webp")
    assert len(list(expand("b"))) == 5


def test_a_folder_that_may_not_be_listed(tree, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(PathError, match=r"b: cannot be listed \(Permission denied\)"):
        list(expand("b"))


def test_natural_key():
    names = ["10.png", "2.png", "a2b10", "A2b9", "a", "", "²"]
    assert sorted(names, key=natural_key) == ["", "2.png", "10.png", "a", "A2b9", "a2b10", "²"]
