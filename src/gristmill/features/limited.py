"""A SELECT that a user wrote, run as a role that may do little.

Refuses one that reads more than it declares, or that becomes somebody else.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from gristmill.errors import BuildError, StatementFailed
from gristmill.features.sources import queries
from gristmill.warehouse.sql import SQL, Composed, Identifier

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gristmill.warehouse.connection import Transaction

_BY_TEXT = (
    "set_config",
    "query_to_xml",
    "query_to_xmlschema",
    "query_to_xml_and_xmlschema",
    "cursor_to_xml",
    "cursor_to_xmlschema",
    "table_to_xml",
    "table_to_xmlschema",
    "table_to_xml_and_xmlschema",
    "schema_to_xml",
    "schema_to_xmlschema",
    "schema_to_xml_and_xmlschema",
    "database_to_xml",
    "database_to_xmlschema",
    "database_to_xml_and_xmlschema",
    "ts_stat",
    "ts_rewrite",
)
"""PostgreSQL's functions that change a setting, or read a table, that they are told as a text."""


@contextmanager
def limited(transaction: Transaction, role: str) -> Iterator[None]:
    """Run what is inside as the limited role, in a savepoint.

    Raises BuildError where another role is in force at the end: the savepoint is rolled back.
    """
    with transaction.savepoint():
        transaction.execute("SET LOCAL search_path = pg_catalog, pg_temp")
        transaction.execute(SQL("SET LOCAL ROLE {}").format(Identifier(role)))
        yield
        found = transaction.value("SELECT current_user::text")
        if found != role:
            raise BuildError(
                f"A SELECT that was started as {role!r} went on as {found!r}. Nothing of it was "
                "kept. A derived table may not change who runs it."
            )
        transaction.execute("RESET ROLE")
        transaction.execute("RESET search_path")


def check_reads(transaction: Transaction, name: str, query: Composed, role: str) -> None:
    """Raise BuildError where a query reads any table, or calls what could.

    The query has its declared sources replaced by rows of nulls, so whatever else it reads is not
    declared, and no build would know that it was made of it. PostgreSQL itself tells: it parses
    the query as a view, which is dropped at once.
    """
    view = f"{name} read"  # no name in a project has a blank
    relation = {"relation": f'builds."{view}"'}
    try:
        with limited(transaction, role):
            transaction.execute_alone(
                SQL("CREATE VIEW builds.{} AS SELECT FROM ({}) AS made").format(
                    Identifier(view), query
                )
            )
            read = transaction.rows(queries.relations_read, relation)
            called = transaction.rows(queries.functions_called, relation | {"names": [*_BY_TEXT]})
            transaction.execute(SQL("DROP VIEW builds.{}").format(Identifier(view)))
    except StatementFailed as error:
        raise BuildError(f"The SELECT of {name} failed: {error}") from error
    if read:
        raise BuildError(
            f"The SELECT of {name} reads {', '.join(row['name'] for row in read)} past its "
            "declared sources. Name in `from` what it reads, and call it by that name alone."
        )
    if called:
        raise BuildError(
            f"The SELECT of {name} calls {', '.join(row['name'] for row in called)}, which could "
            "read or change what is not declared. Write it without."
        )
