"""What is refused is counted and kept, row by row: against hand-worked cases and brute force."""

import csv
import io
from collections import Counter
from datetime import date, timedelta

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from gristmill.console import terminal
from gristmill.errors import LoadRefused
from gristmill.flow.show import examples_of, reject_counts, rejects

NUMBERS = """
[tables.numbers]
path = "numbers.csv"
key = ["idx"]
max_rejects = {}
columns = {{ idx = "integer", text = "text?" }}
"""
HISTORY = """
[tables.history]
path = "history.csv"
key = ["idx", "since"]
valid = ["since", "until"]
max_rejects = 1
columns = { idx = "integer", since = "date", until = "date?" }
"""


def numbers(good, bad):
    return "idx,text\n" + "x,\n" * bad + "".join(f"{n},\n" for n in range(good))


def counts(shop):
    return {row["rule"]: row["count"] for row in reject_counts(shop.context, None)}


@pytest.mark.parametrize(
    ("allowed", "rows", "bad"),
    [
        (0.01, 100, 1),
        (0.01, 700, 7),
        (0.29, 100, 29),
        (0.57, 300, 171),
        (0, 5, 0),
        (0.015, 1000, 15),
    ],
)
def test_exactly_the_share_that_is_allowed_loads_and_one_row_more_does_not(
    shop, allowed, rows, bad
):
    shop.declare(NUMBERS.format(allowed))
    shop.put("numbers.csv", numbers(rows - bad, bad))
    (loaded,) = shop.load()
    assert (loaded.rows, loaded.rejected) == (rows - bad, bad)

    shop.put("numbers.csv", numbers(rows - bad - 1, bad + 1))
    with pytest.raises(LoadRefused, match=f"{bad + 1:,} of {rows:,} rows break the contract"):
        shop.load()
    assert shop.rows("SELECT count(*) FROM numbers") == [(rows - bad,)]


def test_a_refused_file_loads_once_exactly_its_share_is_allowed(shop):
    shop.declare(NUMBERS.format(0.28))
    shop.put("numbers.csv", numbers(71, 29))
    with pytest.raises(LoadRefused):
        shop.load()

    shop.declare(NUMBERS.format(0.29))
    (loaded,) = shop.load()

    assert (loaded.rows, loaded.rejected) == (71, 29)


def test_the_share_counts_what_only_the_whole_load_shows(shop):
    shop.declare(NUMBERS.format(0.02))
    rows = "".join(f"{n},\n" for n in range(98))
    shop.put("numbers.csv", f"idx,text\nx,\n{rows}5,again\n")
    (loaded,) = shop.load()
    assert (loaded.rows, loaded.rejected) == (98, 2)

    shop.put("numbers.csv", f"idx,text\nx,\n{rows}5,again\n6,again\n")
    with pytest.raises(LoadRefused, match=r"3 of 101 rows(.|\n)*type: 1(.|\n)*numbers.csv, line 2"):
        shop.load()
    assert counts(shop) == {"type": 1, "key": 2}
    assert [row["line"] for row in rejects(shop.context, "numbers")] == [2, 101, 102]


def test_counts_are_true_where_a_refused_load_keeps_examples_only(shop):
    shop.declare(NUMBERS.format(0.01))
    shop.put("numbers.csv", numbers(700, 1200) + "".join(f"{n % 700},\n" for n in range(1500)))
    with pytest.raises(LoadRefused, match="2,700 of 3,400 rows"):
        shop.load()

    assert counts(shop) == {"type": 1200, "key": 1500}
    kept = Counter(row["rule"] for row in rejects(shop.context, None))
    assert kept == {"type": 1000, "key": 1000}
    assert shop.rows("SELECT rows, rejected, status FROM gristmill.loads") == [
        (700, 2700, "refused")
    ]
    examples = examples_of(rejects(shop.context, None), 2)
    assert [(row["rule"], row["line"]) for row in examples] == [
        ("type", 2), ("type", 3), ("key", 1902), ("key", 1903),
    ]  # fmt: skip


def test_rows_in_are_rows_loaded_and_rejected_by_rules_that_add_up(shop):
    shop.declare(HISTORY)
    lines = [
        "1,2020-01-01,2020-02-01", "1,2020-01-15,", "1,2020-01-15,", "x,2020-01-01,",
        ",2020-01-01,", "2,2020-02-01,2020-01-01", "2,2020-02-01,2020-02-01", "2,2020",
        "3,2020-01-01,",
    ]  # fmt: skip
    shop.put("history.csv", "idx,since,until\n" + "\n".join(lines) + "\n")
    shop.load()

    ((rows, rejected, rules),) = shop.rows("SELECT rows, rejected, rules FROM gristmill.loads")
    assert rows + rejected == len(lines)
    assert sum(rules.values()) == rejected == len(rejects(shop.context, None))
    assert rows == len(shop.rows("SELECT FROM history")) == 2
    assert rules == {
        "overlap": 1, "key": 1, "type": 1, "null": 1, "inverted": 1, "empty": 1, "record": 1,
    }  # fmt: skip


