"""Airflow on this machine, one for each project: its environment, its database, its processes.

Not Airflow's own `standalone`, which forces a login meant for development and leaves its processes
behind when it is stopped.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
import urllib.error
import urllib.request
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from gristmill.errors import GristmillError, OrchestrationError
from gristmill.orchestration.configuration import (
    DATABASE,
    USER,
    Secrets,
    read_secrets,
    variables,
    write_links,
)
from gristmill.orchestration.environment import Environment, ensure_environment
from gristmill.orchestration.lines import OURSELVES
from gristmill.orchestration.supervisor import Service, Supervisor, kill_marked
from gristmill.serving.background import address
from gristmill.serving.server import listen
from gristmill.settings import cache_folder, inherited_environment
from gristmill.warehouse import embedded
from gristmill.warehouse.databases import provide_on
from gristmill.warehouse.files import locked, write_private

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from gristmill.flow.context import Context
    from gristmill.flow.report import Report
    from gristmill.settings import Settings

    Tell = Callable[[str, str], None]
    """Takes who says something, and the line."""

DAG_FILE = "gristmill_dags.py"
PARTS = ("scheduler", "triggerer", "dag_processor", "metadatabase")
"""What has to be healthy before Airflow counts as ready."""
STOPPED_WITHIN = 150.0
"""Seconds within which a supervisor stops all it started; afterwards it is killed."""
_LOOKS_AT_DATABASE = 2.0
"""Seconds between two looks whether the embedded database still answers."""
_LAST_LINES = 15
_CONNECTION = "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"


@dataclass(frozen=True, kw_only=True)
class Airflow:
    """A project's Airflow, installed and configured; it runs or does not."""

    folder: Path
    """What is its own: logs, secrets, links."""
    environment: Environment
    variables: Mapping[str, str] = field(repr=False)
    """The environment of its processes."""
    host: str
    port: int
    secrets: Secrets
    is_chosen: bool
    """Whether somebody chose the password, and it need not be told: what is said may be kept."""
    revive: Callable[[], None] | None
    """Brings the embedded database back where it does not answer; None where it is not ours."""

    @property
    def log(self) -> Path:
        """The file that gets all that its processes say."""
        return self.folder.parent / "log" / "airflow.log"

    @property
    def url(self) -> str:
        """Where its pages are, seen from this machine."""
        return address(self.host, self.port)


def open_airflow(
    context: Context,
    report: Report,
    settings: Settings,
    *,
    host: str | None = None,
    port: int | None = None,
) -> Airflow:
    """Install and configure a project's Airflow where it is not; nothing of it is started.

    It shall live in this process's environment. Its own record goes into a database beside the
    project's, made where it is missing, unless that environment names one. Raises
    OrchestrationError, WarehouseError.
    """
    dags = context.project.root / "dags"
    if not (dags / DAG_FILE).exists():
        raise OrchestrationError(
            f"There is no {dags / DAG_FILE}, which tells Airflow of the project. Write into it:\n\n"
            '"""The workflows of gristmill.toml, as DAGs of Airflow."""\n\n'
            "from gristmill.orchestration.dag import make_dags\n\n"
            "globals().update(make_dags(__file__))"
        )
    inherited = inherited_environment()
    environment = ensure_environment(cache_folder(), report)
    home = context.home.path
    folder = home / "airflow"
    folder.mkdir(mode=0o700, exist_ok=True)
    write_links(folder, inherited)
    chosen = settings.airflow_password
    secrets = read_secrets(folder, chosen.get_secret_value() if chosen else None)
    running = _running(folder) or {}
    host = host or running.get("host") or settings.airflow_host
    port = port or running.get("port") or settings.airflow_port
    server = settings.database_url
    url = inherited.get(_CONNECTION)
    if url is None and server:
        url = provide_on(server.get_secret_value(), database=DATABASE, password=secrets.database)
    elif url is None:
        url = embedded.provide_beside(home, database=DATABASE, password=secrets.database)
    return Airflow(
        folder=folder,
        environment=environment,
        variables=variables(
            folder=folder,
            dags=dags,
            home=home,
            database_url=url,
            host=host,
            port=port,
            secrets=secrets,
            inherited=inherited,
        ),
        host=host,
        port=port,
        secrets=secrets,
        is_chosen=chosen is not None,
        revive=None if server else _reviver(context),
    )


def _reviver(context: Context) -> Callable[[], None]:
    """What starts the embedded database where it does not answer, on the port that it had."""
    home, database = context.home.path, context.project.database
    running = embedded.find(home)
    port = running.port if running else None

    def revive() -> None:
        if embedded.find(home) is None:
            embedded.start(home, database=database.name, owner=database.owner, port=port)

    return revive


def run(airflow: Airflow, tell: Tell) -> None:
    """Run a project's Airflow until SIGTERM, SIGINT or SIGHUP; `tell` gets all that is said.

    Raises OrchestrationError where it runs already or its database cannot be brought up to date,
    and PortTaken.
    """
    lock = airflow.folder / "airflow.lock"
    try:
        with locked(lock, wait=False):
            record = {"pid": os.getpid(), "host": airflow.host, "port": airflow.port}
            write_private(airflow.folder / "airflow.json", json.dumps(record) + "\n")
            if kill_marked(_mark(airflow.folder)):
                tell(OURSELVES, "ended what an Airflow of this project, killed, had left running")
            listen(airflow.host, airflow.port).close()
            _migrate(airflow)
            _supervise(airflow, tell)
    except BlockingIOError as error:
        raise OrchestrationError(
            "Airflow of this project runs already: `gristmill down` stops it."
        ) from error


