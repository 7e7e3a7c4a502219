"""What people see of the difference between two loads."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gristmill.console import terminal
from gristmill.flow.show import example_line, used_by

if TYPE_CHECKING:
    from gristmill.loading.difference import Difference


def print_difference(found: list[Difference]) -> None:
    """A line for each period; the rows that differ where only one is asked for."""
    if not found:
        terminal.print_line("Every load is the first one of its period that is kept.")
        return
    columns = ["period", "old", "new", "added", "removed", "changed", "columns", "used by"]
    rows = [
        [one.period, one.old, one.new, one.added, one.removed, one.changed,
         ", ".join(f"{name} {count:,}" for name, count in one.columns.items()),
         ", ".join(used_by(one))]
        for one in found
    ]  # fmt: skip
    terminal.print_table(columns, rows)
    for one in found:
        if one.not_compared:
            terminal.print_line(f"{one.period}: not in both: {', '.join(one.not_compared)}")
    for one in found if len(found) == 1 else []:
        for example in one.examples:
            terminal.print_line(example_line(example))
