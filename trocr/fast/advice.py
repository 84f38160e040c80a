"""What would make reading quicker on a machine, beyond the choice of a precision.

Source: the page faults were counted while a tensor of 64 MB was made and filled ten times over, with PyTorch
2.14, glibc 2.36 and jemalloc 5.3 on Linux 6.18; they are the same in every run.
"""

from trocr.fast import probes
from trocr.fast.hardware import Hardware

KEEP = "oversize_threshold:0,dirty_decay_ms:3000,muzzy_decay_ms:3000"
"""jemalloc's setting that keeps large blocks: without it, those over 8 MB go back to the system at once."""

HUGE = "THP_MEM_ALLOC_ENABLE"
"""PyTorch's variable that asks for huge pages."""


def advice(hardware: Hardware) -> tuple[str, ...]:
    """Say what would make reading quicker, each in a sentence or two; empty where there is nothing to say."""
    return (*_threads(hardware), *_memory(hardware), *_kernels(hardware))


def _threads(hardware: Hardware) -> list[str]:
    threads, cores = hardware.threads, hardware.cores
    said = []
    if hardware.quota is not None and hardware.quota < hardware.physical_cores:
        said.append(
            f"the control group allows the time of {hardware.quota:g} of {hardware.physical_cores} cores: "
            "more threads than that wait for one another"
        )
    if threads > cores:
        said.append(
            f"PyTorch uses {threads} threads for {cores} physical {_plural('core', cores)}: set "
            f"OMP_NUM_THREADS={cores}, as two threads on one core share its arithmetic"
        )
    elif threads < cores:
        said.append(
            f"PyTorch uses {threads} {_plural('thread', threads)} of {cores} cores: OMP_NUM_THREADS={cores} "
            "takes all, where nothing else needs them"
        )
    return said


def _memory(hardware: Hardware) -> list[str]:
    if hardware.allocator == "jemalloc" and "oversize_threshold:0" not in hardware.variables.get(
        "MALLOC_CONF", ""
    ):
        return [f"jemalloc gives large blocks back to the system at once: set MALLOC_CONF={KEEP}"]
    if hardware.allocator != "glibc":
        return []
    ways = []
    if hardware.variables.get(HUGE) != "1" and hardware.huge_pages in ("madvise", "always"):
        ways.append(f"{HUGE}=1 takes huge pages, 544 faults")
    place = probes.installed_jemalloc() or "libjemalloc.so.2 (Debian: apt-get install libjemalloc2)"
    ways.append(f"LD_PRELOAD={place} with MALLOC_CONF={KEEP} keeps the blocks, none")
    return [
        "glibc gives blocks over 32 MB back to the system after use, and every page of the next costs a "
        f"fault, 16385 for 64 MB; {'; '.join(ways)}"
    ]


def _kernels(hardware: Hardware) -> list[str]:
    said = []
    for why in dict.fromkeys(hardware.withheld.values()):
        names = [name for name, other in hardware.withheld.items() if other == why]
        said.append(f"{why} keeps back {', '.join(names)}: unset it")
    capability = hardware.variables.get("ATEN_CPU_CAPABILITY")
    if capability:
        said.append(f"ATEN_CPU_CAPABILITY={capability} chooses PyTorch's own kernels: unset it for the best")
    if hardware.mkl_runs_avx2 and "avx512_f" in hardware.usable:
        said.append(
            "PyTorch's float32 products go to MKL, which uses AVX2 on AMD though there is AVX-512: an "
            "optimized model (trocr optimize) has its weights packed for oneDNN instead"
        )
    if hardware.onednn is None:
        said.append("this PyTorch has no oneDNN: float32 is slower than need be, take one of pytorch.org")
    if hardware.gpus:
        said.append(f"there is a GPU ({hardware.gpus[0]}): Reader takes it by itself if it is CUDA's")
    return said


def _plural(word: str, count: int) -> str:
    return word if count == 1 else f"{word}s"
