"""One embedded server for the whole run (one per xdist worker), a fresh database for each test."""

import itertools
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import psycopg
import pytest
import uvicorn
from psycopg import sql
from starlette.applications import Starlette

from gristmill.bucket.bucket import open_bucket
from gristmill.features.builds import Built
from gristmill.flow import steps
from gristmill.flow.context import Context, Home
from gristmill.flow.report import Silence
from gristmill.loading.load import Loaded
from gristmill.loading.tables import Span
from gristmill.project.read import read_project
from gristmill.serving.protocol import Protocol
from gristmill.serving.server import listen
from gristmill.warehouse import embedded
from gristmill.warehouse.connection import Warehouse
from gristmill.warehouse.credentials import read_passwords
from gristmill.warehouse.migrate import migrate
from gristmill.warehouse.roles import AppliedUsers, apply_users

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


@dataclass(kw_only=True)
class Shop:
    """A project with a folder as its bucket, open for work on a database of its own."""

    folder: Path
    warehouse: Warehouse
    toml: str = ""
    moment: datetime = datetime(2026, 1, 1, tzinfo=UTC)
    """What counts as now; a test moves it on."""

    def declare(self, toml: str, **sql_files: str) -> None:
        """Write the project file, and the SQL files beside it."""
        self.toml = f'[project]\nname = "shop"\nsource = "bucket"\n{toml}'
        (self.folder / "bucket").mkdir(exist_ok=True)
        (self.folder / "gristmill.toml").write_text(self.toml)
        for name, text in sql_files.items():
            (self.folder / f"{name}.sql").write_text(text)

    def put(self, path: str, content: str | bytes) -> None:
        """Put a file into the bucket, as one that takes another's place."""
        file = self.folder / "bucket" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        beside = file.with_name(f"{file.name}.new")
        beside.write_bytes(content.encode() if isinstance(content, str) else content)
        beside.rename(file)

    def remove(self, path: str) -> None:
        """Take a file out of the bucket."""
        (self.folder / "bucket" / path).unlink()

    @property
    def context(self) -> Context:
        """What the steps work on, with the shop's own clock."""
        project = read_project(self.folder)
        moment = self.moment

        class AtMoment(Context):
            def now(self) -> datetime:
                return moment

        return AtMoment(
            project=project,
            warehouse=self.warehouse,
            bucket=open_bucket(project.source, root=project.root),
            home=Home(path=self.folder / "home"),
            users=AppliedUsers(created=(), without_password=(), undeclared=()),
        )

    def load(self, *names: str, again: bool = False, **span: str) -> list[Loaded]:
        """Load as the command does."""
        return steps.load(self.context, Silence(), names, span=Span(**span), again=again)

    def build(self, *names: str) -> list[Built]:
        """Build as the command does."""
        return steps.build(self.context, Silence(), names)

    def rows(self, query: str, *parameters: object) -> list[tuple[object, ...]]:
        """What a query gives, outside of any transaction of the shop's."""
        with psycopg.connect(self.warehouse.url) as connection:
            return connection.execute(query, parameters or None).fetchall()


@pytest.fixture
def shop(warehouse: Warehouse, tmp_path: Path) -> Shop:
    """A project that a test declares, on a fresh database whose limited role is there."""
    apply_users(warehouse, [], tmp_path / "credentials.json")
    return Shop(folder=tmp_path, warehouse=warehouse)


@contextmanager
def _served(app: Starlette) -> Iterator[httpx.Client]:
    """The application on a socket, as workers run it, in a thread; a client of it."""
    listening = listen("127.0.0.1", 0)
    config = uvicorn.Config(
        app, http=Protocol, lifespan="on", log_level="warning", access_log=False, ws="none"
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.02)
        address = f"http://127.0.0.1:{listening.getsockname()[1]}"
        with httpx.Client(base_url=address, timeout=60, trust_env=False) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join()
        listening.close()


@pytest.fixture(scope="session")
def served() -> Callable[[Starlette], AbstractContextManager[httpx.Client]]:
    """Serves an application over a real socket while a `with` lasts; it gives a client."""
    return _served


@pytest.fixture
def feature_store(warehouse: Warehouse) -> datetime:
    """A feature store of two clients, as a build leaves it; the moment that it describes."""
    as_of = datetime.now(UTC) - timedelta(hours=2)
    with warehouse.transaction() as transaction:
        transaction.execute(
            "CREATE TABLE builds.feature_store AS SELECT 1 AS _build, * FROM (VALUES "
            "(150000::bigint, 1::bigint, 'c', 0.55::float8, 3::bigint), "
            "(2, NULL, NULL, 'NaN', NULL)) AS given (idx, attr_a, attr_b, scd_a, scd_b)"
        )
        transaction.execute(
            "INSERT INTO gristmill.builds (build, name, period, definition, loads, builds, as_of, "
            "rows, seconds) OVERRIDING SYSTEM VALUE "
            "VALUES (1, 'feature_store', 'all', '', '{}', '{}', %s, 2, 0)",
            [as_of],
        )
        transaction.execute(
            "INSERT INTO gristmill.current_builds VALUES ('feature_store', 'all', 1)"
        )
    return as_of
