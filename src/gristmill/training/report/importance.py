"""What the model relies on: how much is lost where one feature's values are shuffled.

Breiman, Machine Learning 45 (2001) 5-32, measured on the holdout. It says nothing of causes, and
features that tell the same share what they tell.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import pyarrow as pa

from gristmill.training.auc import Z95, Estimate, paired_difference

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

SHUFFLES = 5
MOST_ROWS_SCORED = 1_000_000
"""Rows scored over all features and shuffles: with more features, fewer rows are shuffled."""
FEWEST_ROWS = 2_000


class Scoring(Protocol):
    """A fitted model."""

    def probabilities(self, table: pa.Table) -> NDArray[np.float64]:
        """The probability of label 1 for a table's rows, of shape (rows,)."""


@dataclass(frozen=True, kw_only=True)
class Importance:
    """One feature's."""

    feature: str
    loss: Estimate
    """How much area under the ROC curve is lost; 0 where the model does without it."""


@dataclass(frozen=True, kw_only=True)
class Importances:
    """All features', the greatest loss first."""

    features: tuple[Importance, ...]
    rows: int
    """How many of the holdout's rows were shuffled."""


def importances(
    model: Scoring,
    names: Sequence[str],
    table: pa.Table,
    labels: NDArray[np.int64],
    *,
    seed: int,
) -> Importances:
    """Shuffle each feature five times and measure the loss; the same seed gives the same.

    The interval joins DeLong's variance of the paired difference, for the rows could have been
    others, with that between the shuffles. Labels have shape (rows,); the table's rows, in random
    order, belong to them: where they are too many, the first are taken.
    """
    enough = max(FEWEST_ROWS, MOST_ROWS_SCORED // (SHUFFLES * max(1, len(names))))
    rows = _first(labels, enough)
    table, labels = table.slice(0, rows), labels[:rows]
    scores = model.probabilities(table)
    random = np.random.default_rng(seed)
    found = []
    for name in names:
        values, errors = [], []
        for _ in range(SHUFFLES):
            place = table.column_names.index(name)
            column = table.column(name).take(pa.array(random.permutation(rows)))
            shuffled = table.set_column(place, name, column)
            loss = paired_difference(labels, scores, model.probabilities(shuffled))
            values.append(loss.value)
            errors.append(loss.standard_error**2)
        value = float(np.mean(values))
        between = float(np.var(values, ddof=1)) / SHUFFLES
        margin = Z95 * math.sqrt(float(np.mean(errors)) + between)
        estimate = Estimate(value=value, low=value - margin, high=value + margin)
        found.append(Importance(feature=name, loss=estimate))
    found.sort(key=lambda one: -one.loss.value)
    return Importances(features=tuple(found), rows=rows)


def _first(labels: NDArray[np.int64], enough: int) -> int:
    """How many of the first rows are taken: enough, and at least two of each label."""
    if len(labels) <= enough:
        return len(labels)
    second = max(int(np.flatnonzero(labels == label)[1]) for label in (0, 1))
    return max(enough, second + 1)
