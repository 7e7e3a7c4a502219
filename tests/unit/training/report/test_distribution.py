"""Columns described: against what was put into them."""

import datetime

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gristmill.project.features import Feature
from gristmill.training.report.distribution import distribution, stability_index
from gristmill.training.report.grouping import group


def column(values, kind=None):
    return pa.chunked_array([pa.array(values, kind)])


def feature(kind):
    return Feature(name="x", type=kind)


def test_a_text_by_its_commonest_values():
    values = ["a"] * 50 + ["b"] * 30 + ["", None] * 10 + ["once", "twice", "twice"]
    labels = np.array([1.0] * 25 + [0.0] * 25 + [np.nan] * 30 + [1.0, 0.0] * 10 + [0.0] * 3)
    found = distribution(column(values), feature("text"), labels=labels)
    rows = {one.name: (one.rows, one.of_data, one.labelled) for one in found.groups}
    assert rows == {
        "a": (50, True, 50), "b": (30, True, 0), "": (10, True, 10),
        "all other values": (3, False, 3), "null": (10, False, 10),
    }  # fmt: skip
    shares = {one.name: one.label and one.label.value for one in found.groups}
    assert (shares["a"], shares["b"], shares[""], shares["null"]) == (0.5, None, 1.0, 0.0)
    assert (found.nulls, found.distinct, found.edges) == (10, 5, ())


def test_no_value_of_a_few_rows_is_named_but_where_it_may_be():
    values = column(["a"] * 20 + ["Ana Silva"])
    assert "Ana Silva" not in group(values, feature("text")).names
    assert "Ana Silva" in group(values, feature("text"), fewest=1).names


@given(
    st.lists(st.none() | st.floats(-1e12, 1e12), min_size=1, max_size=200),
    st.lists(st.none() | st.floats(-1e12, 1e12), min_size=1, max_size=50),
)
def test_every_row_of_a_number_is_in_one_group(values, others):
    found = distribution(
        column(values, pa.float64()), feature("number"), beside=column(others, pa.float64())
    )
    assert sum(one.rows for one in found.groups) == len(values)
    assert sum(one.beside for one in found.groups) == len(others)
    assert sum(one.rows for one in found.groups if one.name == "null") == values.count(None)
    assert sum(found.heights) <= 1 + 1e-9


def test_few_numbers_are_told_one_by_one():
    found = distribution(column([1, 1, 2, 5, None], pa.int64()), feature("integer"))
    assert {one.name: one.rows for one in found.groups} == {"1": 2, "2": 1, "5": 1, "null": 1}
    assert found.quantiles == (1, 1, 5)


def test_ranges_of_whole_numbers_are_told_with_their_last():
    values = [*range(20), *[7] * 3]
    found = distribution(column(values, pa.int64()), feature("integer"))
    rows = {one.name: one.rows for one in found.groups}
    assert sum(rows.values()) == 23
    for name, count in rows.items():
        first, _, last = name.partition(" to ")
        if last:
            assert count == sum(int(first) <= value <= int(last) for value in values)
    assert len([name for name in rows if " to " in name]) == 3


def test_dates_and_booleans_and_nothing():
    day = datetime.date(2024, 1, 31)
    assert distribution(column([day, None]), feature("date")).groups[0].name == "2024-01-31"
    names = [one.name for one in distribution(column([True, False]), feature("boolean")).groups]
    assert names == ["false", "true"]
    empty = distribution(column([None, None], pa.float64()), feature("number"))
    assert (empty.edges, empty.quantiles, empty.nulls) == ((), None, 2)
    moments = column([datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC)] * 3)
    assert distribution(moments, feature("timestamp")).quantiles == (1704067200.0,) * 3


def test_infinite_numbers_are_no_end_of_an_axis():
    found = distribution(column([1.0, 2.0, float("inf"), float("nan")]), feature("number"))
    assert found.quantiles == (1.0, 1.0, 2.0) or found.quantiles == (1.0, 2.0, 2.0)
    assert all(np.isfinite(found.edges))
    assert sum(one.rows for one in found.groups) == 4


def test_the_bars_are_those_of_numpy():
    values = np.random.default_rng(1).normal(size=3000)
    found = distribution(column(values), feature("number"))
    counted, _ = np.histogram(values, found.edges)
    assert found.heights == pytest.approx(counted / 3000)
    assert sum(found.heights) == pytest.approx(0.99, abs=0.002)


def test_a_shift_is_seen_and_sameness_too():
    random = np.random.default_rng(2)
    before, after = random.normal(size=5000), random.normal(loc=0.6, size=5000)
    same = distribution(column(before[:2500]), feature("number"), beside=column(before[2500:]))
    moved = distribution(column(before), feature("number"), beside=column(after))
    assert same.shift < 0.02 < 0.1 < moved.shift


def test_the_stability_index_by_hand():
    first, second = np.array([80, 20, 0]), np.array([50, 50, 0])
    expected = (80.5 - 50.5) / 101 * np.log(80.5 / 50.5) + (20.5 - 50.5) / 101 * np.log(20.5 / 50.5)
    assert stability_index(first, second) == pytest.approx(expected)
