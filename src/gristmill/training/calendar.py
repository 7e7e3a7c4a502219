"""Where in the week, the year and the day a time lies, by arithmetic that a graph repeats.

It knows no calendar but days of 24 hours and years of the mean length of 365.2425 days: the same
few operations on doubles in numpy and in ONNX, so that both come to the same bits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray


class Cycle(NamedTuple):
    """A stretch of time that comes again, in the unit that a feature is encoded in."""

    offset: float
    """What is added to the time since 1970-01-01 so that a cycle starts at 0."""
    period: float


_DAY, _YEAR = 86_400.0, 365.2425
CYCLES: Mapping[str, tuple[Cycle, ...]] = {
    # 1970-01-01 was a Thursday; weeks start on Monday.
    "date": (Cycle(3.0, 7.0), Cycle(0.0, _YEAR)),
    "timestamp": (
        Cycle(0.0, _DAY),
        Cycle(3 * _DAY, 7 * _DAY),
        Cycle(0.0, _YEAR * _DAY),
    ),
}
"""The cycles of a feature, by its type."""


FURTHEST = 1e8
"""Beyond the longest cycle; phases of times so far off that they have none are cut off here."""


def phases(rows: Any, cycles: Sequence[Sequence[Cycle]]) -> NDArray[np.float64]:
    """How far into each cycle the times of a frame are, a column per cycle; NaN stays NaN."""
    columns = []
    with np.errstate(over="ignore"):
        for position, of_column in enumerate(cycles):
            times = np.asarray(rows, dtype=np.float64)[:, position]
            for cycle in of_column:
                moved = times + cycle.offset
                columns.append(moved - np.floor(moved / cycle.period) * cycle.period)
    return np.clip(np.column_stack(columns), -FURTHEST, FURTHEST)


def waves(rows: Any, cycles: Sequence[Sequence[Cycle]]) -> NDArray[np.float64]:
    """Two triangle waves of each phase, a quarter apart, so that a cycle's end meets its start.

    They go from 1 down to 0 and up again where sine and cosine would swing; those are no
    arithmetic: a runtime rounds them by what else it computes at once. All first waves come first.
    Null lies in the middle.
    """
    turns = np.clip(phases(rows, cycles) / periods(cycles), 0.0, 1.0)
    later = turns + 0.25
    both = np.concatenate([turns, later - np.floor(later)], axis=1)
    swings = np.abs(both * 2.0 - 1.0)
    return np.where(np.isnan(swings), 0.5, swings)


def periods(cycles: Sequence[Sequence[Cycle]]) -> NDArray[np.float64]:
    """How long each cycle is, in the order of the phases."""
    return np.array([cycle.period for of_column in cycles for cycle in of_column])
