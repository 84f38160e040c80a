"""Weight files: what is read, what is refused, and the words for it."""

import argparse
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from weights_conversion.files import WeightFileError, find_weights, open_weights

TENSORS = {
    "b.weight": torch.arange(12, dtype=torch.float32).reshape(3, 4),
    "a": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
    "c.bias": torch.arange(5, dtype=torch.int64),
    "scalar": torch.tensor(3.0, dtype=torch.float16),
    "empty": torch.zeros(0, 7),
}


class Loud:
    """Unpickling this would run code."""

    def __reduce__(self):
        return os.mkdir, ("/nonexistent/executed",)


def write(path, tensors=None) -> None:
    tensors = TENSORS if tensors is None else tensors
    if path.suffix == ".safetensors":
        save_file(tensors, path, metadata={"format": "pt"})
    else:
        torch.save(tensors, path)


def shard(directory, suffix) -> None:
    """A checkpoint in two files with an index."""
    stem = "model" if suffix == ".safetensors" else "pytorch_model"
    names = list(TENSORS)
    where = {}
    for number, part in enumerate((names[:2], names[2:]), start=1):
        file = f"{stem}-{number:05d}-of-00002{suffix}"
        write(directory / file, {name: TENSORS[name] for name in part})
        where.update(dict.fromkeys(part, file))
    index = directory / f"{stem}{suffix}.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": where}))


def assert_same_tensors(file) -> None:
    assert {name: tuple(t.shape) for name, t in TENSORS.items()} == file.shapes
    assert {name: t.dtype for name, t in TENSORS.items()} == file.dtypes
    for name, tensor in TENSORS.items():
        read = file.tensor(name)
        assert read.dtype == tensor.dtype
        assert torch.equal(read, tensor)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "some.pt", "last.ckpt", "x.pth"])
def test_single_files(tmp_path, name) -> None:
    write(tmp_path / name)
    with open_weights(tmp_path / name) as file:
        assert_same_tensors(file)
        assert file.extra == {}


def test_file_from_before_the_zip_format(tmp_path) -> None:
    torch.save(TENSORS, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    with open_weights(tmp_path) as file:
        assert_same_tensors(file)


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_shards(tmp_path, suffix) -> None:
    shard(tmp_path, suffix)
    with open_weights(tmp_path) as file:
        assert_same_tensors(file)
        assert file.kind.endswith("shards")


def test_order_of_preference_in_a_directory(tmp_path) -> None:
    wanted = ["model.safetensors", "model.safetensors.index.json"]
    wanted += ["pytorch_model.bin", "pytorch_model.bin.index.json"]
    for name in reversed(wanted):
        (tmp_path / name).touch()
        assert find_weights(tmp_path).name == name


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="this system does not list mapped files")
def test_tensors_are_views_of_the_mapped_file(tmp_path, name) -> None:
    write(tmp_path / name)
    with open_weights(tmp_path) as file:
        first, second = file.tensor("b.weight"), file.tensor("b.weight")
        assert first.data_ptr() == second.data_ptr()
        assert str(tmp_path / name) in Path("/proc/self/maps").read_text()


def test_tensors_outlive_the_file_object(tmp_path) -> None:
    write(tmp_path / "model.safetensors")
    with open_weights(tmp_path) as file:
        kept = file.tensor("b.weight")
    assert torch.equal(kept, TENSORS["b.weight"])
    with pytest.raises(WeightFileError, match="closed"):
        file.tensor("b.weight")


def test_asking_for_an_absent_tensor(tmp_path) -> None:
    write(tmp_path / "model.safetensors")
    with open_weights(tmp_path) as file, pytest.raises(WeightFileError, match=r"no tensor 'zz'; it holds 5"):
        file.tensor("zz")


def refusal(path) -> str:
    with pytest.raises(WeightFileError) as caught:
        open_weights(path)
    assert isinstance(caught.value, ValueError)
    return str(caught.value)


