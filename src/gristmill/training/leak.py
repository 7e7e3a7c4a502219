"""Names features that know the answer: that alone nearly decide the label, or are null with it.

It looks at training rows only, one feature at a time: the holdout is not worn by it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from gristmill.features.encode import NULL_TEXT
from gristmill.training.auc import midranks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from gristmill.project.features import Feature
    from gristmill.training.split import Sample

DECIDES = 0.99
"""An area under the ROC curve that a single honest feature hardly reaches."""
MOST_ROWS = 100_000
"""The first so many rows, which come in random order, are enough to see a leak."""
RANGES = 256
"""Ranges of equally many rows that a number is looked at in, at the most."""
FEWEST_IN_RANGE = 10


@dataclass(frozen=True, kw_only=True)
class Leak:
    """A feature that seems to know the label."""

    feature: str
    kind: Literal["value", "null"]
    """Whether its values decide the label, or already whether it is null."""
    area: float
    """The area under the ROC curve that it reaches alone."""

    @property
    def sentence(self) -> str:
        """What was found, in words."""
        what = f"whether {self.feature} is null" if self.kind == "null" else self.feature
        return f"Already {what} decides the label (alone, area {self.area:.3f} in training rows)."


def find_leaks(training: Sample, features: Sequence[Feature]) -> tuple[Leak, ...]:
    """The features that alone reach an area of DECIDES or more on rows they were not fitted to.

    Each is cut into ranges or texts; the share of positives in each, taken from one half of the
    rows, orders the other half, and the other way round.
    """
    labels = training.labels[:MOST_ROWS]
    leaks = []
    for feature in features:
        column = training.inputs[feature.name][:MOST_ROWS, 0]
        null = column == NULL_TEXT if feature.type == "text" else np.isnan(column.astype(float))
        by_null = _alone(null.astype(np.int64), labels)
        if by_null >= DECIDES:
            leaks.append(Leak(feature=feature.name, kind="null", area=by_null))
            continue
        groups = _texts(column) if feature.type == "text" else _ranges(column, null)
        by_value = _alone(groups, labels)
        if by_value >= DECIDES:
            leaks.append(Leak(feature=feature.name, kind="value", area=by_value))
    return tuple(leaks)


def _texts(column: NDArray[np.object_]) -> NDArray[np.int64]:
    numbers: dict[str, int] = {}
    found = (numbers.setdefault(text, len(numbers)) for text in column.tolist())
    return np.fromiter(found, dtype=np.int64, count=len(column))


def _ranges(column: NDArray[np.float64], null: NDArray[np.bool_]) -> NDArray[np.int64]:
    """0 for null, and the ranges from 1; a value that is common has a range of its own."""
    known = column[~null]
    if len(known) == 0:
        return np.zeros(len(column), dtype=np.int64)
    count = max(2, min(RANGES, len(known) // FEWEST_IN_RANGE))
    bounds = np.unique(np.quantile(known, np.linspace(0, 1, count + 1), method="lower"))
    places = np.searchsorted(bounds, np.where(null, bounds[0], column), side="right")
    return np.where(null, 0, places).astype(np.int64)


def _alone(groups: NDArray[np.int64], labels: NDArray[np.int64]) -> float:
    """The mean area of both halves, each ordered by what the other one says of its groups."""
    even = np.arange(len(labels)) % 2 == 0
    return (_half(groups, labels, even) + _half(groups, labels, ~even)) / 2


def _half(groups: NDArray[np.int64], labels: NDArray[np.int64], fitted: NDArray[np.bool_]) -> float:
    of_fitted = labels[fitted]
    size = int(groups.max()) + 1
    rows = np.bincount(groups[fitted], minlength=size)
    positives = np.bincount(groups[fitted], weights=of_fitted, minlength=size)
    # One row with the share of all is added, so that a group not seen yet stands in the middle.
    shares = (positives + of_fitted.mean()) / (rows + 1)
    left, scores = labels[~fitted], shares[groups[~fitted]]
    of_positives = int(left.sum())
    of_negatives = len(left) - of_positives
    if of_positives == 0 or of_negatives == 0:
        return 0.5
    above = midranks(scores)[left == 1].sum() - of_positives * (of_positives + 1) / 2
    return float(above / (of_positives * of_negatives))
