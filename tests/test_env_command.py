"""`trocr env` on this machine, and on one that is told."""

import json
from dataclasses import replace

import pytest
from click.testing import CliRunner

from trocr.commands.env import env
from trocr.fast.hardware import Hardware


def run(*arguments):
    return CliRunner().invoke(env, arguments)


@pytest.fixture
def told(monkeypatch):
    """A function that makes the command find what is told."""
    base = Hardware(
        processor="Some CPU",
        onednn="3.12.0",
        int8_engines=("fbgemm",),
        instructions=("avx2", "avx512_f", "avx512_vnni", "avx512_bf16"),
        memory=8 * 2**30,
        free_memory=3 * 2**29,
    )

    def tell(**changes):
        monkeypatch.setattr("trocr.fast.hardware.find_hardware", lambda: replace(base, **changes))

    return tell


def test_this_machine():
    done = run()
    assert done.exit_code == 0, done.output
    for name in ("processor", "instructions", "oneDNN", "allocator", "chosen", "int8", "versions"):
        assert f"\n{name}" in f"\n{done.output}"


def test_a_table_for_people(told):
    told(quota=1.0, physical_cores=2, logical_cores=4, variables={"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_VNNI"})
    lines = {line[:14].strip(): line[14:] for line in run().output.splitlines()}
    assert lines["processor"] == "Some CPU (x86_64)"
    assert lines["cores"].startswith("2 physical, 4 logical")
    assert lines["cores"].endswith("the time of 1 is allowed")
    assert lines["kept back"] == "avx512_bf16 (by ONEDNN_MAX_CPU_ISA=AVX512_CORE_VNNI)"
    assert lines["chosen"].startswith("float32: bfloat16 would be emulated")
    assert lines["int8"].endswith("(avx512_vnni)")
    assert lines["memory"] == "8.0 GiB, 1.5 free"
    assert "advice" in lines


def test_what_is_not_there_is_said(told):
    told(onednn=None, int8_engines=(), instructions=(), memory=None)
    lines = {line[:14].strip(): line[14:] for line in run().output.splitlines()}
    assert lines["oneDNN"] == "missing"
    assert lines["instructions"] == "none of those that matter"
    assert lines["int8"] == "not possible: this PyTorch is built without fbgemm and oneDNN"
    assert lines["memory"] == "unknown"
    assert "kept back" not in lines


def test_json(told):
    told()
    found = json.loads(run("--json").output)
    assert found["hardware"]["processor"] == "Some CPU"
    assert found["choice"]["dtype"] == "bfloat16"
    assert found["choice"]["int8"] == "vnni"
    assert found["choice"]["reduce_range"] is False
    assert isinstance(found["advice"], list)
