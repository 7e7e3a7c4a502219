"""Which texts are schedules, and which periods lie between two starts."""

import pytest

from gristmill.project.schedule import PRESETS, cadence, is_schedule


@pytest.mark.parametrize(
    "text",
    [*PRESETS, "*/10 * * * *", "0 6 2 * *", "0 0,12 1-15 1-12/2 *", "59 23 31 12 7", "0 0 * * 1-5"],
)
def test_a_schedule_is_a_word_or_five_fields(text):
    assert is_schedule(text)


@pytest.mark.parametrize(
    "text",
    ["", "@fortnightly", "daily", "60 * * * *", "* 24 * * *", "* * 0 * *", "* * * 13 *",
     "* * * * 8", "* * * *", "* * * * * *", "*/0 * * * *", "1- * * * *", "a * * * *"],
)  # fmt: skip
def test_anything_else_is_none(text):
    assert not is_schedule(text)


@pytest.mark.parametrize(
    ("text", "period"),
    [
        ("@daily", "day"), ("30 5 * * *", "day"),
        ("@monthly", "month"), ("0 6 2 * *", "month"),
        ("@yearly", "year"), ("0 0 15 6 *", "year"),
        ("@hourly", None), ("@weekly", None), ("*/10 * * * *", None), ("0 0,12 * * *", None),
        ("0 0 1,15 * *", None), ("0 0 1 */3 *", None), ("0 0 1 * 1", None),
    ],
)  # fmt: skip
def test_a_period_lies_between_two_starts_or_none(text, period):
    assert cadence(text) == period
