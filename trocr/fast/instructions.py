"""Instruction sets that decide which precision is quick, and what keeps kernels from using them.

Source: `torch.cpu.get_capabilities` of PyTorch 2.14 for the names; oneDNN 3.12 ("CPU dispatcher control") and
fbgemm (`FBGEMM_ENABLE_INSTRUCTIONS`) for the environment variables.
"""

from collections.abc import Mapping

import torch

from trocr.fast import probes

ARM = ("neon", "fp16_arith", "dot", "bf16", "i8mm", "sve", "sve2")
"""Instruction sets of ARM."""

TOLD = (
    *("avx2", "fma3", "f16c", "avx_vnni"),
    *("avx512_f", "avx512_bw", "avx512_dq", "avx512_vl", "avx512_vnni", "avx512_bf16", "avx512_fp16"),
    *("amx_tile", "amx_int8", "amx_bf16", "amx_fp16"),
    *ARM,
)
"""Instruction sets that matter here, by PyTorch's names."""

_RUNGS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("AVX2", ("avx2", "fma3", "f16c")),
    ("AVX2_VNNI", ("avx_vnni",)),
    ("AVX512_CORE", ("avx512_f", "avx512_bw", "avx512_dq", "avx512_vl")),
    ("AVX512_CORE_VNNI", ("avx512_vnni",)),
    ("AVX512_CORE_BF16", ("avx512_bf16",)),
    ("AVX512_CORE_FP16", ("avx512_fp16",)),
    ("AVX512_CORE_AMX", ("amx_tile", "amx_int8", "amx_bf16")),
    ("AVX512_CORE_AMX_FP16", ("amx_fp16",)),
)
"""Values of oneDNN's variable, upwards, and what each adds."""

ONEDNN_LIMITS: Mapping[str, tuple[str, ...]] = {
    value: tuple(name for _, names in _RUNGS[place + 1 :] for name in names)
    for place, (value, _) in enumerate((("SSE41", ()), *_RUNGS), start=-1)
}
"""Value of oneDNN's variable -> instruction sets that its kernels then leave alone."""

FBGEMM_LIMITS: Mapping[str, tuple[str, ...]] = {
    "AVX2": ("avx512_vnni", "amx_int8"),
    "AVX512": ("avx512_vnni", "amx_int8"),
    "AVX512_256": ("avx512_vnni", "amx_int8"),
}
"""The same for fbgemm's, which multiply int8."""

LIMITS = {
    "ONEDNN_MAX_CPU_ISA": ONEDNN_LIMITS,
    "DNNL_MAX_CPU_ISA": ONEDNN_LIMITS,
    "FBGEMM_ENABLE_INSTRUCTIONS": FBGEMM_LIMITS,
}
"""Environment variables that keep kernels from what the processor has."""


def instructions() -> frozenset[str]:
    """Instruction sets of the processor, by PyTorch where it tells them, else by the system."""
    ask = getattr(torch.cpu, "get_capabilities", None)
    if ask is None:
        return probes.instructions()
    return frozenset(name for name, value in ask().items() if value is True)
