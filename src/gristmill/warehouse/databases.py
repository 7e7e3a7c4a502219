"""Databases and their owners: made where they are missing, closed to everybody else.

Drops nothing, takes no database from whom it belongs to, and never tells a server a password.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, LiteralString
from urllib.parse import quote

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from gristmill.errors import EmbeddedServerError, WarehouseError
from gristmill.warehouse.connect import url_from
from gristmill.warehouse.connection import connect, translated
from gristmill.warehouse.credentials import scram_verifier

if TYPE_CHECKING:
    from collections.abc import Sequence

SET_CONFIG: LiteralString = "pg_catalog.set_config(text, text, boolean)"


def provide_user(
    connection: psycopg.Connection[Any], user: str, password: str, *, makes_roles: bool
) -> None:
    """A user who logs in with a password, and makes roles or does not; never a superuser."""
    exists = connection.execute("SELECT FROM pg_roles WHERE rolname = %s", [user]).fetchone()
    rights: LiteralString = "CREATEROLE" if makes_roles else "NOCREATEROLE"
    verb: LiteralString = "CREATE" if exists is None else "ALTER"
    statement = sql.SQL(f"{verb} ROLE {{}} LOGIN {rights} NOSUPERUSER PASSWORD {{}}")
    connection.execute(
        statement.format(sql.Identifier(user), sql.Literal(scram_verifier(password)))
    )


def provide_database(
    connection: psycopg.Connection[Any], database: str, owner: str, *, closed: Sequence[str] = ()
) -> None:
    """A database, its owner's; nobody enters it, or those `closed` beside it, without a grant.

    Raises EmbeddedServerError where it belongs to somebody else.
    """
    row = connection.execute(
        "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = %s", [database]
    ).fetchone()
    if row is None:
        statement = sql.SQL("CREATE DATABASE {} OWNER {}")
        connection.execute(statement.format(sql.Identifier(database), sql.Identifier(owner)))
    elif row[0] != owner:
        raise EmbeddedServerError(
            f"{owner!r} was to own the database {database!r}, but {row[0]!r} does. "
            "Set its owner back, or choose another name for the database in [database]."
        )
    for name in (database, *closed):
        statement = sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC")
        connection.execute(statement.format(sql.Identifier(name)))


def close_settings(connection: psycopg.Connection[Any], owner: str) -> None:
    """Keep a SELECT that runs as a limited role from changing back to the owner by `set_config`.

    The owner may pass the right on: many clients begin with that function.
    """
    connection.execute(f"REVOKE EXECUTE ON FUNCTION {SET_CONFIG} FROM PUBLIC")
    statement = sql.SQL(f"GRANT EXECUTE ON FUNCTION {SET_CONFIG} TO {{}} WITH GRANT OPTION")
    connection.execute(statement.format(sql.Identifier(owner)))


def provide_on(url: str, *, database: str, password: str) -> str:
    """A database of its own on somebody's server, for a program beside ours; its URL.

    `url` is the server as Gristmill's own user reaches it. The database's owner has its name, may
    log in, and nothing else. Raises WarehouseError, with what an administrator has to run, where
    that user may not make it.
    """
    parts = {key: str(value) for key, value in conninfo_to_dict(url).items()}
    us = parts.pop("user", "")
    parts.pop("password", None)
    who = f"{quote(database, safe='')}:{quote(password, safe='')}"
    beside = url_from(who, parts | {"dbname": database})
    if _is_reached(beside):
        return beside
    with translated(), connect(url, autocommit=True) as connection:
        try:
            provide_user(connection, database, password, makes_roles=False)
            grant = sql.SQL("GRANT {} TO {} WITH SET TRUE")
            connection.execute(grant.format(sql.Identifier(database), sql.Identifier(us)))
            provide_database(connection, database, database)
        except psycopg.errors.InsufficientPrivilege as error:
            raise WarehouseError(
                f"{us!r} may not make the database {database!r}: {error.diag.message_primary}.\n"
                "Let an administrator of the server run\n"
                f'  ALTER ROLE "{us}" CREATEROLE CREATEDB;\n'
                "and then retry; afterwards CREATEDB may be taken away again."
            ) from error
    return beside


def _is_reached(url: str) -> bool:
    try:
        with psycopg.connect(url, connect_timeout=10):
            return True
    except psycopg.OperationalError:
        return False
