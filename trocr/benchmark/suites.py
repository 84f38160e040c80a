"""Running a suite: from its settings to its figures.

Source: original work.
"""

import gc
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from trocr.benchmark.candidates import (
    FAILURES,
    OURS,
    Materials,
    make_candidates,
    our_text_makers,
    our_token_makers,
)
from trocr.benchmark.checkpoints import checkpoint_folder, describe_model, is_random, prepare_lines
from trocr.benchmark.errors import BenchmarkError
from trocr.benchmark.peers import Maker, text_peers, token_peers
from trocr.benchmark.processes import ProcessResult, measure_load, measure_memory
from trocr.benchmark.profile import Groups, profile_model
from trocr.benchmark.results import SuiteResult, sum_up
from trocr.benchmark.roofline import Roofline, Work
from trocr.benchmark.runs import Candidate, run_block, run_in_turns
from trocr.benchmark.settings import Suite
from trocr.image import load_image_processor
from trocr.tokenizers import load_tokenizer

CALIBRATION_LINES, CALIBRATION_SEED = 8, 1


def token_makers() -> dict[str, Maker]:
    """All that reads prepared images, by name."""
    return our_token_makers() | token_peers()


def text_makers() -> dict[str, Maker]:
    """All that reads images as they are on disk, by name."""
    return our_text_makers() | text_peers()


MAKERS: Mapping[str, Callable[[], dict[str, Maker]]] = {"tokens": token_makers, "texts": text_makers}


def _silent(_: str) -> None:
    pass


def run_suite(
    suite: Suite,
    *,
    data: str,
    tokenizer: str | None = None,
    roofline: Roofline | None = None,
    threads: int = 0,
    tell: Callable[[str], None] = _silent,
) -> SuiteResult | ProcessResult:
    """Run a suite.

    Args:
        suite: what to do.
        data: lines, see `trocr.data.sources.open_source`.
        tokenizer: directory of the tokenizer that gives the lines' lengths; None estimates them.
        roofline: of the machine; None leaves fractions out.
        threads: of the processes that a suite starts; 0 is PyTorch's choice.
        tell: called with what is done.
    Raises:
        BenchmarkError: lines, model or candidates are not there, or none of the candidates can run.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = checkpoint_folder(suite.model, Path(scratch))
        if suite.kind in MAKERS:
            materials = _materials(suite, folder, Path(scratch), data, tokenizer)
            return _compare(suite, materials, roofline, tell)
        request = {
            "model": suite.model,
            "folder": str(folder),
            "data": data,
            "tokenizer": tokenizer,
            "batch": suite.batch,
            "threads": threads,
        }
        if suite.kind == "memory":
            return measure_memory(suite, request, tell)
        files = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin"))
        if not files:
            raise BenchmarkError(f"{folder}: no weight files")
        return measure_load(suite, request, files, tell)


def _materials(suite: Suite, folder: Path, scratch: Path, data: str, tokenizer: str | None) -> Materials:
    loaded = load_tokenizer(tokenizer) if tokenizer else None
    if loaded is None and not is_random(suite.model):
        loaded = load_tokenizer(folder)
    lines = prepare_lines(data, suite.lines, folder, tokenizer=loaded)
    calibration = prepare_lines(data, CALIBRATION_LINES, folder, tokenizer=loaded, seed=CALIBRATION_SEED)
    return Materials(folder=folder, lines=lines, calibration=calibration, batch=suite.batch, scratch=scratch)


def _compare(
    suite: Suite, materials: Materials, roofline: Roofline | None, tell: Callable[[str], None]
) -> SuiteResult:
    block = suite.block or len(materials.lines)
    candidates, problems = make_candidates(suite.candidates, materials, MAKERS[suite.kind]())
    for name in list(candidates):
        tell(f"{name}: first lines")
        try:
            run_block(candidates[name], materials.lines[:block])
        except FAILURES as error:
            problems[name] = f"{type(error).__name__}: {error}"
            del candidates[name]
    if not candidates:
        said = "; ".join(f"{name}: {problem}" for name, problem in problems.items())
        raise BenchmarkError(f"suite {suite.name}: none of its candidates can run: {said}")
    wanted = suite.reference or suite.candidates[0]
    reference = wanted if wanted in candidates else next(iter(candidates))
    against = [reference, *(name for name in suite.against if name in candidates and name != reference)]
    runs = run_in_turns(candidates, materials.lines, block=block, runs=suite.runs, warm_up=0, tell=tell)
    work = Work.of(materials.plain) if suite.kind == "tokens" and roofline is not None else None
    measured = sum_up(
        runs,
        reference=reference,
        against=against,
        lines=materials.lines,
        precisions={name: candidate.precision for name, candidate in candidates.items()},
        batch=suite.batch,
        work=work,
        roofline=roofline,
    )
    notes = _notes(suite, materials, candidates)
    if reference != wanted:
        notes.append(f"The reference {wanted} is not there; {reference} stands in for it.")
    gc.collect()
    return SuiteResult(
        name=suite.name,
        reference=reference,
        against=against,
        measured=measured,
        problems=problems,
        notes=notes,
    )


def _notes(suite: Suite, materials: Materials, candidates: Mapping[str, Candidate]) -> list[str]:
    lengths = [line.length or 0 for line in materials.lines]
    notes = [
        f"{describe_model(suite.model)}; {len(lengths)} lines, batches of {suite.batch}, "
        f"blocks of {suite.block or len(lengths)} lines in turn, {suite.runs} runs over all lines."
    ]
    if suite.kind == "tokens":
        mean = sum(lengths) / len(lengths)
        notes.append(f"Tokens a line, forced: {min(lengths)} to {max(lengths)}, mean {mean:.1f}.")
    for name, candidate in candidates.items():
        inner: Any = getattr(candidate, "inner", candidate)
        if hasattr(inner, "attention"):
            notes.append(f"{name}: attention of encoder and decoder: {', '.join(inner.attention)}.")
    return notes


def profile_suite(
    suite: Suite, *, data: str, tokenizer: str | None = None, names: tuple[str, ...] = ()
) -> dict[str, Groups | str]:
    """Profile our candidates of a suite on one batch of its lines.

    Args:
        suite: of kind "tokens" or "texts".
        data: lines.
        tokenizer: see `run_suite`.
        names: candidates; none means all of ours that the suite has.
    Returns:
        Candidate -> part -> operator -> seconds, or why the candidate is not there.
    Raises:
        BenchmarkError: another kind, or none of the candidates is ours.
    """
    if suite.kind not in MAKERS:
        raise BenchmarkError(f"suite {suite.name}: {suite.kind} cannot be profiled, only {', '.join(MAKERS)}")
    wanted = list(dict.fromkeys(name.split()[0] for name in names or suite.candidates))
    wanted = [name for name in wanted if name in OURS]
    if not wanted:
        raise BenchmarkError(
            f"suite {suite.name}: no candidate that can be profiled; ours are {', '.join(OURS)}"
        )
    found: dict[str, Groups | str] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = checkpoint_folder(suite.model, Path(scratch))
        materials = _materials(suite, folder, Path(scratch), data, tokenizer)
        processor = load_image_processor(folder)
        for name in wanted:
            try:
                model = OURS[name].make(materials)
                found[name] = profile_model(model, materials.lines[: suite.batch], processor)
            except FAILURES as error:
                found[name] = f"{type(error).__name__}: {error}"
    return found
