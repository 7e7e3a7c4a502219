"""Overlaps told from packed rows, against every pair of rows compared."""

from datetime import date, timedelta
from itertools import permutations

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gristmill.loading.intervals import MOST_ROWS, Intervals
from gristmill.project.table import Column, Table

SCHEMA = pa.schema(
    [
        ("idx", pa.int64()),
        ("valid_from", pa.date32()),
        ("valid_to", pa.date32()),
        ("_line", "int32"),
    ]
)


def table(key=("idx", "valid_from"), kind="integer", time="date"):
    return Table(
        name="history",
        path="history.csv",
        columns=(
            Column(name="idx", type=kind),
            Column(name="valid_from", type=time),
            Column(name="valid_to", type=time, nullable=True),
        ),
        key=key,
        valid=("valid_from", "valid_to"),
    )


def batch(rows):
    columns = list(zip(*rows, strict=True)) or [(), (), ()]
    return pa.RecordBatch.from_arrays(
        [pa.array(list(column), field.type) for column, field in
         zip([*columns, range(len(rows))], SCHEMA, strict=True)],
        schema=SCHEMA,
    )  # fmt: skip


def told(*batches):
    intervals = Intervals(table())
    for rows in batches:
        intervals.add(batch(rows))
    return intervals.overlap() if intervals.are_known else None


def brute_force(rows):
    """Some row begins within another of the same key, or begins when the other does."""
    return any(
        one[0] == other[0] and other[1] <= one[1] < (other[2] or date.max)
        for one, other in permutations(rows, 2)
    )


FIRST, LAST = date(1900, 1, 1), date(2079, 6, 4)


@st.composite
def histories(draw):
    rows = []
    for _ in range(draw(st.integers(0, 8))):
        begin = draw(
            st.sampled_from([FIRST, date(2020, 1, 1), LAST])
            | st.dates(date(2020, 1, 1), date(2020, 2, 1))
        )
        end = draw(st.none() | st.just(date(9999, 12, 31)) | st.integers(1, 20))
        end = begin + timedelta(days=end) if isinstance(end, int) else end
        key = draw(st.sampled_from([0, 1, 2**31 - 1]))
        rows.append((key, begin, end))
    return rows


@given(histories(), st.integers(0, 8))
def test_overlaps_are_those_of_any_two_rows(rows, cut):
    assert told(rows[:cut], rows[cut:]) == brute_force(rows)


@pytest.mark.parametrize(
    "row",
    [
        (-1, date(2020, 1, 1), None),
        (2**31, date(2020, 1, 1), None),
        (0, FIRST - timedelta(days=1), None),
        (0, LAST + timedelta(days=3), None),
    ],
)
def test_what_does_not_fit_is_left_to_the_database(row):
    assert told([(0, date(2020, 1, 1), None)], [row]) is None


def test_more_rows_than_are_kept_are_left_to_the_database():
    intervals = Intervals(table())
    rows = pa.RecordBatch.from_arrays(
        [
            pa.array(range(1000), pa.int64()),
            pa.array([0] * 1000, pa.int32()).cast(pa.date32()),
            pa.array([None] * 1000, pa.date32()),
            pa.array([0] * 1000, pa.int32()),
        ],
        schema=SCHEMA,
    )
    for _ in range(MOST_ROWS // 1000):
        intervals.add(rows)
    assert intervals.are_known
    intervals.add(rows)
    assert not intervals.are_known


@pytest.mark.parametrize(
    "other",
    [
        table(kind="text"),
        table(time="timestamp"),
        table(key=("idx",)),
        table(key=("valid_from",)),
        Table(**{**table().__dict__, "valid": ()}),
        Table(**{**table().__dict__, "valid": ("valid_from",)}),
    ],
)
def test_other_kinds_of_histories_are_left_to_the_database(other):
    intervals = Intervals(other)
    intervals.add(batch([]))
    assert not intervals.are_known
