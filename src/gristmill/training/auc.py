"""The area under the ROC curve with its uncertainty, alone and against another model's.

DeLong, DeLong and Clarke-Pearson, Biometrics 44 (1988) 837-845, computed from midranks as in Sun
and Xu, IEEE Signal Processing Letters 21 (2014) 1389-1393.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

Z95 = NormalDist().inv_cdf(0.975)


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A number and its 95% confidence interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How much greater one model's area is than another's on the same rows."""

    value: float
    """The first area minus the second."""
    standard_error: float
    """0 where the two order every pair alike."""
    degrees: float
    """Of freedom, by Welch and Satterthwaite: how well the standard error itself is known."""


def roc_auc(labels: NDArray[np.int64], scores: NDArray[np.float64]) -> Estimate:
    """The probability that a positive scores above a negative (ties half), by DeLong.

    Both arrays have shape (rows,); there must be two rows of each label.
    """
    of_positives, of_negatives = _placements(labels, scores)
    area = float(of_positives.mean())
    variance = _variance_of_mean(of_positives) + _variance_of_mean(of_negatives)
    if variance == 0.0 and area in (0.0, 1.0):
        return _separated(area, fewer=min(len(of_positives), len(of_negatives)))
    margin = Z95 * float(np.sqrt(variance))
    return Estimate(value=area, low=max(0.0, area - margin), high=min(1.0, area + margin))


def paired_difference(
    labels: NDArray[np.int64], first: NDArray[np.float64], second: NDArray[np.float64]
) -> Difference:
    """The difference of two models' areas on the same rows, by DeLong's paired form.

    It is a mean over the positives plus one over the negatives, each with a variance of its own: as
    in Welch's test (Biometrika 34 (1947) 28-35), a few rows of one label make few degrees.
    """
    first_positives, first_negatives = _placements(labels, first)
    second_positives, second_negatives = _placements(labels, second)
    positives = first_positives - second_positives
    negatives = first_negatives - second_negatives
    variances = _variance_of_mean(positives), _variance_of_mean(negatives)
    counts = len(positives), len(negatives)
    return Difference(
        value=float(positives.mean()),
        standard_error=float(np.sqrt(sum(variances))),
        degrees=_degrees(variances, counts),
    )


def _placements(
    labels: NDArray[np.int64], scores: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """For each positive, the share of negatives below it; for each negative, of positives above."""
    positive = labels == 1
    ranks = midranks(scores)
    positives, negatives = int(positive.sum()), int((~positive).sum())
    of_positives = (ranks[positive] - midranks(scores[positive])) / negatives
    of_negatives = 1.0 - (ranks[~positive] - midranks(scores[~positive])) / positives
    return of_positives, of_negatives


def midranks(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranks from 1; equal scores share the mean of theirs."""
    _, which, counts = np.unique(scores, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    shared: NDArray[np.float64] = last - (counts - 1) / 2.0
    return shared[which]


def _variance_of_mean(values: NDArray[np.float64]) -> float:
    return float(values.var(ddof=1)) / len(values)


def _degrees(variances: tuple[float, float], counts: tuple[int, int]) -> float:
    """Satterthwaite, Biometrics Bulletin 2 (1946) 110-114."""
    spread = sum(
        variance**2 / (count - 1) for variance, count in zip(variances, counts, strict=True)
    )
    return sum(variances) ** 2 / spread if spread > 0.0 else float(min(counts) - 1)


def _separated(area: float, *, fewer: int) -> Estimate:
    """Where every pair is ordered alike DeLong's variance is 0, which is no certainty.

    Pairs that share no row are independent trials, and there are as many as rows of the rarer
    label; Clopper and Pearson's bound for that many successes out of as many is exact for those.
    """
    bound = float(0.025 ** (1.0 / fewer))
    if area == 1.0:
        return Estimate(value=1.0, low=bound, high=1.0)
    return Estimate(value=0.0, low=0.0, high=1.0 - bound)
