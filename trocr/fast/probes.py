"""What the operating system says about a machine: processor, cores, limits, memory, allocator, huge pages.

Source: proc(5), cgroups(7) and, of Linux's documentation, admin-guide/cgroup-v2, admin-guide/mm/transhuge and
ABI/stable/sysfs-devices-system-cpu. Every function takes the root of the file system, for tests; where the
system has no such files, it gives what Python knows, or None.
"""

import os
import platform
from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/")
UNLIMITED = 2**60
"""Bytes from which a limit of memory is none: version 1 of the groups writes the largest page count."""

_ALLOCATORS = (
    ("libjemalloc", "jemalloc"),
    ("libtcmalloc", "tcmalloc"),
    ("libmimalloc", "mimalloc"),
    ("ld-musl", "musl"),
    ("libc.so.6", "glibc"),
    ("libc-2.", "glibc"),
)
"""Part of a loaded file's name -> allocator; a preloaded one goes before that of the C library."""

_TORCH_NAMES = {
    "fma": "fma3",
    **{f"avx512{part}": f"avx512_{part}" for part in ("f", "cd", "dq", "bw", "vl", "ifma", "vbmi")},
    **{"asimd": "neon", "asimdhp": "fp16_arith", "asimddp": "dot", "svebf16": "sve_bf16"},
}
"""Flags of /proc/cpuinfo whose name in PyTorch is another."""


def cpuinfo(root: Path = ROOT) -> dict[str, str]:
    """Fields of the first processor in /proc/cpuinfo; empty where there is none."""
    fields: dict[str, str] = {}
    for line in (_read(root / "proc/cpuinfo") or "").splitlines():
        if not line.strip() and fields:
            break
        name, _, value = line.partition(":")
        fields[name.strip()] = value.strip()
    return fields


def processor_name(root: Path = ROOT) -> str:
    """The processor's name, or its architecture where it has none."""
    named = cpuinfo(root).get("model name")
    return named or platform.processor() or platform.machine() or "unknown"


def instructions(root: Path = ROOT) -> frozenset[str]:
    """Instruction sets of /proc/cpuinfo, by the names that PyTorch has for them."""
    fields = cpuinfo(root)
    flags = (fields.get("flags") or fields.get("Features") or "").split()
    return frozenset(_TORCH_NAMES.get(flag, flag) for flag in flags)


def usable_cores(root: Path = ROOT) -> tuple[int, int]:
    """Count what this process may run on.

    Returns:
        Logical cores, and physical ones: those that share a core's arithmetic count once.
    """
    if hasattr(os, "sched_getaffinity"):
        numbers = sorted(os.sched_getaffinity(0))
    else:
        numbers = list(range(os.cpu_count() or 1))
    siblings = set()
    for number in numbers:
        place = root / f"sys/devices/system/cpu/cpu{number}/topology/thread_siblings_list"
        siblings.add(_read(place) or str(number))
    return len(numbers), len(siblings)


def cpu_quota(root: Path = ROOT) -> float | None:
    """Cores' worth of time that the process's control group may use; None where there is no limit."""
    limits = []
    for folder in _groups(root, "cpu"):
        quota, _, period = (_read(folder / "cpu.max") or "").partition(" ")
        if not quota:
            quota = _read(folder / "cpu.cfs_quota_us") or ""
            period = _read(folder / "cpu.cfs_period_us") or ""
        if quota.isdecimal() and period.isdecimal() and int(period):  # "max" and -1 are no limit
            limits.append(int(quota) / int(period))
    return min(limits, default=None)


def memory(root: Path = ROOT) -> tuple[int | None, int | None]:
    """Memory that this process may use.

    Returns:
        Bytes in all, the control group's limit included, and bytes that are free now.
    """
    rows = [line.split() for line in (_read(root / "proc/meminfo") or "").splitlines()]
    kib = {row[0].rstrip(":"): int(row[1]) for row in rows if len(row) > 1 and row[1].isdecimal()}
    total, free = (1024 * kib[name] if name in kib else None for name in ("MemTotal", "MemAvailable"))
    limits = [total] if total else []
    for folder in _groups(root, "memory"):
        limit = _number(folder / "memory.max", folder / "memory.limit_in_bytes")
        if limit is not None and limit < UNLIMITED:
            limits.append(limit)
            used = _number(folder / "memory.current", folder / "memory.usage_in_bytes")
            if free is not None and used is not None:
                free = min(free, max(0, limit - used))
    return min(limits, default=None), free


def allocator(root: Path = ROOT) -> str:
    """Name of the allocator in this process: jemalloc, tcmalloc, mimalloc, musl, glibc, or "unknown"."""
    files = {line.rpartition("/")[2] for line in (_read(root / "proc/self/maps") or "").splitlines()}
    for part, name in _ALLOCATORS:
        if any(part in file for file in files):
            return name
    return "unknown"


def huge_pages(root: Path = ROOT) -> str | None:
    """Setting of transparent huge pages: always, madvise or never; None where the system has none."""
    setting = _read(root / "sys/kernel/mm/transparent_hugepage/enabled") or ""
    return setting.partition("[")[2].partition("]")[0] or None


def installed_jemalloc(root: Path = ROOT) -> str | None:
    """Path of a jemalloc that could be preloaded; None where none lies in the usual folders."""
    for pattern in ("usr/lib/*/libjemalloc.so*", "usr/lib*/libjemalloc.so*", "usr/local/lib/libjemalloc.so*"):
        for path in sorted(root.glob(pattern)):
            return str(path)
    return None


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """Folders of this process's control groups that can be seen, from its own to the root, versions 2 and 1.

    In a container, the path is that of the host and its own group lies at the root.
    """
    base = root / "sys/fs/cgroup"
    for line in (_read(root / "proc/self/cgroup") or "0::/").splitlines():
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if controllers and controller not in controllers.split(","):
            continue
        top = base / controller if controllers else base
        parts = [part for part in path.split("/") if part not in ("", "..")]
        for count in range(len(parts), -1, -1):
            folder = top.joinpath(*parts[:count])
            if folder.is_dir():
                yield folder


def _number(*paths: Path) -> int | None:
    texts = (_read(path) for path in paths)
    return next((int(text) for text in texts if text and text.isdecimal()), None)


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None
