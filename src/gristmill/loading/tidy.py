"""Detaches what is superseded and drops what is unused: no view, undo or trace needs it.

It never makes a reader wait for long, nor takes away what an open transaction may still see as
current: what somebody might read now is left for another time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gristmill.errors import StatementFailed
from gristmill.loading.contract import plan_anew
from gristmill.warehouse.queries import load_queries
from gristmill.warehouse.sql import SQL, Identifier

if TYPE_CHECKING:
    from collections.abc import Collection

    from gristmill.warehouse.connection import Warehouse

KEPT = 2
"""How many loads or builds of a period stay: the current one and the one before it."""

LOCK_TIMEOUT = "500ms"
"""How long new readers may have to wait behind an old one."""

_LOCK_NOT_AVAILABLE = "55P03"
_queries = load_queries("gristmill.loading", "tidy.sql")


@dataclass(frozen=True, kw_only=True)
class Tidied:
    """What a tidying did."""

    detached: int
    """How many no query through a view passes over any more."""
    dropped: int
    postponed: int
    """How many somebody may still read."""


def tidy_loads(warehouse: Warehouse, in_use: Collection[int]) -> Tidied:
    """Detach superseded loads; drop the older ones, but for those that something in use is of."""
    return _Tidying(warehouse, "raw", "load").tidy(in_use)


def tidy_builds(warehouse: Warehouse, in_use: Collection[int]) -> Tidied:
    """Detach superseded builds; drop the older ones, but for those that are in use."""
    return _Tidying(warehouse, "builds", "build").tidy(in_use)


class _Tidying:
    """The tidying of the loads, or of the builds."""

    def __init__(self, warehouse: Warehouse, schema: str, kind: str) -> None:
        self._warehouse = warehouse
        self._schema = schema
        self._kind = kind
        self._waiting = 0

    def tidy(self, in_use: Collection[int]) -> Tidied:
        detached = dropped = postponed = 0
        for row in self._free():
            old = row["age"] > KEPT and row["number"] not in in_use
            try:
                was_attached = self._detach(row, drop=old)
            except StatementFailed as error:
                if error.sqlstate != _LOCK_NOT_AVAILABLE:
                    raise
                postponed += 1
            else:
                detached += was_attached and not old
                dropped += old
        self._drop_empty_parents()
        return Tidied(detached=detached, dropped=dropped, postponed=postponed + self._waiting)

    def _free(self) -> list[dict[str, Any]]:
        """What is superseded and ended for every transaction that began before it was.

        Whoever takes a snapshot later sees the new mark, so the transactions to wait for are among
        those that run when a superseded load or build is first met. Then too sessions are told
        again of what took its place: one that listed the partitions during its commit missed it.
        """
        with self._warehouse.transaction() as transaction:
            superseded = transaction.rows(getattr(_queries, f"superseded_{self._kind}s"))
            running = set(transaction.value(_queries.running)) if superseded else set()
            met = [row for row in superseded if row["readers"] is None]
            for name in sorted({row["name"] for row in met}):
                transaction.execute(plan_anew(self._schema, name, f"_{self._kind}"))
            for row in superseded:
                if row["readers"] is None:
                    row["readers"] = sorted(running)
                    transaction.execute(
                        getattr(_queries, f"remember_{self._kind}_readers"),
                        {"number": row["number"], "readers": row["readers"]},
                    )
        free = [row for row in superseded if running.isdisjoint(row["readers"])]
        self._waiting = len(superseded) - len(free)
        return free

    def _detach(self, row: dict[str, Any], *, drop: bool) -> bool:
        """Take one out of its parent, if it is in one, and drop it if so told; whether it was."""
        name, number = row["name"], row["number"]
        schema, table = Identifier(self._schema), Identifier(f"{name}_{number}")
        with self._warehouse.transaction() as transaction:
            transaction.execute(SQL("SET LOCAL lock_timeout = {}").format(LOCK_TIMEOUT))
            transaction.execute(getattr(_queries, f"lock_{self._kind}"), {"name": name})
            if not transaction.value(getattr(_queries, f"is_free_{self._kind}"), row):
                return False  # shown again or dropped meanwhile
            relation = f'{self._schema}."{name}_{number}"'
            parent = transaction.value(_queries.parent, {"relation": relation})
            if parent is not None:
                transaction.execute(
                    SQL("ALTER TABLE {0}.{1} DETACH PARTITION {0}.{2}").format(
                        schema, Identifier(parent), table
                    )
                )
            if drop:
                transaction.execute(SQL("DROP TABLE IF EXISTS {}.{}").format(schema, table))
                transaction.execute(getattr(_queries, f"drop_{self._kind}"), {"number": number})
            return parent is not None

    def _drop_empty_parents(self) -> None:
        try:
            with self._warehouse.transaction() as transaction:
                for row in transaction.rows(_queries.empty_parents, {"schema": self._schema}):
                    transaction.execute(SQL("SET LOCAL lock_timeout = {}").format(LOCK_TIMEOUT))
                    transaction.execute(
                        SQL("DROP TABLE {}.{}").format(
                            Identifier(self._schema), Identifier(row["name"])
                        )
                    )
        except StatementFailed as error:
            if error.sqlstate != _LOCK_NOT_AVAILABLE:
                raise
