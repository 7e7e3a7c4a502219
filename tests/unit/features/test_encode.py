import json
import math
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal

import numpy as np
import onnxruntime
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from gristmill.errors import InvalidFeatures
from gristmill.features.encode import LARGEST_INTEGER, NULL_TEXT, encode_table, encode_values
from gristmill.project.features import Feature

FEATURES = (
    Feature(name="whole", type="integer"),
    Feature(name="real", type="number"),
    Feature(name="word", type="text"),
    Feature(name="day", type="date"),
    Feature(name="moment", type="timestamp"),
    Feature(name="flag", type="boolean"),
)
SCHEMA = pa.schema(
    {
        "whole": pa.int64(),
        "real": pa.float64(),
        "word": pa.string(),
        "day": pa.date32(),
        "moment": pa.timestamp("us", tz="UTC"),
        "flag": pa.bool_(),
    }
)
ROWS = st.fixed_dictionaries(
    {
        "whole": st.none() | st.integers(-LARGEST_INTEGER, LARGEST_INTEGER),
        "real": st.none() | st.floats(allow_nan=False, allow_infinity=False),
        "word": st.none() | st.text(st.characters(exclude_characters="\x00", codec="utf-8")),
        "day": st.none() | st.dates(),
        "moment": st.none() | st.datetimes(timezones=st.just(UTC)),
        "flag": st.none() | st.booleans(),
    }
)


def one(kind: str, value: object):
    return encode_values([{"x": value}], [Feature(name="x", type=kind)])["x"][0, 0]


@given(st.lists(ROWS, min_size=1, max_size=8))
def test_a_row_is_encoded_as_the_same_row_of_a_table(rows):
    table = pa.Table.from_pylist(rows, schema=SCHEMA)

    by_table = encode_table(table, FEATURES)
    by_value = encode_values(rows, FEATURES)

    for name in SCHEMA.names:
        assert by_table[name].shape == by_value[name].shape == (len(rows), 1)
        assert by_table[name].dtype == by_value[name].dtype
        np.testing.assert_array_equal(by_table[name], by_value[name])


@given(ROWS)
def test_a_row_survives_json(row):
    sent = {
        key: value.isoformat() if isinstance(value, date) else value for key, value in row.items()
    }

    answered = encode_values([json.loads(json.dumps(sent))], FEATURES)

    direct = encode_values([row], FEATURES)
    for name in SCHEMA.names:
        np.testing.assert_array_equal(answered[name], direct[name])


@given(st.lists(st.decimals(allow_nan=False, allow_infinity=False, places=7), min_size=1))
def test_decimals_round_as_python_rounds(values):
    feature = Feature(name="x", type="number")
    values = [value for value in values if abs(value) < Decimal(10) ** 29]
    table = pa.table({"x": pa.array(values, pa.decimal128(38, 7))})

    encoded = encode_table(table, [feature])["x"][:, 0]

    assert encoded.tolist() == [float(value) for value in values]


def test_hand_worked_values():
    assert one("date", "1970-01-02") == 1
    assert one("date", date(1969, 12, 31)) == -1
    assert one("timestamp", "1970-01-01T01:00:00.5+01:00") == 0.5
    assert one("timestamp", datetime(1970, 1, 1, 0, 1)) == 60
    two_hours_east = timezone(timedelta(hours=2))
    assert one("timestamp", datetime(1970, 1, 1, 2, tzinfo=two_hours_east)) == 0
    assert one("boolean", True) == 1
    assert one("number", Decimal("0.1")) == 0.1
    assert one("integer", -(2**53)) == -9007199254740992
    assert one("text", "") == ""
    assert one("text", None) == NULL_TEXT
    assert all(math.isnan(one(kind, None)) for kind in ("integer", "number", "date", "timestamp"))


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("integer", True),
        ("integer", 3.0),
        ("integer", "3"),
        ("integer", 2**53 + 1),
        ("integer", -(2**53) - 1),
        ("number", "0.5"),
        ("number", True),
        ("number", math.inf),
        ("number", 10**400),
        ("boolean", 1),
        ("boolean", "true"),
        ("text", 7),
        ("text", "a\x00b"),
        ("text", NULL_TEXT),
        ("text", "\ud800"),
        ("date", "20200131"),
        ("date", "2020-02-30"),
        ("date", "today"),
        ("date", datetime(2020, 1, 31)),
        ("date", 18_000),
        ("timestamp", "yesterday"),
        ("timestamp", 1.5),
        ("text", ["a"] * 100),
    ],
)
def test_a_value_of_another_type_is_refused_by_name(kind, value):
    with pytest.raises(InvalidFeatures, match="x must be") as caught:
        one(kind, value)
    assert caught.value.field == "x"


def test_columns_that_a_model_could_not_tell_apart_are_refused():
    whole = pa.table({"x": pa.array([1, None, 2**53 + 1])})
    with pytest.raises(InvalidFeatures, match="9007199254740993") as caught:
        encode_table(whole, [Feature(name="x", type="integer")])
    assert caught.value.field == "x"
    with pytest.raises(InvalidFeatures, match="infinite"):
        encode_table(pa.table({"x": [1.0, math.inf]}), [Feature(name="x", type="number")])
    with pytest.raises(InvalidFeatures, match="stands for null"):
        encode_table(pa.table({"x": ["a", NULL_TEXT]}), [Feature(name="x", type="text")])


def test_columns_as_the_database_or_a_file_may_type_them():
    table = pa.table(
        {
            "word": pa.array(["a", None, "a"]).dictionary_encode(),
            "real": pa.array([None, None, None], pa.null()),
            "moment": pa.array([0, 1_500_000_000, None], pa.timestamp("ns")),
            "whole": pa.array([1, 2, None], pa.int16()),
        }
    )

    encoded = encode_table(
        table, [feature for feature in FEATURES if feature.name in table.column_names]
    )

    assert encoded["word"][:, 0].tolist() == ["a", NULL_TEXT, "a"]
    assert np.isnan(encoded["real"]).all()
    np.testing.assert_array_equal(encoded["moment"][:, 0], [0, 1.5, np.nan])
    np.testing.assert_array_equal(encoded["whole"][:, 0], [1, 2, np.nan])


def test_the_runtime_tells_null_from_every_text():
    texts = [NULL_TEXT, "", "null", "naïve"]
    graph = helper.make_graph(
        [
            helper.make_node("Equal", ["x", "known"], ["same"]),
            helper.make_node("Cast", ["same"], ["y"], to=TensorProto.DOUBLE),
        ],
        "texts",
        [helper.make_tensor_value_info("x", TensorProto.STRING, [None, 1])],
        [helper.make_tensor_value_info("y", TensorProto.DOUBLE, [None, 4])],
        [helper.make_tensor("known", TensorProto.STRING, [4], [text.encode() for text in texts])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString())

    (same,) = session.run(None, {"x": np.array(texts, dtype=object).reshape(-1, 1)})

    np.testing.assert_array_equal(same, np.eye(4))
