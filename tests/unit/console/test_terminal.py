"""What is printed is what was meant, whatever the values hold."""

import csv
import io
import json
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal

import pytest

from gristmill.console import terminal

TRICKY = ["[red]not markup[/red]", 'a "b", c', "two\nlines", "tab\tbed", "é€🙂", "", "\\x00", " "]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "–"),
        (True, "yes"),
        (False, "no"),
        (1234567, "1,234,567"),
        (0.000123456, "0.0001235"),
        (1234.5, "1,234.5"),
        (2.0, "2"),
        (-0.25, "-0.25"),
        (datetime(2026, 1, 31, 12, 30, 59, tzinfo=UTC), "2026-01-31 12:30"),
        (date(2026, 1, 31), "2026-01-31"),
        (Decimal("1.50"), "1.50"),
        ("1,234", "1,234"),
    ],
)
def test_a_value_is_shown_as_people_read_it(value, expected):
    assert terminal.shown(value) == expected


def test_csv_comes_back_as_it_was(capsys):
    rows = [[1, text, None] for text in TRICKY] + [[2, "\r\n", 0.5]]

    terminal.print_csv(["n", "text", "other"], rows)

    found = list(csv.reader(io.StringIO(capsys.readouterr().out, newline="")))
    assert found == [
        ["n", "text", "other"],
        *([str(n), text, "" if other is None else str(other)] for n, text, other in rows),
    ]


@dataclass(frozen=True)
class Inner:
    at: datetime
    day: date


@dataclass(frozen=True)
class Outer:
    name: str
    inner: list[Inner]
    amount: Decimal


def test_json_comes_back_as_it_was(capsys):
    moment = datetime(2026, 1, 31, 12, 30, tzinfo=UTC)
    value = [Outer(name=text, inner=[Inner(moment, moment.date())], amount=Decimal("1.50"))
             for text in TRICKY]  # fmt: skip

    terminal.print_json(value)

    assert json.loads(capsys.readouterr().out) == [
        {
            "name": text,
            "inner": [{"at": "2026-01-31T12:30:00+00:00", "day": "2026-01-31"}],
            "amount": "1.50",
        }
        for text in TRICKY
    ]


def test_a_long_line_of_json_is_one_line(capsys):
    terminal.print_json({"text": "word " * 1000})
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_a_table_shows_values_whole_and_no_markup(capsys):
    long = "x" * 500
    terminal.print_table(["name", "count"], [["[bold]a[/bold]", 12345], [long, None]])

    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert lines[0].split() == ["name", "count"]
    assert lines[1].split() == ["[bold]a[/bold]", "12,345"]
    assert lines[2].split() == [long, "–"]
    assert lines[1].index("12,345") + len("12,345") == len(lines[2])  # numbers end together


def test_a_table_without_rows_is_its_heading(capsys):
    terminal.print_table(["a", "b"], [])
    assert capsys.readouterr().out.split() == ["a", "b"]


def test_errors_go_where_errors_go(capsys):
    terminal.print_line("[red]said[/red]")
    terminal.print_error("[red]wrong[/red]")
    found = capsys.readouterr()
    assert (found.out, found.err) == ("[red]said[/red]\n", "[red]wrong[/red]\n")


def test_a_step_is_a_line_with_its_time_where_nobody_watches(capsys):
    with terminal.reporting() as report:
        report.begin("loading sales", 100)
        report.advance(60)
        report.done("sales: loaded 5 rows")
        report.done("  sales: [MISSING]: 2020-03")

    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("sales: loaded 5 rows  ")
    assert lines[0].endswith(" s")
    assert lines[1] == "  sales: [MISSING]: 2020-03"
    assert [name for name, _ in report.seconds] == ["sales"]


def test_a_quiet_step_leaves_the_answer_alone(capsys):
    with terminal.reporting(quiet=True) as report:
        report.begin("building a", 0)
        report.done("a: unchanged")
    found = capsys.readouterr()
    assert found.out == ""
    assert found.err.startswith("a: unchanged")


def test_rows_are_taken_by_column_in_order():
    assert terminal.as_rows([{"a": 1, "b": 2, "c": 3}], ["c", "a"]) == [[3, 1]]
