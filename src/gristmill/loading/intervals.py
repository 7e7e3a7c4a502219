"""Whether intervals of a history may overlap, told from its rows as they stream past.

One integer holds a row's key and interval, so millions of rows are sorted in a fraction of the time
that the database needs. What does not fit into it is left for the database to check.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gristmill.project.table import Table

MOST_ROWS = 6_000_000
"""How many rows are kept, 8 bytes each: memory must not grow with the file."""

_FIRST_DAY = -25_567
"""1900-01-01, in days since 1970; the days that fit reach to 2079."""
_OPEN = 2**16 - 1
_KEYS = 2**31
_AT_ONCE = 1_000_000


class Intervals:
    """The intervals of one load: an integer key, two dates, in no order."""

    def __init__(self, table: Table) -> None:
        others = [name for name in table.key if name not in table.valid]
        kinds = {column.name: column.type for column in table.columns}
        self.are_known = (
            len(table.valid) == len(("from", "to"))
            and table.valid[0] in table.key
            and [kinds[name] for name in others] == ["integer"]
            and {kinds[name] for name in table.valid} == {"date"}
        )
        """Whether every row so far fitted, so that overlaps can be told."""
        self._names = [*others, *table.valid]
        self._packed: NDArray[np.int64] = np.empty(MOST_ROWS * self.are_known, dtype=np.int64)
        self._count = 0

    def add(self, batch: pa.RecordBatch) -> None:
        """Take in the intervals of some more rows."""
        if not self.are_known:
            return
        keys, begins, ends = (batch.column(name) for name in self._names)
        key = keys.to_numpy(zero_copy_only=False)
        begin = begins.cast(pa.int32()).to_numpy(zero_copy_only=False) - _FIRST_DAY
        # An end beyond the last day lies behind every beginning, as no end does.
        last = _OPEN + _FIRST_DAY
        end = ends.cast(pa.int32()).fill_null(last).to_numpy(zero_copy_only=False)
        end = np.minimum(end, last) - _FIRST_DAY
        after = self._count + len(key)
        self.are_known = after <= MOST_ROWS and _lie_in(key, _KEYS) and _lie_in(begin, _OPEN)
        if self.are_known:
            packed = self._packed[self._count : after]
            np.left_shift(key, 32, out=packed)
            packed |= begin.astype(np.int64) << 16
            packed |= end
            self._count = after

    def overlap(self) -> bool:
        """Whether some row begins before another of its key has ended; told once, as it sorts."""
        packed = self._packed[: self._count]
        packed.sort()
        for start in range(0, self._count, _AT_ONCE):
            some = packed[start : start + _AT_ONCE + 1]
            same_key = some[:-1] >> 32 == some[1:] >> 32
            if np.any(same_key & (some[:-1] & _OPEN > some[1:] >> 16 & _OPEN)):
                return True
        return False


def _lie_in(values: NDArray[np.int64], limit: int) -> bool:
    return not len(values) or bool(values.min() >= 0 and values.max() < limit)
