"""The current rows of tables and derived tables, pinned: which loads and builds a build reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gristmill.errors import BuildError
from gristmill.warehouse.queries import load_queries
from gristmill.warehouse.sql import SQL, Composed, Identifier, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gristmill.project.project import Project
    from gristmill.warehouse.connection import Transaction

queries = load_queries("gristmill.features", "builds.sql")


@dataclass(frozen=True, kw_only=True)
class Source:
    """One table as a build reads it: exactly these loads or builds, whatever comes later."""

    name: str
    columns: tuple[str, ...]
    loads: tuple[int, ...] = ()
    builds: tuple[int, ...] = ()

    @property
    def rows(self) -> Composed:
        """A SELECT of its rows."""
        schema, mark = ("raw", "_load") if self.loads else ("builds", "_build")
        return SQL("SELECT {columns} FROM {schema}.{name} WHERE {mark} = ANY ({numbers})").format(
            columns=SQL(", ").join(Identifier(column) for column in self.columns),
            schema=Identifier(schema),
            name=Identifier(self.name),
            mark=Identifier(mark),
            numbers=Literal(list(self.loads or self.builds)),
        )


def pin(transaction: Transaction, project: Project, names: Iterable[str]) -> dict[str, Source]:
    """The sources of those names as they are now. Raises BuildError for one that is empty yet."""
    return {name: _pinned(transaction, project, name) for name in names}


def only_period(source: Source, load: int) -> Source:
    """The periodic source as one of its periods alone."""
    return Source(name=source.name, columns=source.columns, loads=(load,))


def without_rows(transaction: Transaction, source: Source) -> Composed:
    """A SELECT of a source's columns that reads nothing: one row of nulls, of the same types."""
    relation = f'{"raw" if source.loads else "builds"}."{source.name}"'
    found = transaction.rows(queries.columns, {"relation": relation})
    types = {row["name"]: row["type"] for row in found}
    return SQL("SELECT {}").format(
        SQL(", ").join(
            SQL("NULL::{} AS {}").format(SQL(types[column]), Identifier(column))
            for column in source.columns
        )
    )


def loads_by_period(transaction: Transaction, table: str) -> dict[str, int]:
    """The current loads of a table, by period."""
    rows = transaction.rows(queries.current_loads, {"name": table})
    return {row["period"]: row["load"] for row in rows}


def _pinned(transaction: Transaction, project: Project, name: str) -> Source:
    if name in project.tables:
        table = project.tables[name]
        loads = loads_by_period(transaction, name)
        if not loads:
            raise BuildError(f"{name} was never loaded. Run `gristmill load {name}` first.")
        gaps = table.period.gaps(loads) if table.period else []
        if gaps:
            raise BuildError(
                f"{name} has no {', '.join(gaps)} between {min(loads)} and {max(loads)}, so "
                "nothing is built of it. Load it, or declare in the project file that it is known: "
                f"tables.{name}.period.missing = {gaps}."
            )
        columns = tuple(column.name for column in table.columns)
        found = transaction.rows(queries.columns, {"relation": f'raw."{name}"'})
        lacking = set(columns) - {row["name"] for row in found}
        if lacking:
            raise BuildError(
                f"{name} was loaded without {', '.join(sorted(lacking))}: its contract changed. "
                f"Run `gristmill load {name}` first."
            )
        return Source(name=name, columns=columns, loads=tuple(loads.values()))
    builds = tuple(row["build"] for row in transaction.rows(queries.current, {"name": name}))
    if not builds:
        raise BuildError(f"{name} was never built. Run `gristmill build {name}` first.")
    found = transaction.rows(queries.columns, {"relation": f'builds."{name}"'})
    return Source(name=name, columns=tuple(row["name"] for row in found), builds=builds)
