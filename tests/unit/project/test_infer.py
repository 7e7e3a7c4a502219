import pyarrow as pa
import pytest

from gristmill.project.families import Family
from gristmill.project.infer import (
    FileSample,
    declarable,
    header_is_data,
    infer_dialect,
    infer_table,
)
from gristmill.project.table import Dialect

COMMON = {"a": ["1", "2"], "b": ["x", "y"]}


def sample(columns, *, path="t.csv"):
    return FileSample(
        path=path,
        columns={name: pa.array(texts, pa.string()) for name, texts in columns.items()},
        whole=True,
    )


def infer(columns, *, name="t", dialect=None, whole=True):
    family = Family(name=name, path="t.csv", files=("t.csv",))
    return infer_table(family, [sample(columns)], dialect or Dialect(), whole=whole)


def doubts(inferred):
    return {doubt.at: doubt.message for doubt in inferred.doubts}


@pytest.mark.parametrize(
    ("texts", "declared"),
    [
        (["1", "-2", "+3"], "integer"),
        (["0", "1"], "integer"),
        (["9223372036854775807"], "integer"),
        (["9223372036854775808"], "text"),  # a double would lose digits
        (["007", "12"], "text"),  # a number would lose the zeros
        (["+351912345678", "+351987654321"], "text"),
        (["1", "2.5"], "number"),
        (["1e5", ".5", "5."], "number"),
        (["1e999"], "text"),
        (["0x1F"], "text"),
        (["nan", "1"], "text"),
        ([" 1"], "text"),
        (["true", "false"], "boolean"),
        (["true", "0"], "boolean"),
        (["True", "False"], "text"),
        (["2020-02-29"], "date"),
        (["2021-02-29"], "text"),
        (["2020-01-01", "2020-01-01T12:00:00Z"], "timestamp"),
        (["05/01/2020"], "text"),
        (["today"], "text"),
        (["1", None], "integer?"),
        ([None, None], "text?"),
        (["", "x"], "text"),
    ],
)
def test_a_column_has_the_narrowest_type_that_loses_nothing(texts, declared):
    assert infer({"c": texts}).table.columns[0].declaration == declared


@pytest.mark.parametrize(
    ("texts", "told"),
    [
        (["007"], "leading zeros"),
        (["05/01/2020"], "2020-01-31"),
        (["yes", "no"], "true, false"),
        ([*map(str, range(60)), "many"], "integer, but for 1 values such as 'many'"),
        ([None], "no value"),
    ],
)
def test_why_a_column_is_text_is_said(texts, told):
    assert told in doubts(infer({"c": texts}))["tables.t.columns.c"]


@pytest.mark.parametrize(
    ("columns", "key"),
    [
        ({"name": ["x", "y"], "id": ["1", "2"]}, ("id",)),
        ({"customer_id": ["1", "2"], "order_id": ["7", "8"]}, ("order_id",)),
        ({"code": ["a", "b"], "n": ["1", "1"]}, ("code",)),
        ({"date": ["2020-01-01", "2020-01-02"], "n": ["1", "1"]}, ("date",)),
        ({"store_id": ["1", "1"], "day": ["1", "2"], "n": ["5", "6"]}, ("store_id", "day")),
        ({"id": ["1", "+1"], "n": ["2", "3"]}, ()),  # the same integer
        ({"id": ["1", None], "n": ["2", "2"]}, ()),
        ({"w": ["0.5", "0.7"], "n": ["2", "2"]}, ()),  # a measure is no key
        ({"n": ["2", "2"], "amount": ["5", "6"]}, ()),  # unique by chance
        ({"humid": ["1", "1"], "paid": ["1", "2"]}, ()),
    ],
)
def test_keys_are_unique_and_look_like_keys(columns, key):
    assert infer(columns, name="orders").table.key == key


def test_a_key_of_a_family_is_unique_within_each_file():
    family = Family(
        name="s", path="s/{period:%Y}.csv", files=("s/2020.csv", "s/2021.csv"), every=("year",)
    )
    columns = {"id": ["1", "2"], "n": ["1", "1"]}
    read = [sample(columns, path=path) for path in family.files]
    assert infer_table(family, read, Dialect(), whole=True).table.key == ("id",)


def test_a_key_that_was_not_read_to_the_end_is_unsure():
    message = doubts(infer({"id": ["1", "2"]}, whole=False))["tables.t.key"]
    assert "not all of it was read" in message


def history(rows):
    names = ("id", "valid_from", "valid_to")
    return {name: [row[index] for row in rows] for index, name in enumerate(names)}


def test_a_history_is_found_with_its_key():
    rows = [
        ("1", "2020-01-01", "2020-02-01"),
        ("2", "2020-01-15", None),
        ("1", "2020-02-01", "2020-02-20"),  # touches the one before, and a gap follows
        ("1", "2020-03-01", None),
    ]
    found = infer(history(rows))
    assert found.table.valid == ("valid_from", "valid_to")
    assert found.table.key == ("id", "valid_from")
    assert not found.doubts


