"""Patterns, blocks, reports and recipes: what all operations share."""

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from drawn import processor, small_model
from torch import nn

from trocr import VisionEncoderDecoderModel
from trocr.cli import main
from trocr.nn.attention import Attention
from trocr.surgery.patterns import SurgeryError, choose_blocks, match_modules, match_parameters
from trocr.surgery.recipe import OPERATIONS, apply_recipe, read_recipe
from trocr.surgery.report import Change, report

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "surgery"


def test_patterns_name_parameters_with_all_that_is_in_a_module():
    model = small_model()
    names = match_parameters(model, ["encoder.embeddings", "decoder.blocks.1.self_attn.q_proj.bias"])
    assert names[0] == "encoder.embeddings.cls_token"
    assert names[-1] == "decoder.blocks.1.self_attn.q_proj.bias"
    assert len(names) == 5
    assert len(match_parameters(model, "decoder.blocks.*.self_attn.[qv]_proj")) == 8
    assert "decoder.output_projection.weight" in match_parameters(model, "decoder.*")  # tied


def test_patterns_name_modules_of_a_kind():
    found = match_modules(small_model(), "decoder.blocks.?.*_attn", Attention)
    assert list(found) == [f"decoder.blocks.{n}.{kind}_attn" for n in (0, 1) for kind in ("self", "cross")]
    with pytest.raises(SurgeryError, match=r"'encoder.blocks.\*' matches no module of kind Attention"):
        match_modules(nn.Sequential(nn.Linear(1, 1)), "encoder.blocks.*", Attention)


def test_what_matches_nothing_is_named_with_the_nearest():
    with pytest.raises(SurgeryError, match=r"'encoder.norms' matches no module or parameter, did you mean"):
        match_parameters(small_model(), ["decoder", "encoder.norms"])
    with pytest.raises(SurgeryError, match=r"^'\?\?' matches no module or parameter$"):
        match_parameters(small_model(), "??")
    with pytest.raises(SurgeryError, match="no pattern was given"):
        match_parameters(small_model(), [])
    for wrong in (3, None, ["encoder", 3]):
        with pytest.raises(SurgeryError, match=r"the pattern (3|None) is no string, expected one such as"):
            match_parameters(small_model(), wrong)


@pytest.mark.parametrize(
    ("blocks", "expected"),
    [
        ("all", [0, 1, 2, 3, 4, 5]),
        ("last:2", [4, 5]),
        ("first:3", [0, 1, 2]),
        ("every:2", [1, 3, 5]),
        ("every:4", [1, 5]),
        ("0, 2-4,2", [0, 2, 3, 4, 2]),
        ([5, -6, 0], [5, 0, 0]),
    ],
)
def test_blocks_are_described(blocks, expected):
    assert choose_blocks(blocks, 6) == expected


@pytest.mark.parametrize("blocks", ["last:7", "6", "0-6", "3-1", [], [-7], ""])
def test_blocks_that_are_not_there(blocks):
    with pytest.raises(SurgeryError, match="blocks"):
        choose_blocks(blocks, 6)


LONG = ["0-9999999999", "last:9999999999", "every:" + "9" * 5000, "9" * 5000]
"""Numbers that would fill the memory, or that Python does not read."""


@pytest.mark.parametrize(
    "blocks", ["some", "last:", "last:x", "1,,2", "-1", "1-", "²", "٢", "last:٢", "3-1", "0,3-1", *LONG]
)
def test_what_is_no_description(blocks):
    with pytest.raises(SurgeryError, match="must be all, last:N"):
        choose_blocks(blocks, 6)


def test_a_report_cannot_claim_what_is_not_so():
    model = nn.Linear(2, 3)
    change = Change(name="weight", action="resampled", shape=(3, 2), before=(3, 4), detail="cut")
    gone = Change(name="gone", action="removed", shape=(1,))
    found = report("cut", model, [change, gone], numbers={"x": 0.5, "parameters": 8360192.0})
    assert found.counts() == {"kept": 1, "resampled": 1, "removed": 1}
    assert found.text().splitlines() == [
        "cut: 1 kept, 1 resampled, 1 removed (tensors)",
        "  weight: resampled, 3x4 -> 3x2: cut",
        "  gone: removed, 1",
        "  x 0.5",
        "  parameters 8,360,192",
    ]
    with pytest.raises(AssertionError, match="the model has"):
        report("cut", model, [Change(name="weight", action="new", shape=(3, 4))])


