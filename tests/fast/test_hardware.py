"""Machines that are told, not found: what is chosen on each, and why; and files of a system made here."""

import json
from dataclasses import replace

import pytest
import torch

from trocr.fast import probes
from trocr.fast.advice import KEEP, advice
from trocr.fast.hardware import Hardware, HardwareError, choose, find_hardware
from trocr.fast.instructions import ONEDNN_LIMITS, TOLD, instructions

AVX2 = ("avx2", "fma3", "f16c")
AVX512 = (*AVX2, "avx512_f", "avx512_bw", "avx512_dq", "avx512_vl")
X86 = Hardware(onednn="3.12.0", int8_engines=("qnnpack", "onednn", "x86", "fbgemm"), instructions=AVX2)
BF16 = replace(X86, instructions=(*AVX512, "avx512_vnni", "avx512_bf16"))
ARM = Hardware(
    architecture="aarch64",
    onednn="3.12.0",
    int8_engines=("qnnpack", "onednn"),
    instructions=("neon", "dot", "bf16", "i8mm"),
)


@pytest.mark.parametrize(
    ("hardware", "dtype", "int8", "reduce_range"),
    [
        (X86, torch.float32, "avx2", True),
        (replace(X86, instructions=(*AVX2, "avx_vnni")), torch.float32, "avx2", True),
        (replace(X86, instructions=AVX512), torch.float32, "avx2", True),
        (replace(X86, instructions=(*AVX512, "avx512_vnni")), torch.float32, "vnni", False),
        (BF16, torch.bfloat16, "vnni", False),
        (
            replace(X86, instructions=(*AVX512, "amx_tile", "amx_int8", "amx_bf16")),
            torch.bfloat16,
            "amx",
            False,
        ),
        (replace(BF16, variables={"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_VNNI"}), torch.float32, "vnni", False),
        (replace(BF16, variables={"ONEDNN_MAX_CPU_ISA": "avx2"}), torch.float32, "avx2", True),
        (replace(BF16, variables={"FBGEMM_ENABLE_INSTRUCTIONS": "AVX2"}), torch.bfloat16, "avx2", True),
        (replace(BF16, onednn=None), torch.float32, "vnni", False),
        (replace(X86, instructions=()), torch.float32, None, False),
        (replace(BF16, int8_engines=("qnnpack",)), torch.bfloat16, None, False),
        (ARM, torch.bfloat16, "dot", False),
        (replace(ARM, instructions=("neon",)), torch.float32, None, False),
    ],
)
def test_what_is_chosen_by_itself(hardware, dtype, int8, reduce_range):
    choice = choose(hardware)
    assert (choice.dtype, choice.int8, choice.reduce_range) == (dtype, int8, reduce_range)
    assert choice.quantize is None
    assert str(dtype).removeprefix("torch.") in choice.dtype_reason
    assert json.loads(json.dumps(choice.to_dict()))["int8"] == int8


def test_reasons_name_what_was_found():
    assert "(avx512_bf16)" in choose(BF16).dtype_reason
    assert "the processor has none of amx_bf16, avx512_bf16" in choose(X86).dtype_reason
    held = choose(replace(BF16, variables={"DNNL_MAX_CPU_ISA": "AVX2"}))
    assert "avx512_bf16, kept back by DNNL_MAX_CPU_ISA=AVX2" in held.dtype_reason
    assert "avx512_vnni, kept back by DNNL_MAX_CPU_ISA=AVX2" in held.int8_reason
    assert "without oneDNN" in choose(replace(BF16, onednn=None)).dtype_reason
    assert "seven bits" in choose(X86).int8_reason
    assert "no bf16" in choose(replace(ARM, instructions=("neon",))).dtype_reason


@pytest.mark.parametrize("dtype", [torch.float32, "float32", "torch.float32"])
def test_what_is_asked_for_is_taken(dtype):
    choice = choose(BF16, dtype=dtype, quantize="int8")
    assert (choice.dtype, choice.quantize) == (torch.float32, "int8")
    assert choose(BF16, dtype="auto").dtype is choose(BF16, dtype=torch.bfloat16).dtype is torch.bfloat16


