"""Airflow's processes: killed in the middle of a load or a training, and spread over workers.

The real Airflow on the embedded Postgres, started by `gristmill airflow`, asked over its REST API.
What a run is in the middle of is held there by a lock in the database, not by luck.
"""

import csv
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import pytest

from gristmill.orchestration.supervisor import MARK
from gristmill.warehouse import embedded

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "clients"
SECRET = secrets.token_hex(32)
WORKFLOWS = """
[workflows]
load_activity = { steps = ["load"], tables = ["customer_activity"] }
load_profiles = { steps = ["load"], tables = ["customer_profiles"] }
load_labels   = { steps = ["load"], tables = ["labels"] }
load_stores   = { steps = ["load"], tables = ["stores"] }
train_all     = { steps = ["build", "train"] }
"""
PATIENCE = 400.0
"""Seconds within which anything awaited has to happen: machines are noisy."""

pytestmark = pytest.mark.xdist_group("airflow")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def until(condition, what):
    """What a condition gives once it is true."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.1)
    raise AssertionError(f"not within {PATIENCE:.0f} s: {what}")


@dataclass(kw_only=True)
class Airflow:
    """A project with its Airflow, and what its REST API says."""

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)
    port: int = field(default_factory=free_port)
    process: subprocess.Popen | None = None
    token: str = ""

    @property
    def home(self):
        return self.folder / ".gristmill"

    @property
    def log(self):
        return self.folder / "airflow.txt"

    @property
    def said(self):
        return self.log.read_text("utf-8")

    @property
    def variables(self):
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("GRISTMILL_", "AIRFLOW"))
        }
        # The uv that the Makefile installs, where there is no other: it takes 10 s, pip a minute.
        path = f"{os.environ['PATH']}:{ROOT / '.uv' / 'bin'}"
        return {**inherited, "PATH": path, "GRISTMILL_SOURCE": "bucket", **self.environment}

    def command(self, *arguments):
        project = ["--project", str(self.folder)]
        return [sys.executable, "-m", "gristmill", *project, *arguments]

    def run(self, *arguments):
        done = subprocess.run(
            self.command(*arguments), env=self.variables, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def start(self):
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                self.command("airflow", "--port", str(self.port)),
                env=self.variables,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        until(self.is_ready, "Airflow is ready")
        password = json.loads((self.home / "airflow" / "credentials.json").read_text())["airflow"]
        assert f"user airflow, password {password}" in self.said
        body = {"username": "airflow", "password": password}
        self.token = self.ask("/auth/token", body)["access_token"]

    def is_ready(self):
        assert self.process.poll() is None, self.said
        return "Airflow is ready" in self.said

    def stop(self):
        assert "Airflow" in self.run("down")
        assert self.process.wait(PATIENCE) == 0, self.said

    def ask(self, path, body=None):
        """An answer of the API server, which may be away for a while."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}",
            data=None if body is None else json.dumps(body).encode(),
            headers={"content-type": "application/json", "authorization": f"Bearer {self.token}"},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def answer(self, path):
        """The answer of a path that there is, once somebody gives it."""

        def once():
            try:
                return self.ask(path)
            except OSError:
                return None

        return until(once, f"an answer to {path}")

    def trigger(self, dag):
        """Start a run, once the DAG is known; its id."""

        def once():
            try:
                return self.ask(f"/api/v2/dags/{dag}/dagRuns", {"logical_date": None})
            except urllib.error.HTTPError as error:
                if error.code not in (404, 500, 503):
                    raise
            except OSError:
                return None

        return until(once, f"a run of {dag}")["dag_run_id"]

    def finished(self, dag, run):
        """The task instances of a run that succeeded, by task."""
        path = f"/api/v2/dags/{dag}/dagRuns/{run}"

        def once():
            state = self.answer(path)["state"]
            assert state != "failed", self.said
            return state == "success"

        until(once, f"{dag} {run} succeeds\n{self.said}")
        return {
            one["task_id"]: one for one in self.answer(f"{path}/taskInstances")["task_instances"]
        }

    def connect(self):
        return psycopg.connect(self.run("connect").strip(), autocommit=True)

    @contextmanager
    def blocked(self, table):
        """Nobody writes to a table of the record; yields once somebody waits for it."""
        # Closed, not committed: the database may be gone by then.
        with closing(self.connect()) as ours, closing(self.connect()) as watching:
            ours.autocommit = False
            ours.execute(f"LOCK TABLE {table} IN EXCLUSIVE MODE")

            def waits():
                return watching.execute(
                    "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = %s::regclass",
                    [table],
                ).fetchone()[0]

            yield lambda: until(waits, f"somebody waits for {table}\n{self.said}")

    def part(self, name):
        """The process of one of Airflow's parts, of which all others of it descend."""
        mark = f"{MARK}={self.home / 'airflow'}/{name}".encode()
        parent = f"PPid:\t{self.process.pid}\n"
        (found,) = [
            pid for pid in self.processes(mark) if parent in Path(f"/proc/{pid}/status").read_text()
        ]
        return found

    def processes(self, mark):
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                if mark in (entry / "environ").read_bytes().split(b"\0"):
                    yield int(entry.name)
            except OSError:
                continue

    def command_of(self, step):
        """The product's own process that carries out a step for a task."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if (
                b"-m" in words
                and step.encode() in words
                and str(self.folder).encode() in b"".join(words)
            ):
                found.append(int(entry.name))
        (pid,) = found
        return pid


def make_project(folder, *, customers=2000):
    for name in ("sql", "dags"):
        shutil.copytree(EXAMPLE / name, folder / name)
    declared = (EXAMPLE / "gristmill.toml").read_text("utf-8")
    (folder / "gristmill.toml").write_text(declared.partition("[workflows]")[0] + WORKFLOWS)
    airflow = Airflow(folder=folder)
    airflow.run("sample", str(folder / "bucket"), "--customers", str(customers), "--months", "2")
    return airflow


# More machines than one: the same DAG file, other settings


def settings(name, port, **changes):
    """An example's settings, with what differs here: addresses and secrets."""
    lines = (EXAMPLE / "airflow" / f"{name}.env").read_text("utf-8").splitlines()
    pairs = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    assert set(changes) <= set(pairs)
    return {name: value.replace(":8082", f":{port}") for name, value in (pairs | changes).items()}


