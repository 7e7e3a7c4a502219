import calendar as pythons
import math
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gristmill.training.calendar import CYCLES, phases, waves


def column(*times):
    return np.array(times, dtype=np.float64).reshape(-1, 1)


@given(st.dates())
def test_the_day_of_the_week_is_pythons(day):
    days = day.toordinal() - date(1970, 1, 1).toordinal()

    weekday, _ = phases(column(days), [CYCLES["date"]])[0]

    assert weekday == day.weekday()


@given(st.dates(date(1900, 1, 1), date(2100, 1, 1)))
def test_the_place_in_the_year_is_the_calendars_but_for_a_day_or_two(day):
    days = day.toordinal() - date(1970, 1, 1).toordinal()

    _, season = phases(column(days), [CYCLES["date"]])[0]

    year = 366 if pythons.isleap(day.year) else 365
    apart = abs(season - (day.timetuple().tm_yday - 1))
    assert min(apart, year - apart) < 2


@given(st.datetimes(datetime(1900, 1, 1), datetime(2100, 1, 1)))
def test_the_time_of_the_day_and_of_the_week_are_pythons(moment):
    since = moment.replace(tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)

    of_day, of_week, _ = phases(column(since.total_seconds()), [CYCLES["timestamp"]])[0]

    midnight = moment.replace(hour=0, minute=0, second=0, microsecond=0)
    monday = midnight - timedelta(days=moment.weekday())
    assert of_day == pytest.approx((moment - midnight).total_seconds(), abs=1e-4)
    assert of_week == pytest.approx((moment - monday).total_seconds(), abs=1e-4)


def test_several_columns_come_one_after_the_other_and_null_stays_null():
    rows = np.array([[0.0, math.nan]])

    found = phases(rows, [CYCLES["date"], CYCLES["timestamp"]])

    assert found.shape == (1, 5)
    assert found[0, :2].tolist() == [3.0, 0.0]  # a Thursday, the year's first
    assert np.isnan(found[0, 2:]).all()


def test_waves_close_the_circle_and_null_is_its_middle():
    """By hand: Monday 0:00 begins the week, its wave at 1; a quarter on, the other is at 0.5."""
    found = waves(column(4, 4 - 1e-9, 4 + 3.5, math.nan), [CYCLES["date"]])

    week = found[:, [0, 2]]
    np.testing.assert_allclose(week, [[1, 0.5], [1, 0.5], [0, 0.5], [0.5, 0.5]], atol=1e-8)


@given(st.floats(-1e6, 1e6), st.integers(-1000, 1000))
def test_waves_come_again_with_every_cycle(day, weeks):
    first, second = waves(column(day, day + 7 * weeks), [CYCLES["date"]])[:, [0, 2]]

    np.testing.assert_allclose(first, second, atol=1e-8)
    assert 0 <= first.min() <= first.max() <= 1


def test_no_time_is_too_far_off():
    found = waves(column(1.7e308, -1.7e308), [CYCLES["timestamp"]])

    assert ((found >= 0) & (found <= 1)).all()
