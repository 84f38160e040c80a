"""What this machine computes with, and the precision that is quick on it.

Source: `torch.backends` of PyTorch 2.14; which instruction sets a precision needs is in oneDNN's and fbgemm's
documentation. That emulated bfloat16 is slower than float32 was measured with oneDNN 3.12 held to AVX2 and to
AVX-512 without bf16: 3 to 4 times for a product of 577 rows.
"""

import importlib.metadata
import os
import platform
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import torch

from trocr.fast import probes
from trocr.fast.instructions import ARM, LIMITS, TOLD, instructions

DTYPES = ("float32", "bfloat16", "float16")
"""Precisions that can be chosen, by name."""

VARIABLES = (
    *LIMITS,
    *("ATEN_CPU_CAPABILITY", "OMP_NUM_THREADS", "MKL_NUM_THREADS"),
    *("LD_PRELOAD", "MALLOC_CONF", "THP_MEM_ALLOC_ENABLE"),
)
"""Environment variables that change the speed."""

PACKAGES = ("trocr", "numpy", "onnxruntime", "openvino", "torchao", "timm")
"""Packages whose versions are told, where they are installed."""


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """What was found on a machine.

    Attributes:
        processor: its name.
        vendor: "AuthenticAMD", "GenuineIntel" ..., or "".
        architecture: "x86_64", "aarch64" ...
        logical_cores: that this process may run on.
        physical_cores: the same, those that share a core's arithmetic counted once.
        quota: cores' worth of time that the control group allows, or None.
        instructions: instruction sets of the processor, those of `TOLD`.
        variables: environment variables of `VARIABLES` that are set, with their values.
        kernels: instruction set that PyTorch's own kernels use, "AVX512", "AVX2", "DEFAULT" ...
        threads: that PyTorch computes with.
        onednn: version of oneDNN in PyTorch, or None where it is missing.
        has_mkl: whether PyTorch's products of matrices go to MKL.
        int8_engines: PyTorch's engines for int8.
        allocator: of this process: "glibc", "jemalloc" ...
        huge_pages: "always", "madvise" or "never"; None where the system has none.
        memory: bytes that this process may use, or None.
        free_memory: bytes that are free now, or None.
        gpus: names of the GPUs that PyTorch can use.
        versions: of Python, PyTorch and `PACKAGES`.
    """

    processor: str = "unknown"
    vendor: str = ""
    architecture: str = "x86_64"
    logical_cores: int = 1
    physical_cores: int = 1
    quota: float | None = None
    instructions: tuple[str, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)
    kernels: str = "DEFAULT"
    threads: int = 1
    onednn: str | None = None
    has_mkl: bool = False
    int8_engines: tuple[str, ...] = ()
    allocator: str = "unknown"
    huge_pages: str | None = None
    memory: int | None = None
    free_memory: int | None = None
    gpus: tuple[str, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_arm(self) -> bool:
        """Whether the processor is an ARM."""
        return self.architecture.lower() in ("aarch64", "arm64")

    @property
    def cores(self) -> int:
        """Threads that can compute at once without sharing a core: physical cores within the quota."""
        if self.quota is None:
            return self.physical_cores
        return max(1, min(self.physical_cores, int(self.quota)))

    @property
    def withheld(self) -> dict[str, str]:
        """Instruction sets that the processor has and kernels may not use -> the variable that says so."""
        return {
            name: f"{variable}={value}"
            for variable, value in self.variables.items()
            for name in LIMITS.get(variable, {}).get(value.upper(), ())
            if name in self.instructions
        }

    @property
    def usable(self) -> frozenset[str]:
        """Instruction sets that kernels can use."""
        return frozenset(self.instructions) - self.withheld.keys()

    @property
    def mkl_runs_avx2(self) -> bool:
        """Whether PyTorch's own float32 products go to MKL, which does not use AVX-512 on AMD."""
        return self.has_mkl and self.vendor == "AuthenticAMD"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            **asdict(self),
            "cores": self.cores,
            "withheld": self.withheld,
            "mkl_runs_avx2": self.mkl_runs_avx2,
        }


class HardwareError(ValueError):
    """This machine's processor cannot compute what is asked for, or only more slowly than float32."""


