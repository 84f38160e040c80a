"""A report on readings: rates with intervals, confusions, slices, and what else one should know.

Source: bootstrap percentile intervals: Efron 1979; calibration error: arXiv:1706.04599 sec. 2; area under the
risk-coverage curve: arXiv:1805.08206.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from trocr.evaluation.conventions import CONVENTIONS, Pair, Scores, UnfitError, score
from trocr.evaluation.distance import EditCounts, EvaluationError, confusions, count_edits, total
from trocr.evaluation.texts import Normalisation

LENGTHS = (0, 5, 10, 20, 40, 60, 80)
"""Lower bounds of the slices by length of the target, in characters."""

ASPECTS = (0, 2, 4, 8, 16, 24, 32)
"""Lower bounds of the slices by width of the image by its height."""

OVERLONG = 1.5
"""A reading longer than this many times its target, and by three characters at least, is over-long."""

BINS = 10

SEED = 0
"""Of the bootstrap, unless another is given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """A line, its reading, and what the slices need.

    Attributes:
        name: of the line.
        target: what it says.
        reading: what was read.
        group: its receipt, page or writer, or None.
        aspect: width of its image by its height, or None.
        score: the reader's confidence, 0..1, or None.
        finished: whether the reader came to an end.
        image_sha256: of its image, see `trocr.evaluation.manifest.image_hash`; None where it was not opened.
    """

    name: str
    target: str
    reading: str
    group: str | None = None
    aspect: float | None = None
    score: float | None = None
    finished: bool = True
    image_sha256: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """Lines of a range.

    Attributes:
        label: of the range, "10-19".
        num_lines: in it.
        cer: of them together; None where their targets hold no text.
    """

    label: str
    num_lines: int
    cer: float | None


@dataclass(frozen=True, kw_only=True)
class Report:
    """What readings are worth.

    Attributes:
        num_lines: lines read.
        num_groups: receipts, pages or writers; 0 where the source does not say.
        characters: edits over characters.
        words: edits over words between spaces.
        cer_interval: 95 % interval of the character error rate.
        wer_interval: of the word error rate.
        resampled: what was drawn for the intervals: "groups", or "lines" where there are none.
        exact: share of lines without an error.
        empty: share of lines read as nothing though they say something.
        overlong: share of readings that are far too long; see `OVERLONG`.
        unfinished: share of readings that were cut by the longest length.
        conventions: scores of every convention that applies, by name.
        left_out: why the others do not apply, by name.
        by_length: slices by length of the target.
        by_aspect: slices by the images' aspect ratio, of the lines whose images could be opened.
        top_confusions: (there, read, count), most frequent first; "" is nothing.
        mean_score: mean confidence, or None.
        calibration_error: of the confidence as probability of an exact line, or None.
        risk_coverage: area under the curve of error rate by coverage, lines sorted by confidence, or None.
    """

    num_lines: int
    num_groups: int
    characters: EditCounts
    words: EditCounts
    cer_interval: tuple[float, float]
    wer_interval: tuple[float, float]
    resampled: str
    exact: float
    empty: float
    overlong: float
    unfinished: float
    conventions: dict[str, Scores] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    by_length: tuple[Slice, ...] = ()
    by_aspect: tuple[Slice, ...] = ()
    top_confusions: tuple[tuple[str, str, int], ...] = ()
    mean_score: float | None = None
    calibration_error: float | None = None
    risk_coverage: float | None = None

    @property
    def cer(self) -> float:
        """Character error rate of all lines together."""
        return self.characters.rate

    @property
    def num_without_aspect(self) -> int:
        """Lines that are in no slice by aspect ratio."""
        return self.num_lines - sum(part.num_lines for part in self.by_aspect)

    @property
    def wer(self) -> float:
        """Word error rate of all lines together."""
        return self.words.rate

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {"cer": self.cer, "wer": self.wer, **asdict(self)}


def evaluate_readings(
    readings: Sequence[Reading],
    *,
    normalisation: Normalisation | None = None,
    conventions: Sequence[str] | None = None,
    num_resamples: int = 1000,
    seed: int = SEED,
    num_confusions: int = 20,
) -> Report:
    """Compare readings with their targets.

    Args:
        readings: at least one.
        normalisation: of both sides, for all numbers; None compares texts as they are.
        conventions: names; None takes all that these lines have what is needed for.
        num_resamples: of the bootstrap.
        seed: of the bootstrap.
        num_confusions: most that are listed.
    Raises:
        EvaluationError: there are no lines, no text in their targets, or a convention does not exist or was
            named and needs what the lines lack.
    """
    if not readings:
        raise EvaluationError("there are no lines to evaluate")
    readings = compared(readings, normalisation)
    pairs = [Pair(target=r.target, reading=r.reading, group=r.group) for r in readings]
    characters = [count_edits(pair.target, pair.reading) for pair in pairs]
    words = [count_edits(pair.target.split(), pair.reading.split()) for pair in pairs]
    groups = [pair.group for pair in pairs]
    resampled, units = bootstrap_units(groups)
    exact = [pair.target == pair.reading for pair in pairs]
    counted = Counter(item for pair in pairs for item in confusions(pair.target, pair.reading))
    scores, left_out = _scores(pairs, conventions)
    return Report(
        num_lines=len(pairs),
        num_groups=len({group for group in groups if group is not None}),
        characters=total(characters),
        words=total(words),
        cer_interval=_interval(characters, units, num_resamples, seed),
        wer_interval=_interval(words, units, num_resamples, seed),
        resampled=resampled,
        exact=sum(exact) / len(exact),
        empty=_rate(pairs, lambda pair: bool(pair.target) and not pair.reading),
        overlong=_rate(pairs, _is_overlong),
        unfinished=sum(not reading.finished for reading in readings) / len(readings),
        conventions=scores,
        left_out=left_out,
        by_length=_slices([float(len(pair.target)) for pair in pairs], characters, LENGTHS),
        by_aspect=_slices([reading.aspect for reading in readings], characters, ASPECTS),
        top_confusions=tuple(
            (there, read, count) for (there, read), count in counted.most_common(num_confusions)
        ),
        **_confidence([reading.score for reading in readings], exact),
    )


