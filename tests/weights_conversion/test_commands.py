"""The command line: convert, inspect and verify, on files as people have them."""

import importlib
import json
import shutil

import fake_fairseq
import huggingface_hub
import pytest
import tiny_models
import torch
import transformers
from click.testing import CliRunner
from fake_hub import FakeHub
from safetensors.torch import load_file, save_file

from trocr.hub import PRETRAINED
from trocr.official import OFFICIAL_MODELS
from weights_conversion.__main__ import STORAGE, main, run
from weights_conversion.commands import convert as convert_module
from weights_conversion.commands import verify as verify_module
from weights_conversion.commands.source import Hints, find_source, official_model, same_architecture
from weights_conversion.commands.verify import Check, verify
from weights_conversion.configs import DerivationError
from weights_conversion.dialects import DialectError, recognize
from weights_conversion.fairseq import FAMILIES
from weights_conversion.files import open_weights


def call(*arguments: object):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module", params=["learned", "sinusoidal", "unilm"])
def saved(request, tmp_path_factory):
    directory = tmp_path_factory.mktemp(request.param)
    return tiny_models.save(tiny_models.pair(request.param), directory)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """One family, where the family does not matter."""
    return tiny_models.save(tiny_models.pair("unilm"), tmp_path_factory.mktemp("plain"))


def failed(checks: list[Check]) -> list[str]:
    return [check.name for check in checks if check.passed is False]


def test_verify_passes_and_looks_at_every_stage(saved) -> None:
    checks = list(verify(find_source(str(saved)), Hints(), tokens=6))
    assert failed(checks) == []
    wanted = ["load", "round trip, bits", "round trip, keys", "load again", "encoder embedding"]
    wanted += ["encoder block 1", "decoder embedding", "decoder block 1", "encoder output", "logits"]
    wanted += ["greedy tokens"]
    assert [name for name in wanted if name not in {check.name for check in checks}] == []
    assert all(check.passed for check in checks)


@pytest.mark.parametrize(
    "build",
    [
        lambda: transformers.ViTModel(tiny_models.encoder_config("vit")),
        lambda: transformers.DeiTModel(tiny_models.encoder_config("deit")),
        lambda: transformers.ViTForImageClassification(tiny_models.encoder_config("vit")),
        lambda: transformers.TrOCRForCausalLM(transformers.TrOCRConfig(**tiny_models.DECODER)),
    ],
)
def test_verify_takes_parts_alone(tmp_path, build) -> None:
    tiny_models.save(tiny_models.shaken(build()), tmp_path)
    checks = list(verify(find_source(str(tmp_path)), Hints()))
    assert failed(checks) == []
    assert {"encoder output", "logits"} & {check.name for check in checks}


def test_verify_on_images_and_the_shipped_checkpoint(tmp_path) -> None:
    from PIL import Image

    Image.new("L", (200, 30), 255).save(tmp_path / "line.png")
    result = call("verify", "tiny-printed", "--image", tmp_path / "line.png", "--tokens", 3)
    assert result.exit_code == 0, result.output
    assert "tokens of 1 images are the same" in result.output
    assert result.output.endswith("passed\n")


def test_verify_sees_a_model_that_computes_something_else(plain, monkeypatch) -> None:
    def stretched(directory, name):
        model = verify_module_load(directory, name)
        with torch.no_grad():
            model.decoder.model.decoder.layers[1].fc1.weight.mul_(1.001)
        return model

    verify_module_load = verify_module.load_reference
    monkeypatch.setattr(verify_module, "load_reference", stretched)
    result = call("verify", plain)
    assert result.exit_code == 1
    rows = {line[10:].split("  ")[0].strip(): line for line in result.output.splitlines()}
    assert rows["decoder block 0"].startswith("ok")
    assert rows["decoder block 1"].startswith("FAILED")
    assert rows["logits"].startswith("FAILED")
    assert result.output.endswith("FAILED\n")