@contextmanager
def workers(commands):
    """Programs that run meanwhile, each with a file of what it said."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        files = [Path(folder) / str(number) for number, _ in enumerate(commands)]
        processes = []
        for file, (command, variables) in zip(files, commands, strict=True):
            log = stack.enter_context(file.open("w"))
            processes.append(
                subprocess.Popen(command, env=variables, stdout=log, stderr=subprocess.STDOUT)
            )
        try:
            yield files
        finally:
            for process in processes:
                process.terminate()
            for process in processes:
                try:
                    process.wait(60)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()


LOADS = {
    "load_activity": "customer_activity",
    "load_profiles": "customer_profiles",
    "load_labels": "labels",
    "load_stores": "stores",
}


def spread(airflow, said):
    """Loads four tables by four runs at once; each worker did some of them."""
    tables = " UNION ALL ".join(f"SELECT count(*) FROM {name}" for name in LOADS.values())
    runs = {dag: airflow.trigger(dag) for dag in LOADS}
    for dag, run in runs.items():
        airflow.finished(dag, run)
    for file in said:
        assert any(run in file.read_text() for run in runs.values()), file.read_text()
    expected = [
        len((airflow.folder / "bucket" / f"{name}.csv").read_text().splitlines()) - 1
        for name in LOADS.values()
    ]
    with airflow.connect() as connection:
        assert [count for (count,) in connection.execute(tables).fetchall()] == expected


@pytest.fixture
def another(tmp_path):
    """A project whose Airflow is not started yet."""
    with tempfile.TemporaryDirectory(prefix="gristmill-airflow-", dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o711 if os.geteuid() == 0 else 0o700)
        made = make_project(folder)
        try:
            yield made
        finally:
            made.stop()


@pytest.fixture
def redis(tmp_path):
    """The port of a Redis that asks for a password; Debian's own."""
    assert shutil.which("redis-server"), "Celery's tasks go by way of Redis: tests/programs"
    port = free_port()
    configuration = f'port {port}\nbind 127.0.0.1\nrequirepass {SECRET}\nsave ""\n'
    process = subprocess.Popen(
        ["redis-server", "-"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, cwd=tmp_path
    )
    process.stdin.write(configuration.encode())
    process.stdin.close()
    yield port
    process.terminate()
    process.wait()


def test_celery_spreads_tasks_over_two_workers(another, redis, tmp_path):
    broker = f"redis://:{SECRET}@127.0.0.1:{redis}/0"
    another.environment = settings("celery", another.port, AIRFLOW__CELERY__BROKER_URL=broker)
    another.start()
    commands = [
        another.command(
            "airflow", "--", "celery", "worker", "--skip-serve-logs",
            "--celery-hostname", f"{name}@%h", "--pid", str(tmp_path / f"{name}.pid"),
        )
        for name in ("one", "two")
    ]  # fmt: skip
    with workers([(command, another.variables) for command in commands]) as said:
        for file in said:
            until(lambda file=file: "ready" in file.read_text(), "a worker is ready")
        spread(another, said)


def test_edge_spreads_tasks_over_two_workers_that_know_no_database_of_airflows(another, tmp_path):
    another.environment = settings("edge", another.port, AIRFLOW__API_AUTH__JWT_SECRET=SECRET)
    another.start()
    theirs = settings(
        "edge-worker",
        another.port,
        AIRFLOW__API_AUTH__JWT_SECRET=SECRET,
        GRISTMILL_DATABASE_URL=another.run("connect").strip(),
    )
    commands = []
    for name in ("one", "two"):
        words = ["airflow", "--", "edge", "worker", "--edge-hostname", name, "--concurrency", "1"]
        home = {"GRISTMILL_HOME": str(tmp_path / name)}
        commands.append((another.command(*words), another.variables | theirs | home))
    with workers(commands) as said:
        spread(another, said)


# Killed in the middle


@pytest.fixture(scope="module")
def folder():
    # Not under pytest's folder, which root closes to the user that root's server runs as.
    with tempfile.TemporaryDirectory(prefix="gristmill-airflow-", dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o711 if os.geteuid() == 0 else 0o700)
        yield folder


@pytest.fixture(scope="module")
def airflow(folder):
    made = make_project(folder)
    made.environment = {
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "15",
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "2",
        "AIRFLOW__CORE__DEFAULT_TASK_RETRY_DELAY": "1",
    }
    made.run("load")
    made.run("build")
    try:
        made.start()
        yield made
    finally:
        made.stop()


def kill(airflow, what, step):
    """Kill a part of Airflow, or what a task does; returns once that can go on no more."""
    command = airflow.command_of(step)
    pid = {
        "worker": lambda: command,
        "database": lambda: embedded.find(airflow.home).pid,
    }.get(what, lambda: airflow.part(what))()
    os.kill(pid, signal.SIGKILL)
    if what == "scheduler":
        until(lambda: not Path(f"/proc/{command}/cwd").exists(), "its task's command is killed")


EACH = ("scheduler", "api-server", "worker", "database")
"""What can be killed; where kills are asked for at length, each in the middle of either step."""


def pytest_generate_tests(metafunc):
    """Two of them for each step, unless more kills are asked for than usual."""
    usual = {"load": ("scheduler", "database"), "training": ("worker", "api-server")}
    for step, always in usual.items():
        if f"killed_in_the_{step}" in metafunc.fixturenames:
            at_length = metafunc.config.getoption("--kills") > 200
            metafunc.parametrize(f"killed_in_the_{step}", EACH if at_length else always)


def run_and_kill(airflow, dag, step, what, *, waits_for):
    """A run that ends well, though something is killed once its step waits for a table."""
    with airflow.blocked(waits_for) as wait:
        run = airflow.trigger(dag)
        wait()
        kill(airflow, what, step)
    tasks = airflow.finished(dag, run)
    assert tasks[step]["try_number"] >= (1 if what == "api-server" else 2)


def shorten_activity(airflow):
    """The file of the activity, changed by one line less."""
    file = airflow.folder / "bucket" / "customer_activity.csv"
    header, _, *lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join([header, *lines]))
    return file


