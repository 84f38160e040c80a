"""Memory of a process, as Linux counts it; elsewhere nothing is known and None is given.

Source: proc(5): VmHWM is the most that was resident, VmRSS what is now; writing 5 to clear_refs makes the
former the latter.
"""

from pathlib import Path
from types import TracebackType

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class PeakMemory:
    """Most memory that is resident inside a `with` block beyond what was resident before.

    Attributes:
        peak_bytes: known after the block; None where the system does not tell.
    """

    def __init__(self) -> None:
        self.peak_bytes: int | None = None
        self._before: int | None = None

    def __enter__(self) -> "PeakMemory":
        self._before = status_bytes("VmRSS") if reset_peak() else None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        peak = status_bytes("VmHWM")
        if self._before is not None and peak is not None:
            self.peak_bytes = max(0, peak - self._before)


def reset_peak() -> bool:
    """Make the present size the process's peak; False where that cannot be done."""
    try:
        CLEAR.write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def status_bytes(name: str) -> int | None:
    """Read VmRSS, VmHWM or another size of this process."""
    try:
        text = STATUS.read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    for line in text.splitlines():
        field, _, value = line.partition(":")
        if field == name:
            return int(value.split()[0]) * 1024
    return None


def page_faults() -> int | None:
    """Minor page faults of this process so far."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