def test_verify_without_the_reference_says_what_it_left_out(plain, monkeypatch) -> None:
    def absent(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", absent)
    result = call("verify", plain)
    assert result.exit_code == 0
    assert "left out" in result.output
    assert "transformers is not installed, the comparison needs 5.x" in result.output


def test_converting_a_directory_is_the_identity_on_keys_and_bits(saved, tmp_path) -> None:
    result = call("convert", saved, tmp_path / "out")
    assert result.exit_code == 0, result.output
    before, after = (load_file(folder / "model.safetensors") for folder in (saved, tmp_path / "out"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_converting_takes_processor_files_along(plain, tmp_path) -> None:
    (tmp_path / "words").mkdir()
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json", "preprocessor_config.json"):
        shutil.copyfile(PRETRAINED / "tiny-printed" / name, tmp_path / "words" / name)
    result = call("convert", plain, tmp_path / "out", "--processor", tmp_path / "words")
    assert result.exit_code == 0, result.output
    assert "with     preprocessor_config.json, tokenizer_config.json, vocab.json, merges.txt" in result.output
    assert "no tokenizer" not in result.output
    assert (tmp_path / "out" / "merges.txt").read_bytes() == (tmp_path / "words" / "merges.txt").read_bytes()


@pytest.mark.parametrize("dtype", STORAGE)
def test_precision_of_the_file_and_in_memory_are_two_things(plain, tmp_path, dtype) -> None:
    result = call("convert", plain, tmp_path, "--dtype", dtype)
    assert result.exit_code == 0, result.output
    with open_weights(tmp_path) as file:
        assert set(file.dtypes.values()) == {getattr(torch, dtype)}
    assert "float32" in json.loads((tmp_path / "config.json").read_text()).values()


def test_configuration_that_would_lose_digits_is_corrected(plain, tmp_path) -> None:
    shutil.copytree(plain, tmp_path / "in")
    config = json.loads((plain / "config.json").read_text())
    (tmp_path / "in" / "config.json").write_text(json.dumps({**config, "dtype": "float16"}))
    result = call("convert", tmp_path / "in", tmp_path / "out")
    assert "config.json said float16, which loses digits of the file; it now says float32" in result.output
    assert "float32" in json.loads((tmp_path / "out" / "config.json").read_text()).values()


def test_state_dict_in_memory_names_beside_a_configuration(saved, tmp_path) -> None:
    model = transformers.VisionEncoderDecoderModel.from_pretrained(saved)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    shutil.copyfile(saved / "config.json", tmp_path / "config.json")
    result = call("convert", tmp_path / "pytorch_model.bin", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "names in memory of transformers 5" in result.output
    before, after = load_file(saved / "model.safetensors"), load_file(tmp_path / "out" / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_weight_file_alone_needs_a_configuration(plain, tmp_path) -> None:
    shutil.copyfile(plain / "model.safetensors", tmp_path / "some.safetensors")
    error = call("convert", tmp_path / "some.safetensors", tmp_path / "out").exception
    assert isinstance(error, DerivationError)
    assert "no config.json beside it" in str(error)
    assert "--config FILE" in str(error)
    result = call(
        "convert", tmp_path / "some.safetensors", tmp_path / "out", "--config", plain / "config.json"
    )
    assert result.exit_code == 0, result.output


def test_hub_id_is_fetched_with_its_processor_files(tmp_path, monkeypatch) -> None:
    hub = FakeHub().start()
    constants = huggingface_hub.constants
    url = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, hub.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url)
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    hub.add("someone/reader", PRETRAINED / "tiny-printed")
    try:
        result = call("convert", "someone/reader", tmp_path / "out")
    finally:
        hub.stop()
    assert result.exit_code == 0, result.output
    for name in ("model.safetensors", "merges.txt", "preprocessor_config.json"):
        assert (tmp_path / "out" / name).read_bytes() == (PRETRAINED / "tiny-printed" / name).read_bytes()
    assert call("convert", "someone/reader", tmp_path / "again", "--offline").exit_code == 0


def test_inspect_shows_modules_and_sums(plain) -> None:
    result = call("inspect", plain)
    assert result.exit_code == 0, result.output
    rows = {" ".join(line.split()) for line in result.output.splitlines()}
    assert "encoder.blocks.{0-1}.mlp.fc1 weight 24 x 16 float32 768 3,072" in rows
    assert "decoder.embed_tokens weight 40 x 12 float32 480 1,920" in rows
    with open_weights(plain) as file:
        total = sum(
            tensor.numel() for name in file.shapes if "pooler" not in name for tensor in [file.tensor(name)]
        )
    assert f"sum without pooler {total:,} {4 * total:,}" in rows
    assert "dialect        hf: Hugging Face, names in files" in result.output
    assert "not one of the official models'" in result.output


def test_inspect_reports_a_configuration_that_does_not_fit(plain, tmp_path) -> None:
    config = json.loads((plain / "config.json").read_text())
    config["decoder"]["decoder_ffn_dim"] = 21
    (tmp_path / "config.json").write_text(json.dumps(config))
    result = call("inspect", plain, "--config", tmp_path / "config.json")
    assert result.exit_code == 1
    assert "the file has (20, 12), the configured model expects (21, 12)" in result.output


def test_inspect_names_the_official_architecture(tmp_path) -> None:
    """Full size, without weights in it: headers are all that is read."""
    official = OFFICIAL_MODELS["microsoft/trocr-small-printed"]
    with torch.device("meta"):
        model = transformers.VisionEncoderDecoderModel(
            transformers.VisionEncoderDecoderConfig(**official.config.to_dict())
        )
    from transformers.core_model_loading import revert_weight_conversion

    offset, header = 0, {}
    for name, tensor in revert_weight_conversion(model, model.state_dict()).items():
        if "pooler" not in name:
            end = offset + 4 * tensor.numel()
            header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [offset, end]}
            offset = end
    text = json.dumps(header).encode()
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + offset)  # a hole: no space on the disk
    (tmp_path / "config.json").write_text(json.dumps(official.config.to_dict()))
    result = call("inspect", tmp_path)
    assert result.exit_code == 0, result.output
    assert "microsoft/trocr-small-handwritten, microsoft/trocr-small-printed" in result.output
    assert result.output.count("61,448,832") == 2
    assert "21,812,352" in result.output
    assert "39,636,480" in result.output


def test_inspect_works_where_no_configuration_can_be_derived(tmp_path) -> None:
    torch.save({"model": fake_fairseq.weights(tiny_models.pair("unilm").state_dict())}, tmp_path / "x.pt")
    result = call("inspect", tmp_path / "x.pt")
    assert result.exit_code == 0, result.output
    assert "configuration  unknown: the file holds no training arguments" in result.output
    rows = {" ".join(line.split()) for line in result.output.splitlines()}
    assert "encoder.blocks.{0-1}.self_attn.k_proj weight 16 x 16 float32 512 2,048" in rows
    assert "ignored decoder.version: fairseq's mark of the layout" in rows


def test_verify_converts_other_dialects_first(tmp_path) -> None:
    model = tiny_models.pair("sinusoidal")
    content = {
        "model": fake_fairseq.weights(model.state_dict()),
        "args": fake_fairseq.arguments("sinusoidal"),
    }
    torch.save(content, tmp_path / "x.pt")
    checks = list(verify(find_source(str(tmp_path / "x.pt")), Hints(encoder_heads=2, decoder_heads=3)))
    assert failed(checks) == []
    assert "greedy tokens" in {check.name for check in checks}


def test_official_architecture_brings_its_image_settings(tmp_path) -> None:
    config = OFFICIAL_MODELS["microsoft/trocr-large-stage1"].config
    written, notes = convert_module.image_settings(config, tmp_path, Hints())
    assert written == ["preprocessor_config.json"]
    assert notes == ["preprocessor_config.json is that of microsoft/trocr-large-printed"]
    assert json.loads((tmp_path / "preprocessor_config.json").read_text())["resample"] == 2
    assert convert_module.image_settings(config, tmp_path, Hints()) == ([], [])
    (note,) = convert_module.tokenizer_note(config, tmp_path)
    assert "microsoft/trocr-large-printed on the Hub has it (RobertaTokenizer)" in note


def test_official_models_by_long_and_short_name() -> None:
    for name, model in OFFICIAL_MODELS.items():
        assert official_model(name) is official_model(name.split("/")[1]) is model
        assert model in same_architecture(model.config)
    with pytest.raises(DerivationError, match="did you mean 'microsoft/trocr-small-printed'"):
        official_model("trocr-smal-printed")


def test_choices_of_families_are_those_of_the_table() -> None:
    (option,) = [option for option in main.commands["convert"].params if option.name == "family"]
    assert list(option.type.choices) == list(FAMILIES)


def test_files_of_other_models_are_not_recognised(tmp_path) -> None:
    save_file(
        {"bert.pooler.dense.weight": torch.zeros(1), "cls.bias": torch.zeros(1)}, tmp_path / "x.safetensors"
    )
    with pytest.raises(DialectError, match=r"not a TrOCR, ViT or DeiT checkpoint.*knows 0 of 2 tensor names"):
        find_source(str(tmp_path / "x.safetensors"))
    with pytest.raises(DialectError, match="knows 0 of 0"):
        recognize([], origin="x")


@pytest.mark.parametrize("command", ["inspect", "verify"])
def test_error_is_one_message_and_status_one(tmp_path, command, monkeypatch, capsys) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"12345")
    monkeypatch.setattr("sys.argv", ["weights_conversion", command, str(tmp_path)])
    with pytest.raises(SystemExit) as caught:
        run()
    assert caught.value.code == 1
    assert capsys.readouterr().err.startswith(f"error: {tmp_path}/model.safetensors: 5 bytes cannot be")
