"""Which version of which object is in, since when, by which contract."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gristmill.loading import contract
from gristmill.warehouse.queries import load_queries

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from gristmill.bucket.bucket import BucketObject
    from gristmill.project.table import Table
    from gristmill.warehouse.connection import Transaction

queries = load_queries("gristmill.loading", "ledger.sql")


@dataclass(frozen=True, kw_only=True)
class CurrentLoad:
    """The load of a period that the views show."""

    load: int
    period: str
    file: str
    etag: str
    contract: str
    rows: int
    rejected: int
    loaded_at: datetime

    def covers(self, item: BucketObject, table: Table) -> bool:
        """Whether it is the load of this very object by this very contract."""
        return (self.file, self.etag, self.contract) == (
            item.path,
            item.etag,
            contract.digest(table),
        )


@dataclass(frozen=True, kw_only=True)
class FormerLoad:
    """The load that was current before another one of its period."""

    load: int
    contract: str
    is_kept: bool
    """Whether its rows are still there."""


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """A period whose newest load was refused."""

    load: int
    period: str
    file: str
    etag: str
    contract: str
    rows: int
    """How many rows were good."""
    rejected: int
    by_reference: bool
    """Whether some were rejected for what another table held then."""
    loaded_at: datetime

    def still_holds(self, item: BucketObject, table: Table) -> bool:
        """Whether the same object would be refused again, by all that is known."""
        return (
            (self.file, self.etag, self.contract) == (item.path, item.etag, contract.digest(table))
            and self.rejected > table.bearable(self.rows + self.rejected)
            and not self.by_reference
        )


def lock(transaction: Transaction, table: Table, period: str) -> None:
    """Wait until no other process loads this period; held to the transaction's end."""
    transaction.execute(queries.lock, {"table": table.name, "period": period})


def share_shape(transaction: Transaction, table: Table) -> None:
    """Wait until nobody gives the table another shape; held to the transaction's end.

    Comes before the lock of a period, so that no two wait for each other.
    """
    transaction.execute(queries.share_shape, {"table": table.name})


def current_loads(transaction: Transaction, table: Table) -> dict[str, CurrentLoad]:
    """What is in, by period."""
    rows = transaction.rows(queries.current, {"table": table.name})
    return {row["period"]: CurrentLoad(**row) for row in rows}


def before(transaction: Transaction, table: Table, load: CurrentLoad) -> FormerLoad | None:
    """The load that a current one replaced, whether or not its rows are still there."""
    row = transaction.row(
        queries.before, {"table": table.name, "period": load.period, "load": load.load}
    )
    return FormerLoad(**row) if row else None


def undone(transaction: Transaction, table: Table) -> set[tuple[str, str, str]]:
    """Period, file and etag of what was undone by this contract: not to be loaded by itself."""
    rows = transaction.rows(queries.undone, {"table": table.name})
    return {
        (row["period"], row["file"], row["etag"])
        for row in rows
        if row["contract"] == contract.digest(table)
    }


def refusals(transaction: Transaction, table: Table) -> dict[str, Refusal]:
    """The periods whose newest load was refused."""
    rows = transaction.rows(queries.last_refusals, {"table": table.name})
    return {row["period"]: Refusal(**row) for row in rows}


def next_load(transaction: Transaction) -> int:
    """A number for a load that begins; a load that fails leaves a gap."""
    return int(transaction.value(queries.next_load))


def record(
    transaction: Transaction,
    table: Table,
    *,
    load: int,
    period: str,
    item: BucketObject,
    rules: Mapping[str, int],
    **facts: Any,
) -> None:
    """Write a load's ledger row: rejects by rule; `facts` are status, rows and seconds."""
    transaction.execute(
        queries.record,
        {
            "load": load,
            "table": table.name,
            "period": period,
            "file": item.path,
            "etag": item.etag,
            "bytes": item.size,
            "modified_at": item.modified_at,
            "contract": contract.digest(table),
            "rejected": sum(rules.values()),
            "rules": json.dumps(rules),
            **facts,
        },
    )


def mark(transaction: Transaction, table: Table, *, load: int, period: str) -> None:
    """Make a load the current one of its period: what the views show from the commit on."""
    parameters = {"table": table.name, "period": period, "load": load}
    transaction.execute(queries.hold, parameters)
    transaction.execute(queries.mark, parameters)
    contract.tell(transaction, "raw", table.name, "_load")
