"""`scripts/parity.py` on tiny models: its table, and that it notices what is wrong."""

import importlib.util
from dataclasses import replace
from types import ModuleType

import pytest
import torch
from click.testing import CliRunner

from trocr import OFFICIAL_MODELS, VisionEncoderDecoderModel

NAMES = ("small-printed", "base-handwritten", "large-printed")


@pytest.fixture
def script(repo, monkeypatch) -> ModuleType:
    """The script, with the releases made tiny."""
    spec = importlib.util.spec_from_file_location("parity_script", repo / "scripts" / "parity.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    encoder = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96}
    decoder = {"d_model": 64, "decoder_layers": 2, "decoder_attention_heads": 4, "decoder_ffn_dim": 96}
    tiny = {}
    for name, official in OFFICIAL_MODELS.items():
        config = replace(
            official.config,
            encoder=replace(official.config.encoder, **encoder, image_size=(32, 96), patch_size=(16, 8)),
            decoder=replace(
                official.config.decoder, **decoder, cross_attention_hidden_size=48, vocab_size=300
            ),
        )
        tiny[name] = replace(official, config=config)
    monkeypatch.setattr(module, "OFFICIAL_MODELS", tiny)
    return module


def rows(text: str) -> list[list[str]]:
    table = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table]


def test_table(script: ModuleType, tmp_path) -> None:
    arguments = [part for name in NAMES for part in ("--model", name)]
    result = CliRunner().invoke(script.main, [*arguments, "--output", str(tmp_path / "parity.md")])
    assert result.exit_code == 0, result.output
    head, *found = rows(result.output)
    assert head == list(script.COLUMNS)
    assert [row[0] for row in found] == list(NAMES)
    for row in found:
        assert row[-2:] == ["yes", "yes"]
        assert all(float(cell) <= script.BOUND for cell in row[2:-2])
    written = (tmp_path / "parity.md").read_text()
    assert written.startswith("# Parity with transformers")
    assert rows(written) == [head, *found]


def test_a_wrong_weight_is_noticed(script: ModuleType, monkeypatch) -> None:
    class Wrong(VisionEncoderDecoderModel):
        @classmethod
        def from_pretrained(cls, source, **options):
            model = VisionEncoderDecoderModel.from_pretrained(source, **options)
            with torch.no_grad():
                model.decoder.blocks[1].mlp.fc1.bias[0] += 0.01
            return model

    monkeypatch.setattr(script, "VisionEncoderDecoderModel", Wrong)
    result = CliRunner().invoke(script.main, ["--model", "small-printed"])
    assert result.exit_code == 1
    _, row = rows(result.output)
    assert float(row[script.COLUMNS.index("encoder")]) <= script.BOUND
    assert float(row[script.COLUMNS.index("decoder blocks")]) > script.BOUND
    assert row[-1] == "NO"
