"""Brings the database's own schemas up to this version of Gristmill, each step once."""

from __future__ import annotations

import hashlib
from importlib.resources import files
from typing import TYPE_CHECKING

from gristmill.errors import WarehouseError
from gristmill.warehouse.sql import SQL

if TYPE_CHECKING:
    from gristmill.warehouse.connection import Transaction, Warehouse

OLDEST_POSTGRES = 17

_LOCK = 6018461
"""The advisory lock that lets one process migrate at a time."""


def migrate(warehouse: Warehouse) -> list[str]:
    """Apply what is missing of `migrations/*.sql`, all in one transaction; the names applied.

    Raises WarehouseError where the database was migrated by a newer or a changed Gristmill.
    """
    with warehouse.transaction() as transaction:
        _require_version(transaction)
        transaction.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])
        applied = _applied(transaction)
        missing = {name: text for name, text in _migrations().items() if name not in applied}
        for name, text in missing.items():
            transaction.execute(SQL(text))
            transaction.execute(
                "INSERT INTO gristmill.migrations (name, digest) VALUES (%s, %s)",
                [name, _digest(text)],
            )
    return list(missing)


def _require_version(transaction: Transaction) -> None:
    found = transaction.row(
        "SELECT current_setting('server_version') AS name, "
        "current_setting('server_version_num')::integer / 10000 AS major"
    )
    if found and found["major"] < OLDEST_POSTGRES:
        raise WarehouseError(
            f"The database is PostgreSQL {found['name']}; Gristmill needs {OLDEST_POSTGRES} or "
            "newer. Upgrade it, or leave out GRISTMILL_DATABASE_URL to use the embedded one."
        )


def _applied(transaction: Transaction) -> set[str]:
    """The migrations that the database has, each checked to be the one we know."""
    if transaction.value("SELECT to_regclass('gristmill.migrations')") is None:
        return set()
    known = {name: _digest(text) for name, text in _migrations().items()}
    rows = transaction.rows("SELECT name, digest FROM gristmill.migrations ORDER BY name")
    for row in rows:
        if known.get(row["name"]) != row["digest"]:
            raise WarehouseError(
                f"The database was migrated by another version of Gristmill: {row['name']} "
                "is not the step that this version knows. Use the version that wrote it, or newer."
            )
    return {row["name"] for row in rows}


def _migrations() -> dict[str, str]:
    folder = files("gristmill.warehouse").joinpath("migrations")
    found = (file for file in folder.iterdir() if file.name.endswith(".sql"))
    return {
        file.name: file.read_text(encoding="utf-8")
        for file in sorted(found, key=lambda file: file.name)
    }


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