def compared(readings: Sequence[Reading], normalisation: Normalisation | None) -> list[Reading]:
    """Readings with the texts that are compared, on both sides."""
    clean = normalisation or Normalisation()
    return [replace(r, target=clean(r.target), reading=clean(r.reading)) for r in readings]


def _scores(pairs: Sequence[Pair], names: Sequence[str] | None) -> tuple[dict[str, Scores], dict[str, str]]:
    """Scores by convention, and where none was named, why some do not apply."""
    if names is not None:
        return {name: score(name, pairs) for name in names}, {}
    scores, left_out = {}, {}
    for name in CONVENTIONS:
        try:
            scores[name] = score(name, pairs)
        except UnfitError as error:
            left_out[name] = str(error)
    return scores, left_out


def _rate(pairs: Sequence[Pair], test: Callable[[Pair], bool]) -> float:
    return sum(map(test, pairs)) / len(pairs)


def _is_overlong(pair: Pair) -> bool:
    longest = max(OVERLONG * len(pair.target), len(pair.target) + 3)
    return len(pair.reading) > longest


def bootstrap_units(groups: Sequence[str | None]) -> tuple[str, list[list[int]]]:
    """Decide what the bootstrap draws.

    Returns:
        "groups" where every line has one and there are several, else "lines"; numbers of the lines of each.
    """
    if None in groups or len(set(groups)) < 2:
        return "lines", [[place] for place in range(len(groups))]
    found: dict[object, list[int]] = {}
    for place, group in enumerate(groups):
        found.setdefault(group, []).append(place)
    return "groups", list(found.values())


def _interval(
    counts: Sequence[EditCounts], units: list[list[int]], num_resamples: int, seed: int
) -> tuple[float, float]:
    errors, lengths = [count.errors for count in counts], [count.length for count in counts]
    return bootstrap_interval(errors, lengths, units, num_resamples=num_resamples, seed=seed)


def bootstrap_interval(
    line_errors: Sequence[int],
    line_lengths: Sequence[int],
    units: Sequence[Sequence[int]],
    *,
    num_resamples: int,
    seed: int,
) -> tuple[float, float]:
    """95 % interval of errors over lengths: percentiles of the rate over units drawn with replacement.

    Args:
        line_errors: of each line; of two readings, how many more.
        line_lengths: of each line.
        units: numbers of the lines that are drawn together, see `bootstrap_units`.
        num_resamples: draws.
        seed: of the draws.
    Raises:
        EvaluationError: the lines have no length.
    """
    errors = np.array([sum(line_errors[place] for place in unit) for unit in units], dtype=float)
    lengths = np.array([sum(line_lengths[place] for place in unit) for unit in units], dtype=float)
    rng = np.random.default_rng(seed)
    rates = []
    for _ in range(num_resamples):
        drawn = rng.integers(0, len(units), len(units))
        length = lengths[drawn].sum()
        if length:
            rates.append(errors[drawn].sum() / length)
    if not rates:
        raise EvaluationError("the targets hold no text: an error rate has no meaning")
    low, high = np.percentile(rates, (2.5, 97.5))
    return float(low), float(high)


def _slices(
    values: Sequence[float | None], counts: Sequence[EditCounts], bounds: Sequence[int]
) -> tuple[Slice, ...]:
    slices = []
    for low, high in zip(bounds, [*bounds[1:], None], strict=True):
        inside = [
            count
            for value, count in zip(values, counts, strict=True)
            if value is not None and low <= value and (high is None or value < high)
        ]
        if inside:
            added = total(inside)
            label = f"{low}+" if high is None else f"{low}-{high - 1}" if high - low > 1 else f"{low}"
            cer = added.rate if added.length else None
            slices.append(Slice(label=label, num_lines=len(inside), cer=cer))
    return tuple(slices)


def _confidence(scores: Sequence[float | None], exact: Sequence[bool]) -> dict[str, float | None]:
    """Mean confidence, expected calibration error over ten bins, area under the risk-coverage curve."""
    if any(value is None for value in scores):
        return {}
    values, right = np.array(scores, dtype=float), np.array(exact, dtype=float)
    places = np.minimum((values * BINS).astype(int), BINS - 1)
    gaps = [
        abs(values[places == place].mean() - right[places == place].mean()) * (places == place).mean()
        for place in range(BINS)
        if (places == place).any()
    ]
    order = np.argsort(-values, kind="stable")
    risks = np.cumsum(1 - right[order]) / np.arange(1, len(right) + 1)
    return {
        "mean_score": float(values.mean()),
        "calibration_error": float(sum(gaps)),
        "risk_coverage": float(risks.mean()),
    }
