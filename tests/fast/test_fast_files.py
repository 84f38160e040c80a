"""Optimized checkpoints: calibrated or not, written, read, and refused where they are damaged."""

import json

import pytest
import torch
from families import images

from trocr import OptimizeError, Reader, load_optimized, optimize
from trocr.fast.files import SETTINGS_FILE, WEIGHTS_FILE, save_optimized
from trocr.fast.linear import StaticInt8Linear


def kinds(pair):
    pixels = images(pair.family, 8, seed=5)
    return {
        "dynamic": optimize(pair.ours, dtype="float32", quantize="int8"),
        "calibrated": optimize(pair.ours, dtype="float32", quantize="int8", calibration=[pixels, pixels[:2]]),
    }


@pytest.mark.parametrize("kind", ["dynamic", "calibrated"])
def test_int8_comes_back_as_it_was(pair, kind, tmp_path):
    fast, pixels = kinds(pair)[kind], images(pair.family, 4)
    save_optimized(fast, tmp_path, report={"cer": 0.1})
    loaded = load_optimized(tmp_path)
    assert loaded.settings == fast.settings
    assert loaded.config == fast.config
    with torch.inference_mode():
        assert torch.equal(loaded.encode(pixels).last_hidden_state, fast.encode(pixels).last_hidden_state)
    options = {"max_new_tokens": 8}
    assert torch.equal(loaded.generate(pixels, **options), fast.generate(pixels, **options))
    assert json.loads((tmp_path / SETTINGS_FILE).read_text())["report"] == {"cer": 0.1}
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        *("config.json", "generation_config.json", SETTINGS_FILE, WEIGHTS_FILE)
    ]


@torch.inference_mode()
def test_calibrated_encoders_do_not_depend_on_the_batch(pair_of):
    pair = pair_of("learned")
    fast, pixels = kinds(pair)["calibrated"], images(pair.family, 6)
    blocks = fast.encoder.blocks
    if not isinstance(blocks[0].qkv, StaticInt8Linear):
        pytest.skip("this processor has no int8 dot products: ranges are measured anew")
    whole = fast.encode(pixels).last_hidden_state
    for row in range(6):
        torch.testing.assert_close(fast.encode(pixels[row : row + 1]).last_hidden_state[0], whole[row])
    plain = pair.ours.encode(pixels).last_hidden_state
    assert float((whole - plain).abs().mean() / plain.abs().mean()) < 0.1


def test_weights_that_are_not_finite_are_found(pair_of):
    model = pair_of("learned").fresh()
    with torch.no_grad():
        model.encoder.blocks[1].mlp.fc1.weight[0, 0] = float("nan")
    with pytest.raises(OptimizeError, match=r"encoder\.blocks\.1\.fc2 reads values that are not finite"):
        optimize(model, quantize="int8", calibration=[images(pair_of("learned").family, 1)])


def test_float32_is_not_stored(pair_of, tmp_path):
    with pytest.raises(OptimizeError, match="keep its checkpoint"):
        optimize(pair_of("learned").ours).save_pretrained(tmp_path)
    assert not list(tmp_path.iterdir())


def damaged(tmp_path, name, content):
    file = tmp_path / name
    file.write_bytes(content(file.read_bytes()))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (WEIGHTS_FILE, lambda data: data[: len(data) // 2], "is damaged or incomplete"),
        (WEIGHTS_FILE, lambda data: b"", "is damaged or incomplete"),
        (SETTINGS_FILE, lambda data: b"{", "write the folder anew"),
        (SETTINGS_FILE, lambda data: data.replace(b'"format": 2', b'"format": 9'), "its format is 9"),
        (SETTINGS_FILE, lambda data: data.replace(b'"int8"', b'"int3"'), "int3"),
        (
            "config.json",
            lambda data: data.replace(b'"decoder_layers": 2', b'"decoder_layers": 3'),
            "are not those",
        ),
    ],
)
def test_damaged_folders(pair_of, tmp_path, name, content, message):
    kinds(pair_of("learned"))["dynamic"].save_pretrained(tmp_path)
    damaged(tmp_path, name, content)
    with pytest.raises(ValueError, match=message):
        load_optimized(tmp_path)


def test_a_folder_that_is_none(tmp_path):
    with pytest.raises(OptimizeError, match=r"there is no optimized\.json"):
        load_optimized(tmp_path)


def test_the_shipped_reader_in_int8(repo, tmp_path):
    reader = Reader("tiny-printed", quantize="int8")
    files = sorted((repo / "examples").glob("*.[pj]*g"))
    texts = [line.text for line in reader.read(files)]
    rows = (repo / "examples" / "labels.tsv").read_text(encoding="utf-8").splitlines()
    labels = dict(row.split("\t") for row in rows)
    assert texts == [labels[file.name] for file in files]
    reader.model.save_pretrained(tmp_path)
    reader.processor.save_pretrained(tmp_path)
    assert [line.text for line in Reader(tmp_path).read(files)] == texts
    assert (tmp_path / WEIGHTS_FILE).stat().st_size < 12e6  # 33 MB in float32
    with pytest.raises(ValueError, match="was optimized, and is read as it is: leave dtype='float32' out"):
        Reader(tmp_path, dtype="float32")