def stop(home: Path) -> bool:
    """End the Airflow of a project's home and all that it started; False where none ran."""
    folder = home / "airflow"
    record = _record(folder)
    if record is None:
        return False
    pid = record["pid"]
    ran = not _is_free(folder)
    deadline = time.monotonic() + STOPPED_WITHIN
    if ran:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    while not _is_free(folder):
        if time.monotonic() > deadline:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            break
        time.sleep(0.05)
    left = kill_marked(_mark(folder))
    (folder / "airflow.json").unlink(missing_ok=True)
    return ran or left > 0


def _record(folder: Path) -> dict[str, Any] | None:
    """Where the project's Airflow runs, or ran last."""
    try:
        found = json.loads((folder / "airflow.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return found if isinstance(found, dict) else None


def _running(folder: Path) -> dict[str, Any] | None:
    """Where the project's Airflow runs; None where it does not."""
    return None if _is_free(folder) else _record(folder)


def _is_free(folder: Path) -> bool:
    try:
        with locked(folder / "airflow.lock", wait=False):
            return True
    except BlockingIOError:
        return False


def _mark(folder: Path) -> str:
    return str(folder)


def _migrate(airflow: Airflow) -> None:
    """Bring Airflow's database up to date."""
    done = _run_once(airflow, "db", "migrate")
    if done.returncode != 0:
        raise OrchestrationError(
            f"Airflow's database cannot be brought up to date:\n{_last_lines(done.stdout)}"
        )


def _run_once(
    airflow: Airflow, *arguments: str, answers: str = ""
) -> subprocess.CompletedProcess[str]:
    """One command of Airflow's; away from the terminal, so that it reads its answers from us."""
    return subprocess.run(
        airflow.environment.command(*arguments),
        cwd="/",
        env={**airflow.variables, "AIRFLOW__LOGGING__JSON_LOGS": "False"},
        input=answers,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        start_new_session=True,
    )


def _supervise(airflow: Airflow, tell: Tell) -> None:
    def service(
        *words: str, stopped: int, grace: float, may_start: Callable[[], bool] = lambda: True
    ) -> Service:
        command = tuple(airflow.environment.command(*words))
        return Service(
            name=words[0], command=command, stopped=stopped, grace=grace, may_start=may_start
        )

    def api_answers() -> bool:
        return _health(airflow.url) is not None

    # Nothing new is begun once the scheduler is stopped, and what ends can still report.
    # Their own servers of logs would listen on every address; the pages read the files instead.
    services = [
        service("api-server", stopped=3, grace=15),
        service("dag-processor", stopped=2, grace=15),
        service("triggerer", "--skip-serve-logs", stopped=2, grace=15),
        service("scheduler", "--skip-serve-logs", stopped=1, grace=60, may_start=api_answers),
    ]
    supervisor = Supervisor(
        services,
        mark=_mark(airflow.folder),
        environment=airflow.variables,
        tell=tell,
        say=partial(tell, OURSELVES),
    )
    threading.Thread(target=_announce, args=(airflow, tell), daemon=True).start()
    supervisor.run(_watch(airflow, tell))
    tell(OURSELVES, "Airflow is stopped")


def _watch(airflow: Airflow, tell: Tell) -> Callable[[], None]:
    """Looks now and then whether the embedded database answers, and brings it back if not."""
    next_look = 0.0

    def watch() -> None:
        nonlocal next_look
        if airflow.revive is None or time.monotonic() < next_look:
            return
        try:
            airflow.revive()
        except GristmillError as error:
            tell(OURSELVES, f"the database is away: {error}")
        next_look = time.monotonic() + _LOOKS_AT_DATABASE

    return watch


def _announce(airflow: Airflow, tell: Tell) -> None:
    """Say once that it is ready, with a user who can log in."""
    while not _is_healthy(airflow.url):
        time.sleep(0.5)
    if not _can_log_in(airflow):
        try:
            _provide_user(airflow)
        except OrchestrationError as error:
            tell(OURSELVES, str(error))
            return
    password = "as it was chosen" if airflow.is_chosen else airflow.secrets.password
    tell(OURSELVES, f"Airflow is ready on {airflow.url}: user {USER}, password {password}")


def _is_healthy(url: str) -> bool:
    found = _health(url) or {}
    return all((found.get(part) or {}).get("status") == "healthy" for part in PARTS)


def _health(url: str) -> dict[str, Any] | None:
    """What the API server says of all parts; None where it does not answer."""
    try:
        with urllib.request.urlopen(f"{url}/api/v2/monitor/health", timeout=5) as answer:  # noqa: S310
            found = json.load(answer)
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _can_log_in(airflow: Airflow) -> bool:
    body = json.dumps({"username": USER, "password": airflow.secrets.password}).encode()
    request = urllib.request.Request(  # noqa: S310
        f"{airflow.url}/auth/token", data=body, headers={"content-type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=30):  # noqa: S310
            return True
    except OSError:
        return False


def _provide_user(airflow: Airflow) -> None:
    """The user of the pages with the password that counts; it goes by a pipe, seen by nobody."""
    answers = f"{airflow.secrets.password}\n" * 2
    who = ["--username", USER]
    person = ["--firstname", "Air", "--lastname", "Flow", "--email", "airflow@localhost.invalid"]
    made = _run_once(airflow, "users", "create", *who, *person, "--role", "Admin", answers=answers)
    if made.returncode == 0 and "already exist" in made.stdout:
        made = _run_once(airflow, "users", "reset-password", *who, answers=answers)
    if made.returncode != 0:
        raise OrchestrationError(
            f"Airflow's user {USER!r} cannot be made:\n{_last_lines(made.stdout)}"
        )


def _last_lines(text: str) -> str:
    return "\n".join(text.strip().splitlines()[-_LAST_LINES:])