def test_a_mended_file_clears_its_rejects_and_those_of_no_other(shop):
    shop.declare(NUMBERS.format(0.5) + HISTORY)
    shop.put("numbers.csv", numbers(2, 1))
    shop.put("history.csv", "idx,since,until\n1,2020-01-01,\nx,2020-01-01,\n")
    shop.load()
    assert [row["table_name"] for row in rejects(shop.context, None)] == ["history", "numbers"]

    shop.put("numbers.csv", numbers(2, 0))
    shop.load()

    assert [row["table_name"] for row in rejects(shop.context, None)] == ["history"]
    assert rejects(shop.context, "numbers") == reject_counts(shop.context, "numbers") == []


def test_as_csv_every_reject_comes_back_as_it_was_written(shop, capsys):
    shop.declare(NUMBERS.format(0.9))
    raws = ['x,"two\nlines, and ""quotes"""', "x,plain", "x,'; DROP", 'x,"\r\n"', "x,é\t\\x00", ""]
    shop.put("numbers.csv", "idx,text\n1,\n2,\n" + "\n".join(raws) + "\nx,a\0b\n\xff,\n3,\n")
    shop.load()
    found = rejects(shop.context, None)
    columns = ["table_name", "period", "file", "line", "rule", "reason", "raw"]

    terminal.print_csv(columns, terminal.as_rows(found, columns))
    header, *rows = csv.reader(io.StringIO(capsys.readouterr().out, newline=""))

    assert header == columns
    assert rows == [[str(row[column]) for column in columns] for row in found]
    assert [(int(row[3]), row[6]) for row in rows] == [
        (4, raws[0]), (6, raws[1]), (7, raws[2]), (8, raws[3]), (10, raws[4]),
        (12, "x,a\\x00b"), (13, "\xff,"),
    ]  # fmt: skip


START = date(2020, 1, 1)
DAYS = st.integers(0, 8)
HISTORIES = st.lists(
    st.tuples(st.integers(1, 2), DAYS, st.none() | DAYS), min_size=1, max_size=10
)  # idx, since, until


def expected_rejects(rows):
    """Rule by line, one rule after the other: what an earlier one takes out is not there later."""
    found = {}
    left = dict(enumerate(rows, start=2))
    for line, (_, since, until) in left.items():
        if until is not None and until <= since:
            found[line] = "empty" if until == since else "inverted"
    left = {line: row for line, row in left.items() if line not in found}
    seen = set()
    for line, row in left.items():
        if row[:2] in seen:
            found[line] = "key"
        seen.add(row[:2])
    left = {line: row for line, row in left.items() if line not in found}
    for line, (idx, since, until) in left.items():
        before = [one for one in left.values() if one[0] == idx and one[1] < since]
        still = [one for one in before if one[2] is None or one[2] > since]
        if still:
            two_open = until is None and any(one[2] is None for one in still)
            found[line] = "two_open" if two_open else "overlap"
    return found


@pytest.fixture
def history(shop):
    """A history of which one row is loaded."""
    shop.declare(HISTORY)
    return shop


@settings(max_examples=25, suppress_health_check=list(HealthCheck))
@given(rows=HISTORIES)
@example(rows=[(1, 0, None), (1, 2, 4), (1, 5, None)])
@example(rows=[(1, 0, 8), (1, 1, 2), (1, 3, 4), (1, 8, None)])
@example(rows=[(1, 5, None), (1, 0, 5), (2, 0, 6), (1, 5, None), (2, 3, 3)])
def test_intervals_that_overlap_are_exactly_those_that_brute_force_finds(history, rows):
    lines = [
        f"{idx},{START + timedelta(since)},{'' if until is None else START + timedelta(until)}"
        for idx, since, until in [*rows, (9, 0, None)]
    ]
    history.put("history.csv", "idx,since,until\n" + "\n".join(lines) + "\n")
    (loaded,) = history.load()
    expected = expected_rejects(rows)

    found = {row["line"]: row for row in rejects(history.context, None)}
    assert {line: row["rule"] for line, row in found.items()} == expected
    assert {line: row["raw"] for line, row in found.items()} == {
        line: lines[line - 2] for line in expected
    }
    assert counts(history) == Counter(expected.values())
    assert loaded.rows == len(lines) - len(expected)
    assert history.rows(
        "SELECT count(*) FROM history AS a JOIN history AS b ON a.idx = b.idx "
        "AND a.since < b.since AND b.since < coalesce(a.until, 'infinity')"
    ) == [(0,)]
