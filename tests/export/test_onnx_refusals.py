"""What cannot be exported or read is refused in words, and nothing is left behind."""

import copy
import json
import shutil
import sys

import onnx
import pytest
import torch
from exported import SMALL
from families import images
from torch import nn

from trocr.export import ExportedModelError, ExportError, OnnxModel, export_onnx, onnx_export
from trocr.export.manifest import MANIFEST
from trocr.nn.attention import Attention


@pytest.fixture
def model(model_of):
    return model_of("learned", small=True)


@pytest.fixture
def folder(onnx_folder, tmp_path):
    """A copy that a test may spoil."""
    shutil.copytree(onnx_folder("learned"), tmp_path / "copy")
    return tmp_path / "copy"


def refuse(model, tmp_path, match, **options):
    with pytest.raises(ExportError, match=match):
        export_onnx(model, tmp_path / "made" / "onnx", **options)
    assert not (tmp_path / "made").exists() or list((tmp_path / "made").iterdir()) == []


def test_other_models(tmp_path, model):
    refuse(nn.Linear(2, 2), tmp_path, "a Linear cannot be exported, expected a VisionEncoderDecoderModel")
    refuse(model.decoder, tmp_path, "a TrOCRForCausalLM cannot be exported")


def test_options(tmp_path, model):
    refuse(model, tmp_path, "opset is 9, expected 18 to 23", opset=9)
    refuse(model, tmp_path, "quantize is 'int4', expected None or 'int8'", quantize="int4")


def test_half_precision(tmp_path, model):
    half = copy.deepcopy(model).to(torch.bfloat16)
    refuse(half, tmp_path, "in bfloat16, expected float32.*dtype='float32'")


@pytest.mark.parametrize(
    ("path", "part", "said"),
    [
        ("decoder.blocks.0", nn.Identity(), "decoder.blocks.0 is a Identity"),
        ("decoder.blocks.0.cross_attn", nn.Identity(), "decoder.blocks.0.cross_attn is a Identity"),
        ("decoder.embed_positions", nn.Embedding(4, 4), "decoder.embed_positions is a Embedding"),
        ("decoder.blocks", nn.ModuleList(), "decoder.blocks is empty"),
    ],
)
def test_parts_that_graphs_do_not_know(tmp_path, model, path, part, said):
    owner, _, leaf = path.rpartition(".")
    owner = model.get_submodule(owner)
    former = getattr(owner, leaf)
    setattr(owner, leaf, part)
    try:
        refuse(model, tmp_path, f"could not express: {said}.*put such blocks back")
    finally:
        setattr(owner, leaf, former)


class DependsOnData(nn.Module):
    """Cannot be traced."""

    def forward(self, x):
        return x * 2 if float(x.sum()) > 0 else x


def test_a_part_that_depends_on_data(tmp_path, model):
    former, model.encoder.norm = model.encoder.norm, nn.Sequential(model.encoder.norm, DependsOnData())
    try:
        refuse(model, tmp_path, "the encoder of this model cannot be traced by torch.*replace that part")
    finally:
        model.encoder.norm = former


def test_a_folder_in_use(tmp_path, model):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("keep me", encoding="utf-8")
    with pytest.raises(ExportError, match="notes has files in it, expected a new or empty folder"):
        export_onnx(model, tmp_path / "notes")
    with pytest.raises(ExportError, match=r"a\.txt is a file"):
        export_onnx(model, tmp_path / "notes" / "a.txt")
    assert (tmp_path / "notes" / "a.txt").read_text(encoding="utf-8") == "keep me"
    (tmp_path / "empty").mkdir()
    export_onnx(model, tmp_path / "empty")
    assert (tmp_path / "empty" / MANIFEST).is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "notes"]


def test_an_export_that_reads_something_else(tmp_path, model, monkeypatch):
    """A wrong number in a graph is found by the check."""

    def save(package, proto, path):
        if path.stem == "step":
            for item in proto.graph.initializer:
                if item.name.endswith("mlp.fc2.bias"):
                    values = onnx.numpy_helper.to_array(item) * -3
                    item.CopyFrom(onnx.numpy_helper.from_array(values, item.name))
        onnx.save_model(proto, str(path))

    monkeypatch.setattr(onnx_export, "save_graph", save)
    refuse(model, tmp_path, "does not read as the model does: .*scores differ by.*Nothing is written")


def test_a_gate_of_the_callers(tmp_path, model):
    seen = []

    def accept(exported):
        seen.append(type(exported))
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        export_onnx(model, tmp_path / "onnx", accept=accept)
    assert seen == [OnnxModel]
    assert list(tmp_path.iterdir()) == []


