"""One embedded server for the whole run (one per xdist worker), a fresh database for each test."""

import itertools
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from gristmill.warehouse import embedded
from gristmill.warehouse.connection import Warehouse
from gristmill.warehouse.credentials import read_passwords
from gristmill.warehouse.migrate import migrate

OWNER = "admin"
TEMPLATE = "migrated"
_numbers = itertools.count(1)


@contextmanager
def _passable() -> Iterator[Path]:
    # Not under pytest's folder, which root closes to the user that root's server runs as.
    folder = Path(tempfile.mkdtemp(prefix="gristmill-tests-", dir="/tmp"))
    folder.chmod(0o711 if os.geteuid() == 0 else 0o700)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def passable() -> Iterator[Path]:
    """A folder that every user of the machine can pass through, where root made it."""
    with _passable() as folder:
        yield folder


@pytest.fixture(scope="session")
def warehouse_home() -> Iterator[Path]:
    """The home of a running server whose database `migrated` has Gristmill's tables."""
    with _passable() as folder:
        home = folder / ".gristmill"
        try:
            migrate(embedded.start(home, database=TEMPLATE, owner=OWNER))
            yield home
        finally:
            embedded.stop(home)


@pytest.fixture
def superuser(warehouse_home: Path) -> Iterator[psycopg.Connection]:
    """A connection as PostgreSQL's superuser, in the database `postgres`, committing as it goes."""
    server = embedded.find(warehouse_home)
    assert server is not None
    with psycopg.connect(
        host="127.0.0.1",
        port=server.port,
        user="postgres",
        password=read_passwords(warehouse_home / "credentials.json")["postgres"],
        dbname="postgres",
        autocommit=True,
    ) as connection:
        yield connection


@pytest.fixture
def warehouse(warehouse_home: Path, superuser: psycopg.Connection) -> Iterator[Warehouse]:
    """The owner's warehouse: a new database with Gristmill's tables, dropped after the test."""
    name = f"test_{next(_numbers)}"
    superuser.execute(
        sql.SQL("CREATE DATABASE {} TEMPLATE {} OWNER {}").format(
            *map(sql.Identifier, (name, TEMPLATE, OWNER))
        )
    )
    try:
        yield embedded.start(warehouse_home, database=name, owner=OWNER)
    finally:
        superuser.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
