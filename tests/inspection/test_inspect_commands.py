"""The commands of `trocr inspect`, on the shipped model and the example images."""

import json
import shutil

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from trocr import Reader, VisionEncoderDecoderModel
from trocr.cli import main
from trocr.commands.inspect import VIEWS
from trocr.hub import PRETRAINED

SHIPPED = PRETRAINED / "tiny-printed"


def inspect(*args: object):
    return CliRunner().invoke(main, ["inspect", *map(str, args)])


@pytest.fixture
def example(repo):
    return lambda name: repo / "examples" / name


def test_commands_are_listed_and_have_help():
    output = inspect("--help").output
    assert all(name in output and summary in output for name, (_, summary) in VIEWS.items())
    for name in VIEWS:
        assert inspect(name, "--help").exit_code == 0


def test_taps():
    done = inspect("taps", "tiny-printed")
    assert done.exit_code == 0
    assert "encoder.blocks.*.attn_resid x 6           residual   (B, S, D_enc)" in done.output.splitlines()
    found = json.loads(inspect("taps", "tiny-printed", "decoder.*.probs", "encoder.norm", "--json").output)
    assert [tap["name"] for tap in found[:2]] == ["encoder.norm", "decoder.blocks.0.self_attn.probs"]
    assert len(found) == 7
    done = inspect("taps", "tiny-printed", "encoder.nurm")
    assert done.exit_code == 1
    assert done.output == "Error: 'encoder.nurm' matches no tap, did you mean 'encoder.norm'?\n"


def test_attention_as_pictures(example, tmp_path):
    copy = tmp_path / "elsewhere" / "heading.jpg"
    copy.parent.mkdir()
    shutil.copy(example("heading.jpg"), copy)
    done = inspect("attention", "tiny-printed", example("heading.jpg"), copy, "--output", tmp_path / "out")
    assert (done.exit_code, done.output) == (0, "")
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names[:3] == ["heading-000.png", "heading-001.png", "heading-002.png"]
    assert len(names) == 2 * (15 + 1)
    values = json.loads((tmp_path / "out" / "heading.json").read_text(encoding="utf-8"))
    assert values["text"] == "Annual Report 1987"
    assert len(values["tokens"]) == 15
    plain = np.asarray(Image.open(example("heading.jpg")).convert("RGB")).astype(int)
    reds = []
    for token in range(14):
        drawn = np.asarray(Image.open(tmp_path / "out" / f"heading-{token:03}.png")).astype(int)
        assert drawn.shape == plain.shape
        strength = (plain - drawn)[..., 2].clip(0).sum(axis=0)  # blue is taken away where attention is
        reds.append(float((strength * np.arange(len(strength))).sum() / strength.sum()))
    assert np.corrcoef(reds, np.arange(14))[0, 1] > 0.95


def test_attention_as_a_page(example, tmp_path):
    page = tmp_path / "maps.html"
    options = ("--rollout", "--layer", "last:1", "--head", "1", "--head", "3", "--beams", "2")
    done = inspect(
        "attention", "tiny-printed", example("book.png"), example("label.png"), "--output", page, *options
    )
    assert (done.exit_code, done.output) == (0, "")
    text = page.read_text(encoding="utf-8")
    read = Reader(SHIPPED).read([example("book.png"), example("label.png")], num_beams=2)
    assert text.count('<span class="token"') == sum(len(line.tokens) for line in read)
    assert "rollout" in text


def test_attention_goes_on_after_an_image_that_cannot_be_read(example, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    page = tmp_path / "maps.html"
    done = inspect(
        "attention", "tiny-printed", tmp_path / "none.png", broken, example("label.png"), "--output", page
    )
    assert done.exit_code == 1
    assert "none.png: no such file or folder" in done.output
    assert "broken.png: not an image that Pillow" in done.output
    assert page.read_text(encoding="utf-8").count("<h2>") == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--layer", "7"], "blocks '7' are not among the 3 of the stack"),
        (["--layer", "top"], "blocks 'top' must be all, last:N"),
        (["--head", "4"], "heads (4,) are not among the 4 of decoder block 0"),
    ],
)
def test_wrong_layers_and_heads(example, tmp_path, options, message):
    done = inspect(
        "attention", "tiny-printed", example("label.png"), "--output", tmp_path / "x.html", *options
    )
    assert done.exit_code == 1
    assert message in done.output
    assert not (tmp_path / "x.html").exists()


@pytest.mark.parametrize("name", ["file/maps", "file/maps.html"])
def test_an_output_that_cannot_be_written(example, tmp_path, name):
    (tmp_path / "file").write_text("not a folder")
    done = inspect("attention", "tiny-printed", example("heading.jpg"), "--output", tmp_path / name)
    assert done.exit_code == 1
    wanted = "file" if name.endswith(".html") else "folder"
    assert f"cannot be written (Not a directory); give another {wanted}" in done.output


def test_lens(example):
    done = inspect("lens", "tiny-printed", example("heading.jpg"), "--top", "1")
    assert done.exit_code == 0
    assert done.output.splitlines()[0].endswith("heading.jpg: Annual Report 1987")
    assert len(done.output.splitlines()) == 2 + 15
    values = json.loads(inspect("lens", "tiny-printed", example("heading.jpg"), "--json").output)
    assert [layer["layer"] for layer in values["tokens"][0]["layers"]][-1] == "block 2"
    done = inspect("lens", "tiny-printed", "nowhere.png")
    assert (done.exit_code, done.output.startswith("Error: nowhere.png: no such file")) == (1, True)


def test_sizes():
    done = inspect("sizes", "tiny-printed", "--tokens", "20")
    assert done.exit_code == 0
    assert "for token 20 with a cache" in done.output
    values = json.loads(inspect("sizes", "tiny-printed", "--json").output)
    assert values["tokens"] == 32
    assert values["total"]["parameters"] == 8_360_192
    done = inspect("sizes", "tiny-printed", "--tokens", "129")
    assert (done.exit_code, "expected 1 to 128" in done.output) == (1, True)


def test_compare(example, tmp_path):
    model = VisionEncoderDecoderModel.from_pretrained(SHIPPED)
    weight = model.encoder.blocks[5].mlp.fc2.weight.detach()
    largest = 0.5 * float(weight.abs().max())
    weight.mul_(1.5)
    shutil.copytree(SHIPPED, tmp_path / "other")
    model.save_pretrained(tmp_path / "other")
    done = inspect(
        "compare", "tiny-printed", tmp_path / "other", "--images", example("label.png"), "--rows", 3
    )
    assert done.exit_code == 0
    row = done.output.splitlines()[2].split()
    assert row == ["encoder.blocks.5.mlp.fc2.weight", "0.5", "1.000000", f"{largest:.4g}"]
    assert "encoder: linear CKA on 121 rows" in done.output
    values = json.loads(inspect("compare", "tiny-printed", tmp_path / "other", "--json").output)
    assert list(values) == ["weights"]
    assert values["weights"]["num_equal"] == len(values["weights"]["distances"]) - 1
    done = inspect("compare", "tiny-printed", tmp_path / "other", "--images", tmp_path / "none.png")
    assert (done.exit_code, "none.png: no such file" in done.output) == (1, True)
