"""Numbers as people read them."""

import datetime
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gristmill.training.report import numbers


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0, "0.0%"), (0.123, "12.3%"), (0.0004, "0.04%"), (1e-9, "<0.001%"), (0.9999, ">99.9%"),
     (1, "100%")],
)  # fmt: skip
def test_shares(value, shown):
    assert numbers.share(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.0, "0"), (12345.6, "12,346"), (0.05, "0.05"), (-3.5061, "-3.506"), (1e-7, "1e-07"),
     (100.0, "100"), (float("inf"), "inf")],
)  # fmt: skip
def test_quantities(value, shown):
    assert numbers.quantity(value) == shown


def test_a_loss_of_nothing_has_no_sign():
    assert numbers.signed(-0.0001) == "0.000"
    assert numbers.signed(-0.01) == "−0.010"


def test_days_and_moments():
    day = (datetime.date(2024, 2, 29) - datetime.date(1970, 1, 1)).days
    assert numbers.encoded(day, "date") == "2024-02-29"
    assert numbers.encoded(day * 86400 + 3660, "timestamp") == "2024-02-29 01:01"
    assert numbers.encoded(1.0, "boolean") == "true"
    # PostgreSQL knows years that Python does not.
    assert numbers.encoded(2e9, "date") == "2,000,000,000"


@given(st.floats(-1e9, 1e9, allow_subnormal=False), st.floats(1e-6, 1e9), st.integers(2, 8))
def test_ticks_lie_inside_and_are_few(low, reach, most):
    found = numbers.ticks(low, low + reach, most=most)
    assert 1 <= len(found) <= most
    slack = reach * 1e-6 + 4 * math.ulp(abs(low) + reach)
    assert all(low - slack <= one <= low + reach + slack for one in found)


@pytest.mark.parametrize(
    ("first", "last", "names"),
    [
        ("2020-01-10", "2020-06-20", ["2020-03", "2020-05"]),
        ("2001-06-01", "2021-06-01", ["2005", "2010", "2015", "2020"]),
    ],
)
def test_time_is_told_by_first_days(first, last, names):
    epoch = datetime.date(1970, 1, 1)
    low, high = ((datetime.date.fromisoformat(one) - epoch).days for one in (first, last))
    found = numbers.moment_ticks(low, high)
    assert [name for _, name in found] == names
    days = [epoch + datetime.timedelta(days=place) for place, _ in found]
    assert all(day.day == 1 and day.isoformat().startswith(name) for day, name in zip(
        days, names, strict=True))  # fmt: skip