Int8 = Literal["amx", "vnni", "avx2", "dot"]


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The precision to compute with, and why.

    Attributes:
        dtype: of weights and states.
        dtype_reason: why, in a sentence.
        quantize: "int8" where that was asked for, else None.
        int8: how int8 is multiplied here: by dot products of "amx", "vnni" or ARM's "dot", or by "avx2";
            None where it cannot be.
        int8_reason: what that means, in a sentence.
        reduce_range: whether inputs must keep to seven bits, since pairs of products are added in 16 bits.
    """

    dtype: torch.dtype
    dtype_reason: str
    quantize: Literal["int8"] | None
    int8: Int8 | None
    int8_reason: str
    reduce_range: bool

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {**asdict(self), "dtype": _name(self.dtype)}


def choose(
    hardware: Hardware, *, dtype: torch.dtype | str | None = None, quantize: str | None = None
) -> Choice:
    """Choose the precision for the processor of a machine, or check the one that is asked for.

    Args:
        hardware: what was found.
        dtype: None or "auto" takes what is quick: bfloat16 where the processor multiplies it, else float32.
        quantize: "int8" or None; never taken by itself, as it changes more texts than bfloat16 does.
    Raises:
        HardwareError: an unknown precision, one that would be emulated here, or int8 without kernels for it.
    """
    if quantize not in (None, "int8"):
        raise HardwareError(f"quantize is {quantize!r}, expected 'int8' or None")
    int8, int8_reason = _int8(hardware)
    if quantize and int8 is None:
        raise HardwareError(f"quantize='int8' is not possible here: {int8_reason}; leave quantize out")
    chosen, reason = _dtype(hardware, "auto" if dtype is None else _name(dtype))
    return Choice(
        dtype=chosen,
        dtype_reason=reason,
        quantize="int8" if quantize else None,
        int8=int8,
        int8_reason=int8_reason,
        reduce_range=int8 == "avx2",
    )


def _name(dtype: torch.dtype | str) -> str:
    return str(dtype).removeprefix("torch.")


_BF16 = ("amx_bf16", "avx512_bf16", "bf16")
"""Instruction sets that multiply bfloat16; one is enough."""


def _dtype(hardware: Hardware, name: str) -> tuple[torch.dtype, str]:
    """The precision and why."""
    if name not in ("auto", *DTYPES):
        raise HardwareError(f"dtype {name!r} is unknown, expected auto, {', '.join(DTYPES)}")
    if name == "float32":
        return torch.float32, "float32: asked for"
    native = [found for found in _BF16 if found in hardware.usable and hardware.onednn is not None]
    if native and name != "float16":
        return torch.bfloat16, f"bfloat16: the processor multiplies it ({native[0]})"
    lacking = _lacking(hardware, _BF16)
    if name == "auto":
        return torch.float32, f"float32: bfloat16 would be emulated, several times slower; {lacking}"
    why = f"it would be emulated, several times slower than float32; {lacking}"
    if name == "float16":
        why = "on processors there are no quick kernels for it; it is for GPUs"
    better = "bfloat16 or float32" if native else "float32"
    int8 = ", or quantize='int8'" if _int8(hardware)[0] else ""
    raise HardwareError(
        f"dtype {name} is not for this processor ({hardware.processor}): {why}. Take {better}{int8}"
    )


def _lacking(hardware: Hardware, names: tuple[str, ...]) -> str:
    """Why none of some instruction sets can be used."""
    kept = [f"{name}, kept back by {hardware.withheld[name]}" for name in names if name in hardware.withheld]
    if kept:
        return f"the processor has {kept[0]}"
    if any(name in hardware.usable for name in names):
        return "this PyTorch is built without oneDNN"
    own = [name for name in names if (name in ARM) == hardware.is_arm]
    return f"the processor has none of {', '.join(own)}" if len(own) > 1 else f"the processor has no {own[0]}"


def _int8(hardware: Hardware) -> tuple[Int8 | None, str]:
    """How int8 is multiplied, or None, and why."""
    usable, engines = hardware.usable, set(hardware.int8_engines)
    if hardware.is_arm:
        if not engines & {"qnnpack", "onednn"}:
            return None, "this PyTorch is built without qnnpack and oneDNN"
        if "dot" in usable or "i8mm" in usable:
            return "dot", "dot products of four int8 in one instruction (dot or i8mm)"
        return None, _lacking(hardware, ("dot", "i8mm"))
    if not engines & {"fbgemm", "x86", "onednn"}:
        return None, "this PyTorch is built without fbgemm and oneDNN"
    if "amx_int8" in usable:
        return "amx", "tiles of int8 dot products (amx_int8)"
    if "avx512_vnni" in usable:
        return "vnni", "dot products of four int8 in one instruction (avx512_vnni)"
    if "avx2" in usable:
        lacking = _lacking(hardware, ("amx_int8", "avx512_vnni"))
        return "avx2", f"by AVX2, with inputs of seven bits, as products are added in 16; {lacking}"
    return None, _lacking(hardware, ("avx2",))


def find_hardware() -> Hardware:
    """Find out what this machine has; takes no network and, after `import torch`, some milliseconds.

    Differs: on systems without /proc and /sys, cores, memory and allocator are what Python can tell.
    """
    logical, physical = probes.usable_cores()
    memory, free = probes.memory()
    found = instructions()
    mkl: Any = torch.backends.mkl
    return Hardware(
        processor=probes.processor_name(),
        vendor=probes.cpuinfo().get("vendor_id", ""),
        architecture=platform.machine(),
        logical_cores=logical,
        physical_cores=physical,
        quota=probes.cpu_quota(),
        instructions=tuple(name for name in TOLD if name in found),
        variables={name: os.environ[name] for name in VARIABLES if os.environ.get(name)},
        kernels=torch.backends.cpu.get_cpu_capability(),
        threads=torch.get_num_threads(),
        onednn=_onednn(),
        has_mkl=mkl.is_available(),
        int8_engines=tuple(name for name in torch.backends.quantized.supported_engines if name != "none"),
        allocator=probes.allocator(),
        huge_pages=probes.huge_pages(),
        memory=memory,
        free_memory=free,
        gpus=_gpus(),
        versions=_versions(),
    )


def _onednn() -> str | None:
    backend: Any = torch.backends.mkldnn
    if not backend.is_available():
        return None
    found = re.search(r"(?:MKL-DNN|oneDNN) v(\S+)", torch.__config__.show())
    return found[1] if found else "unknown"


def _gpus() -> tuple[str, ...]:
    apple: Any = torch.backends.mps
    names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return (*names, *(("Apple GPU (mps)",) if apple.is_available() else ()))


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "torch": str(torch.__version__)}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
