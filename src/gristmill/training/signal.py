"""Is there anything to learn? The chance that scores without any signal would order as well.

Mann and Whitney, Annals of Mathematical Statistics 18 (1947) 50-60.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np

from gristmill.training.auc import midranks

if TYPE_CHECKING:
    from numpy.typing import NDArray

MOST_EXACT_STEPS = 2_000_000_000
"""Additions that the exact distribution may take, about a second; beyond, the normal one."""


def chance_p_value(labels: NDArray[np.int64], scores: NDArray[np.float64]) -> float:
    """The one-sided p-value of the area under the ROC curve being above one half.

    It is exact given the ties: the share of all ways to give out the labels under which the
    positives' ranks sum to as much or more. Where there are too many ways to count (from 250 rows
    of evenly spread labels on), it is the normal approximation with correction for ties and
    continuity; it is the more careful of the two in the tail. Both arrays have shape (rows,) and
    hold both labels.
    """
    ranks = midranks(scores)
    rows, positives = len(labels), int(labels.sum())
    # Labels and scores turned round together leave the statistic as it is: count the rarer label.
    chosen, wanted = labels == 1, positives
    if positives > rows - positives:
        chosen, wanted, ranks = labels == 0, rows - positives, rows + 1 - ranks
    if rows * wanted * rows * (rows + 1) <= MOST_EXACT_STEPS:
        return _exact(np.rint(2 * ranks).astype(np.int64), chosen, wanted)
    return _approximate(ranks, chosen, wanted)


def smallest_auc(positives: int, negatives: int, *, alpha: float) -> float:
    """The least area that a test at this level tells from chance, given so many rows; at most 1."""
    above = -NormalDist().inv_cdf(alpha) * chance_deviation(positives, negatives)
    return min(1.0, 0.5 + above)


def detectable_auc(positives: int, negatives: int, *, alpha: float) -> float:
    """The true area that a test at this level notices four times out of five; at most 1."""
    above = NormalDist().inv_cdf(0.8) * chance_deviation(positives, negatives)
    return min(1.0, smallest_auc(positives, negatives, alpha=alpha) + above)


def chance_deviation(positives: int, negatives: int) -> float:
    """The standard deviation of the area of scores that know nothing and are never equal."""
    return math.sqrt((positives + negatives + 1) / (12 * positives * negatives))


def _exact(doubled_ranks: NDArray[np.int64], chosen: NDArray[np.bool_], wanted: int) -> float:
    """Counts, rank by rank, the ways to choose so many rows with such a sum."""
    observed = int(doubled_ranks[chosen].sum())
    largest = int(np.sort(doubled_ranks)[-wanted:].sum())
    ways = np.zeros((wanted + 1, largest + 1))
    ways[0, 0] = 1.0
    for rank in doubled_ranks.tolist():
        # Going down in size, so that a rank is chosen once; the copy is made by the addition.
        ways[1:, rank:] = ways[1:, rank:] + ways[:-1, : largest + 1 - rank]
    return float(ways[wanted, observed:].sum() / ways[wanted].sum())


def _approximate(ranks: NDArray[np.float64], chosen: NDArray[np.bool_], wanted: int) -> float:
    rows = len(ranks)
    others = rows - wanted
    statistic = float(ranks[chosen].sum()) - wanted * (wanted + 1) / 2
    _, counts = np.unique(ranks, return_counts=True)
    ties = float((counts.astype(np.float64) ** 3 - counts).sum()) / (rows * (rows - 1))
    variance = wanted * others / 12 * (rows + 1 - ties)
    if variance <= 0.0:
        return 1.0  # every score is the same: all ways to give out the labels order as well
    return NormalDist().cdf(-(statistic - wanted * others / 2 - 0.5) / math.sqrt(variance))
