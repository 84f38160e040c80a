"""What cannot be pruned is refused, and commands say it."""

from pathlib import Path

import pytest
from click.testing import CliRunner
from drawn import processor, small_model
from proofs import look

from trocr import VisionEncoderDecoderModel
from trocr.cli import main
from trocr.surgery.adapters import add_adapter
from trocr.surgery.patterns import SurgeryError
from trocr.surgery.pruning import prune_heads, prune_units
from trocr.surgery.recipe import apply_recipe, read_recipe


@pytest.mark.parametrize(
    ("function", "options", "message"),
    [
        (prune_heads, {}, "nothing given, expected one of heads, share, keep_heads"),
        (
            prune_units,
            {"share": 0.5, "keep_units": 3},
            "share and keep_units given, expected one of units, share",
        ),
        (prune_heads, {"heads": {"*.cross_at": [0]}}, r"'\*.cross_at' matches no attention of a block"),
        (prune_units, {"units": {"decoder": [0]}}, "'decoder' matches no feed-forward part of a block"),
        (prune_heads, {"heads": {}}, "expected a mapping of names or patterns"),
        (prune_heads, {"heads": [0]}, "expected a mapping of names or patterns"),
        (
            prune_heads,
            {"heads": {"decoder.*": [4]}},
            "self_attn: heads 4 is not there, they are numbered 0 to 3",
        ),
        (prune_heads, {"heads": {"decoder.*": [-1]}}, "heads -1 is not there"),
        (prune_heads, {"heads": {"decoder.*": [1.0]}}, "heads 1.0 is not there"),
        (prune_heads, {"heads": {"decoder.*": 1}}, "heads 1, expected a list of numbers or a mask"),
        (prune_units, {"units": {"*": [True]}}, "a mask of 1 was given, there are 64"),
        (
            prune_heads,
            {"heads": {"*": [1], "encoder.*": [0]}},
            "encoder.blocks.0.self_attn would lose all its heads",
        ),
        (prune_units, {"units": {"*": [True] * 64}}, "would lose all its units; one must stay"),
        (prune_heads, {"share": 0.5}, "importance is missing: give what head_importance measures, or data"),
        (prune_heads, {"share": 0.1, "data": "lines"}, "or the processor that makes images of the data"),
        (prune_heads, {"share": 1.0, "importance": {}}, "share=1.0, expected a number from 0 to below 1"),
        (prune_heads, {"share": "1", "importance": {}}, "share='1', expected a number"),
        (prune_heads, {"share": 0.9, "importance": {}}, "0.9 of 20 heads is 18; at most 14 can go"),
        (
            prune_units,
            {"share": 0.1, "importance": {}},
            "nothing for encoder.blocks.0.mlp; measure it with unit_imp",
        ),
        (prune_units, {"keep_units": 0, "importance": {}}, "keep_units=0, expected a whole number above 0"),
        (prune_units, {"keep_units": 1.5, "importance": {}}, "keep_units=1.5, expected a whole number"),
        (
            prune_heads,
            {"keep_heads": 1, "modules": "encoder.*", "importance": {"encoder.blocks.0.self_attn": [1.0]}},
            r"has shape \(1,\), expected 2 finite numbers",
        ),
        (
            prune_heads,
            {
                "keep_heads": 1,
                "modules": "encoder.blocks.0*",
                "importance": {"encoder.blocks.0.self_attn": [1.0, float("nan")]},
            },
            "expected 2 finite numbers",
        ),
        (prune_heads, {"share": 0.1, "modules": "enc", "importance": {}}, "'enc' matches no attention"),
        (prune_heads, {"heads": {"*": [0]}, "data": "x"}, "data given, but heads names what goes"),
        (prune_heads, {"heads": {"*": [0]}, "importance": {}}, "importance given, but heads names what goes"),
        (prune_heads, {"share": 0.1, "data": "x", "max_lines": 0}, "max_lines=0, expected a whole number"),
        (prune_heads, {"heads": {3: [0]}}, "the pattern 3 is no string"),
        (prune_units, {"units": {"*": range(10**12)}}, "units 64 is not there, they are numbered 0 to 63"),
        (
            prune_heads,
            {"keep_heads": 1, "modules": "encoder.*", "importance": {"encoder.blocks.0.self_attn": "high"}},
            "importance of encoder.blocks.0.self_attn is 'high', expected 2 numbers",
        ),
    ],
)
def test_what_cannot_be_is_refused(pair_of, function, options, message):
    model = pair_of("learned").fresh()
    before = look(model)
    with pytest.raises(SurgeryError, match=message):
        function(model, **options)
    assert look(model) == before


def test_an_adapter_is_refused(pair_of):
    model = pair_of("learned").fresh()
    add_adapter(model)
    before = look(model)
    for function in (prune_heads, prune_units):
        with pytest.raises(SurgeryError, match="have an adapter"):
            function(model, {"*": [0]})
    assert look(model) == before


def test_commands_and_recipes(lines: Path, tmp_path: Path):
    model, folder = small_model(), tmp_path / "model"
    model.save_pretrained(folder)
    processor().save_pretrained(folder)

    def run(*arguments: str):
        return CliRunner().invoke(main, ["surgery", *arguments], catch_exceptions=False)

    source = ("--data", str(lines), "--lines", "3")
    heads = run(
        "prune-heads", str(folder), f"{folder}-h", "--share", "0.25", *source, "--modules", "decoder.*"
    )
    assert heads.exit_code == 0, heads.output
    assert "prune_heads:" in heads.output
    assert "heads_before 8" in heads.output
    assert "heads 6" in heads.output
    units = run("prune-units", f"{folder}-h", f"{folder}-u", "--units", "40", *source)
    assert units.exit_code == 0, units.output
    config = VisionEncoderDecoderModel.from_pretrained(f"{folder}-u").config
    assert config.encoder.intermediate_size == 40
    assert config.encoder.block_shapes is None
    assert sum(s.self_attn_heads + s.cross_attn_heads for s in config.decoder.block_shapes) == 6
    named = run(
        "prune-units", str(folder), f"{folder}-n", "--unit", "decoder.*=0,2-3", "--unit", "encoder.*=63"
    )
    assert named.exit_code == 0, named.output
    config = VisionEncoderDecoderModel.from_pretrained(f"{folder}-n").config
    assert (config.encoder.intermediate_size, config.decoder.decoder_ffn_dim) == (63, 61)
    for given in ("decoder.*", "decoder.*=", "decoder.*=2-1", "decoder.*=0-9999999999"):
        wrong = run("prune-heads", str(folder), f"{folder}-x", "--head", given)
        assert wrong.exit_code == 2
        assert f"'{given}', expected PATTERN=numbers such as 0,2,4-6" in wrong.output
    wrong = run("prune-heads", str(folder), f"{folder}-x", "--share", "0.5")
    assert wrong.exit_code == 1
    assert "importance is missing" in wrong.output
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        f"""[[operation]]
name = "prune_heads"
heads = {{"decoder.blocks.0.*" = [1]}}
[[operation]]
name = "prune_units"
keep_units = 50
data = "{lines}"
"""
    )
    reports = apply_recipe(model, read_recipe(recipe), processor=processor())
    assert [found.operation for found in reports] == ["prune_heads", "prune_units"]
    assert model.config.decoder.shapes[0].self_attn_heads == 1
    assert model.config.decoder.shapes[1].ffn_dim == 50
