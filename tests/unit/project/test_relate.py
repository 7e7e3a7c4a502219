import pyarrow as pa
import pytest

from gristmill.project.families import Family
from gristmill.project.infer import FileSample, infer_table
from gristmill.project.relate import relate
from gristmill.project.table import Dialect


def table(name, columns, *, whole=True):
    texts = {column: pa.array(values, pa.string()) for column, values in columns.items()}
    read = FileSample(path=f"{name}.csv", columns=texts, whole=whole)
    family = Family(name=name, path=f"{name}.csv", files=(f"{name}.csv",))
    return infer_table(family, [read], Dialect(), whole=whole)


def references(related):
    return {
        f"{one.table.name}.{reference.column}": f"{reference.table}.{reference.to_column}"
        for one in related.tables
        for reference in one.table.references
    }


CUSTOMERS = {"customer_id": ["1", "2", "3", "4"], "city": ["x", "y", "x", "y"]}
LABELS = {"customer_id": ["1", "2", "3"], "label": ["0", "1", "0"]}


def test_a_reference_has_the_name_and_the_values_of_the_other_table_s_key():
    related = relate((
        table("customers", CUSTOMERS),
        table("orders", {"order_id": ["7", "8"], "customer_id": ["1", "4"], "n": ["1", "2"]}),
    ))  # fmt: skip
    assert references(related) == {"orders.customer_id": "customers.customer_id"}


def test_generic_names_refer_by_what_stands_before_them():
    related = relate((
        table("stores", {"idx": ["1", "2"], "city": ["x", "y"]}),
        table("clients", {"idx": ["1", "2"], "n": ["3", "3"]}),
        table("sales", {"store_idx": ["2", "2"], "value": ["0.5", "0.6"]}),
    ))  # fmt: skip
    assert references(related) == {"sales.store_idx": "stores.idx"}


def test_a_value_that_is_not_there_makes_it_no_reference_and_a_doubt():
    visits = {"visit_id": list("123456"), "customer_id": ["1", "2", "3", "4", "4", "9"]}
    related = relate((table("customers", CUSTOMERS), table("visits", visits)))
    assert references(related) == {}
    assert "1 of 5 values" in next(
        doubt.message for doubt in related.doubts if doubt.at == "tables.visits.references"
    )


def test_references_never_lead_back():
    same = {"customer_id": ["1", "2"], "n": ["5", "5"]}
    related = relate((table("customers", same), table("accounts", same)))
    assert references(related) == {"accounts.customer_id": "customers.customer_id"}


def test_the_label_s_entities_are_those_of_the_table_that_lists_them():
    related = relate((table("labels", LABELS), table("customers", CUSTOMERS)))
    features = related.features
    assert str(features.entity) == "customers.customer_id"
    assert str(features.label) == "labels.label"
    assert [str(one) for one in features.features] == ["customers.city"]
    label = next(one.table.column("label") for one in related.tables if one.table.name == "labels")
    assert label.allowed == (0, 1)


def test_what_stands_beside_a_label_in_a_small_table_is_no_feature():
    beside = {**LABELS, "observed_on": ["2020-01-01", "2020-01-02", "2020-01-02"]}
    features = relate((table("labels", beside), table("customers", CUSTOMERS))).features
    assert str(features.as_of) == "labels.observed_on"
    assert [str(one) for one in features.features] == ["customers.city"]


def test_a_date_beside_the_label_may_be_as_of_and_is_only_suggested():
    beside = {**LABELS, "changed": ["2020-01-01", "2020-01-02", "2020-01-02"]}
    related = relate((table("labels", beside), table("customers", CUSTOMERS)))
    assert related.features.as_of is None
    assert related.as_of == "labels.changed"


@pytest.mark.parametrize(
    ("columns", "label"),
    [
        ({"age": ["30", "40"], "vip": ["0", "1"], "churned": ["0", "1"]}, "churned"),
        ({"churn": ["1", "0"], "vip": ["0", "1"]}, "churn"),
        ({"age": ["30", "40"], "bought": ["true", "false"]}, "bought"),
        ({"a": ["0", "1"], "b": ["1", "0"], "c": ["1", "0"]}, None),  # which of them?
        ({"age": ["30", "40"], "churned": ["0", "0"]}, None),  # never 1
        ({"age": ["30", "40"], "churned": ["yes", "no"]}, None),
    ],
)
def test_a_label_is_0_or_1_and_named_like_one(columns, label):
    related = relate((table("people", {"person_id": ["1", "2"], **columns}),))
    found = related.features.label.column if related.features else None
    assert found == label


def test_the_only_column_of_0_and_1_may_be_the_label_and_is_unsure():
    people = {"person_id": ["1", "2"], "age": ["30", "40"], "vip": ["0", "1"]}
    related = relate((table("people", people),))
    assert related.features.label.column == "vip"
    assert [doubt.at for doubt in related.doubts] == ["features.label"]


def test_free_texts_references_and_ambiguous_names_are_no_features():
    numbers = [str(number) for number in range(1, 203)]
    people = {
        "person_id": numbers,
        "remark": [f"remark {number}" for number in numbers],
        "city_id": ["1"] * 202,
        "bmi.value": ["0.5"] * 202,
        "age": ["40"] * 202,
        "churned": ["0", "1"] * 101,
    }
    cities = {"city_id": ["1", "2"], "name": ["x", "y"]}
    related = relate((table("people", people), table("cities", cities)))
    assert [str(one) for one in related.features.features] == ["people.age"]
    told = next(doubt.message for doubt in related.doubts if doubt.at == "features.features")
    assert "people.remark" in told
    assert "people.bmi.value" in told
    assert "people.city_id (a reference)" in told


def test_a_table_that_knows_others_of_the_same_name_is_not_joined():
    related = relate((
        table("clients", {"idx": ["101", "102"], "age": ["3", "4"], "churned": ["0", "1"]}),
        table("stores", {"idx": ["1", "2"], "size": ["5", "6"]}),
    ))  # fmt: skip
    assert [str(one) for one in related.features.features] == ["clients.age"]


@pytest.mark.parametrize("key", ["id", "rownames"])
def test_numbers_counted_from_one_do_not_join_what_has_nothing_in_common(key):
    clients = {key: list("123456"), "age": list("345345"), "churned": list("010101")}
    related = relate((
        table("clients", clients),
        table("stores", {key: ["1", "2"], "size": ["5", "6"]}),
    ))  # fmt: skip
    found = [str(one) for one in related.features.features]
    assert found == ["clients.age"]


def test_many_columns_that_are_no_features_are_counted():
    people = {"person_id": ["1", "2"], "age": ["30", "40"], "churned": ["0", "1"]}
    people |= {f"a.{number}": ["5", "6"] for number in range(30)}
    related = relate((table("people", people),))
    told = next(doubt.message for doubt in related.doubts if doubt.at == "features.features")
    assert told.endswith("and 22 more")


def test_nothing_to_predict_is_said():
    related = relate((table("stores", {"idx": ["1", "2"], "size": ["5", "6"]}),))
    assert related.features is None
    assert [doubt.at for doubt in related.doubts] == ["features"]
