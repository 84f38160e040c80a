import json

from click.testing import CliRunner
from parts_cases import (
    check_whole,
    fresh,
)
from PIL import Image

from trocr import Reader, VisionEncoderDecoderModel
from trocr.cli import main
from trocr.surgery.recipe import apply_recipe, read_recipe


def test_a_recipe_replaces_parts(tmp_path):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        '[[operation]]\nname = "replace_encoder"\nencoder = "timm:test_resnet"\nimage_size = [32, 128]\n'
        "[operation.model_args]\nfeatures_only = true\nout_indices = [2]\n"
        '[[operation]]\nname = "replace_decoder"\ndecoder = "tiny-printed"\n'
    )
    model, processor = fresh()
    reports = apply_recipe(model, read_recipe(recipe), processor=processor)
    assert [report.operation for report in reports] == ["replace_encoder", "replace_decoder"]
    assert model.encoder.embeddings.grid == (4, 16)
    check_whole(model, processor, reports[1], tmp_path / "out")


def test_commands(tmp_path):
    start, middle, end = (str(tmp_path / name) for name in ("start", "middle", "end"))
    model, processor = fresh()
    model.save_pretrained(start)
    processor.save_pretrained(start)
    encoder = [
        *("surgery", "replace-encoder", start, middle, "--encoder", "timm:test_resnet", "--projection"),
        *("--image-size", "32", "128", "--model-arg", "features_only=true", "--model-arg", "out_indices=[2]"),
        *("--json", str(tmp_path / "report.json")),
    ]
    result = CliRunner().invoke(main, encoder)
    assert result.exit_code == 0, result.output
    assert "enc_to_dec_proj.weight: new, 32x48" in result.output
    assert json.loads((tmp_path / "report.json").read_text())["numbers"] == {"states": 64}
    result = CliRunner().invoke(
        main, ["surgery", "replace-decoder", middle, end, "--decoder", "tiny-printed", "--projection"]
    )
    assert result.exit_code == 0, result.output
    found = VisionEncoderDecoderModel.from_pretrained(end)
    assert (found.config.encoder.hidden_size, found.config.decoder.d_model) == (48, 256)
    assert found.config.needs_projection
    (line,) = Reader(end).read(Image.new("L", (90, 30), 200), max_new_tokens=2)
    assert line.tokens
    result = CliRunner().invoke(main, ["surgery", "replace-encoder", start, end, "--encoder", "timm:resnett"])
    assert result.exit_code == 1
    assert "Error: timm" in result.output
    assert VisionEncoderDecoderModel.from_pretrained(end).config == found.config
    result = CliRunner().invoke(main, [*encoder, "--model-arg", "depth"])
    assert result.exit_code == 2
    assert "expected KEY=VALUE" in result.output
