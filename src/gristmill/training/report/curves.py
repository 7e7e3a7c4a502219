"""The points of the curves that a classifier is known by, from its labels and probabilities."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np

from gristmill.training.evaluate import wilson

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from gristmill.training.auc import Estimate

MOST_POINTS = 160
"""Points of a curve that are drawn: more are not to be seen."""
BINS = 10
SHARES = (0.01, 0.05, 0.1, 0.2, 0.3, 0.5)
RESAMPLES = 300


@dataclass(frozen=True, kw_only=True, eq=False)
class Ranking:
    """Rows by probability, the highest first: one entry for each probability that occurs."""

    thresholds: NDArray[np.float64]
    rows: NDArray[np.float64]
    """How many rows have so high a probability or a higher one."""
    found: NDArray[np.float64]
    """How many of them have label 1."""
    positives: int
    total: int

    @property
    def roc(self) -> list[tuple[float, float]]:
        """Share of negatives answered 1 by share of positives answered 1."""
        across = (self.rows - self.found) / (self.total - self.positives)
        return _thinned(np.append(0.0, across), np.append(0.0, self.found / self.positives))

    @property
    def precision_recall(self) -> list[tuple[float, float]]:
        """Share of positives found by share of positives among what is answered 1."""
        precision = self.found / self.rows
        recall = self.found / self.positives
        return _thinned(np.append(0.0, recall), np.append(precision[0], precision))

    @property
    def gain(self) -> list[tuple[float, float]]:
        """Share of rows taken, the highest probabilities first, by share of positives found."""
        across = self.rows / self.total
        return _thinned(np.append(0.0, across), np.append(0.0, self.found / self.positives))


def ranking(labels: NDArray[np.int64], scores: NDArray[np.float64]) -> Ranking:
    """Count rows and positives from every probability on; both arrays have shape (rows,)."""
    order = np.argsort(-scores, kind="stable")
    # Rows of the same probability are answered alike, so a step ends where it changes.
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(labels) - 1)
    return Ranking(
        thresholds=scores[order][ends],
        rows=(ends + 1).astype(np.float64),
        found=np.cumsum(labels[order])[ends].astype(np.float64),
        positives=int(labels.sum()),
        total=len(labels),
    )


@dataclass(frozen=True, kw_only=True)
class Taken:
    """What is found where a share of the rows is taken, the highest probabilities first."""

    share: float
    """The share that was taken: equal probabilities are taken together."""
    rows: int
    threshold: float
    """The lowest probability among them."""
    precision: Estimate
    """The share of positives among them; Wilson's interval."""
    recall: float
    """The share of all positives that is among them."""
    lift: float
    """Precision over the share of positives in all rows."""


def taken(rank: Ranking) -> list[Taken]:
    """What is found in the highest 1%, 5%, … of the rows, as far as there are so many."""
    found: list[Taken] = []
    for part in SHARES:
        wanted = part * rank.total
        if wanted < 1:
            continue
        at = min(int(np.searchsorted(rank.rows, wanted)), len(rank.rows) - 1)
        rows, positives = int(rank.rows[at]), int(rank.found[at])
        if rows == rank.total or (found and found[-1].rows == rows):
            continue
        precision = wilson(positives, rows)
        found.append(
            Taken(
                share=rows / rank.total,
                rows=rows,
                threshold=float(rank.thresholds[at]),
                precision=precision,
                recall=positives / rank.positives,
                lift=precision.value * rank.total / rank.positives,
            )
        )
    return found


@dataclass(frozen=True, kw_only=True)
class Said:
    """Rows of about the same probability: what was said of them and what was true."""

    rows: int
    probability: float
    """The mean of what was said."""
    observed: Estimate
    """The share of label 1; Wilson's interval."""


