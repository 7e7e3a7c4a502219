"""Rows for people: a derived table, and what was refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gristmill.errors import BuildError, LoadError
from gristmill.flow import steps
from gristmill.loading import ledger
from gristmill.warehouse.sql import SQL, Identifier

if TYPE_CHECKING:
    from gristmill.flow.context import Context
    from gristmill.flow.report import Report
    from gristmill.loading.difference import Difference, Example
    from gristmill.project.table import Table
    from gristmill.warehouse.connection import Transaction


def show(
    context: Context, report: Report, name: str, *, limit: int
) -> tuple[list[str], list[list[Any]]]:
    """The columns and the first rows of a derived table, built first where it is stale."""
    derived = context.project.derived
    if name not in derived:
        raise BuildError(
            f"There is no derived table {name!r}; the project has {', '.join(derived) or 'none'}."
        )
    steps.build(context, report, [name])
    with context.warehouse.transaction() as transaction:
        order = derived[name].key
        rows = transaction.rows(
            SQL("SELECT * FROM public.{name} {order} LIMIT %s").format(
                name=Identifier(name),
                order=SQL("ORDER BY {}").format(SQL(", ").join(map(Identifier, order)))
                if order
                else SQL(""),
            ),
            [limit],
        )
    columns = list(rows[0]) if rows else []
    return columns, [list(row.values()) for row in rows]


def declared_table(context: Context, name: str) -> Table:
    """The project's table of that name; raises LoadError."""
    table = context.project.tables.get(name)
    if table is None:
        known = ", ".join(context.project.tables)
        raise LoadError(f"There is no table {name!r}; the project has {known}.")
    return table


def rejects(context: Context, table: str | None) -> list[dict[str, Any]]:
    """What the newest load of each period refused, of one table or of all.

    Where it was undone, what the load that is shown refused.
    """
    if table is not None:
        declared_table(context, table)
    with context.warehouse.transaction() as transaction:
        return transaction.rows(ledger.queries.rejects, _last_loads(transaction, table))


def reject_counts(context: Context, table: str | None) -> list[dict[str, Any]]:
    """How many rows the same loads refused, by rule."""
    with context.warehouse.transaction() as transaction:
        return transaction.rows(ledger.queries.reject_counts, _last_loads(transaction, table))


def _last_loads(transaction: Transaction, table: str | None) -> dict[str, Any]:
    rows = transaction.rows(ledger.queries.last_loads, {"table": table})
    return {"loads": [row["load"] for row in rows if row["load"] is not None]}


def examples_of(rejected: list[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """The first rejects of each table, period and rule."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rejected:
        groups.setdefault((row["table_name"], row["period"], row["rule"]), []).append(row)
    return [row for rows in groups.values() for row in rows[:count]]


def used_by(difference: Difference) -> list[str]:
    """What was made of the load that was replaced, in words."""
    builds = [f"{one['name']} (build {one['build']})" for one in difference.used_by]
    versions = {one["version"] for one in difference.used_by if one["version"]}
    return [*dict.fromkeys(builds), *(f"model version {version}" for version in sorted(versions))]


def example_line(example: Example) -> str:
    """One row that differs, in a line: of a changed column the old value and the new one."""
    values = [
        f"{name}={example.old[name]} → {value}" if name in example.old else f"{name}={value}"
        for name, value in example.values.items()
    ]
    return f"{example.change:8} line {example.line}: {', '.join(values)}"