@pytest.mark.parametrize(
    ("hardware", "options", "message"),
    [
        (
            X86,
            {"dtype": "bfloat16"},
            r"dtype bfloat16 is not for this processor \(unknown\): it would be emulated",
        ),
        (X86, {"dtype": torch.bfloat16}, r"none of amx_bf16, avx512_bf16\. Take float32, or quantize='int8'"),
        (replace(X86, instructions=()), {"dtype": "bfloat16"}, r"Take float32$"),
        (BF16, {"dtype": "float16"}, r"it is for GPUs\. Take bfloat16 or float32, or quantize='int8'"),
        (BF16, {"dtype": "fp8"}, r"dtype 'fp8' is unknown, expected auto, float32, bfloat16, float16"),
        (BF16, {"dtype": torch.float64}, r"dtype 'float64' is unknown"),
        (BF16, {"quantize": "int4"}, r"quantize is 'int4', expected 'int8' or None"),
        (
            replace(X86, instructions=()),
            {"quantize": "int8"},
            r"not possible here: the processor has no avx2",
        ),
        (
            replace(X86, int8_engines=()),
            {"quantize": "int8"},
            r"built without fbgemm and oneDNN; leave quantize",
        ),
        (replace(ARM, int8_engines=()), {"quantize": "int8"}, r"built without qnnpack and oneDNN"),
    ],
)
def test_what_cannot_be_is_an_error(hardware, options, message):
    with pytest.raises(HardwareError, match=message):
        choose(hardware, **options)


def test_each_value_of_onednns_variable_takes_away_what_is_above_it():
    assert ONEDNN_LIMITS["AVX512_CORE_AMX_FP16"] == ()
    assert ONEDNN_LIMITS["AVX512_CORE_AMX"] == ("amx_fp16",)
    assert set(ONEDNN_LIMITS["AVX2"]).isdisjoint(AVX2)
    assert {"avx512_f", "avx512_vnni", "avx512_bf16"} <= set(ONEDNN_LIMITS["AVX2_VNNI"])
    assert set(AVX512) <= set(ONEDNN_LIMITS["SSE41"])
    assert all(set(names) <= set(TOLD) for names in ONEDNN_LIMITS.values())


# ---- this machine --------------------------------------------------------------------------------------


def test_this_machine_is_found():
    found = find_hardware()
    assert found.threads == torch.get_num_threads()
    assert found.kernels == torch.backends.cpu.get_cpu_capability()
    assert 1 <= found.cores <= found.physical_cores <= found.logical_cores
    assert found.versions["torch"] == torch.__version__
    if torch.backends.mkldnn.is_available():
        assert found.onednn in torch.__config__.show()
    if "AVX512" in found.kernels:
        assert "avx512_f" in found.instructions
    choose(found)
    json.dumps(found.to_dict())


def test_variables_are_found(monkeypatch):
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    monkeypatch.setenv("MALLOC_CONF", "")
    found = find_hardware()
    assert found.variables["ONEDNN_MAX_CPU_ISA"] == "AVX2"
    assert "MALLOC_CONF" not in found.variables
    assert "avx512_bf16" not in found.usable


def test_older_pytorch_is_helped_out_by_the_system(monkeypatch):
    if not probes.cpuinfo():
        pytest.skip("no /proc/cpuinfo here")
    new = {name for name in instructions() if name in TOLD}
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert {name for name in instructions() if name in TOLD} == new


# ---- what the system says ------------------------------------------------------------------------------


def system(root, **files):
    """Write files of a system; "__" in a name is a slash."""
    for name, content in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


def test_the_processor(tmp_path):
    system(
        tmp_path,
        proc__cpuinfo="processor\t: 0\nmodel name\t: A B\nflags\t: avx512f fma avx2\n\nmodel name : C",
    )
    assert probes.processor_name(tmp_path) == "A B"
    assert probes.instructions(tmp_path) == {"avx512_f", "fma3", "avx2"}
    arm = system(tmp_path / "arm", proc__cpuinfo="processor : 0\nFeatures : asimd asimddp bf16 i8mm\n")
    assert probes.instructions(arm) == {"neon", "dot", "bf16", "i8mm"}
    assert probes.processor_name(arm)
    assert probes.instructions(tmp_path / "nothing") == frozenset()


