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


def rejects(context: Context, table: str | None) -> list[dict[str, Any]]:
    """What the newest load of each period refused, of one table or of all."""
    if table is not None and table not in context.project.tables:
        raise LoadError(
            f"There is no table {table!r}; the project has {', '.join(context.project.tables)}."
        )
    with context.warehouse.transaction() as transaction:
        return transaction.rows(ledger.queries.rejects, {"table": table})