def test_nothing_there(tmp_path) -> None:
    assert "no such file or directory" in refusal(tmp_path / "absent")
    (tmp_path / "README.md").touch()
    message = refusal(tmp_path)
    assert "expected one of model.safetensors" in message
    assert "found README.md" in message
    (tmp_path / "x.npz").touch()
    assert "cannot tell what kind" in refusal(tmp_path / "x.npz")


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda raw: b"", "0 bytes cannot be a safetensors file"),
        (lambda raw: raw[:5], "5 bytes cannot be a safetensors file"),
        (lambda raw: raw[:40], r"corrupt safetensors header: \d+ bytes long, 32 are left"),
        (lambda raw: b"\xff" * 8 + raw[8:], "corrupt safetensors header: 18446744073709551615 bytes long"),
        (lambda raw: raw[:8] + b"#" * 30 + raw[38:], "expected JSON of dtype, shape and data_offsets"),
        (lambda raw: raw.replace(b'"shape"', b'"shap_"'), "expected JSON of dtype, shape and data_offsets"),
        (lambda raw: raw[:-9], r"truncated: the header describes \d+ bytes of tensors, the file has \d+"),
        (lambda raw: raw + b"tail", "damaged safetensors file"),
        (lambda raw: raw.replace(b'"BF16"', b'"BF17"'), "dtype BF17 is not read"),
        (lambda raw: raw.replace(b'"BF16"', b'["B"] '), "expected JSON of dtype, shape and data_offsets"),
    ],
)
def test_damaged_safetensors(tmp_path, damage, expected) -> None:
    path = tmp_path / "model.safetensors"
    write(path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(WeightFileError, match=expected) as caught:
        open_weights(tmp_path)
    assert str(path) in str(caught.value)


def test_header_that_is_a_list(tmp_path) -> None:
    (tmp_path / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"[]")
    assert "corrupt safetensors header" in refusal(tmp_path)


@pytest.mark.parametrize("size", [0, 3, 200, 900])
def test_truncated_pickle(tmp_path, size) -> None:
    path = tmp_path / "pytorch_model.bin"
    write(path)
    path.write_bytes(path.read_bytes()[:size])
    message = refusal(tmp_path)
    assert str(path) in message
    assert "download or save it again" in message


def test_text_with_the_name_of_a_weight_file(tmp_path) -> None:
    (tmp_path / "pytorch_model.bin").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    assert "download or save it again" in refusal(tmp_path)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_pickle_is_never_run(tmp_path, zipped) -> None:
    path = tmp_path / "pytorch_model.bin"
    torch.save({"model": TENSORS, "x": Loud()}, path, _use_new_zipfile_serialization=zipped)
    message = refusal(tmp_path)
    assert "refused" in message
    assert "mkdir" in message
    assert "never runs code" in message


def test_namespace_is_the_one_object_allowed(tmp_path) -> None:
    args = argparse.Namespace(arch="trocr_small", input_size=[384])
    torch.save({"model": TENSORS, "args": args, "extra_state": {"epoch": 3}}, tmp_path / "x.pt")
    with open_weights(tmp_path / "x.pt") as file:
        assert_same_tensors(file)
        assert file.extra["args"].arch == "trocr_small"
        assert file.extra["extra_state"] == {"epoch": 3}


def test_namespace_stays_forbidden_elsewhere(tmp_path) -> None:
    test_namespace_is_the_one_object_allowed(tmp_path)
    with pytest.raises(Exception, match=r"argparse\.Namespace"):
        torch.load(tmp_path / "x.pt", weights_only=True)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ([torch.zeros(1)], "holds a list, expected a dictionary of tensors"),
        ({"a": torch.zeros(1), "epoch": 3}, "expected a dictionary of tensors; epoch is not"),
        ({}, "it has no tensors"),
        ({"model": {"a": 1}}, "a is not"),
    ],
)
def test_pickle_of_something_else(tmp_path, content, expected) -> None:
    torch.save(content, tmp_path / "x.pt")
    assert expected in refusal(tmp_path / "x.pt")


def test_lightning_style_wrapper(tmp_path) -> None:
    torch.save({"state_dict": TENSORS, "epoch": 1}, tmp_path / "last.ckpt")
    with open_weights(tmp_path / "last.ckpt") as file:
        assert_same_tensors(file)
        assert file.extra == {"epoch": 1}


def test_missing_shard(tmp_path) -> None:
    shard(tmp_path, ".safetensors")
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    message = refusal(tmp_path)
    assert "model-00002-of-00002.safetensors: missing shard" in message
    assert "puts 3 tensors there" in message


def test_shards_of_another_save(tmp_path) -> None:
    shard(tmp_path, ".safetensors")
    save_file({"other": torch.zeros(1)}, tmp_path / "model-00001-of-00002.safetensors")
    message = refusal(tmp_path)
    assert "2 tensors of the index are not in their shards: b.weight (in model-00001-of-00002" in message
    shutil.rmtree(tmp_path)
    tmp_path.mkdir()
    shard(tmp_path, ".safetensors")
    save_file({**TENSORS, "other": torch.zeros(1)}, tmp_path / "model-00001-of-00002.safetensors")
    assert "tensors of the shards are not in the index" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("index", "expected"),
    [
        ("{", "not a shard index"),
        ("[]", "not a shard index"),
        ('{"metadata": {}}', "not a shard index"),
        ('{"weight_map": {}}', "at least one tensor"),
        ('{"weight_map": {"a": 3}}', "at least one tensor"),
        ('{"weight_map": {"a": "../model.safetensors"}}', "not a plain file name"),
    ],
)
def test_faulty_index(tmp_path, index, expected) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(index)
    assert expected in refusal(tmp_path)
