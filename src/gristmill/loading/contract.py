"""A table's contract as the database sees it: the columns of a load, its view, its digest."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from gristmill.warehouse.sql import SQL, Composed, Identifier, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gristmill.project.table import Column, Table
    from gristmill.warehouse.connection import Transaction

_POSTGRES_TYPES = {
    "integer": "bigint",
    "number": "double precision",
    "text": "text",
    "date": "date",
    "timestamp": "timestamp with time zone",
    "boolean": "boolean",
}


def digest(table: Table) -> str:
    """A digest of everything that decides which rows of a file are let in, and as what."""
    contract = asdict(table)
    for name in ("path", "max_rejects"):
        contract.pop(name)
    if table.period:
        contract["period"].pop("missing")
    text = json.dumps(_said(contract), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _said(value: object) -> object:
    """What is declared, without what is not: a rule that a later version adds changes nothing."""
    if isinstance(value, dict):
        # Nought is said: `in` and `==` would take it for False.
        return {
            name: _said(one)
            for name, one in value.items()
            if one is not None and one is not False and one != ()
        }
    return [_said(one) for one in value] if isinstance(value, tuple) else value


def postgres_type(column: Column) -> str:
    """The column's type in the database, as PostgreSQL itself writes it."""
    if column.type == "decimal":
        return f"numeric({column.precision},{column.scale})"
    return _POSTGRES_TYPES[column.type]


def shape(table: Table) -> list[tuple[str, str, bool]]:
    """Name, type and NOT NULL of the table's columns, in order, as the catalog will tell them."""
    return [(column.name, postgres_type(column), not column.nullable) for column in table.columns]


def load_name(table: Table, load: int) -> str:
    """The name of one load's table in the schema `raw`."""
    return f"{table.name}_{load}"


def create_parent(table: Table) -> Composed:
    """The partitioned table that holds every load of one shape."""
    return SQL(
        "CREATE TABLE raw.{name} ({columns}, _load integer NOT NULL, _line integer NOT NULL) "
        "PARTITION BY LIST (_load)"
    ).format(name=Identifier(table.name), columns=_definitions(table.columns))


def create_load(table: Table, load: int, period: str) -> Composed:
    """One load's own table, ready to be attached without a scan.

    Where a column lies in the period, the table says so, and a query for some days passes over
    the other periods.
    """
    return SQL(
        "CREATE TABLE raw.{name} ({columns}, _load integer NOT NULL DEFAULT {load} "
        "CHECK (_load = {load}), _line integer NOT NULL{within})"
    ).format(
        name=Identifier(load_name(table, load)),
        columns=_definitions(table.columns),
        load=Literal(load),
        within=_within(table, period),
    )


def _within(table: Table, period: str) -> Composed | SQL:
    if table.period is None or table.period.column is None:
        return SQL("")
    column = table.column(table.period.column)
    zone = " 00:00:00+00" if column and column.type == "timestamp" else ""
    first, after = (f"{day.isoformat()}{zone}" for day in table.period.bounds(period))
    return SQL(", CHECK ({column} >= {first} AND {column} < {after})").format(
        column=Identifier(table.period.column), first=first, after=after
    )


def attach_load(table: Table, load: int) -> Composed:
    """Make one load's table part of the parent."""
    return SQL(
        "ALTER TABLE raw.{parent} ATTACH PARTITION raw.{name} FOR VALUES IN ({load})"
    ).format(parent=Identifier(table.name), name=Identifier(load_name(table, load)), load=load)


def tell(transaction: Transaction, schema: str, parent: str, mark: str) -> None:
    """Have every session plan anew what reads a partitioned table, whose marks move.

    At the commit, for what was planned before; again after it, for a session that was listing the
    partitions just then and would keep what it had listed; and once more after the locks that
    `mark` takes are given back, for what was planned while they still hid the new mark.
    """
    told = plan_anew(schema, parent, mark)
    if told in transaction.after_commit:
        return
    transaction.execute(told)
    parents = [*transaction.after_commit[: len(transaction.after_commit) // 2], told]
    unlock = SQL("SELECT pg_advisory_unlock_all()")
    transaction.after_commit = [*parents, unlock, *parents]


def plan_anew(schema: str, parent: str, mark: str) -> Composed:
    """Have cached plans on a partitioned table made anew.

    Setting what is set already is enough, and keeps no reader waiting.
    """
    return SQL("ALTER TABLE ONLY {}.{} ALTER COLUMN {} SET STATISTICS -1").format(
        Identifier(schema), Identifier(parent), Identifier(mark)
    )


def create_view(table: Table) -> Composed:
    """The view that people query: the current load of every period, the file's columns only."""
    return SQL(
        "CREATE VIEW public.{name} AS SELECT {columns} FROM raw.{name} "
        "WHERE _load = ANY (gristmill.shown_loads({literal}))"
    ).format(
        name=Identifier(table.name),
        columns=names(column.name for column in table.columns),
        literal=Literal(table.name),
    )


def names(columns: Iterable[str]) -> Composed:
    """Column names, quoted, with commas between."""
    return SQL(", ").join(Identifier(column) for column in columns)


def _definitions(columns: Iterable[Column]) -> Composed:
    return SQL(", ").join(
        SQL("{name} {type}{null}").format(
            name=Identifier(column.name),
            type=SQL(postgres_type(column)),
            null=SQL("" if column.nullable else " NOT NULL"),
        )
        for column in columns
    )
