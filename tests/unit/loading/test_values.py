"""The grammar of the project file: what is a value, and which."""

from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gristmill.loading.values import broken_rules, typed
from gristmill.project.table import Column


def column(declared, **rules):
    kind, _, size = declared.rstrip("?").partition("(")
    precision, scale = size.rstrip(")").split(",") if size else (0, 0)
    return Column(
        name="a",
        type=kind,
        nullable=declared.endswith("?"),
        precision=int(precision),
        scale=int(scale),
        **rules,
    )


def value_of(text, declared):
    """The value of a text, or REFUSED; the same whether it stands alone or among others."""
    alone, wrong = typed(pa.array([text], pa.string()), column(declared))
    among, wrong_among = typed(pa.array([None, text, "?", text], pa.string()), column(declared))
    assert among.to_pylist()[1] == alone.to_pylist()[0]
    assert wrong_among[1] == wrong[0]
    return REFUSED if wrong[0] else alone.to_pylist()[0]


REFUSED = "refused"
ACCEPTED = {
    "integer": {
        "42": 42,
        "-42": -42,
        "+5": 5,
        "007": 7,
        "-007": -7,
        "-0": 0,
        "9223372036854775807": 2**63 - 1,
        "-9223372036854775808": -(2**63),
        "0" * 5000 + "5": 5,
        "-" + "0" * 50 + "5": -5,
    },
    "number": {
        "1": 1.0,
        "-1.5": -1.5,
        "+5": 5.0,
        ".5": 0.5,
        "5.": 5.0,
        "1e5": 1e5,
        "1E-5": 1e-5,
        "1e-400": 0.0,
        "0.1": 0.1,
        "1" + "0" * 300: 1e300,
    },
    "decimal(6,2)": {
        "1": Decimal("1.00"),
        "1.5": Decimal("1.50"),
        "1.500": Decimal("1.50"),
        "-1234.56": Decimal("-1234.56"),
        "0001234.56": Decimal("1234.56"),
        ".5": Decimal("0.50"),
        "+5.": Decimal("5.00"),
        "-0": Decimal("0.00"),
    },
    "decimal(38,2)": {"9" * 36 + ".99": Decimal("9" * 36 + ".99")},
    "decimal(2,2)": {".99": Decimal(".99"), "0.5": Decimal("0.50")},
    "date": {
        "2020-01-31": date(2020, 1, 31),
        "2020-02-29": date(2020, 2, 29),
        "0001-01-01": date(1, 1, 1),
        "9999-12-31": date(9999, 12, 31),
    },
    "timestamp": {
        "2020-01-31": datetime(2020, 1, 31, tzinfo=UTC),
        "2020-01-31T12:30": datetime(2020, 1, 31, 12, 30, tzinfo=UTC),
        "2020-01-31 12:30:45": datetime(2020, 1, 31, 12, 30, 45, tzinfo=UTC),
        "2020-01-31T12:30:45.1": datetime(2020, 1, 31, 12, 30, 45, 100000, tzinfo=UTC),
        "2020-01-31T12:30:45.123456Z": datetime(2020, 1, 31, 12, 30, 45, 123456, tzinfo=UTC),
        "2020-01-31T00:30:00+02:00": datetime(2020, 1, 30, 22, 30, tzinfo=UTC),
        "2020-01-31T00:30:00-0530": datetime(2020, 1, 31, 6, 0, tzinfo=UTC),
        "2020-01-31T00:30:00+01": datetime(2020, 1, 30, 23, 30, tzinfo=UTC),
        "1969-12-31T23:59:59.9": datetime(1969, 12, 31, 23, 59, 59, 900000, tzinfo=UTC),
    },
    "boolean": {"true": True, "1": True, "false": False, "0": False},
    "text": {"": "", " 12 ": " 12 ", "NaN": "NaN", "a\nb": "a\nb"},
}
NEVER = ["", " ", "?", "null", "NA", "None", "x", "5\n", "\n5", "５", "1\x00"]
REFUSALS = {
    "integer": [
        "0x1F", "1_000", " 12 ", "12 ", "\t12", "1.0", "3.0", "1e5", "--5", "+-5", "+", "1,000",
        "9223372036854775808", "-9223372036854775809", "9" * 5000, "NaN", "true", "1\xa0",
    ],
    "number": [
        "NaN", "nan", "inf", "-inf", "Infinity", "1e400", "-1e400", "0x10", "1_0", "1,5", ".", "-.",
        "e5", "1e", "1e5.5", "1.5.2", " 1.5", "1.5 ", "1d5", "5f", "9" * 400,
    ],
    "decimal(6,2)": [
        "1.005", "12345", "12345.6", "-10000", "1e2", "NaN", "Infinity", ".", "1_0", " 1", "1,5",
    ],
    "decimal(38,2)": ["1" + "0" * 36, "0.001"],
    "decimal(2,2)": ["1", "1.00", ".999"],
    "date": [
        "2020-02-30", "2021-02-29", "0000-01-01", "05/01/2020", "2020/01/05", "2020-1-5",
        "20200105", "today", "infinity", "Jan 5 2020", "2020-01-05 23:59:59", "2020-01-05T00:00",
        "10000-01-01", "-2020-01-01", " 2020-01-05", "2020-W01-1", "2020-13-01",
    ],
    "timestamp": [
        "2020-01-31T12", "2020-01-31T", "2020-01-31T24:00:00", "2020-01-31T23:59:60", "now",
        "2020-01-31T12:60", "2020-01-31T12:30:45.1234567", "2020-01-31T12:30:45.", "infinity",
        "2020-01-31T1230", "20200131T12:30", "2020-01-31t12:30", "2020-01-31  12:30", "12:30",
        "2020-01-31T12:30z", "2020-01-31T12:30+24:00", "2020-01-31T12:30+02:60", "2020-02-30T12:30",
        "2020-01-31Z", "0000-01-01", "0001-01-01T00:00+01:00", "9999-12-31T23:59-01:00",
    ],
    "boolean": ["True", "TRUE", "t", "f", "y", "n", "yes", "on", "off", "2", "01", " true", "-1"],
}  # fmt: skip


