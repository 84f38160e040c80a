"""Results in Markdown.

Source: original work.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from trocr.benchmark.results import Measured, SuiteResult

Row = Sequence[str]


def markdown(head: Row, rows: Sequence[Row]) -> str:
    """Lay out a table; a bar within a cell is escaped."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def suite_table(result: SuiteResult) -> str:
    """Lay out what a suite measured.

    Speeds and ratios have their median, quartiles where there are eight values or more, and their ends.
    """
    head = [
        "candidate",
        "lines/s",
        "ms a line: p50, p95",
        "first lines, ms",
        "peak, MiB",
        f"same as {result.reference}",
        *(f"times as fast as {name}" for name in result.against),
    ]
    has_parts = any(item.encoder is not None for item in result.measured.values())
    has_errors = any(item.cer is not None for item in result.measured.values())
    head += ["encoder", "decoder"] if has_parts else []
    head += ["CER"] if has_errors else []
    rows = []
    for name, item in result.measured.items():
        row = _row(name, item, result)
        row += [_part(item.encoder), _part(item.decoder)] if has_parts else []
        row += ["" if item.cer is None else f"{item.cer:.4f}"] if has_errors else []
        rows.append(row)
    for name, problem in result.problems.items():
        rows.append([name, f"not there: {problem}", *[""] * (len(head) - 2)])
    return markdown(head, rows)


def _row(name: str, item: Measured, result: SuiteResult) -> list[str]:
    return [
        name,
        item.lines_per_s.text(2),
        f"{item.p50_s * 1e3:.1f}, {item.p95_s * 1e3:.1f}",
        "" if item.first_s is None else item.first_s.text(1, scale=1e3),
        "" if item.peak_bytes is None else f"{item.peak_bytes / 2**20:.0f}",
        "" if name == result.reference or item.agreement is None else item.agreement.text,
        *(item.ratios[other].text(2) if other in item.ratios else "" for other in result.against),
    ]


def _part(part: Any) -> str:
    if part is None:
        return ""
    share = "" if part.fraction is None else f", {part.fraction:.0%} of the limit"
    return f"{part.seconds_a_line * 1e3:.1f} ms a line{share}"


def profile_table(groups: Mapping[str, Mapping[str, float]], *, operators: int = 4) -> str:
    """Lay out where the time goes.

    Args:
        groups: part -> operator -> seconds, see `trocr.benchmark.profile`.
        operators: the longest of a part, which are named.
    """
    total = sum(sum(group.values()) for group in groups.values()) or 1.0
    rows = []
    for part, group in sorted(groups.items(), key=lambda item: -sum(item[1].values())):
        seconds = sum(group.values())
        longest = sorted(group.items(), key=lambda item: -item[1])[:operators]
        named = ", ".join(f"{name} {value / total:.0%}" for name, value in longest if value / total >= 0.005)
        rows.append([part, f"{seconds * 1e3:.1f}", f"{seconds / total:.1%}", named])
    return markdown(["part", "ms", "share", "operators (share of all)"], rows)
