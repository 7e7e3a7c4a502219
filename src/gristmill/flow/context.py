"""What every step works on: the project, its warehouse, its bucket, its home and the clock."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from gristmill.bucket.bucket import open_bucket
from gristmill.errors import GristmillError
from gristmill.predictions.ship import ship_left_behind
from gristmill.registry.store import Registry
from gristmill.warehouse import embedded
from gristmill.warehouse.connection import Warehouse
from gristmill.warehouse.migrate import migrate
from gristmill.warehouse.roles import AppliedUsers, apply_users

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from gristmill.bucket.bucket import Bucket
    from gristmill.project.project import Project

logger = logging.getLogger(__name__)

SHIP_SECONDS = 5.0
"""How long a command goes on with what a dead server left."""


@dataclass(frozen=True, kw_only=True)
class Home:
    """The folder where a project keeps what it runs on: `.gristmill` beside the project file."""

    path: Path

    def make(self) -> None:
        """Make its folders where they are missing: what lies in them is nobody else's to read."""
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        for folder in (self.bundles, self.artifacts, self.spool, self.log):
            folder.mkdir(mode=0o700, exist_ok=True)

    @property
    def log(self) -> Path:
        """What runs in the background writes here what it has to say."""
        return self.path / "log"

    @property
    def credentials(self) -> Path:
        """The passwords of the database's users; only its owner reads it."""
        return self.path / "credentials.json"

    @property
    def bundles(self) -> Path:
        """The model versions, a folder each."""
        return self.path / "bundles"

    @property
    def artifacts(self) -> Path:
        """What the tracking server keeps beside its database."""
        return self.path / "mlflow"

    @property
    def keys(self) -> Path:
        """Who may ask the API."""
        return self.path / "keys.json"

    @property
    def counters(self) -> Path:
        """What the API's workers count, for `/metrics`."""
        return self.path / "counters"

    @property
    def spool(self) -> Path:
        """Predictions that are not in the warehouse yet."""
        return self.path / "spool"


@dataclass(frozen=True, kw_only=True)
class Context:
    """A project that is open for work."""

    project: Project
    warehouse: Warehouse
    bucket: Bucket
    home: Home
    users: AppliedUsers

    @property
    def registry(self) -> Registry:
        """The record of model versions."""
        return Registry(
            warehouse=self.warehouse,
            artifacts=self.home.artifacts,
            bundles=self.home.bundles,
            name=self.project.name,
        )

    def now(self) -> datetime:
        """The moment that counts as now."""
        return datetime.now(UTC)


def open_context(
    project: Project,
    *,
    home: Path | None = None,
    database_url: str | None = None,
    database_port: int | None = None,
    aws: Mapping[str, str] | None = None,
) -> Context:
    """Find or start the database, bring it up to date, and name the bucket (not yet reached)."""
    bucket = open_bucket(project.source, root=project.root, options=aws)
    folder = Home(path=home_of(project.root, home))
    warehouse = (
        Warehouse(url=database_url)
        if database_url
        else embedded.start(
            folder.path,
            database=project.database.name,
            owner=project.database.owner,
            port=database_port,
        )
    )
    folder.make()
    migrate(warehouse)
    _ship_left_behind(folder.spool, warehouse)
    users = apply_users(warehouse, project.database.users, folder.credentials)
    return Context(project=project, warehouse=warehouse, bucket=bucket, home=folder, users=users)


def _ship_left_behind(spool: Path, warehouse: Warehouse) -> None:
    """Bring the answers of a dead server into the warehouse; what cannot be waits for another."""
    try:
        ship_left_behind(spool, warehouse, until=time.monotonic() + SHIP_SECONDS)
    except GristmillError as error:
        logger.warning("Predictions wait in %s: %s", spool, error)


def home_of(root: Path, home: Path | None) -> Path:
    """The home of the project in a folder; a chosen one starts there too, where it is relative."""
    try:
        return (root / (home or ".gristmill")).resolve()
    except (OSError, RuntimeError) as error:
        raise GristmillError(f"The home {home} cannot be found: {error}.") from error
