import re
from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gristmill.project.families import group, table_name, template
from gristmill.project.table import Period, Table, path_problem

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,47}")


def by_path(*paths, apart=()):
    return {one.path: one for one in group(paths, apart=frozenset(apart)).families}


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("sales/2020-01-01/sales.csv", "sales/{period:%Y-%m-%d}/sales.csv"),
        ("sales/2020-01/sales.csv.gz", "sales/{period:%Y-%m}/sales.csv.gz"),
        ("sales_202001.csv", "sales_{period:%Y%m}.csv"),
        ("sales_20200131.csv", "sales_{period:%Y%m%d}.csv"),
        ("y/2020/01/31/log.csv", "y/{period:%Y/%m/%d}/log.csv"),
        ("s/year=2020/month=01/data.csv", "s/year={period:%Y}/month={period:%m}/data.csv"),
        ("2020/sales_2020-01.csv", "{period:%Y}/sales_{period:%Y-%m}.csv"),
        ("census 1990.csv", "census {period:%Y}.csv"),
        ("order_1234567.csv", "order_1234567.csv"),
        ("v2/stores.csv", "v2/stores.csv"),
        ("sales_2020-13.csv", "sales_{period:%Y}-13.csv"),
    ],
)
def test_a_date_in_a_path_becomes_a_placeholder(path, expected):
    assert template(path) == expected


def test_files_of_the_same_template_are_one_table_in_order_of_time():
    found = by_path("sales/2020-02/s.csv", "sales/2019-12/s.csv", "stores.csv")
    sales = found["sales/{period:%Y-%m}/s.csv"]
    assert sales.files == ("sales/2019-12/s.csv", "sales/2020-02/s.csv")
    assert sales.every[0] == "month"
    assert found["stores.csv"].every == ()


@pytest.mark.parametrize(
    ("days", "likeliest"),
    [
        (("2020-01-01", "2020-02-01", "2020-03-01"), "month"),
        (("2020-01-31", "2020-02-29", "2020-03-31"), "month"),
        (("2020-01-01", "2021-01-01"), "year"),
        (("2020-01-01", "2020-01-02"), "day"),
        (("2020-01-06", "2020-01-13"), "day"),
    ],
)
def test_what_a_file_covers_is_read_off_the_days(days, likeliest):
    found = by_path(*(f"s/{day}.csv" for day in days))
    assert found["s/{period:%Y-%m-%d}.csv"].every[0] == likeliest


def test_a_single_file_with_a_date_stands_alone_and_says_so():
    found = by_path("sales-2020.csv")["sales-2020.csv"]
    assert found.name == "sales_2020"
    assert "sales-{period:%Y}.csv" in found.doubts[0]


def test_what_is_to_stand_apart_does():
    paths = ("a_2020.csv", "a_2021.csv")
    assert set(by_path(*paths, apart=paths)) == set(paths)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("sales-2020.csv", "sales_2020"),
        ("2020 figures.csv", "t_2020_figures"),
        ("Straße & Größe.csv", "Strasse_Grosse"),
        ("!!!.csv", "table"),
    ],
)
def test_names_are_valid_and_near_the_file(path, name):
    assert group([path]).families[0].name == name


def test_two_files_of_one_name_are_told_apart_by_their_folder():
    found = by_path("north/stores.csv", "south/stores.csv")
    assert [one.name for one in found.values()] == ["north_stores", "south_stores"]
    assert all("would be named 'stores'" in one.doubts[0] for one in found.values())


def test_names_of_gristmill_and_of_loads_are_not_taken():
    found = {one.path: one.name for one in group(
        ["sales.csv", "sales_17.csv", "feature_store.csv", "training_set.csv"]
    ).families}  # fmt: skip
    assert found["sales.csv"] == "sales"
    assert not re.fullmatch(r"sales_[0-9]+", found["sales_17.csv"])
    assert not {"feature_store", "training_set"} & set(found.values())


def test_what_is_no_csv_is_left_out_with_a_reason():
    found = group(["notes.txt", "a{b}.csv", "a.csv"])
    assert [one.path for one in found.families] == ["a.csv"]
    assert dict(found.left_out).keys() == {"notes.txt", "a{b}.csv"}


def test_many_numbered_parts_are_one_table_and_a_doubt():
    found = group([f"part-{number:05}.csv" for number in range(40)])
    assert len(found.families) == 1
    assert "40 files differ" in found.families[0].doubts[0]
    assert len(found.left_out) == 39


words = st.text("abcXYZ _-.0123456789äß", max_size=12)


@given(st.lists(st.tuples(words, words), max_size=12))
def test_every_csv_has_a_valid_name_of_its_own(parts):
    paths = {f"{folder}/{name}.csv".lstrip("/") for folder, name in parts}
    found = group(paths)
    names = [one.name for one in found.families]
    assert len(set(names)) == len(names)
    assert all(NAME.fullmatch(name) for name in names)
    covered = [file for one in found.families for file in one.files]
    assert sorted([*covered, *(path for path, _ in found.left_out)]) == sorted(paths)


@given(
    st.sampled_from(["s/%Y-%m-%d.csv", "s/%Y%m.csv.gz", "%Y/s_%Y-%m.csv", "s-%Y.csv"]),
    st.lists(st.integers(0, 20_000), min_size=2, max_size=6, unique=True),
)
def test_every_file_of_a_family_has_a_period_of_its_own(form, days):
    paths = {(date(1970, 1, 1) + timedelta(days=day)).strftime(form) for day in days}
    for family in group(paths).families:
        for every in family.every:
            period = Period(every=every)
            table = Table(name="s", path=family.path, columns=(), period=period)
            assert path_problem(family.path, period) is None
            periods = [table.period_of(file) for file in family.files]
            assert None not in periods
            assert sorted(set(periods)) == periods


@given(st.text())
def test_any_text_makes_a_name(text):
    assert NAME.fullmatch(table_name(text))
