"""The commands of `trocr inspect` where options are unusual."""

import json
import shutil

import pytest
from click.testing import CliRunner

from trocr.cli import main


def inspect(*args: object):
    return CliRunner().invoke(main, ["inspect", *map(str, args)])


@pytest.fixture
def example(repo):
    return lambda name: repo / "examples" / name


def test_a_tap_of_one_block_keeps_its_number():
    lines = inspect("taps", "tiny-printed", "decoder.blocks.2.mlp.*").output.splitlines()
    assert [line.split()[0] for line in lines[:3]] == [
        f"decoder.blocks.2.mlp.{x}" for x in ("fc1", "act", "fc2")
    ]
    lines = inspect("taps", "tiny-printed", "decoder.blocks.[12].mlp.act").output.splitlines()
    assert lines[0].startswith("decoder.blocks.*.mlp.act x 2  hidden")


def test_pictures_of_images_of_one_name_do_not_replace_one_another(example, tmp_path):
    names = []
    for place, (folder, source, name) in enumerate(
        (
            ("", "label.png", "x-image2"),
            ("a", "number.png", "x"),
            ("b", "heading.jpg", "x"),
            ("c", "number.png", "X"),
        )
    ):
        (tmp_path / folder).mkdir(exist_ok=True)
        names.append(tmp_path / folder / f"{name}{example(source).suffix}")
        shutil.copy(example(source), names[place])
    out = tmp_path / "out"
    assert inspect("attention", "tiny-printed", *names, "--output", out).exit_code == 0
    told = [json.loads(path.read_text(encoding="utf-8"))["path"] for path in out.glob("*.json")]
    assert sorted(told) == sorted(map(str, names))


@pytest.mark.parametrize("output", ["", "-"])
def test_pictures_need_a_place(example, output):
    done = inspect("attention", "tiny-printed", example("number.png"), "--output", output)
    assert done.exit_code == 1
    assert done.output == f"Error: --output {output!r} is no place for pictures; give a folder or FILE.html\n"


def test_native_width(example, tmp_path):
    out = tmp_path / "out"
    options = ("--native-width", "--rollout", "--output", out)
    assert inspect("attention", "tiny-printed", example("number.png"), *options).exit_code == 0
    values = json.loads((out / "number.json").read_text(encoding="utf-8"))
    assert values["text"] == "Invoice No. 4471-0932"
    assert len(values["tokens"][0]["map"][0][0]) < 60
    done = inspect("lens", "tiny-printed", example("number.png"), "--native-width", "--json")
    assert json.loads(done.output)["text"] == "Invoice No. 4471-0932"
