"""What the doctor says: findings, each with what is wrong, why it matters, and what to change.

Source: original work; what is looked for is what users of TrOCR ran into (docs/doctor.md names the threads).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning", "ok"]

MARKS = {"error": "ERROR", "warning": "warning", "ok": "ok"}


class DoctorError(ValueError):
    """There is nothing that can be examined."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        severity: "error" spoils training, "warning" may, "ok" is in order.
        topic: what was looked at.
        what: what was found.
        why: why it matters; empty for what is in order.
        change: what to do about it; empty for what is in order.
    """

    severity: Severity
    topic: str
    what: str
    why: str = ""
    change: str = ""


def ok(topic: str, what: str) -> Finding:
    """Something in order."""
    return Finding("ok", topic, what)


def findings_text(findings: Sequence[Finding]) -> str:
    """Lay findings out for a terminal, and count them."""
    rows = []
    for finding in findings:
        rows.append(f"{MARKS[finding.severity]:<8} {finding.topic}: {finding.what}")
        if finding.why:
            rows.append(f"         why: {finding.why}")
        if finding.change:
            rows.append(f"         change: {finding.change}")
    errors = sum(finding.severity == "error" for finding in findings)
    warnings = sum(finding.severity == "warning" for finding in findings)
    rows.append(f"{errors} errors, {warnings} warnings, {len(findings) - errors - warnings} in order")
    return "\n".join(rows)


def some(items: Sequence[str], count: int = 3) -> str:
    """The first items, and how many more there are."""
    more = f" and {len(items) - count} more" if len(items) > count else ""
    return "; ".join(items[:count]) + more