def calibration(labels: NDArray[np.int64], scores: NDArray[np.float64]) -> list[Said]:
    """Ten bins of equally many rows, from the lowest probabilities to the highest."""
    order = np.argsort(scores, kind="stable")
    return [
        Said(
            rows=len(rows),
            probability=float(scores[rows].mean()),
            observed=wilson(int(labels[rows].sum()), len(rows)),
        )
        for rows in np.array_split(order, min(BINS, len(order)))
    ]


def average_precision_interval(rank: Ranking, *, seed: int) -> tuple[float, float]:
    """A 95% percentile bootstrap over rows: labels and probabilities drawn together.

    Efron, Annals of Statistics 7 (1979) 1-26, with Poisson weights, which need no drawing of rows.
    """
    random = np.random.default_rng(seed)
    new = np.diff(rank.rows, prepend=0.0)
    positive = np.diff(rank.found, prepend=0.0)
    values = np.empty(RESAMPLES)
    for index in range(RESAMPLES):
        # A sum of Poisson weights is Poisson: steps are drawn whole, however many rows they hold.
        drawn = random.poisson(positive).astype(np.float64)
        found = np.cumsum(drawn)
        rows = found + np.cumsum(random.poisson(new - positive))
        with np.errstate(invalid="ignore", divide="ignore"):
            precision = np.where(rows > 0, found / rows, 0.0)
        values[index] = (drawn * precision).sum() / max(1.0, found[-1])
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def f1_interval(confusion: Mapping[str, int], *, seed: int) -> tuple[float, float]:
    """A 95% percentile bootstrap: the four counts drawn anew as rows would be."""
    names = ("true_positives", "false_positives", "false_negatives", "true_negatives")
    counts = np.array([confusion[name] for name in names], dtype=np.float64)
    random = np.random.default_rng(seed)
    drawn = random.multinomial(int(counts.sum()), counts / counts.sum(), size=2000)
    values = 2 * drawn[:, 0] / np.maximum(1, 2 * drawn[:, 0] + drawn[:, 1] + drawn[:, 2])
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def calibration_error_by_chance(scores: NDArray[np.float64], *, seed: int) -> float:
    """The calibration error that perfect probabilities exceed one time in twenty, so many rows."""
    random = np.random.default_rng(seed)
    ordered = np.sort(scores)
    starts = np.concatenate(
        ([0], np.cumsum([len(part) for part in np.array_split(ordered, min(BINS, len(ordered)))]))
    )[:-1]
    expected = np.add.reduceat(ordered, starts)
    variance = np.add.reduceat(ordered * (1 - ordered), starts)
    # The sum over a bin is close to normal; distances are then added as the error is defined.
    drawn = random.normal(size=(2000, len(expected))) * np.sqrt(variance)
    return float(np.quantile(np.abs(drawn).sum(axis=1) / len(scores), 0.95))


def histogram(
    labels: NDArray[np.int64], scores: NDArray[np.float64], bins: int = 25
) -> tuple[list[float], list[int], list[int]]:
    """Edges, and how many rows of label 0 and of label 1 have a probability between them."""
    edges = np.linspace(0.0, 1.0, bins + 1)
    zeros, _ = np.histogram(scores[labels == 0], edges)
    ones, _ = np.histogram(scores[labels == 1], edges)
    return edges.tolist(), zeros.tolist(), ones.tolist()


def _thinned(x: NDArray[np.float64], y: NDArray[np.float64]) -> list[tuple[float, float]]:
    """The points of a curve at about equal distances along it, its ends among them."""
    if len(x) > MOST_POINTS:
        along = np.append(0.0, np.cumsum(np.hypot(np.diff(x), np.diff(y))))
        wanted = np.searchsorted(along, np.linspace(0.0, along[-1], MOST_POINTS))
        kept = np.unique(np.minimum(np.append(wanted, len(x) - 1), len(x) - 1))
        x, y = x[kept], y[kept]
    return cast("list[tuple[float, float]]", list(zip(x.tolist(), y.tolist(), strict=True)))
