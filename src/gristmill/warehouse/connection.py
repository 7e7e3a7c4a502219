"""Transactions on the one Postgres; the driver's errors become ours here and nowhere else."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, LiteralString

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from gristmill.errors import StatementFailed, WarehouseError, WarehouseUnreachable

if TYPE_CHECKING:
    from collections.abc import Iterator

# It warns of a rollback on a connection that is lost, which is told as the error that it is.
logging.getLogger("psycopg").setLevel(logging.ERROR)

Query = LiteralString | sql.SQL | sql.Composed
Parameters = Mapping[str, object] | Sequence[object]

CONNECT_TIMEOUT = 10
"""Seconds before a database that does not answer counts as unreachable."""
# No name is looked up where a user may create: a function of theirs in `public` with a closer match
# than PostgreSQL's own would otherwise be run by the owner, with the owner's rights.
_OPTIONS = "-c search_path=pg_catalog,pg_temp -c timezone=UTC -c client_min_messages=warning"


@dataclass(frozen=True, kw_only=True)
class Warehouse:
    """The one Postgres, reached as the project's owner."""

    url: str = field(repr=False)
    """A libpq connection string; it holds a password, so it is never printed."""

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """Open a connection and one transaction: committed at the end, rolled back on any error.

        Then its `after_commit` is run, each statement in a transaction of its own.
        Names without a schema are PostgreSQL's own, or of temporary tables: all others are written
        with theirs.
        Raises WarehouseUnreachable where nothing answers, StatementFailed where a statement fails.
        """
        with translated(), closing(connect(self.url, autocommit=True)) as connection:
            transaction = Transaction(connection)
            with connection.transaction():
                yield transaction
            for query in transaction.after_commit:
                connection.execute(query)


def connect(url: str, *, options: str = "", **settings: Any) -> psycopg.Connection[Any]:
    """A connection for our statements; `options` as for `postgres`, `settings` libpq's.

    Raises WarehouseUnreachable where nothing answers.
    """
    with translated():
        return psycopg.connect(
            url,
            options=f"{_OPTIONS} {options}",
            **{"connect_timeout": CONNECT_TIMEOUT, "application_name": "gristmill", **settings},
        )


class Transaction:
    """One open transaction."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection
        self.after_commit: list[Query] = []
        """Statements to run once it is committed; lost where the process dies before."""
        self.copied = 0
        """How many rows the database took in the latest `copy_in`, as it counted them."""

    def execute(self, query: Query, parameters: Parameters | None = None) -> int:
        """Run one statement; the number of rows it touched."""
        with translated():
            return self._connection.execute(_beside(query, parameters), parameters).rowcount

    def execute_alone(self, query: Query) -> int:
        """Run a text that someone else wrote, which is refused where it is several statements."""
        with translated():
            return self._connection.execute(query, prepare=True).rowcount

    def rows(self, query: Query, parameters: Parameters | None = None) -> list[dict[str, Any]]:
        """Run a query; its rows by column name."""
        with translated(), self._connection.cursor(row_factory=dict_row) as cursor:
            return cursor.execute(_beside(query, parameters), parameters).fetchall()

    def row(self, query: Query, parameters: Parameters | None = None) -> dict[str, Any] | None:
        """Run a query; its first row, or None."""
        with translated(), self._connection.cursor(row_factory=dict_row) as cursor:
            return cursor.execute(_beside(query, parameters), parameters).fetchone()

    def value(self, query: Query, parameters: Parameters | None = None) -> Any:
        """Run a query; the first column of its first row, or None."""
        with translated():
            row = self._connection.execute(_beside(query, parameters), parameters).fetchone()
        return None if row is None else row[0]

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        """A part that can fail without losing what came before it in the transaction."""
        with translated(), self._connection.transaction():
            yield

    @contextmanager
    def copy_in(self, statement: Query) -> Iterator[psycopg.Copy]:
        """Run COPY … FROM STDIN; what is yielded takes the bytes by `write`."""
        with translated(), self._connection.cursor() as cursor:
            with cursor.copy(statement) as copy:
                yield copy
            self.copied = cursor.rowcount

    def copy_out(
        self, statement: Query, parameters: Parameters | None = None
    ) -> Iterator[bytes | bytearray | memoryview]:
        """Run COPY … TO STDOUT; its bytes as they come."""
        with (
            translated(),
            self._connection.cursor() as cursor,
            cursor.copy(_beside(statement, parameters), parameters) as copy,
        ):
            yield from copy


def _beside(query: Query, parameters: Parameters | None) -> Query:
    """The query as it has to be beside parameters: a % in a name or value is no placeholder."""
    if parameters is None or not isinstance(query, sql.Composed):
        return query
    return sql.Composed([_escaped(part) for part in query])


def _escaped(part: sql.Composable) -> sql.Composable:
    if isinstance(part, sql.Composed):
        return sql.Composed([_escaped(inner) for inner in part])
    if isinstance(part, (sql.Identifier, sql.Literal)):
        # The text is the driver's own quoting of the name or value.
        return sql.SQL(part.as_string().replace("%", "%%"))
    return part


@contextmanager
def translated() -> Iterator[None]:
    """The driver's errors as ours."""
    try:
        yield
    except psycopg.Error as error:
        raise translate(error) from error


def translate(error: psycopg.Error) -> WarehouseError:
    """One of the driver's errors as one of ours, with what the server said."""
    if isinstance(error, psycopg.OperationalError) and error.sqlstate is None:
        return WarehouseUnreachable(
            f"The database does not answer: {_first_line(error)}\n"
            "Check that it runs (`gristmill status` starts the embedded one) and that "
            "GRISTMILL_DATABASE_URL, where it is set, is right."
        )
    diagnosis = error.diag
    message = diagnosis.message_primary or _first_line(error)
    if error.sqlstate == "53100":
        message = (
            f"The database's disk is full: {message}\nNothing changed. Free space, then retry."
        )
    elif error.sqlstate == "55P03":
        message = f"Another session holds a lock for too long: {message}. Try again later."
    elif (error.sqlstate or "").startswith("28"):
        return WarehouseUnreachable(f"The database refused the connection: {message}")
    parts = [message, diagnosis.message_detail, diagnosis.message_hint]
    return StatementFailed(
        "\n".join(part for part in parts if part),
        sqlstate=error.sqlstate or "",
        detail=diagnosis.message_detail or "",
        constraint=diagnosis.constraint_name or "",
    )


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
