"""What people see of the rows that were refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gristmill.console import terminal
from gristmill.flow.show import examples_of

if TYPE_CHECKING:
    from collections.abc import Mapping

REJECT_COLUMNS = ["table_name", "period", "file", "line", "rule", "reason", "raw"]
EXAMPLES_PER_RULE = 5


def print_rejects(counts: list[dict[str, Any]], rejects: list[dict[str, Any]]) -> None:
    """Counts by table, period and rule, and the first rows of each."""
    if not rejects:
        terminal.print_line("No rows were refused.")
        return
    heading = ["table_name", "period", "status", "rule", "count"]
    terminal.print_table(heading, terminal.as_rows(counts, heading))
    terminal.print_line("")
    examples: list[Mapping[str, Any]] = [
        {**one, "line": str(one["line"])} for one in examples_of(rejects, EXAMPLES_PER_RULE)
    ]
    shown = REJECT_COLUMNS[2:]
    terminal.print_table(shown, terminal.as_rows(examples, shown))
