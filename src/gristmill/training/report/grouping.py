"""Puts the values of a column into a few groups: ranges between quantiles, or commonest values.

The groups come from one sample and are applied to others, so that samples can be compared.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gristmill.training.report import numbers

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gristmill.project.features import Feature, FeatureType

RANGES = 5
FEW_VALUES = 8
"""A number with no more different values than this is grouped value by value."""
MOST_VALUES = 8
"""Commonest values of a text that are groups of their own."""
FEWEST_ROWS = 5
"""Rows without which a value is no group of its own, so that no single row shows through."""

NULL = "null"
OTHERS = "all other values"


@dataclass(frozen=True, kw_only=True, eq=False)
class Grouping:
    """The groups of one column."""

    feature: Feature
    names: tuple[str, ...]
    """In order; the last one is null."""
    of_data: tuple[bool, ...]
    """Whether a name is a value of the data, rather than our words."""
    bounds: NDArray[np.float64] | None = None
    """Of a number: the lower bounds of all ranges but the first."""
    values: tuple[str, ...] = ()
    """Of a text: the values that are groups of their own."""

    def index(self, column: pa.ChunkedArray) -> NDArray[np.int64]:
        """The number of each row's group, of shape (rows,)."""
        last = len(self.names) - 1
        if self.bounds is None:
            places = pc.index_in(pc.cast(column, pa.string()), pa.array(self.values, pa.string()))
            others = places.fill_null(len(self.values)).to_numpy().astype(np.int64)
            null = pc.is_null(column).to_numpy()
            return np.where(null, last, others)
        values = as_numbers(column, self.feature.type)
        places = np.searchsorted(self.bounds, values, side="right").astype(np.int64)
        return np.where(np.isfinite(values), places, last)


def group(column: pa.ChunkedArray, feature: Feature, *, fewest: int = FEWEST_ROWS) -> Grouping:
    """The groups that a column falls into; a text's value has at least `fewest` rows."""
    if feature.type == "text":
        return _by_value(column, feature, fewest)
    return _by_range(column, feature)


def as_numbers(column: pa.ChunkedArray, kind: FeatureType) -> NDArray[np.float64]:
    """A column of anything but text as numbers (days, seconds since 1970; 0 and 1), null as NaN."""
    if kind == "date":
        column = pc.cast(pc.cast(column, pa.date32()), pa.int32())
    elif kind == "timestamp":
        column = pc.cast(pc.cast(column, pa.timestamp("us", tz="UTC"), safe=False), pa.int64())
    values = np.array(pc.cast(column, pa.float64(), safe=False).to_numpy(), dtype=np.float64)
    return values / 1e6 if kind == "timestamp" else values


def _by_value(column: pa.ChunkedArray, feature: Feature, fewest: int) -> Grouping:
    counts = pc.value_counts(pc.cast(column, pa.string()).drop_null()).to_pylist()
    counts.sort(key=lambda one: (-one["counts"], one["values"]))
    values = tuple(one["values"] for one in counts[:MOST_VALUES] if one["counts"] >= fewest)
    return Grouping(
        feature=feature,
        names=(*values, OTHERS, NULL),
        of_data=(*(True for _ in values), False, False),
        values=values,
    )


def _by_range(column: pa.ChunkedArray, feature: Feature) -> Grouping:
    values = as_numbers(column, feature.type)
    known = np.unique(values[np.isfinite(values)])
    if len(known) <= FEW_VALUES:
        bounds = known[1:]
        names = [numbers.encoded(value, feature.type) for value in known.tolist()] or ["any"]
    else:
        finite = values[np.isfinite(values)]
        cuts = np.quantile(finite, np.linspace(0, 1, RANGES + 1)[1:-1], method="higher")
        bounds = np.unique(cuts)
        bounds = bounds[bounds > known[0]]
        names = _ranges(bounds.tolist(), feature.type)
    return Grouping(
        feature=feature,
        names=(*names, NULL),
        of_data=(False,) * (len(names) + 1),
        bounds=bounds,
    )


def _ranges(bounds: list[float], kind: FeatureType) -> list[str]:
    """The names of the ranges between bounds: whole numbers and days are told with their last."""
    if not bounds:
        return ["any"]
    whole = kind in ("integer", "date")
    names = [f"below {numbers.encoded(bounds[0], kind)}"]
    for low, high in pairwise(bounds):
        first, last = (numbers.encoded(one, kind) for one in (low, high - 1 if whole else high))
        names.append(first if first == last else f"{first} to {last}")
    return [*names, f"{numbers.encoded(bounds[-1], kind)} or more"]
