"""Intervals for what two models read of the same lines.

Source: bootstrap percentile intervals over pairs: Efron 1979; the score interval of a share: Wilson 1927.
"""

import math
from collections.abc import Sequence

from trocr.evaluation.distance import EditCounts
from trocr.evaluation.report import SEED, bootstrap_interval, bootstrap_units

Z = 1.959964
"""Of 95 %, two-sided."""


def difference_interval(
    reference: Sequence[EditCounts],
    candidate: Sequence[EditCounts],
    groups: Sequence[str | None],
    *,
    num_resamples: int = 1000,
    seed: int = SEED,
) -> tuple[float, float]:
    """95 % interval of the candidate's error rate less the reference's.

    How hard the lines are is in both rates and falls out: the interval is far narrower than theirs.

    Args:
        reference: edits of each line.
        candidate: edits of the same lines, with the same targets.
        groups: of the lines; whole groups are drawn where every line has one.
        num_resamples: of the bootstrap.
        seed: of the bootstrap.
    Raises:
        EvaluationError: the targets hold no text.
    """
    _, units = bootstrap_units(groups)
    more = [after.errors - before.errors for before, after in zip(reference, candidate, strict=True)]
    lengths = [counts.length for counts in reference]
    return bootstrap_interval(more, lengths, units, num_resamples=num_resamples, seed=seed)


def share_interval(hits: int, count: int) -> tuple[float, float]:
    """95 % interval of a share, of `hits` among `count` (at least one).

    It says something where all are hits: of 8 lines that are the same, the share can be as low as 0.68.
    """
    share, spread = hits / count, Z * Z / count
    middle = (share + spread / 2) / (1 + spread)
    half = Z * math.sqrt(share * (1 - share) / count + spread / (4 * count)) / (1 + spread)
    return max(0.0, middle - half), min(1.0, middle + half)