def test_threads_that_share_a_core_count_once(tmp_path, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1, 4, 6}, raising=False)
    for number, siblings in ((0, "0,4"), (1, "1,5"), (4, "0,4")):
        system(
            tmp_path, **{f"sys__devices__system__cpu__cpu{number}__topology__thread_siblings_list": siblings}
        )
    assert probes.usable_cores(tmp_path) == (4, 3)  # 0 with 4, 1 alone, 6 unknown


def test_limits_of_control_groups(tmp_path):
    two = system(
        tmp_path / "two",
        proc__self__cgroup="0::/a/b\n",
        proc__meminfo="MemTotal: 1000 kB\nMemAvailable: 900 kB\n",
        sys__fs__cgroup__cpu__placeholder="",
        sys__fs__cgroup__a__b__cpu_max="",
    )
    (two / "sys/fs/cgroup/a/cpu.max").write_text("150000 100000\n")
    (two / "sys/fs/cgroup/a/b/cpu.max").write_text("max 100000\n")
    (two / "sys/fs/cgroup/a/b/memory.max").write_text("512000\n")
    (two / "sys/fs/cgroup/a/b/memory.current").write_text("500000\n")
    assert probes.cpu_quota(two) == 1.5
    assert probes.memory(two) == (512000, 12000)
    one = system(
        tmp_path / "one",
        proc__self__cgroup="4:memory:/outside\n2:cpu,cpuacct:/outside\n",
        proc__meminfo="MemTotal: 1000 kB\nMemAvailable: 900 kB\n",
    )
    for controller, name, value in (
        ("cpu", "cpu.cfs_quota_us", "-1"),
        ("cpu", "cpu.cfs_period_us", "100000"),
        ("memory", "memory.limit_in_bytes", str(2**63 - 4096)),
    ):
        path = one / "sys/fs/cgroup" / controller / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(value)
    assert probes.cpu_quota(one) is None
    assert probes.memory(one) == (1024000, 921600)
    (one / "sys/fs/cgroup/cpu/cpu.cfs_quota_us").write_text("200000")
    assert probes.cpu_quota(one) == 2.0
    assert probes.cpu_quota(tmp_path / "nothing") is None
    assert probes.memory(tmp_path / "nothing") == (None, None)


def test_allocator_and_huge_pages(tmp_path):
    glibc = "7f r-xp 0 0 0  /usr/lib/libc.so.6\n"
    assert probes.allocator(system(tmp_path, proc__self__maps=glibc)) == "glibc"
    system(tmp_path, proc__self__maps=glibc + "7f r-xp 0 0 0  /usr/lib/libjemalloc.so.2\n")
    assert probes.allocator(tmp_path) == "jemalloc"
    assert probes.allocator(tmp_path / "nothing") == "unknown"
    system(tmp_path, sys__kernel__mm__transparent_hugepage__enabled="always [madvise] never\n")
    assert probes.huge_pages(tmp_path) == "madvise"
    assert probes.huge_pages(tmp_path / "nothing") is None


# ---- advice --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"threads": 8, "physical_cores": 4}, "set OMP_NUM_THREADS=4"),
        ({"threads": 1, "physical_cores": 4}, "1 thread of 4 cores"),
        ({"threads": 4, "physical_cores": 4, "quota": 1.5}, "the time of 1.5 of 4 cores"),
        ({"allocator": "glibc", "huge_pages": "madvise"}, "THP_MEM_ALLOC_ENABLE=1"),
        ({"allocator": "glibc"}, f"MALLOC_CONF={KEEP}"),
        ({"allocator": "jemalloc"}, f"set MALLOC_CONF={KEEP}"),
        ({"vendor": "AuthenticAMD", "has_mkl": True}, "MKL, which uses AVX2 on AMD"),
        (
            {"variables": {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"}},
            "keeps back avx512_vnni, avx512_bf16: unset it",
        ),
        ({"variables": {"ATEN_CPU_CAPABILITY": "avx2"}}, "ATEN_CPU_CAPABILITY=avx2"),
        ({"onednn": None}, "has no oneDNN"),
        ({"gpus": ("A",)}, "there is a GPU (A)"),
    ],
)
def test_advice(changes, words):
    said = advice(replace(BF16, **changes))
    assert sum(words in sentence for sentence in said) == 1, said


def test_no_advice_where_all_is_well():
    assert advice(BF16) == ()
    kept = replace(BF16, allocator="jemalloc", variables={"MALLOC_CONF": KEEP})
    assert advice(kept) == ()
