"""A report as one HTML page that needs nothing else: tables, and the worst lines with their pictures.

Source: original work.
"""

import base64
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from PIL import Image, ImageOps

from trocr.evaluation.characters import harmless, visible
from trocr.evaluation.distance import distance, marked
from trocr.evaluation.report import Reading, Report

PICTURE_PX = (900, 96)
"""Largest (width, height) of a picture."""

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 70em; padding: 0 1em; color: #222 }
table { border-collapse: collapse; margin: .6em 0 1.6em }
th, td { border: 1px solid #ccc; padding: .25em .6em; text-align: left; vertical-align: top }
th { background: #f3f3f3 }
td.number { text-align: right; font-variant-numeric: tabular-nums }
.line { border-top: 1px solid #ccc; padding: .7em 0 }
.line img { max-width: 100%; border: 1px solid #ddd; background: #fff }
.text { font-family: ui-monospace, monospace; white-space: pre-wrap; overflow-wrap: anywhere;
  unicode-bidi: isolate }
del { background: #ffd9d9; text-decoration: none }
ins { background: #d6f5d6; text-decoration: none }
.about { color: #666; font-size: .9em }
pre { background: #f7f7f7; padding: .8em; overflow-x: auto }
"""


@dataclass(frozen=True, kw_only=True)
class Section:
    """A data set on the page.

    Attributes:
        title: of it.
        report: on it.
        worst: lines to show with their images; their texts as they were compared, see `compared`.
        lines_per_s: speed of reading, or None.
        skipped: messages of lines that could not be opened.
    """

    title: str
    report: Report
    worst: Sequence[tuple[Reading, Image.Image | None]] = ()
    lines_per_s: float | None = None
    skipped: Sequence[str] = ()


def report_html(sections: Sequence[Section], manifest: Mapping[str, Any]) -> str:
    """Lay reports out as a page.

    Args:
        sections: one of each data set.
        manifest: what was measured, shown at the end.
    """
    parts = [_section(section) for section in sections]
    shown = escape(json.dumps(manifest, indent=2, ensure_ascii=False))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Readings</title><style>{_STYLE}</style></head><body>\n<h1>Readings</h1>\n"
        + "\n".join(parts)
        + f"\n<h2>Measured on</h2>\n<pre>{shown}</pre>\n</body></html>\n"
    )


def worst_lines(readings: Sequence[Reading], count: int) -> list[Reading]:
    """The lines with the most edits between their texts, those without an error left out."""
    edits = [(distance(r.target, r.reading), place) for place, r in enumerate(readings)]
    ranked = sorted((item for item in edits if item[0]), key=lambda item: (-item[0], item[1]))
    return [readings[place] for _, place in ranked[:count]]


def _numbers(report: Report, lines_per_s: float | None) -> list[tuple[str, str]]:
    edits = report.characters
    low, high = report.cer_interval
    word_low, word_high = report.wer_interval
    numbers = [
        ("lines", f"{report.num_lines}" + (f" in {report.num_groups} groups" * bool(report.num_groups))),
        ("CER", f"{report.cer:.4f} [{low:.4f}, {high:.4f}]"),
        ("WER", f"{report.wer:.4f} [{word_low:.4f}, {word_high:.4f}]"),
        (
            "substitutions, insertions, deletions",
            f"{edits.substitutions}, {edits.insertions}, {edits.deletions}",
        ),
        ("exact lines", f"{report.exact:.4f}"),
        ("read as nothing", f"{report.empty:.4f}"),
        ("far too long", f"{report.overlong:.4f}"),
        ("cut at the longest length", f"{report.unfinished:.4f}"),
        ("intervals", f"95 %, bootstrap over {report.resampled}"),
    ]
    if report.mean_score is not None:
        numbers += [
            ("confidence on average", f"{report.mean_score:.3f}"),
            ("calibration error", f"{report.calibration_error:.3f}"),
            ("area under risk and coverage", f"{report.risk_coverage:.3f}"),
        ]
    if lines_per_s is not None:
        numbers.append(("lines/s", f"{lines_per_s:.1f}"))
    return numbers


def _section(section: Section) -> str:
    report = section.report
    scores = [
        (name, ", ".join(f"{key} {value:.4f}" for key, value in found.items()))
        for name, found in report.conventions.items()
    ]
    scores += [(name, f"left out: {reason}") for name, reason in report.left_out.items()]
    slices = [
        (f"{kind} {part.label}", f"{part.num_lines}", "" if part.cer is None else f"{part.cer:.4f}")
        for kind, parts in (("length", report.by_length), ("aspect", report.by_aspect))
        for part in parts
    ]
    if report.num_without_aspect:
        slices.append(("aspect unknown, image not opened", f"{report.num_without_aspect}", ""))
    confusions = [(visible(there), visible(read), f"{n}") for there, read, n in report.top_confusions]
    return "\n".join(
        [
            f"<h2>{escape(section.title)}</h2>",
            _table(("", ""), _numbers(report, section.lines_per_s)),
            _table(
                ("lines left out, as their images cannot be read",),
                [(harmless(text),) for text in section.skipped],
            ),
            _table(("convention", "scores"), scores),
            _table(("slice", "lines", "CER"), slices),
            _table(("there", "read", "times"), confusions),
            f"<h3>Worst {len(section.worst)} lines, by the texts that were compared</h3>",
            *(_line(reading, image) for reading, image in section.worst),
        ]
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return ""
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head) if any(head) else ""
    body = "".join(f"<tr>{''.join(map(_cell, enumerate(row)))}</tr>" for row in rows)
    return f"<table>{f'<tr>{top}</tr>' if top else ''}{body}</table>"


def _cell(placed: tuple[int, str]) -> str:
    place, text = placed
    return (
        f'<td class="number" dir="auto">{escape(text)}</td>'
        if place
        else f'<td dir="auto">{escape(text)}</td>'
    )


def _line(reading: Reading, image: Image.Image | None) -> str:
    there, read = [], []
    for kind, wanted, got in marked(reading.target, reading.reading):
        there.append(_piece("del", wanted, kind == "equal"))
        read.append(_piece("ins", got, kind == "equal"))
    about = escape(harmless(reading.name)) + (
        f", confidence {reading.score:.3f}" if reading.score is not None else ""
    )
    picture = f'<img alt="" src="{_data_url(image)}">' if image is not None else ""
    return (
        f'<div class="line">{picture}<div class="text" dir="auto">{"".join(there)}</div>'
        f'<div class="text" dir="auto">{"".join(read)}</div><div class="about">{about}</div></div>'
    )


def _piece(tag: str, text: str, is_equal: bool) -> str:
    """A piece of a text: what differs is shown character by character, spaces and all."""
    if is_equal or not text:
        return escape(harmless(text))
    return f"<{tag}>{escape(''.join(map(visible, text)))}</{tag}>"


def _data_url(image: Image.Image) -> str:
    width, height = min(PICTURE_PX[0], image.width), min(PICTURE_PX[1], image.height)
    small = ImageOps.contain(image.convert("L"), (width, height))
    content = io.BytesIO()
    small.save(content, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(content.getvalue()).decode("ascii")
