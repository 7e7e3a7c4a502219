"""How much better one model's scores are than another's on the same rows, and how sure that is.

The area under the ROC curve by DeLong's paired form; any other metric by a bootstrap that draws
rows, so that both models are always measured on the same ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gristmill.training.auc import paired_difference
from gristmill.training.evaluate import LOWER_IS_BETTER, losses, measure

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from gristmill.project.model import Metric

    Statistic = Callable[[NDArray[np.float64]], float]
    """A metric of rows that each count as often as their weight, of shape (rows,), says."""

RESAMPLES = 400
"""Draws of the bootstrap: they know the standard error to within 4%."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Scored:
    """A model's answers for rows."""

    probabilities: NDArray[np.float64]
    """Of label 1, of shape (rows,)."""
    threshold: float
    """From this probability on the answer is 1."""


@dataclass(frozen=True, kw_only=True)
class Improvement:
    """How much better the first of two models is; negative where it is worse."""

    metric: Metric
    value: float
    standard_error: float
    degrees: float
    """Of freedom: with few, the standard error is not well known itself."""
    pairs: int
    """Rows on which both were measured."""
    positives: int
    """Those of them with label 1."""

    @property
    def p_value(self) -> float:
        """How likely two equally good models would show as great an improvement, or a greater."""
        from scipy.special import stdtr

        if self.standard_error > 0.0:
            return float(stdtr(self.degrees, -self.value / self.standard_error))
        # Every pair says the same. Pairs that share no row are independent: as many coins.
        fewer = min(self.positives, self.pairs - self.positives)
        return 0.5**fewer if self.value > 0.0 else 1.0

    def bound(self, confidence: float) -> float:
        """What the true improvement lies below with so much confidence; above, below one half."""
        from scipy.special import stdtrit

        return float(self.value + stdtrit(self.degrees, confidence) * self.standard_error)


def improvement(
    metric: Metric, labels: NDArray[np.int64], candidate: Scored, champion: Scored
) -> Improvement:
    """The candidate's advantage over the champion; labels have shape (rows,), two of each at least.

    For a metric of which less is better the sign is turned, so that more is always better.
    """
    positives = int(labels.sum())
    if metric == "roc_auc":
        found = paired_difference(labels, candidate.probabilities, champion.probabilities)
        value, standard_error, degrees = found.value, found.standard_error, found.degrees
    else:
        sign = -1.0 if metric in LOWER_IS_BETTER else 1.0
        first, second = (
            measure(metric, labels, one.probabilities, threshold=one.threshold)
            for one in (candidate, champion)
        )
        value = sign * (first - second)
        standard_error = _bootstrap(metric, labels, candidate, champion)
        degrees = float(min(positives, len(labels) - positives) - 1)
    return Improvement(
        metric=metric,
        value=value,
        standard_error=standard_error,
        degrees=degrees,
        pairs=len(labels),
        positives=positives,
    )


def _bootstrap(
    metric: Metric, labels: NDArray[np.int64], candidate: Scored, champion: Scored
) -> float:
    """The standard deviation of the difference when rows are drawn with replacement.

    Efron, Annals of Statistics 7 (1979) 1-26. The draws are always the same ones. How many rows
    have label 1 is drawn too: probabilities that are higher throughout do better where there happen
    to be more positives. A balanced accuracy alone does not depend on that.
    """
    random = np.random.default_rng(0)
    first, second = (_statistic(metric, labels, one) for one in (candidate, champion))
    places = [np.arange(len(labels))]
    if metric == "balanced_accuracy":
        places = [np.flatnonzero(labels == label) for label in (0, 1)]
    differences = np.empty(RESAMPLES)
    for number in range(RESAMPLES):
        weights = np.zeros(len(labels))
        for rows in places:
            drawn = random.integers(len(rows), size=len(rows))
            weights[rows] = np.bincount(drawn, minlength=len(rows))
        differences[number] = first(weights) - second(weights)
    return float(differences.std(ddof=1))


def _statistic(metric: Metric, labels: NDArray[np.int64], scored: Scored) -> Statistic:
    if metric == "log_loss" or metric == "brier":
        of_rows = losses(metric, labels, scored.probabilities)
        return lambda weights: float(weights @ of_rows / weights.sum())
    if metric == "average_precision":
        return _average_precision(labels, scored.probabilities)
    positive = (labels == 1).astype(np.float64)
    answered = (scored.probabilities >= scored.threshold).astype(np.float64)
    found, right_negative = positive * answered, (1.0 - positive) * (1.0 - answered)

    def f1(weights: NDArray[np.float64]) -> float:
        # A draw may have no positive, and nothing answered 1.
        return float(2.0 * (weights @ found) / max(1.0, weights @ answered + weights @ positive))

    def balanced_accuracy(weights: NDArray[np.float64]) -> float:
        positives = weights @ positive
        negatives = weights.sum() - positives
        return float((weights @ found / positives + weights @ right_negative / negatives) / 2.0)

    return f1 if metric == "f1" else balanced_accuracy


def _average_precision(labels: NDArray[np.int64], probabilities: NDArray[np.float64]) -> Statistic:
    """As `evaluate.average_precision`, the order worked out once for all draws."""
    order = np.argsort(-probabilities, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(probabilities[order])), len(labels) - 1)
    ordered = labels[order]

    def average_precision(weights: NDArray[np.float64]) -> float:
        counted = weights[order]
        found = np.cumsum(counted * ordered)[ends]
        # A draw may leave out the highest rows: nothing answered, nothing gained.
        answered = np.maximum(np.cumsum(counted)[ends], 1.0)
        return float((np.diff(found, prepend=0.0) * found / answered).sum() / max(1.0, found[-1]))

    return average_precision
