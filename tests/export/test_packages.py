"""Packages of AOTInductor read as the model does; compiling takes most of a minute and is marked slow."""

import copy
import json
import shutil

import pytest
import torch
from exported import SMALL
from families import images

from trocr import Reader, VisionEncoderDecoderModel
from trocr.export import (
    ExportedModelError,
    ExportError,
    PackagedModel,
    export_package,
    is_package_folder,
    packages,
)
from trocr.export.manifest import MANIFEST
from trocr.export.tracing import graphs_of

OPTIONS = (
    {},
    {"num_beams": 4},
    {"num_beams": 3, "num_return_sequences": 3},
    {"do_sample": True, "seed": 3, "num_return_sequences": 2},
    {"use_cache": False},
)


@pytest.fixture
def uncompiled(monkeypatch):
    """Save what was traced without compiling it: everything but the compiler is as it is."""

    def save(graph, path):
        torch.export.save(graph.traced(), path)

    monkeypatch.setattr(packages, "_compile", save)
    monkeypatch.setattr(torch._inductor, "aoti_load_package", lambda path: torch.export.load(path).module())


def check_tokens(model, exported, family) -> None:
    pixels = images(family, 5)
    for options in OPTIONS:
        for count in (1, 5):
            wanted = model.generate(pixels[:count], max_new_tokens=7, **options)
            found = exported.generate(pixels[:count], max_new_tokens=7, **options)
            assert torch.equal(found, wanted), (options, count)


@pytest.mark.parametrize("name", [pytest.param("learned", marks=pytest.mark.slow), "other"])
def test_traced_programs_read_the_same(name, model_of, tmp_path, uncompiled):
    model = model_of(name, small=True)
    export_package(model, tmp_path / "package")
    assert is_package_folder(tmp_path / "package")
    check_tokens(model, PackagedModel.from_pretrained(tmp_path / "package"), SMALL[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_compiled_packages_read_the_same(name, model_of, tmp_path):
    model = model_of(name, small=True)
    manifest = export_package(model, tmp_path / "package")
    assert manifest.check["same"] == manifest.check["images"]
    check_tokens(model, PackagedModel.from_pretrained(tmp_path / "package"), SMALL[name])


@pytest.mark.slow
def test_the_shipped_reader_reads_the_same_lines(shipped, repo, tmp_path):
    rows = (repo / "examples" / "labels.tsv").read_text(encoding="utf-8").splitlines()
    lines = [str(repo / "examples" / row.split("\t")[0]) for row in rows]
    export_package(shipped.model, tmp_path / "package", shipped.processor)
    exported = PackagedModel.from_pretrained(tmp_path / "package")
    for options in ({}, {"num_beams": 3}, {"native_width": True}):
        ours = Reader(shipped.model, processor=shipped.processor).read(lines, **options)
        theirs = Reader(exported, processor=shipped.processor).read(lines, **options)
        assert [line.text for line in theirs] == [line.text for line in ours]


def test_without_a_compiler(model_of, tmp_path, monkeypatch):
    from torch._inductor import exc
    from torch._inductor.cpp_builder import get_cpp_compiler

    assert get_cpp_compiler()

    def none() -> str:
        raise exc.InvalidCxxCompiler()

    monkeypatch.setattr("torch._inductor.cpp_builder.get_cpp_compiler", none)
    with pytest.raises(ExportError, match=r"none was found.*install g\+\+ or clang.*CXX; export to ONNX"):
        export_package(model_of("learned", small=True), tmp_path / "package")
    assert list(tmp_path.iterdir()) == []


def test_a_compiler_that_fails(model_of, tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("fatal error: omp.h: No such file\nand more")

    monkeypatch.setattr(torch._inductor, "aoti_compile_and_package", fail)
    with pytest.raises(
        ExportError, match=r"the encoder of this model cannot be compiled.*omp\.h: No such file\)"
    ):
        export_package(model_of("learned", small=True), tmp_path / "package")
    assert list(tmp_path.iterdir()) == []


def test_other_precisions(tmp_path, model_of):
    model = copy.deepcopy(model_of("learned", small=True)).double()
    with pytest.raises(ExportError, match=r"in torch\.float64, expected one of float32, bfloat16, float16"):
        export_package(model, tmp_path / "package")


@pytest.fixture
def folder(model_of, tmp_path, monkeypatch):
    """A package that nothing is in."""
    monkeypatch.setattr(packages, "_compile", lambda graph, path: path.write_bytes(b"no package"))
    monkeypatch.setattr(packages, "finish", finish_without_reading(packages.finish))
    export_package(model_of("learned", small=True), tmp_path / "package")
    return tmp_path / "package"


def finish_without_reading(finish):
    class Stop(Exception):
        pass

    def stopped(part, model, **options):
        def load(place):
            raise Stop

        try:
            return finish(part, model, **{**options, "load": load})
        except Stop:
            return None

    return stopped


def test_a_package_that_cannot_be_loaded(folder):
    with pytest.raises(ExportedModelError, match=r"encoder\.pt2 cannot be loaded by torch.*export anew"):
        PackagedModel.from_pretrained(folder)


@pytest.mark.parametrize("name", ["torch", "capability"])
def test_a_package_of_another_machine(folder, name):
    values = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    values["made_with"][name] = "1.0"
    (folder / MANIFEST).write_text(json.dumps(values), encoding="utf-8")
    with pytest.raises(ExportedModelError, match=f"compiled for {name} '1.0', here .*on a machine like this"):
        PackagedModel.from_pretrained(folder)


def test_other_folders(folder, tmp_path, model_of):
    shutil.copytree(folder, tmp_path / "copy")
    (tmp_path / "copy" / "cross.pt2").unlink()
    with pytest.raises(ExportedModelError, match=r"cross\.pt2 is missing"):
        PackagedModel.from_pretrained(tmp_path / "copy")
    with pytest.raises(ExportedModelError, match=r"has no export\.json"):
        PackagedModel.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="safetensors"):
        VisionEncoderDecoderModel.from_pretrained(folder)


def test_every_graph_is_named_after_what_it_gives(model_of):
    from trocr.export.graphs import core_of

    names = {}
    for name in SMALL:
        model = model_of(name, small=True)
        with core_of(model, "eager"):
            names[name] = [graph.name for graph in graphs_of(model)]
    assert names == {
        "learned": ["encoder", "cross", "step"],
        "other": ["encoder", "memory", "cross", "step"],
    }
