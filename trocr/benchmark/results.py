"""What a suite found: figures of each candidate, and where they stand against the machine's limits.

Source: original work.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from trocr.benchmark.lines import BenchmarkLine
from trocr.benchmark.roofline import PRECISIONS, Roofline, Work
from trocr.benchmark.runs import (
    Agreement,
    BlockRun,
    Spread,
    agreement,
    line_seconds,
    percentile,
    ratios,
)


@dataclass(frozen=True, kw_only=True)
class Part:
    """Time of the encoder or of the decoder.

    Attributes:
        seconds_a_line: mean over all lines.
        fraction: least time by the machine's limits over the time taken; None where no limit was measured.
    """

    seconds_a_line: float
    fraction: float | None


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Figures of one candidate.

    Attributes:
        lines_per_s: of the runs over the whole workload.
        p50_s, p95_s: seconds a line; with batch 1 of each line, else of the batches' shares.
        first_s: to the first lines of a block, a batch of them; None where it cannot be told.
        peak_bytes: the most of all blocks beyond what was resident before; None where it cannot be told.
        ratios: candidate -> of its time and this one's, block by block; above 1 this one is faster.
        agreement: of the answers with the reference's.
        encoder, decoder: their times; None where a candidate cannot tell.
        cer: character error rate against the labels, for texts.
        runs: all numbers.
    """

    lines_per_s: Spread
    p50_s: float
    p95_s: float
    first_s: Spread | None
    peak_bytes: int | None
    ratios: Mapping[str, Spread]
    agreement: Agreement | None
    encoder: Part | None = None
    decoder: Part | None = None
    cer: float | None = None
    runs: tuple[BlockRun, ...] = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class SuiteResult:
    """Figures of a suite.

    Attributes:
        name: of the suite.
        reference: the candidate that the others' answers are compared with.
        against: the candidates that ratios are taken against, the reference first.
        measured: by candidate.
        problems: candidate -> why it is not there.
        notes: sentences for the report.
    """

    name: str
    reference: str
    against: Sequence[str]
    measured: Mapping[str, Measured]
    problems: Mapping[str, str]
    notes: Sequence[str] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values with all raw numbers, for JSON."""
        return asdict(self)


def sum_up(
    runs: Mapping[str, Sequence[BlockRun]],
    *,
    reference: str,
    against: Sequence[str],
    lines: Sequence[BenchmarkLine],
    precisions: Mapping[str, str],
    batch: int,
    work: Work | None = None,
    roofline: Roofline | None = None,
) -> dict[str, Measured]:
    """Turn runs into figures.

    Args:
        runs: of `run_in_turns`.
        reference: a candidate of them, whose answers count.
        against: candidates to take ratios against.
        lines: the workload.
        precisions: of the candidates' arithmetic.
        batch: lines that a model takes together, for the limits.
        work: of the model, where it is counted.
        roofline: of the machine, where it was measured.
    """
    found = {}
    for name, blocks in runs.items():
        peaks = [block.peak_bytes for block in blocks if block.peak_bytes is not None]
        firsts = [block.first_s for block in blocks if block.first_s is not None]
        seconds = line_seconds(blocks)
        encoder, decoder = _parts(blocks, lines, precisions[name], batch, work, roofline)
        found[name] = Measured(
            lines_per_s=Spread.of(_speeds(blocks)),
            p50_s=percentile(seconds, 0.5),
            p95_s=percentile(seconds, 0.95),
            first_s=Spread.of(firsts) if firsts else None,
            peak_bytes=max(peaks, default=None),
            ratios={other: Spread.of(ratios(runs[other], blocks)) for other in against if other != name},
            agreement=agreement(runs[reference], blocks),
            encoder=encoder,
            decoder=decoder,
            cer=_cer(blocks, lines),
            runs=tuple(blocks),
        )
    return found


def _speeds(blocks: Sequence[BlockRun]) -> list[float]:
    """Lines per second of each run over the workload, which begins with block 0."""
    passes: list[list[BlockRun]] = []
    for block in blocks:
        if block.block == 0:
            passes.append([])
        passes[-1].append(block)
    return [sum(b.lines for b in blocks) / sum(b.seconds for b in blocks) for blocks in passes]


def _parts(
    blocks: Sequence[BlockRun],
    lines: Sequence[BenchmarkLine],
    precision: str,
    batch: int,
    work: Work | None,
    roofline: Roofline | None,
) -> tuple[Part | None, Part | None]:
    encode = [block.encode_s for block in blocks if block.encode_s is not None]
    if len(encode) != len(blocks):
        return None, None
    count, total = sum(block.lines for block in blocks), sum(block.seconds for block in blocks)
    encode_s = sum(encode)
    least_encode = least_decode = None
    if work is not None and roofline is not None and precision in PRECISIONS:
        least_encode = least_decode = 0.0
        for block in blocks:
            part = lines[block.block : block.block + block.lines]
            for first in range(0, len(part), batch):
                lengths = [line.length or 0 for line in part[first : first + batch]]
                least_encode += work.least_encode_s(len(lengths), roofline, precision)
                least_decode += work.least_decode_s(lengths, roofline, precision)
    decode_s = total - encode_s
    return (
        Part(
            seconds_a_line=encode_s / count,
            fraction=None if least_encode is None else least_encode / encode_s,
        ),
        Part(
            seconds_a_line=decode_s / count,
            fraction=None if least_decode is None else least_decode / decode_s,
        ),
    )


def _cer(blocks: Sequence[BlockRun], lines: Sequence[BenchmarkLine]) -> float | None:
    """Character error rate of the first run over the workload; None where the answers are ids."""
    from trocr.evaluation.report import Reading, evaluate_readings

    readings: list[Reading] = []
    for block in blocks[: len({block.block for block in blocks})]:
        for line, answer in zip(lines[block.block :], block.answers, strict=False):
            if not isinstance(answer, str):
                return None
            name = f"{len(readings)}: {line.name}"
            readings.append(Reading(name=name, target=line.text, reading=answer))
    return evaluate_readings(readings).cer