@pytest.mark.parametrize(
    ("declared", "text"), [(declared, text) for declared in ACCEPTED for text in ACCEPTED[declared]]
)
def test_what_is_a_value_is_that_value(declared, text):
    found = value_of(text, declared)

    assert found == ACCEPTED[declared][text]
    assert type(found) is type(ACCEPTED[declared][text])


@pytest.mark.parametrize(
    ("declared", "text"),
    [(declared, text) for declared in REFUSALS for text in [*NEVER, *REFUSALS[declared]]],
)
def test_what_is_no_value_is_refused(declared, text):
    assert value_of(text, declared) == REFUSED


@given(number=st.integers(-(2**63), 2**63 - 1))
def test_every_integer_of_64_bits_is_read_exactly(number):
    assert value_of(str(number), "integer") == number


@given(number=st.floats(allow_nan=False, allow_infinity=False))
def test_every_double_is_read_exactly(number):
    assert value_of(repr(number), "number") == number


@given(number=st.decimals(-(10**27), 10**27, allow_nan=False, places=10))
def test_every_decimal_is_read_exactly(number):
    assert value_of(f"{number:f}", "decimal(38,10)") == number


@given(day=st.dates())
def test_every_day_is_read_exactly(day):
    assert value_of(day.isoformat(), "date") == day


@given(
    moment=st.datetimes(datetime(2, 1, 1), datetime(9998, 1, 1)),
    minutes=st.one_of(st.none(), st.integers(-1439, 1439)),
)
def test_every_moment_is_read_exactly(moment, minutes):
    zone = UTC if minutes is None else timezone(timedelta(minutes=minutes))
    written = moment if minutes is None else moment.replace(tzinfo=zone)

    assert value_of(written.isoformat(), "timestamp") == moment.replace(tzinfo=zone)


@given(text=st.text("0123456789+-.eE:TZ xn_", max_size=12))
def test_no_type_takes_a_text_that_python_does_not(text):
    for declared, read in (("integer", int), ("number", float), ("date", date.fromisoformat)):
        found = value_of(text, declared)
        if found != REFUSED:
            assert found == read(text)


@pytest.mark.parametrize(
    ("declared", "rules", "good", "bad", "rule"),
    [
        ("integer", {"allowed": (0, 1)}, [0, 1], [2, -1], "in"),
        ("text", {"allowed": ("a", "")}, ["a", ""], ["A", " a"], "in"),
        ("boolean", {"allowed": (True,)}, [True], [False], "in"),
        ("number", {"minimum": 1}, [1.0, 5.5], [0.999], "min"),
        ("number", {"maximum": 1.5}, [1.5, -5.0], [1.5000001], "max"),
        ("date", {"minimum": "2020-01-31"}, [date(2020, 1, 31)], [date(2020, 1, 30)], "min"),
        (
            "timestamp",
            {"maximum": "2020-01-31T12:00:00+02:00"},
            [datetime(2020, 1, 31, 10, tzinfo=UTC)],
            [datetime(2020, 1, 31, 10, 0, 1, tzinfo=UTC)],
            "max",
        ),
        ("decimal(6,2)", {"minimum": 0.25}, [Decimal("0.25")], [Decimal("0.24")], "min"),
        ("decimal(6,2)", {"allowed": (1, 2.5)}, [Decimal("2.50")], [Decimal("2.51")], "in"),
        ("text", {"matches": "[A-Z]+"}, ["AB"], ["Ab", "AB ", "AB\n", ""], "matches"),
    ],
)
def test_rules_by_hand(declared, rules, good, bad, rule):
    contract = column(declared + "?", **rules)
    kind = typed(pa.array([], pa.string()), contract)[0].type

    broken = list(broken_rules(pa.array([*good, None, *bad], kind), contract))

    assert [name for name, _, _ in broken] == [rule]
    assert broken[0][1].tolist() == [False] * (len(good) + 1) + [True] * len(bad)
    assert not list(broken_rules(pa.array([], kind), contract))


def test_null_is_a_rule_of_its_own():
    values = pa.array([1, None], pa.int64())

    assert [name for name, _, _ in broken_rules(values, column("integer"))] == ["null"]
    assert not list(broken_rules(values, column("integer?")))
