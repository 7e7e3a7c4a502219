"""What people see in a terminal: bars while something runs, lines where nobody watches, tables."""

from __future__ import annotations

import csv
import json
import sys
import time
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

UNBOUNDED = 100_000
"""Columns of an output that is no terminal: nothing is folded there."""
OUT = Console(soft_wrap=True, highlight=False, width=None if sys.stdout.isatty() else UNBOUNDED)
ERRORS = Console(stderr=True, soft_wrap=True, highlight=False)


class TerminalReport:
    """A bar for what runs, and a line with its time for what is over."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._console = console
        self._task: TaskID | None = None
        self._started = time.monotonic()
        self.seconds: list[tuple[str, float]] = []
        """What took how long, in order."""

    def __enter__(self) -> TerminalReport:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def begin(self, what: str, total: int) -> None:
        """Show a bar for something that takes time."""
        self._started = time.monotonic()
        self._task = self._progress.add_task(what, total=total or None)

    def advance(self, amount: int) -> None:
        """Move its bar."""
        if self._task is not None:
            self._progress.advance(self._task, amount)

    def done(self, line: str) -> None:
        """Replace the bar by a line."""
        took = ""
        if self._task is not None:
            seconds = time.monotonic() - self._started
            self.seconds.append((line.split(":")[0], seconds))
            took = f"  {seconds:.1f} s"
            self._progress.remove_task(self._task)
            self._task = None
        self._console.print(Text(f"{line}{took}"))


@contextmanager
def reporting(*, quiet: bool = False) -> Iterator[TerminalReport]:
    """A report on standard output; on standard error where that holds the answer itself."""
    with TerminalReport(ERRORS if quiet else OUT) as report:
        yield report


def print_line(text: str) -> None:
    """Print a line as it is."""
    OUT.print(Text(text))


def print_error(text: str) -> None:
    """Print what went wrong to standard error."""
    ERRORS.print(Text(text, style="red" if ERRORS.is_terminal else ""))


def print_json(value: object) -> None:
    """Print a value as JSON, records as objects."""
    # Not by rich, which takes longer over a long text than all that went before.
    print(json.dumps(value, default=_plain, ensure_ascii=False, indent=2), file=OUT.file)


def print_csv(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print rows as CSV with a header."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]], title: str = "") -> None:
    """Print rows under headings, numbers to the right."""
    table = Table(title=title or None, title_justify="left", box=None, pad_edge=False)
    for index, column in enumerate(columns):
        right = bool(rows) and all(
            isinstance(row[index], int | float) or row[index] is None for row in rows
        )
        table.add_column(column, justify="right" if right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(shown(value)) for value in row))
    OUT.print(table, soft_wrap=False)


def shown(value: object) -> str:
    """A value as people read it in a table."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.4f}".rstrip("0").rstrip(".") if abs(value) >= 1 else f"{value:.4g}"
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M}"
    return str(value)


def as_rows(records: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> list[list[object]]:
    """The values of records, column by column."""
    return [[record[column] for column in columns] for record in records]


def _plain(value: object) -> object:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    return value.isoformat() if hasattr(value, "isoformat") else str(value)
