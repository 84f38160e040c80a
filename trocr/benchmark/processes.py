"""Measurements that need processes of their own: peak memory, and the way from a file to the first text.

Source: posix_fadvise(2) for giving up what the system remembers of a file.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trocr.benchmark.errors import BenchmarkError
from trocr.benchmark.runs import Spread, turn
from trocr.benchmark.settings import Suite
from trocr.benchmark.table import markdown

MIB = 2**20
Tell = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class ProcessResult:
    """Figures of a suite whose candidates have processes of their own.

    Attributes:
        name: of the suite.
        table: in Markdown.
        runs: all numbers: what each process was asked for and what it gave.
        problems: candidate -> why it is not there.
    """

    name: str
    table: str
    runs: Sequence[Mapping[str, Any]]
    problems: Mapping[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def ask(request: Mapping[str, Any]) -> dict[str, Any]:
    """Let a process of its own do one measurement; see `trocr.benchmark.child`.

    Raises:
        BenchmarkError: it failed; the message has the end of what it said.
    """
    done = subprocess.run(
        [sys.executable, "-m", "trocr.benchmark.child"],
        input=json.dumps(dict(request)),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        last = [line for line in done.stderr.strip().splitlines() if line.strip()][-1:] or ["it said nothing"]
        raise BenchmarkError(f"the process of {request.get('task')} ended with {done.returncode}: {last[0]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def forget_file(path: str | os.PathLike[str]) -> bool:
    """Make the system forget what it remembers of a file, where it can; False where not."""
    if not hasattr(os, "posix_fadvise"):
        return False
    with Path(path).open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return True


def measure_memory(suite: Suite, request: Mapping[str, Any], tell: Tell) -> ProcessResult:
    """Compare the peak memory of a reader for few and for many images.

    Args:
        suite: candidates, counts, runs.
        request: what every process is told: model, data, batch, threads.
        tell: called with what is done.
    """
    runs: list[dict[str, Any]] = []
    problems: dict[str, str] = {}
    for run in range(suite.runs):
        for candidate in turn(suite.candidates, run):
            for images in turn(suite.counts, run):
                if candidate in problems:
                    continue
                asked = {**request, "task": "memory", "candidate": candidate, "images": images}
                try:
                    runs.append({**asked, **ask(asked)})
                except BenchmarkError as error:
                    problems[candidate] = str(error)
                tell(f"{candidate}, {images} images")
    rows = []
    for candidate in suite.candidates:
        peaks = {
            count: [r["peak_bytes"] for r in runs if (r["candidate"], r["images"]) == (candidate, count)]
            for count in suite.counts
        }
        if candidate in problems or not all(peaks.values()):
            rows.append([candidate, f"not there: {problems.get(candidate, 'no figures')}", "", "", ""])
            continue
        fewest = suite.counts[0]
        for count, found in peaks.items():
            growth = [many / few for many, few in zip(found, peaks[fewest], strict=True)]
            mine = [r for r in runs if (r["candidate"], r["images"]) == (candidate, count)]
            rows.append(
                [
                    candidate,
                    f"{count:,}",
                    Spread.of(found).text(0, scale=1 / MIB),
                    Spread.of(growth).text(3),
                    Spread.of(r["images"] / r["seconds"] for r in mine).text(1),
                ]
            )
    head = ["candidate", "images", "peak, MiB", f"against {suite.counts[0]:,} images", "lines/s"]
    return ProcessResult(name=suite.name, table=markdown(head, rows), runs=runs, problems=problems)


def measure_load(
    suite: Suite, request: Mapping[str, Any], files: Sequence[Path], tell: Tell
) -> ProcessResult:
    """Compare the time from a file to the first line with that of reading the file.

    Args:
        suite: candidates, runs.
        request: what every process is told.
        files: weight files of the checkpoint.
        tell: called with what is done.
    """
    runs: list[dict[str, Any]] = []
    problems: dict[str, str] = {}
    base = {**request, "files": [str(path) for path in files]}
    for run in range(suite.runs):
        for state in turn(("cold", "warm"), run):
            for candidate in turn(("", *suite.candidates), run):
                if candidate in problems:
                    continue
                asked = {**base, "task": "load" if candidate else "read_files", "candidate": candidate}
                for path in files:
                    forget_file(path) if state == "cold" else path.read_bytes()
                try:
                    runs.append({**asked, "state": state, **ask(asked)})
                except BenchmarkError as error:
                    problems[candidate] = str(error)
                tell(f"{candidate or 'reading the file'}, {state}")
    rows = []
    for state in ("cold", "warm"):

        def of(name: str, key: str, state: str = state) -> list[float]:
            return [r[key] for r in runs if (r["candidate"], r["state"]) == (name, state)]

        reading = of("", "seconds")
        rows.append([state, "reading the file", "", Spread.of(reading).text(2), ""])
        for candidate in suite.candidates:
            seconds = of(candidate, "seconds")
            if candidate in problems or not seconds:
                rows.append([state, candidate, f"not there: {problems.get(candidate, '')}", "", ""])
                continue
            against = [mine / file for mine, file in zip(seconds, reading, strict=True)]
            load_s = Spread.of(of(candidate, "load_s")).text(2)
            rows.append([state, candidate, load_s, Spread.of(seconds).text(2), Spread.of(against).text(2)])
    head = ["file", "what", "loaded, s", "first line, s", "first line against reading the file"]
    return ProcessResult(name=suite.name, table=markdown(head, rows), runs=runs, problems=problems)
