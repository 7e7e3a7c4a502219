"""What Airflow is told about a project: variables of its environment, no file of settings.

What somebody sets as AIRFLOW__… wins over what is said here: so it grows beyond one machine.
"""

from __future__ import annotations

import base64
import hashlib
import os
import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import gristmill
from gristmill.serving.background import address
from gristmill.warehouse.credentials import ensure_passwords

if TYPE_CHECKING:
    from collections.abc import Mapping

USER = "airflow"
"""Who logs in to the pages."""
DATABASE = "airflow"
"""The database that Airflow keeps its own record in, and its owner's name."""
FAB = "airflow.providers.fab.auth_manager.fab_auth_manager.FabAuthManager"
_PASSWORDS = (USER, "database", "tokens", "more tokens", "sessions", "connections")
_SECRETS = (
    "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN",
    "AIRFLOW__API_AUTH__JWT_SECRET",
    "AIRFLOW__API__SECRET_KEY",
    "AIRFLOW__CORE__FERNET_KEY",
)
"""What the product's own commands have no use for."""


@dataclass(frozen=True, kw_only=True)
class Secrets:
    """What only this Airflow and its user know."""

    password: str = field(repr=False)
    """With it the user logs in."""
    database: str = field(repr=False)
    """With it Airflow reaches its database."""
    tokens: str = field(repr=False)
    """Signs the tokens of the workers; at least 64 bytes, as its algorithm asks for."""
    sessions: str = field(repr=False)
    """Signs the cookies of the pages."""
    connections: str = field(repr=False)
    """Encrypts what somebody enters as a connection's password."""


def read_secrets(folder: Path, password: str | None = None) -> Secrets:
    """The secrets of a project's Airflow, made at random once; a chosen password replaces its own.

    `folder` is Airflow's, which exists; they lie in its `credentials.json`, for its owner alone.
    """
    kept = ensure_passwords(folder / "credentials.json", _PASSWORDS)
    return Secrets(
        password=password or kept[USER],
        database=kept["database"],
        tokens=kept["tokens"] + kept["more tokens"],
        sessions=kept["sessions"],
        connections=base64.urlsafe_b64encode(
            hashlib.sha256(kept["connections"].encode()).digest()
        ).decode(),
    )


def variables(
    *,
    folder: Path,
    dags: Path,
    home: Path,
    database_url: str,
    host: str,
    port: int,
    secrets: Secrets,
    inherited: Mapping[str, str],
) -> dict[str, str]:
    """The environment of every process of a project's Airflow.

    `folder` is Airflow's own, `dags` the project's, `home` the project's; `database_url` begins
    with postgresql://. `inherited` is the environment around it: its AIRFLOW__… win, and what is
    not Airflow's passes through to the tasks.
    """
    reached = address(host, port)
    ours = {
        "AIRFLOW__API__BASE_URL": reached,
        "AIRFLOW__API__HOST": host,
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__API__SECRET_KEY": secrets.sessions,
        "AIRFLOW__API__WORKERS": "1",
        "AIRFLOW__API_AUTH__JWT_SECRET": secrets.tokens,
        "AIRFLOW__CORE__AUTH_MANAGER": FAB,
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        "AIRFLOW__CORE__DAGS_FOLDER": str(dags),
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{reached}/execution/",
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
        "AIRFLOW__CORE__FERNET_KEY": secrets.connections,
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        # A process waits for each task, and the product's commands share two cores or four.
        "AIRFLOW__CORE__PARALLELISM": str(max(4, os.cpu_count() or 1)),
        "AIRFLOW__CORE__DEFAULT_TASK_RETRY_DELAY": "60",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": database_url.replace(
            "postgresql://", "postgresql+psycopg2://", 1
        ),
        "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(folder / "logs"),
        "AIRFLOW__LOGGING__JSON_LOGS": "True",
        "AIRFLOW__LOGGING__NAMESPACE_LEVELS": "http.access=WARNING",
        # Measured: a year's backfill with what follows took 25 s without these two, 5 s with them.
        "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.25",
        "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "1",
        # A task outlives the API server's death: that is back within seconds, not within ten.
        "AIRFLOW__WORKERS__EXECUTION_API_RETRIES": "10",
        "AIRFLOW__WORKERS__EXECUTION_API_RETRY_WAIT_MAX": "5",
        # A task that was killed, or whose scheduler was, is begun again after a minute, not after
        # five: the one where nothing of it reports, the other where its scheduler does not.
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "60",
        "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "10",
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
    }
    chosen = {name: value for name, value in inherited.items() if name.startswith("AIRFLOW__")}
    modules = [str(folder / "modules"), *filter(None, [inherited.get("PYTHONPATH")])]
    return {
        **inherited,
        **ours,
        **chosen,
        "AIRFLOW_HOME": str(folder),
        "GRISTMILL_COMMAND": str(folder / "gristmill"),
        "GRISTMILL_HOME": str(home),
        "PYTHONPATH": os.pathsep.join(modules),
        "PYTHONUNBUFFERED": "1",
        # Airflow names its processes in a way that wipes out their environment, by which they are
        # known; not so with this.
        "SPT_NOENV": "1",
    }


def write_links(folder: Path, inherited: Mapping[str, str]) -> None:
    """Let Airflow import the running version of this package, and its tasks call it.

    The package alone, not what is installed beside it; and in `gristmill`, a command that sees none
    of that, nor Airflow's secrets. Written anew each time, so an upgrade takes effect at the next.
    """
    package = Path(str(gristmill.__file__)).parent
    modules = folder / "modules"
    modules.mkdir(mode=0o700, exist_ok=True)
    link = modules / "gristmill.new"
    link.unlink(missing_ok=True)
    link.symlink_to(package)
    link.rename(modules / "gristmill")
    path = inherited.get("PYTHONPATH")
    lines = [
        "#!/bin/sh",
        "# The product's command, as Airflow's tasks call it.",
        f"unset {' '.join((*_SECRETS, 'PYTHONPATH'))}",
        *([f"export PYTHONPATH={shlex.quote(path)}"] if path else []),
        f'exec {shlex.quote(sys.executable)} -m gristmill "$@"',
    ]
    command = folder / "gristmill.new"
    command.write_text("\n".join(lines) + "\n", encoding="utf-8")
    command.chmod(0o700)
    command.rename(folder / "gristmill")