def test_a_recipe_does_its_operations_in_order(tmp_path):
    file = tmp_path / "recipe.toml"
    file.write_text(
        '[[operation]]\nname = "keep_blocks"\nstack = "encoder"\nblocks = [1, 0, 1]\n'
        '[[operation]]\nname = "drop_blocks"\nstack = "encoder"\nblocks = "first:1"\n'
    )
    model = small_model()
    before = [block.mlp.fc1.weight.detach().clone() for block in model.encoder.blocks]
    reports = apply_recipe(model, read_recipe(file), processor=processor())
    assert [r.operation for r in reports] == ["keep_blocks", "drop_blocks"]
    after = [block.mlp.fc1.weight for block in model.encoder.blocks]
    assert all(torch.equal(a, before[n]) for a, n in zip(after, (0, 1), strict=True))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[[operation]]\nname = "keep_block"\n', "name='keep_block' is unknown, did you mean 'keep_blocks'"),
        ('[[operation]]\nblocks = "all"\n', "operation 1: name=None is unknown"),
        ('[[operation]]\nname = "keep_blocks"\nblock = "all"\n', "has no 'block', did you mean 'blocks'"),
        ('[[operation]]\nname = "keep_blocks"\n', "keep_blocks needs blocks"),
        ("[operation]\n", r"expected tables \[\[operation\]\] and nothing else"),
        ("[[operations]]\n", r"expected tables \[\[operation\]\]"),
        ("", r"expected tables \[\[operation\]\]"),
        ("x = ", "cannot be read as TOML"),
        ('operation = ["x"]', r"expected tables \[\[operation\]\]"),
        ('[[operation]]\nname = ["a"]\n', r"name=\['a'\] is unknown"),
    ],
)
def test_mistakes_in_recipes(tmp_path, text, message):
    file = tmp_path / "recipe.toml"
    file.write_text(text)
    with pytest.raises(SurgeryError, match=message):
        read_recipe(file)
    with pytest.raises(SurgeryError, match=r"nowhere\.toml: cannot be read"):
        read_recipe(tmp_path / "nowhere.toml")


def test_an_operation_that_cannot_be_done_is_named_by_its_number(tmp_path):
    file = tmp_path / "recipe.toml"
    row = '[[operation]]\nname = "keep_blocks"\nstack = "decoder"\nblocks = [1]\n'
    file.write_text(row * 2)
    with pytest.raises(SurgeryError, match=r"^operation 2 \(keep_blocks\): blocks \[1\] are not among the 1"):
        apply_recipe(small_model(), read_recipe(file), processor=processor())


def test_operations_of_the_table_are_there():
    import importlib

    for name, module in OPERATIONS.items():
        assert getattr(importlib.import_module(module), name).__name__ == name


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.toml")), ids=lambda path: path.stem)
def test_recipes_that_come_with_the_project(path, tmp_path):
    assert read_recipe(path)
    assert f"trocr surgery apply configs/surgery/{path.name}" in path.read_text(encoding="utf-8")
    arguments = ["apply", str(path), "tiny-printed", str(tmp_path / "out"), "--json", str(tmp_path / "json")]
    done = CliRunner().invoke(main, ["surgery", *arguments])
    assert done.exit_code == 0, done.output
    assert "(tensors)" in done.output
    told = json.loads((tmp_path / "json").read_text())
    assert [row["operation"] for row in told] == ["keep_blocks"]
    model = VisionEncoderDecoderModel.from_pretrained(tmp_path / "out")
    assert len(model.decoder.blocks) < 3


def test_places_that_cannot_be_written_are_found_out_before_the_work(tmp_path, monkeypatch):
    def load(checkpoint):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("trocr.commands.surgery.common.load", load)
    (tmp_path / "file").write_text("")
    report = tmp_path / "nowhere" / "report.json"
    recipe = str(CONFIGS / "short-decoder.toml")
    for command in (
        ["keep-blocks", "tiny-printed", "{out}", "--stack", "decoder", "--blocks", "0"],
        ["apply", recipe, "tiny-printed", "{out}"],
        ["average", "{out}", "tiny-printed"],
    ):
        for out, more, message in (
            (tmp_path / "out", ["--json", str(report)], f"{report}: there is no folder"),
            (tmp_path / "file", [], "is a file, expected a folder for the checkpoint"),
        ):
            arguments = [part.replace("{out}", str(out)) for part in command]
            done = CliRunner().invoke(main, ["surgery", *arguments, *more])
            assert done.exit_code == 1
            assert message in done.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]
