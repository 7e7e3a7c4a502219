"""A contract's digest changes when, and only when, what it decides of rows may change."""

from dataclasses import replace

import pytest

from gristmill.loading.contract import digest
from gristmill.project.table import Column, Dialect, Period, Reference, Table

AMOUNT = Column(name="amount", type="number")
TABLE = Table(
    name="sales",
    path="sales.csv",
    columns=(AMOUNT, Column(name="day", type="date")),
    period=Period(every="month", column="day"),
)


def with_amount(**changes):
    return replace(TABLE, columns=(replace(AMOUNT, **changes), *TABLE.columns[1:]))


@pytest.mark.parametrize(
    "other",
    [
        with_amount(nullable=True),
        with_amount(type="integer"),
        with_amount(name="money"),
        *(with_amount(**{rule: value}) for rule in ("minimum", "maximum") for value in (0, 0.0, 1)),
        with_amount(allowed=(0,)),
        with_amount(allowed=(0, 1)),
        with_amount(matches=""),
        replace(TABLE, columns=TABLE.columns[::-1]),
        replace(TABLE, key=("day",)),
        replace(TABLE, valid=("day",)),
        replace(TABLE, period=Period(every="month")),
        replace(TABLE, period=Period(every="day", column="day")),
        replace(TABLE, references=(Reference(column="day", table="days", to_column="day"),)),
        replace(TABLE, dialect=Dialect(delimiter=";")),
        replace(TABLE, dialect=Dialect(nulls=("NA",))),
        replace(TABLE, dialect=Dialect(decimal=",")),
    ],
)
def test_what_decides_over_rows_is_in_it(other):
    assert digest(other) != digest(TABLE)


@pytest.mark.parametrize(
    "other",
    [
        replace(TABLE, path="elsewhere/sales.csv"),
        replace(TABLE, max_rejects=0.5),
        replace(TABLE, period=Period(every="month", column="day", missing=("2020-01",))),
    ],
)
def test_what_does_not_is_not(other):
    assert digest(other) == digest(TABLE)
