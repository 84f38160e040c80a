"""ONNX Runtime reads as the model does: with other sizes than traced, beams, pruned blocks, real lines."""

import json
import threading

import numpy as np
import onnx
import onnxruntime
import pytest
import timm_cases
import torch
from exported import SMALL, make_model
from families import FAMILIES, Family, images

from trocr import Reader, TrOCRProcessor, VisionEncoderDecoderModel
from trocr.export import ExportError, OnnxModel, export_onnx, is_onnx_folder
from trocr.export.manifest import MANIFEST
from trocr.generation import ModelDraft
from trocr.surgery.pruning import prune_heads, prune_units

OPTIONS = (
    {},
    {"num_beams": 4},
    {"num_beams": 3, "num_return_sequences": 3},
    {"do_sample": True, "seed": 3, "num_return_sequences": 2},
    {"use_cache": False},
)


def check_tokens(model, exported, family: Family, *, counts=(1, 4)) -> None:
    pixels = images(family, max(counts))
    for options in OPTIONS:
        for count in counts:
            wanted = model.generate(pixels[:count], max_new_tokens=7, **options)
            found = exported.generate(pixels[:count], max_new_tokens=7, **options)
            assert torch.equal(found, wanted), (options, count)


@pytest.mark.parametrize("name", SMALL)
def test_the_same_tokens(name, model_of, onnx_folder):
    exported = OnnxModel.from_pretrained(onnx_folder(name), threads=1)
    check_tokens(model_of(name, small=True), exported, SMALL[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_the_same_tokens_of_every_family(name, model_of, tmp_path):
    model = model_of(name)
    export_onnx(model, tmp_path / "onnx")
    check_tokens(model, OnnxModel.from_pretrained(tmp_path / "onnx"), FAMILIES[name], counts=(1, 4, 9))


@pytest.mark.slow
@pytest.mark.parametrize("opset", [19, 20, 21, 22, 23])
def test_other_opsets(opset, model_of, tmp_path):
    model = model_of("learned", small=True)
    manifest = export_onnx(model, tmp_path / "onnx", opset=opset)
    assert manifest.made_with["opset"] == opset
    graph = onnx.load(tmp_path / "onnx" / "step.onnx")
    assert next(item.version for item in graph.opset_import if item.domain == "") == opset
    check_tokens(model, OnnxModel.from_pretrained(tmp_path / "onnx"), SMALL["learned"])


def test_narrower_images(model_of, onnx_folder):
    model, exported = model_of("learned", small=True), OnnxModel.from_pretrained(onnx_folder("learned"))
    for width in (8, 16, 21, 32):
        narrow = images(SMALL["learned"], 2)[..., :width]
        with torch.no_grad():
            wanted = model.encode(narrow, crop_pos_encoding=True).last_hidden_state
        found = exported.encode(narrow, crop_pos_encoding=True).last_hidden_state
        assert torch.allclose(found, wanted, atol=1e-4), width


def test_the_graphs_are_whole_and_say_their_sizes(onnx_folder):
    folder = onnx_folder("learned")
    shapes = {}
    for file in folder.glob("*.onnx"):
        onnx.checker.check_model(onnx.load(file), full_check=True)
        session = onnxruntime.InferenceSession(file)
        shapes[file.stem] = {
            item.name: item.shape for item in (*session.get_inputs(), *session.get_outputs())
        }
    assert set(shapes) == {"encoder", "cross", "step"}
    assert shapes["encoder"] == {
        "pixel_values": ["images", 3, 32, "8*columns"],
        "states": ["images", "4*columns + 1", 32],
    }
    assert shapes["step"]["input_ids"] == ["images", "rows", "new"]
    assert shapes["step"]["past_key_0"] == ["images", "rows", 4, "held", 12]
    assert shapes["step"]["cross_value_0"] == ["images", 4, "states", 12]
    assert shapes["step"]["logits"] == ["images", "rows", "new", 99]


def test_the_model_is_left_as_it_was(model_of, tmp_path):
    model = model_of("learned", small=True)
    cores = [module.core for module in model.modules() if hasattr(module, "core")]
    assert set(cores) == {"sdpa"}
    model.train()
    try:
        export_onnx(model, tmp_path / "onnx")
        assert all(module.training for module in model.modules())
    finally:
        model.eval()
    assert [module.core for module in model.modules() if hasattr(module, "core")] == cores


def test_the_manifest_says_what_was_made_and_how_it_was_checked(onnx_folder):
    values = json.loads((onnx_folder("learned") / MANIFEST).read_text(encoding="utf-8"))
    assert (values["kind"], values["dtype"], values["quantize"]) == ("onnx", "float32", None)
    assert values["made_with"]["opset"] == 18
    assert values["made_with"]["torch"] == str(torch.__version__)
    assert values["layers"] == [[4, 12]]
    check = values["check"]
    assert check["same"] == check["images"] == 3
    assert check["agreeing"] == check["tokens"] > 0
    assert check["difference"] < 1e-4


@pytest.mark.slow
def test_blocks_of_different_sizes(tmp_path):
    """Heads and units pruned block by block: keys and values differ in shape."""
    family = FAMILIES["learned"].changed({"num_hidden_layers": 1})
    model = make_model(family, tmp_path / "model")
    prune_heads(model, heads={"decoder.blocks.0.self_attn": [1], "decoder.blocks.1.cross_attn": [0, 2]})
    prune_units(model, units={"decoder.blocks.1.mlp": list(range(10))})
    manifest = export_onnx(model, tmp_path / "onnx")
    assert manifest.layers == ((3, 12), (4, 12))
    check_tokens(model, OnnxModel.from_pretrained(tmp_path / "onnx"), family)


def test_a_second_thread_may_read_too(model_of, onnx_folder):
    exported = OnnxModel.from_pretrained(onnx_folder("learned"))
    pixels = images(SMALL["learned"], 4)
    wanted, found = exported.generate(pixels, max_new_tokens=7), {}

    def read(number: int) -> None:
        found[number] = exported.generate(pixels, max_new_tokens=7)

    threads = [threading.Thread(target=read, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3
    assert all(torch.equal(tokens, wanted) for tokens in found.values())


# ---- the shipped reader on real lines -------------------------------------------------------------


@pytest.fixture(scope="module")
def lines(repo):
    rows = (repo / "examples" / "labels.tsv").read_text(encoding="utf-8").splitlines()
    return [str(repo / "examples" / row.split("\t")[0]) for row in rows]


@pytest.mark.parametrize(
    "options", [{}, {"batch_size": 3}, {"num_beams": 3}, {"native_width": True}], ids=str
)
def test_the_same_texts(shipped, shipped_folder, lines, options):
    ours = Reader(shipped.model, processor=shipped.processor)
    theirs = Reader(shipped_folder)  # nothing but the folder
    assert isinstance(theirs.model, OnnxModel)
    for wanted, found in zip(ours.read(lines, **options), theirs.read(lines, **options), strict=True):
        assert found.text == wanted.text
        assert [token.id for token in found.tokens] == [token.id for token in wanted.tokens]
        assert found.score == pytest.approx(wanted.score, abs=1e-4)


def test_a_draft_is_verified(shipped, shipped_folder, lines):
    exported = OnnxModel.from_pretrained(shipped_folder)
    pixels = shipped.processor(images=lines[:3], return_tensors="pt")["pixel_values"]
    wanted = exported.generate(pixels)
    draft = ModelDraft(shipped.model)  # which guesses right: many tokens are scored at once, and cut back
    assert torch.equal(exported.generate(pixels, draft=draft), wanted)


def test_int8_reads_the_same_lines(shipped, shipped_folder, lines, tmp_path):
    pixels = shipped.processor(images=lines, return_tensors="pt")["pixel_values"]
    manifest = export_onnx(shipped.model, tmp_path / "int8", shipped.processor, quantize="int8", check=pixels)
    assert manifest.quantize == "int8"
    assert manifest.check["on"] == "images"
    assert manifest.check["agreeing"] / manifest.check["tokens"] >= 0.98  # seen: all of them
    sizes = [
        sum(path.stat().st_size for path in f.glob("*.onnx")) for f in (shipped_folder, tmp_path / "int8")
    ]
    assert sizes[1] < 0.35 * sizes[0]
    kinds = {node.op_type for node in onnx.load(tmp_path / "int8" / "step.onnx").graph.node}
    assert "MatMulInteger" in kinds
    theirs = Reader(tmp_path / "int8")
    texts = [line.text for line in Reader(shipped.model, processor=shipped.processor).read(lines)]
    same = sum(line.text == text for line, text in zip(theirs.read(lines), texts, strict=True))
    assert same >= len(lines) - 1  # seen: all of them


def test_int8_that_is_far_off_is_refused(shipped, tmp_path, monkeypatch):
    from trocr.export import onnx_export

    def spoiled(package, proto, path):
        for item in proto.graph.initializer:
            values = onnx.numpy_helper.to_array(item)
            if values.ndim == 2 and values.dtype == np.float32:
                item.CopyFrom(onnx.numpy_helper.from_array((values > 0).astype(np.float32) * 0.1, item.name))
        onnx.save_model(proto, str(path))

    monkeypatch.setattr(onnx_export, "quantize_file", spoiled)
    with pytest.raises(
        ExportError, match=r"tokens agree \(0\.\d+\), expected at least 0\.6.*Nothing is written"
    ):
        export_onnx(shipped.model, tmp_path / "int8", quantize="int8")
    assert list(tmp_path.iterdir()) == []


def test_without_the_weights(shipped_folder, tmp_path):
    """A folder is told from others, and holds no checkpoint."""
    assert is_onnx_folder(shipped_folder)
    assert not is_onnx_folder(tmp_path)
    (tmp_path / "model.onnx").touch()  # as some checkpoints have beside their weights
    assert not is_onnx_folder(tmp_path)
    assert not list(shipped_folder.glob("*.safetensors"))
    assert TrOCRProcessor.from_pretrained(shipped_folder).tokenizer is not None
    with pytest.raises(ValueError, match="safetensors"):
        VisionEncoderDecoderModel.from_pretrained(shipped_folder)


# ---- encoders of timm -----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", timm_cases.CASES)
def test_encoders_of_timm(name, tmp_path):
    """They take images of one width; narrower ones get flat columns, as from the model itself."""
    model = timm_cases.reader_of(name)
    manifest = export_onnx(model, tmp_path / "onnx")
    assert not manifest.any_width
    exported = OnnxModel.from_pretrained(tmp_path / "onnx")
    pixels = timm_cases.images(3)
    for options in OPTIONS:
        wanted = model.generate(pixels, max_new_tokens=7, **options)
        assert torch.equal(exported.generate(pixels, max_new_tokens=7, **options), wanted), options
    narrow = pixels[..., :50]
    with torch.no_grad():
        wanted = model.encode(narrow, crop_pos_encoding=True).last_hidden_state
    found = exported.encode(narrow, crop_pos_encoding=True).last_hidden_state
    assert torch.allclose(found, wanted, atol=1e-4)
