"""The whole report: machine, limits, suites, profiles; in Markdown and as plain values.

Source: original work.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from trocr.benchmark.processes import ProcessResult
from trocr.benchmark.profile import Groups
from trocr.benchmark.results import SuiteResult
from trocr.benchmark.roofline import Roofline
from trocr.benchmark.table import profile_table, suite_table
from trocr.fast.hardware import find_hardware

LEGEND = (
    "Figures are a median with (minimum to maximum), from eight values on with (quartiles; minimum to "
    "maximum). Candidates read the same lines in turn, the order reversed each time; ratios are taken block "
    "by block, above 1 is faster than the reference. Of the limit: least time by the machine's limits below "
    "over the time taken."
)


@dataclass
class Report:
    """What a run of the benchmark found, suite by suite.

    Attributes:
        machine: see `trocr.fast.hardware.Hardware.to_dict`.
        roofline: of the machine, or None.
        results: of the suites.
        profiles: suite -> candidate -> part -> operator -> seconds, or why there is none.
    """

    machine: Mapping[str, Any]
    roofline: Roofline | None = None
    results: list[SuiteResult | ProcessResult] = field(default_factory=list)
    profiles: dict[str, Mapping[str, Groups | str]] = field(default_factory=dict)

    @classmethod
    def begin(cls, roofline: Roofline | None) -> "Report":
        """Begin with the machine as it is found."""
        return cls(machine=find_hardware().to_dict(), roofline=roofline)

    def head(self) -> str:
        """Machine and limits, in Markdown."""
        parts = [_machine(self.machine), LEGEND]
        if self.roofline is not None:
            parts.append(self.roofline.table())
        return "\n\n".join(parts)

    def section(self, result: SuiteResult | ProcessResult, about: str = "") -> str:
        """One suite in Markdown, with its profiles."""
        parts = [f"## {result.name}", *([about] if about else [])]
        if isinstance(result, SuiteResult):
            parts += [" ".join(result.notes), suite_table(result)]
        else:
            parts.append(result.table)
        for name, groups in self.profiles.get(result.name, {}).items():
            shown = f"not there: {groups}" if isinstance(groups, str) else profile_table(groups)
            parts += [f"Where the time of {name} goes, one batch under the profiler:", shown]
        return "\n\n".join(parts)

    def to_dict(self) -> dict[str, Any]:
        """Plain values with all raw numbers, for JSON."""
        return {
            "machine": dict(self.machine),
            "roofline": None if self.roofline is None else self.roofline.to_dict(),
            "suites": [result.to_dict() for result in self.results],
            "profiles": {name: dict(found) for name, found in self.profiles.items()},
        }


def _machine(machine: Mapping[str, Any]) -> str:
    versions: Mapping[str, str] = machine.get("versions", {})
    instructions: Sequence[str] = machine.get("instructions", ())
    named = ", ".join(f"{name} {version}" for name, version in versions.items())
    return (
        f"{machine.get('processor')}; {' '.join(instructions)}; kernels {machine.get('kernels')}; "
        f"{machine.get('threads')} threads; allocator {machine.get('allocator')}, huge pages "
        f"{machine.get('huge_pages')}; {named}."
    )