def test_images_of_the_check_that_do_not_fit(tmp_path, model):
    refuse(model, tmp_path, r"images of the check have shape \(3, 32, 32\)", check=torch.zeros(3, 32, 32))


@pytest.mark.parametrize("missing", ["onnx", "onnxscript", "onnxruntime"])
def test_packages_that_are_not_installed(tmp_path, model, onnx_folder, monkeypatch, missing):
    folder = onnx_folder("learned")
    monkeypatch.setitem(sys.modules, missing, None)
    refuse(model, tmp_path, rf"needs {missing}, which is not installed: pip install 'trocr\[onnx\]'")
    if missing == "onnxruntime":
        with pytest.raises(ExportedModelError, match=r"not installed: pip install 'trocr\[onnx\]'"):
            OnnxModel.from_pretrained(folder)
    else:  # reading needs neither
        OnnxModel.from_pretrained(folder)


# ---- folders that are not what was written --------------------------------------------------------


def not_read(folder, match):
    with pytest.raises(ExportedModelError, match=match):
        OnnxModel.from_pretrained(folder)


def test_a_folder_without_a_manifest(folder, tmp_path):
    not_read(tmp_path / "nowhere", "nowhere has no export.json")
    (folder / MANIFEST).unlink()
    not_read(folder, "it is not a model that `trocr export` wrote")


def test_a_manifest_that_is_no_json(folder):
    (folder / MANIFEST).write_text("{", encoding="utf-8")
    not_read(folder, "export.json: not valid JSON")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"version": 2}, "version 2; expected kind 'onnx', version 1: export the model again"),
        ({"kind": "package"}, "of kind 'package'"),
        ({"bold": True}, "has too much: bold"),
        ({"dtype": "int3"}, "another form .*dtype 'int3'"),
        ({"layers": [[4, "x"]]}, "another form .*instead of 2 whole numbers"),
        ({"image": 3}, "another form"),
        ({"files": {"encoder.onnx": 1}}, "another form"),
        ({"graphs": None}, "another form"),
        ({"graphs": {"encoder": "encoder.onnx", "cross": "cross.onnx"}}, "no graph step"),
        ({"graphs": {"encoder": "e", "cross": "cross.onnx", "step": "step.onnx"}}, "no file for encoder"),
    ],
)
def test_another_manifest(folder, changes, said):
    values = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    (folder / MANIFEST).write_text(json.dumps({**values, **changes}), encoding="utf-8")
    not_read(folder, said)


def test_a_manifest_that_lacks_something(folder):
    values = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    del values["layers"]
    (folder / MANIFEST).write_text(json.dumps(values), encoding="utf-8")
    not_read(folder, "lacks layers")


def test_a_graph_that_is_missing(folder):
    (folder / "step.onnx").unlink()
    not_read(folder, "is damaged: step.onnx is missing")


def test_a_graph_that_is_cut_short(folder):
    content = (folder / "cross.onnx").read_bytes()
    (folder / "cross.onnx").write_bytes(content[:-100])
    not_read(folder, f"cross.onnx has {len(content) - 100} bytes, {len(content)} were written")


def test_a_graph_with_a_flipped_bit(folder):
    content = bytearray((folder / "encoder.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "encoder.onnx").write_bytes(content)
    not_read(folder, "encoder.onnx has another content than was written")


def test_a_graph_that_the_runtime_cannot_read(folder):
    """As of a newer operator set: the manifest is right, and the runtime says no."""
    from trocr.export.manifest import facts

    (folder / "step.onnx").write_bytes(b"not a graph")
    values = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    values["files"].update(facts(folder, ["step.onnx"]))
    (folder / MANIFEST).write_text(json.dumps(values), encoding="utf-8")
    not_read(folder, "step.onnx cannot be read by onnxruntime .*install a newer onnxruntime")


def test_a_cache_of_another_model(model, onnx_folder):
    exported = OnnxModel.from_pretrained(onnx_folder("learned"))
    with torch.no_grad():
        out = model.decoder(
            input_ids=torch.tensor([[2]]),
            encoder_hidden_states=model.memory(model.encode(images(SMALL["learned"], 1))),
            use_cache=True,
        )
    with pytest.raises(
        ExportedModelError, match="is a DecoderCache, expected the cache that this model gave"
    ):
        exported.decoder(input_ids=torch.tensor([[3]]), past_key_values=out.past_key_values)


def test_attention_classes_of_others(model, tmp_path):
    class Another(Attention):
        pass

    block = model.decoder.blocks[0]
    former = block.self_attn
    block.self_attn = Another(width=48, num_heads=4)
    try:
        refuse(model, tmp_path, "decoder.blocks.0.self_attn is a Another")
    finally:
        block.self_attn = former
