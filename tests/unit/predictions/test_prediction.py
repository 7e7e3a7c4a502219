"""Identifiers in the order of time, and keys and values that both JSON and Postgres can hold."""

import math
import time
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from uuid import RFC_4122

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gristmill.errors import InvalidFeatures
from gristmill.predictions.prediction import (
    entity_key,
    entity_key_from_text,
    json_value,
    new_prediction_id,
)
from gristmill.registry.bundle import Entity

BY_NUMBER = Entity(name="idx", type="integer")
BY_TEXT = Entity(name="email", type="text")


def test_identifiers_are_version_7_and_hold_their_time():
    before = time.time_ns() // 1_000_000
    identifier = new_prediction_id()
    after = time.time_ns() // 1_000_000
    assert (identifier.version, identifier.variant) == (7, RFC_4122)
    assert before <= identifier.int >> 80 <= after


def test_identifiers_differ():
    assert len({new_prediction_id() for _ in range(10_000)}) == 10_000


@given(st.integers(-(2**63) + 1, 2**63 - 1))
def test_an_integer_key_is_the_same_in_json_and_in_a_url(number):
    assert entity_key(number, BY_NUMBER) == number
    assert entity_key_from_text(str(number), BY_NUMBER) == number


@pytest.mark.parametrize("value", [None, True, 1.0, "1", 2**63, [], {}])
def test_what_is_no_integer_key(value):
    with pytest.raises(InvalidFeatures, match="idx must be") as caught:
        entity_key(value, BY_NUMBER)
    assert caught.value.field == "idx"


@pytest.mark.parametrize(
    "text", ["", "-", "--1", "1.0", "1e3", "٣", "0x1F", "1_000", " 1", "9" * 30]
)
def test_what_is_no_integer_key_in_a_url(text):
    with pytest.raises(InvalidFeatures, match="idx must be"):
        entity_key_from_text(text, BY_NUMBER)


def test_text_keys():
    assert entity_key("a/b ü", BY_TEXT) == entity_key_from_text("a/b ü", BY_TEXT) == "a/b ü"
    for value in (1, None, "", "a\x00", "\ud800"):
        with pytest.raises(InvalidFeatures, match="email must be"):
            entity_key(value, BY_TEXT)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        (True, True),
        (3, 3),
        (0.1, 0.1),
        (math.nan, None),
        (Decimal("0.1"), 0.1),
        ("ü", "ü"),
        (date(2020, 1, 31), "2020-01-31"),
        (datetime(2020, 1, 31, 12, tzinfo=UTC), "2020-01-31T12:00:00+00:00"),
        (datetime(2020, 1, 31, 12), "2020-01-31T12:00:00+00:00"),
        (
            datetime(2020, 1, 31, 12, tzinfo=timezone(timedelta(hours=2))),
            "2020-01-31T12:00:00+02:00",
        ),
    ],
)
def test_values_of_the_database_as_json(value, expected):
    assert json_value(value) == expected
    assert type(json_value(value)) is type(expected)


def test_what_json_has_no_scalar_for():
    with pytest.raises(TypeError, match="bytes"):
        json_value(b"x")
