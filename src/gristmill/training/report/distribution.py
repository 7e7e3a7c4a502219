"""How the values of a column are distributed, in one sample and beside another, and the label."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gristmill.training.evaluate import wilson
from gristmill.training.report.grouping import FEWEST_ROWS, as_numbers, group

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gristmill.project.features import Feature
    from gristmill.training.auc import Estimate

BARS = 24
TAIL = 0.005
"""The share at either end that is not drawn, so that one odd value does not press the rest."""
NOTABLE_SHIFT = 0.1
"""A population stability index from which on two samples are said to differ (the field's habit)."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """A range or a value, with its rows and what the label is in them."""

    name: str
    of_data: bool
    """Whether the name is a value of the data."""
    rows: int
    beside: int | None
    """Rows of the other sample."""
    middle: float | None
    """Of a range: the median of its values, as a number."""
    labelled: int
    """Rows whose label is known."""
    label: Estimate | None
    """The share of label 1 among those; Wilson's interval."""


@dataclass(frozen=True, kw_only=True)
class Distribution:
    """One column."""

    feature: Feature
    rows: int
    nulls: int
    distinct: int
    """How many different values there are, null not counted."""
    quantiles: tuple[float, float, float] | None
    """Of a number: the least, the median and the greatest."""
    edges: tuple[float, ...]
    """Of a number: the bars' edges; empty where there is nothing to draw."""
    heights: tuple[float, ...]
    """The share of the known values in each bar."""
    heights_beside: tuple[float, ...]
    """The same for the other sample."""
    groups: tuple[Group, ...]
    shift: float | None
    """The population stability index between the two samples, over the groups."""


def distribution(
    column: pa.ChunkedArray,
    feature: Feature,
    *,
    labels: NDArray[np.float64] | None = None,
    beside: pa.ChunkedArray | None = None,
    fewest: int = FEWEST_ROWS,
) -> Distribution:
    """Describe a column; `labels` (NaN where unknown) has its rows, `beside` is another sample.

    A text's value with fewer rows than `fewest` is not named.
    """
    grouping = group(column, feature, fewest=fewest)
    which = grouping.index(column)
    values = None if feature.type == "text" else as_numbers(column, feature.type)
    counted = np.bincount(which, minlength=len(grouping.names))
    other = None if beside is None else np.bincount(grouping.index(beside), minlength=len(counted))
    groups = tuple(
        Group(
            name=name,
            of_data=grouping.of_data[number],
            rows=int(counted[number]),
            beside=None if other is None else int(other[number]),
            middle=_middle(values, which == number),
            labelled=_labelled(labels, which == number),
            label=_share(labels, which == number),
        )
        for number, name in enumerate(grouping.names)
        if counted[number] or (other is not None and other[number])
    )
    edges, heights = _bars(values, feature)
    other_values = None if beside is None or values is None else as_numbers(beside, feature.type)
    return Distribution(
        feature=feature,
        rows=len(column),
        nulls=column.null_count,
        distinct=pc.count_distinct(column, mode="only_valid").as_py(),
        quantiles=_quantiles(values),
        edges=tuple(edges.tolist()),
        heights=_heights(values, edges, heights),
        heights_beside=() if other_values is None else _heights(other_values, edges, heights),
        groups=groups,
        shift=None if other is None else stability_index(counted, other),
    )


def stability_index(first: NDArray[np.int64], second: NDArray[np.int64]) -> float:
    """The population stability index of two samples counted in the same groups.

    Σ (p - q) ln(p / q); half a row is added to every group, so that an empty one is no infinity.
    """
    used = (first + second) > 0
    p = (first[used] + 0.5) / (first[used] + 0.5).sum()
    q = (second[used] + 0.5) / (second[used] + 0.5).sum()
    return float(((p - q) * np.log(p / q)).sum())


def _labelled(labels: NDArray[np.float64] | None, inside: NDArray[np.bool_]) -> int:
    return 0 if labels is None else int(np.count_nonzero(~np.isnan(labels[inside])))


def _share(labels: NDArray[np.float64] | None, inside: NDArray[np.bool_]) -> Estimate | None:
    if labels is None:
        return None
    own = labels[inside]
    known = own[~np.isnan(own)]
    return wilson(int(known.sum()), len(known)) if len(known) else None


def _middle(values: NDArray[np.float64] | None, inside: NDArray[np.bool_]) -> float | None:
    if values is None or not inside.any():
        return None
    middle = float(np.median(values[inside]))
    return middle if math.isfinite(middle) else None


def _quantiles(values: NDArray[np.float64] | None) -> tuple[float, float, float] | None:
    if values is None:
        return None
    known = values[np.isfinite(values)]
    if not len(known):
        return None
    low, middle, high = np.quantile(known, [0, 0.5, 1], method="lower").tolist()
    return low, middle, high


def _bars(values: NDArray[np.float64] | None, feature: Feature) -> tuple[NDArray[np.float64], int]:
    """The bars' edges and their number; whole numbers get bars around themselves."""
    nothing = np.empty(0)
    if values is None:
        return nothing, 0
    known = values[np.isfinite(values)]
    if not len(known):
        return nothing, 0
    low, high = np.quantile(known, [TAIL, 1 - TAIL], method="nearest").tolist()
    whole = feature.type in ("integer", "boolean", "date")
    if whole:
        # No more bars than values, or a month's first days would stand like a fence.
        most = min(BARS, len(np.unique(known)))
        step = max(1, math.ceil((high - low + 1) / most))
        bars = max(1, math.ceil((high - low + 1) / step))
        return low - 0.5 + step * np.arange(bars + 1), bars
    if high <= low:
        return np.array([low - 0.5, low + 0.5]), 1
    return np.linspace(low, high, BARS + 1), BARS


def _heights(
    values: NDArray[np.float64] | None, edges: NDArray[np.float64], bars: int
) -> tuple[float, ...]:
    if values is None or not bars:
        return ()
    known = values[np.isfinite(values)]
    counted, _ = np.histogram(known, edges)
    return tuple((counted / max(1, len(known))).tolist())