def test_a_load_is_as_if_it_had_run_once(airflow, killed_in_the_load):
    file = shorten_activity(airflow)
    with airflow.connect() as connection:
        (before,) = connection.execute("SELECT count(*) FROM gristmill.loads").fetchone()
    run_and_kill(airflow, "load_activity", "load", killed_in_the_load, waits_for="gristmill.loads")
    with airflow.connect() as connection:
        rows = connection.execute("SELECT idx, valid_from FROM customer_activity").fetchall()
        (after,) = connection.execute("SELECT count(*) FROM gristmill.loads").fetchone()
    with file.open(newline="") as lines:
        wanted = [(int(row["idx"]), row["valid_from"]) for row in csv.DictReader(lines)]
    assert sorted((idx, str(since)) for idx, since in rows) == sorted(wanted)
    assert after == before + 1


def test_a_training_is_as_if_it_had_run_once(airflow, killed_in_the_training):
    """One more version, whole, and nothing of another."""
    shorten_activity(airflow)
    airflow.run("load")
    with airflow.connect() as connection:
        versions = "SELECT count(*) FROM gristmill.model_versions"
        (before,) = connection.execute(versions).fetchone()
    table = "gristmill.model_versions"
    run_and_kill(airflow, "train_all", "train", killed_in_the_training, waits_for=table)
    with airflow.connect() as connection:
        (after,) = connection.execute(versions).fetchone()
    assert after == before + 1
    models = json.loads(airflow.run("models", "--json"))
    assert len(models) == after
    # Of older ones what they were trained on may have been tidied away.
    assert max(models, key=lambda one: int(one["version"]))["problems"] == []
