"""A report as plain text.

Source: original work.
"""

from trocr.evaluation.characters import visible
from trocr.evaluation.distance import EditCounts
from trocr.evaluation.report import Report, Slice

SHOWN = 10
"""Confusions that the text lists."""


def report_text(report: Report, *, title: str, lines_per_s: float | None = None) -> str:
    """Lay a report out for a terminal."""
    unit = f"{report.num_groups} groups" if report.resampled == "groups" else "lines"
    rows = [
        title,
        f"  lines        {report.num_lines}"
        + (f" in {report.num_groups} groups" if report.num_groups else ""),
        _rate("CER", report.characters, report.cer_interval),
        _rate("WER", report.words, report.wer_interval),
        f"  exact lines  {report.exact:.4f}",
        f"  read as nothing {report.empty:.4f}, far too long {report.overlong:.4f}, "
        f"cut at the longest length {report.unfinished:.4f}",
        f"  intervals    95 %, bootstrap over {unit}",
    ]
    if report.mean_score is not None:
        rows.append(
            f"  confidence   {report.mean_score:.3f} on average, calibration error "
            f"{report.calibration_error:.3f}, area under risk and coverage {report.risk_coverage:.3f}"
        )
    if lines_per_s is not None:
        rows.append(f"  speed        {lines_per_s:.1f} lines/s")
    rows += ["  conventions"]
    width = max(map(len, report.conventions), default=0)
    for name, scores in report.conventions.items():
        numbers = "  ".join(f"{key} {value:.4f}" for key, value in scores.items())
        rows.append(f"    {name:<{width}}  {numbers}")
    rows += [f"    left out: {name}: {reason}" for name, reason in report.left_out.items()]
    rows += _slices("by length in characters", report.by_length)
    rows += _slices("by aspect ratio", report.by_aspect)
    if report.num_without_aspect:
        rows.append(f"  no aspect ratio of {report.num_without_aspect} lines: their images were not opened")
    if report.top_confusions:
        shown = ", ".join(
            f"{visible(there)}>{visible(read)} {count}"
            for there, read, count in report.top_confusions[:SHOWN]
        )
        rows.append(f"  confusions   {shown}")
    return "\n".join(rows)


def _rate(name: str, counts: EditCounts, interval: tuple[float, float]) -> str:
    return (
        f"  {name}          {counts.rate:.4f} [{interval[0]:.4f}, {interval[1]:.4f}]: "
        f"{counts.substitutions} substitutions, {counts.insertions} insertions, {counts.deletions} deletions "
        f"in {counts.length}"
    )


def _slices(title: str, slices: tuple[Slice, ...]) -> list[str]:
    if not slices:
        return []
    cells = [
        f"{part.label}: {'-' if part.cer is None else format(part.cer, '.4f')} ({part.num_lines})"
        for part in slices
    ]
    return [f"  CER {title}: {', '.join(cells)}"]
