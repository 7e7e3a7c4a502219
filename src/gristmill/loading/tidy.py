"""Drops what is superseded and unused: loads and builds that no view, undo or trace needs.

It never makes a reader wait for long: what is locked now is dropped another time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gristmill.errors import StatementFailed
from gristmill.warehouse.queries import load_queries
from gristmill.warehouse.sql import SQL, Identifier

if TYPE_CHECKING:
    from collections.abc import Collection

    from gristmill.warehouse.connection import Warehouse

KEPT = 2
"""How many loads or builds of a period stay: the current one and the one before it."""

LOCK_TIMEOUT = "500ms"
"""How long a drop may make new readers wait behind an old one."""

_LOCK_NOT_AVAILABLE = "55P03"
_queries = load_queries("gristmill.loading", "tidy.sql")


@dataclass(frozen=True, kw_only=True)
class Tidied:
    """What a tidying did."""

    dropped: int
    postponed: int
    """How many are still read by somebody."""


def tidy_loads(warehouse: Warehouse, in_use: Collection[int]) -> Tidied:
    """Drop superseded loads, but for those that something in use was made of."""
    return _tidy(warehouse, "raw", "load", in_use)


def tidy_builds(warehouse: Warehouse, in_use: Collection[int]) -> Tidied:
    """Drop superseded builds, but for those that are in use."""
    return _tidy(warehouse, "builds", "build", in_use)


def _tidy(warehouse: Warehouse, schema: str, kind: str, in_use: Collection[int]) -> Tidied:
    superseded = getattr(_queries, f"superseded_{kind}s")
    with warehouse.transaction() as transaction:
        found = transaction.rows(superseded, {"kept": KEPT, "in_use": list(in_use)})
    dropped = sum(_drop(warehouse, schema, kind, row["name"], row["number"]) for row in found)
    _drop_empty_parents(warehouse, schema)
    return Tidied(dropped=dropped, postponed=len(found) - dropped)


def _drop(warehouse: Warehouse, schema: str, kind: str, name: str, number: int) -> bool:
    """Detach and drop one, with its mark in the ledger; False where somebody reads it."""
    table = f"{name}_{number}"
    try:
        with warehouse.transaction() as transaction:
            transaction.execute(SQL("SET LOCAL lock_timeout = {}").format(LOCK_TIMEOUT))
            parent = transaction.value(_queries.parent, {"relation": f'{schema}."{table}"'})
            if parent is not None:
                transaction.execute(
                    SQL("ALTER TABLE {}.{} DETACH PARTITION {}.{}").format(
                        Identifier(schema), Identifier(parent),
                        Identifier(schema), Identifier(table),
                    )
                )  # fmt: skip
            transaction.execute(
                SQL("DROP TABLE IF EXISTS {}.{}").format(Identifier(schema), Identifier(table))
            )
            transaction.execute(getattr(_queries, f"drop_{kind}"), {"number": number})
    except StatementFailed as error:
        if error.sqlstate != _LOCK_NOT_AVAILABLE:
            raise
        return False
    return True


def _drop_empty_parents(warehouse: Warehouse, schema: str) -> None:
    try:
        with warehouse.transaction() as transaction:
            transaction.execute(SQL("SET LOCAL lock_timeout = {}").format(LOCK_TIMEOUT))
            for row in transaction.rows(_queries.empty_parents, {"schema": schema}):
                transaction.execute(
                    SQL("DROP TABLE {}.{}").format(Identifier(schema), Identifier(row["name"]))
                )
    except StatementFailed as error:
        if error.sqlstate != _LOCK_NOT_AVAILABLE:
            raise
