"""The warehouse for a service: connections that are kept, and answers or errors within seconds.

It refuses to wait for a database that did not answer a moment ago.
"""

from __future__ import annotations

import select
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.pq import TransactionStatus

from gristmill.errors import WarehouseUnreachable
from gristmill.warehouse.connection import Transaction, Warehouse, connect, translated

if TYPE_CHECKING:
    from collections.abc import Iterator

MOST_KEPT = 8
"""Connections that wait for the next transaction."""
IMPATIENCE = 1.0
"""Seconds in which a database that did not answer is not asked again."""
_TIMEOUTS = {
    "connect_timeout": 3,
    "tcp_user_timeout": 5_000,  # milliseconds
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 2,
}
_STATEMENTS = "-c statement_timeout=8s -c idle_in_transaction_session_timeout=60s"


@dataclass(kw_only=True)
class _Kept:
    """What threads share of it."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    idle: list[psycopg.Connection[Any]] = field(default_factory=list)
    closed: bool = False
    refused_at: float = -IMPATIENCE
    """When the database last did not answer, by the monotonic clock."""
    refusal: str = ""


@dataclass(frozen=True, kw_only=True)
class KeptWarehouse(Warehouse):
    """The warehouse, reached by connections that outlive their transaction; for many threads.

    A statement that takes longer than eight seconds is ended by the server.
    """

    _kept: _Kept = field(default_factory=_Kept, init=False, repr=False, compare=False)

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """One transaction, as in `Warehouse`, on a connection that is kept afterwards."""
        connection = self._take()
        try:
            with translated():
                transaction = Transaction(connection)
                yield transaction
                connection.commit()
                connection.autocommit = True
                for query in transaction.after_commit:
                    connection.execute(query)
                connection.autocommit = False
        except BaseException:
            with suppress(psycopg.Error):
                connection.rollback()
            raise
        finally:
            self._keep(connection)

    def close(self) -> None:
        """Close what is kept, and keep nothing any more."""
        with self._kept.lock:
            idle, self._kept.idle, self._kept.closed = self._kept.idle, [], True
        for connection in idle:
            connection.close()

    def _take(self) -> psycopg.Connection[Any]:
        while True:
            with self._kept.lock:
                connection = self._kept.idle.pop() if self._kept.idle else None
            if connection is None:
                return self._connect()
            if _is_alive(connection):
                return connection
            connection.close()

    def _connect(self) -> psycopg.Connection[Any]:
        kept = self._kept
        if time.monotonic() - kept.refused_at < IMPATIENCE:
            raise WarehouseUnreachable(kept.refusal)
        try:
            return connect(self.url, options=_STATEMENTS, **_TIMEOUTS)
        except WarehouseUnreachable as error:
            kept.refused_at, kept.refusal = time.monotonic(), str(error)
            raise

    def _keep(self, connection: psycopg.Connection[Any]) -> None:
        """Keep a connection on which nothing is left of the transaction; close any other."""
        kept = self._kept
        if connection.info.transaction_status is TransactionStatus.IDLE:
            with kept.lock:
                if not kept.closed and len(kept.idle) < MOST_KEPT and not connection.autocommit:
                    kept.idle.append(connection)
                    return
        connection.close()


def _is_alive(connection: psycopg.Connection[Any]) -> bool:
    """Whether the server has not closed it: of an idle connection nothing else comes."""
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return not poll.poll(0)
