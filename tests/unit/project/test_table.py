"""Periods and path templates, by hand-worked cases and by the calendar."""

from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gristmill.project.table import ALL, Column, Period, Table, path_problem

EVERY = ("day", "month", "year")


def family(path, every="month"):
    return Table(
        name="sales",
        path=path,
        columns=(Column(name="a", type="text"),),
        period=Period(every=every),
    )


@pytest.mark.parametrize(
    ("every", "text", "name"),
    [
        ("day", "2020-02-29", "2020-02-29"),
        ("month", "2020-01", "2020-01"),
        ("month", "2020-01-31", "2020-01"),
        ("year", "2020", "2020"),
        ("year", "2020-07-01", "2020"),
        ("year", "0999", "0999"),
    ],
)
def test_a_period_is_read_as_people_write_it(every, text, name):
    assert Period(every=every).parse(text) == name


@pytest.mark.parametrize(
    ("every", "text"),
    [
        ("day", "2020-02-30"),
        ("day", "2020-02"),
        ("month", "2020"),
        ("month", "2020-13"),
        ("month", "January"),
        ("year", "20"),
        ("month", ""),
    ],
)
def test_what_is_no_period_is_refused_with_an_example(every, text):
    example = {"day": "2020-01-31", "month": "2020-01", "year": "2020"}[every]

    with pytest.raises(ValueError, match=f"{text!r} is not a {every} such as {example}"):
        Period(every=every).parse(text)


@pytest.mark.parametrize(
    ("every", "name", "first", "after"),
    [
        ("day", "2020-02-28", date(2020, 2, 28), date(2020, 2, 29)),
        ("month", "2020-02", date(2020, 2, 1), date(2020, 3, 1)),
        ("month", "2021-12", date(2021, 12, 1), date(2022, 1, 1)),
        ("year", "2020", date(2020, 1, 1), date(2021, 1, 1)),
        ("year", "2021", date(2021, 1, 1), date(2022, 1, 1)),
    ],
)
def test_the_bounds_of_a_period(every, name, first, after):
    assert Period(every=every).bounds(name) == (first, after)


@given(day=st.dates(date(1, 1, 1), date(9998, 1, 1)), every=st.sampled_from(EVERY))
def test_periods_cover_each_day_once_and_follow_one_another(day, every):
    period = Period(every=every)
    name = period.name(day)
    first, after = period.bounds(name)

    assert first <= day < after
    assert period.parse(name) == name
    assert period.name(after - timedelta(days=1)) == name
    assert period.following(name) == period.name(after)
    assert name < period.following(name)


@pytest.mark.parametrize(
    ("template", "path", "period"),
    [
        ("sales/{period:%Y-%m-%d}/sales.csv", "sales/2020-01-01/sales.csv", "2020-01"),
        ("sales/{period:%Y-%m-%d}/sales.csv", "sales/2020-02-30/sales.csv", None),
        ("sales/{period:%Y-%m-%d}/sales.csv", "sales/2020-01-01/sales.csv.gz", None),
        ("sales/{period:%Y-%m-%d}/sales.csv", "old/sales/2020-01-01/sales.csv", None),
        ("sales_{period:%Y%m}.csv", "sales_202013.csv", None),
        ("sales_{period:%Y%m}.csv", "sales_202012.csv", "2020-12"),
        ("sales_{period:%Y%m}.csv", "sales_２０２０12.csv", None),
        ("{period:%Y}/{period:%m}.csv", "2020/03.csv", "2020-03"),
        ("{period:%Y}/{period:%Y-%m}.csv", "2020/2020-03.csv", "2020-03"),
        ("{period:%Y}/{period:%Y-%m}.csv", "2020/2021-03.csv", None),
        ("{period:%Y.%m}.csv", "2020.03.csv", "2020-03"),
        ("{period:%Y.%m}.csv", "2020-03.csv", None),
        ("a+b({period:%Y(%m)}).csv", "a+b(2020(03)).csv", "2020-03"),
        ("{period:%Y-%m}.csv", "9999-12.csv", None),
        ("{period:%Y-%m}.csv", "0999-12.csv", "0999-12"),
        ("{period:%Y-%m}.csv", "0000-12.csv", None),
    ],
)
def test_the_period_of_a_path(template, path, period):
    assert path_problem(template, Period(every="month")) is None
    assert family(template).period_of(path) == period


def test_a_table_without_a_period_has_one_file():
    table = Table(name="stores", path="in/stores.csv", columns=())

    assert table.period_of("in/stores.csv") == ALL
    assert table.period_of("in/stores.csv.gz") is None


@pytest.mark.parametrize(
    ("path", "prefix"),
    [
        ("sales/{period:%Y}/{period:%m}.csv", "sales/"),
        ("a/b/sales_{period:%Y-%m}.csv", "a/b/"),
        ("sales_{period:%Y-%m}.csv", ""),
    ],
)
def test_files_are_looked_for_in_the_folder_that_holds_them_all(path, prefix):
    assert family(path).prefix == prefix


@pytest.mark.parametrize(
    ("path", "every", "problem"),
    [
        ("sales.csv", "month", "needs {period:…} with %Y, %m"),
        ("sales/{period:%Y}.csv", "month", "needs {period:…} with %Y, %m"),
        ("sales/{period:%Y-%m}.csv", "day", "needs {period:…} with %Y, %d, %m"),
        ("sales/{period:%B %Y-%m}.csv", "month", "known: %Y, %m, %d"),
        ("sales/{month}.csv", "month", "no other braces are known"),
        ("sales/{period:%Y-%m.csv", "month", "no other braces are known"),
        ("sales/{period:%Y-%m}.csv", None, "the table declares no period"),
    ],
)
def test_a_path_that_cannot_work_is_explained(path, every, problem):
    found = path_problem(path, Period(every=every) if every else None)

    assert problem in (found or "")


@pytest.mark.parametrize(
    ("column", "declaration"),
    [
        (Column(name="a", type="integer"), "integer"),
        (Column(name="a", type="date", nullable=True), "date?"),
        (Column(name="a", type="decimal", precision=10, scale=2, nullable=True), "decimal(10,2)?"),
    ],
)
def test_a_column_declares_itself_as_the_project_file_does(column, declaration):
    assert column.declaration == declaration


@pytest.mark.parametrize(
    ("template", "period", "path"),
    [
        ("sales/{period:%Y-%m-%d}/sales.csv", "2024-03", "sales/2024-03-01/sales.csv"),
        ("{period:%Y}/{period:%m}.csv", "0999-12", "0999/12.csv"),
        ("in/%Y/{period:%Y-%m}.csv", "2024-01", "in/%Y/2024-01.csv"),
    ],
)
def test_the_path_of_a_period_leads_back_to_it(template, period, path):
    table = family(template)
    assert table.path_of(period) == path
    assert table.period_of(path) == period