@pytest.mark.parametrize(
    "rows",
    [
        [("1", "2020-01-01", "2020-03-01"), ("1", "2020-02-01", None)],
        [("1", "2020-01-01", None), ("1", "2020-02-01", None)],
        [("1", "2020-01-01", "2019-01-01"), ("1", "2020-02-01", None)],
        [("1", "2020-01-01", "2020-01-01"), ("1", "2020-02-01", None)],
        [("1", "2020-01-01", None), ("1", "2020-02-01", "2020-03-01")],
    ],
    ids=["overlap", "two open", "inverted", "empty", "behind an open one"],
)
def test_what_a_load_would_reject_is_no_history(rows):
    found = infer(history([*rows, ("2", "2020-01-01", "2020-02-01")]))
    assert found.table.valid == ()
    assert "overlap" in doubts(found)["tables.t.valid"]


def test_one_row_for_each_entity_is_no_history_unless_it_says_so():
    dates = {"start": ["2020-01-01", "2020-02-01"], "end": ["2020-03-01", None]}
    assert infer({"contract_id": ["1", "2"], **dates}).table.valid == ()


def periodic(dates, every=("month", "day")):
    family = Family(
        name="s", path="s/{period:%Y-%m-%d}.csv",
        files=("s/2020-01-01.csv", "s/2020-02-01.csv"), every=every,
    )  # fmt: skip
    read = [
        sample({"d": texts, "born": ["1980-01-01", "1990-01-01"]}, path=path)
        for path, texts in zip(family.files, dates, strict=True)
    ]
    return infer_table(family, read, Dialect(), whole=True)


def test_the_period_s_column_is_the_one_whose_dates_lie_in_their_file_s():
    found = periodic([["2020-01-01", "2020-01-31"], ["2020-02-01", "2020-02-29"]])
    assert (found.table.period.every, found.table.period.column) == ("month", "d")
    assert not [at for at in doubts(found) if at.endswith("period")]


def test_a_date_outside_leaves_the_period_without_a_column():
    found = periodic([["2020-01-01", "2020-02-01"], ["2020-02-01", "2020-02-29"]])
    assert (found.table.period.every, found.table.period.column) == ("month", None)
    assert "no column's dates" in doubts(found)["tables.s.period"]


def test_a_month_without_a_file_is_named():
    family = Family(
        name="s", path="s/{period:%Y-%m}.csv", files=("s/2020-01.csv", "s/2020-04.csv"),
        every=("month",),
    )  # fmt: skip
    read = [sample({"n": ["1"]}, path=path) for path in family.files]
    message = doubts(infer_table(family, read, Dialect(), whole=True))["tables.s.period"]
    assert "2 periods" in message
    assert "2020-02" in message


def test_a_column_that_not_every_file_has_is_left_out():
    family = Family(name="s", path="s/{period:%Y}.csv", files=("s/2020.csv", "s/2021.csv"),
                    every=("year",))  # fmt: skip
    read = [sample({"n": ["1"]}, path="s/2020.csv"), sample(
        {"n": ["1"], "extra": ["2"]}, path="s/2021.csv")]  # fmt: skip
    found = infer_table(family, read, Dialect(), whole=True)
    assert [column.name for column in found.table.columns] == ["n"]
    assert "extra" in doubts(found)["tables.s.columns"]


@pytest.mark.parametrize(
    ("columns", "delimiter", "nulls", "decimal"),
    [
        ({"n": ["1", "NA", "2"]}, ",", ("NA",), "."),
        ({"n": ["1", "-"], "t": ["a", "b"]}, ",", ("-",), "."),
        ({"t": ["a", "-"]}, ",", (), "."),
        ({"t": ["blue", "NA"]}, ",", ("NA",), "."),
        ({"country": ["NA", "PT"]}, ",", (), "."),  # Namibia
        ({"n": ["1,5", "2"]}, ";", (), ","),
        ({"n": ["1,5", "NA"]}, ";", ("NA",), ","),
        ({"n": ["1,5", "2"]}, ",", (), "."),
        ({"n": ["1.5", "2"]}, ";", (), "."),
        ({"t": ["1,5", "a"]}, ";", (), "."),
    ],
)
def test_null_words_and_decimal_commas_are_seen_in_the_values(columns, delimiter, nulls, decimal):
    found, _ = infer_dialect([sample(columns)], Dialect(delimiter=delimiter))
    assert (found.nulls, found.decimal) == (nulls, decimal)


@pytest.mark.parametrize(
    ("columns", "is_data"),
    [
        ({"1": ["2", "3"], "x": ["a", "b"]}, True),
        ({"2020-01-01": ["2020-01-02"], "5.1": ["4.9"]}, True),
        ({"id": ["2", "3"], "x": ["a", "b"]}, False),
        ({"country": ["a"], "1990": ["1"], "1991": ["2"], "1992": ["2"]}, False),  # years
        ({"a": ["x"], "b": ["y"]}, False),
    ],
)
def test_a_first_line_of_values_is_no_header(columns, is_data):
    assert header_is_data(list(columns), sample(columns).columns) is is_data


def test_columns_that_no_table_can_have_are_told():
    names, refused = declarable(["id", "", "x", "x", "_line", "xmin", "é" * 32, "ok name"])
    assert names == ["id", "ok name"]
    assert set(refused) == {"", "x", "_line", "xmin", "é" * 32}
