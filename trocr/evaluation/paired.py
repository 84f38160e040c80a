"""Intervals for what two models read of the same lines.

Source: bootstrap percentile intervals over pairs: Efron 1979; the score interval of a share: Wilson 1927.
"""

import math
from collections.abc import Sequence

import numpy as np

from trocr.evaluation.distance import EditCounts, EvaluationError
from trocr.evaluation.report import SEED, bootstrap_units

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
    errors = np.array([sum(more[place] for place in unit) for unit in units], dtype=float)
    lengths = np.array([sum(reference[place].length for place in unit) for unit in units], dtype=float)
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


def share_interval(hits: int, count: int) -> tuple[float, float]:
    """95 % interval of a share, of `hits` among `count` (at least one).

    It says something where all are hits: of 8 lines that are the same, the share can be as low as 0.68.
    """
    share, spread = hits / count, Z * Z / count
    middle = (share + spread / 2) / (1 + spread)
    half = Z * math.sqrt(share * (1 - share) / count + spread / (4 * count)) / (1 + spread)
    return max(0.0, middle - half), min(1.0, middle + half)
