"""Where is a model worse? Its order and its probabilities, group by group of every feature.

A group of a telling feature is harder to order by nature: what told its rows from the others tells
nothing among them. So the order found is compared with the one that the model's own probabilities
promise in that group. Looking at many groups finds a bad one by chance alone: what is called worse
is so by a test at 5% over all of them together (Holm, Scandinavian Journal of Statistics 6 (1979)
65-70).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np

from gristmill.training.auc import Z95, Estimate, roc_auc
from gristmill.training.evaluate import wilson
from gristmill.training.report.grouping import group

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow as pa
    from numpy.typing import NDArray

    from gristmill.project.features import Feature

LEVEL = 0.05
FEWEST_OF_A_LABEL = 20
"""Rows of either label without which nothing is said about the order in a group."""
FEWEST_EXPECTED = 5.0
"""Variance, in rows, without which nothing is said about the probabilities in a group."""


@dataclass(frozen=True, kw_only=True)
class Slice:
    """One group of the holdout's rows."""

    feature: str
    name: str
    of_data: bool
    """Whether the name is a value of the data."""
    rows: int
    observed: Estimate
    """The share of label 1; Wilson's interval."""
    predicted: float
    """The mean probability."""
    roc_auc: Estimate | None
    """DeLong's interval; None where there are too few rows of a label."""
    promised: float | None
    """The area that is to be expected there if the probabilities are right."""
    p_order: float | None
    """How likely so much worse an order than promised is by chance."""
    p_probability: float | None
    """How likely so great a distance of observed and predicted is by chance."""
    worse_order: bool = False
    """Whether it is worse than promised by the test over all groups."""
    wrong_probability: bool = False
    """Whether its probabilities are off by the test over all groups."""


def slices(
    features: Sequence[Feature],
    training: pa.Table,
    holdout: pa.Table,
    labels: NDArray[np.int64],
    scores: NDArray[np.float64],
) -> list[Slice]:
    """The holdout's groups of every feature; the groups' bounds come from the training part.

    `labels` and `scores` belong to the holdout's rows and have shape (rows,).
    """
    found: list[Slice] = []
    for feature in features:
        grouping = group(training.column(feature.name), feature)
        which = grouping.index(holdout.column(feature.name))
        for number, name in enumerate(grouping.names):
            inside = which == number
            if inside.any() and not inside.all():
                one = _slice(labels, scores, inside)
                found.append(
                    replace(one, feature=feature.name, name=name, of_data=grouping.of_data[number])
                )
    return _tested(found)


def whole(labels: NDArray[np.int64], scores: NDArray[np.float64]) -> Slice:
    """All of the holdout's rows as one group, tested by itself."""
    one = _slice(labels, scores, np.ones(len(labels), dtype=bool))
    return replace(
        one,
        worse_order=one.p_order is not None and one.p_order <= LEVEL,
        wrong_probability=one.p_probability is not None and one.p_probability <= LEVEL,
    )


def _slice(
    labels: NDArray[np.int64], scores: NDArray[np.float64], inside: NDArray[np.bool_]
) -> Slice:
    own, given = labels[inside], scores[inside]
    area = _area(own, given)
    promised = promised_auc(given) if area else None
    p_order = None
    if area and promised is not None:
        p_order = NormalDist().cdf((area.value - promised) / _error(area))
    variance = float((given * (1 - given)).sum())
    p_probability = None
    if variance >= FEWEST_EXPECTED:
        distance = abs(float(own.sum() - given.sum())) / math.sqrt(variance)
        p_probability = 2 * NormalDist().cdf(-distance)
    return Slice(
        feature="",
        name="",
        of_data=False,
        rows=len(own),
        observed=wilson(int(own.sum()), len(own)),
        predicted=float(given.mean()),
        roc_auc=area,
        promised=promised,
        p_order=p_order,
        p_probability=p_probability,
    )


def promised_auc(probabilities: NDArray[np.float64]) -> float:
    """The area under the ROC curve to be expected if every row has label 1 as likely as was said.

    It is the share of pairs in order among all pairs of rows, each weighed by the chance that the
    first has label 1 and the second label 0; ties count half. Shape (rows,).
    """
    _, which = np.unique(probabilities, return_inverse=True)
    ones = np.bincount(which, weights=probabilities)
    zeros = np.bincount(which, weights=1 - probabilities)
    below = np.cumsum(zeros) - zeros
    pairs = float(ones.sum() * zeros.sum())
    return float((ones * (below + zeros / 2)).sum()) / pairs if pairs else 0.5


def _area(labels: NDArray[np.int64], scores: NDArray[np.float64]) -> Estimate | None:
    positives = int(labels.sum())
    if min(positives, len(labels) - positives) < FEWEST_OF_A_LABEL:
        return None
    return roc_auc(labels, scores)


def _error(area: Estimate) -> float:
    """The standard error; the interval may be cut off at one of its ends, not at both."""
    return max(area.value - area.low, area.high - area.value, 1e-12) / Z95


def _tested(found: Sequence[Slice]) -> list[Slice]:
    """Each slice with what holds at the level over all tests together."""
    tests = [
        (p, index, kind)
        for index, one in enumerate(found)
        for kind, p in (("worse_order", one.p_order), ("wrong_probability", one.p_probability))
        if p is not None
    ]
    held: set[tuple[int, str]] = set()
    for passed, (p, index, kind) in enumerate(sorted(tests)):
        if p > LEVEL / (len(tests) - passed):
            break
        held.add((index, kind))
    return [
        replace(
            one,
            worse_order=(index, "worse_order") in held,
            wrong_probability=(index, "wrong_probability") in held,
        )
        for index, one in enumerate(found)
    ]
