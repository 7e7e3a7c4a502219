"""Killed anywhere, a load or a build leaves exactly the state before it or the state after it.

SIGKILL hits the process that works, or the server with all its processes: before each exchange
between them, and at random times. `--kills` says how many in all; each exchange comes first.
"""

import csv
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from gristmill.bucket.bucket import open_bucket
from gristmill.errors import LoadError
from gristmill.flow import steps
from gristmill.flow.context import open_context
from gristmill.flow.report import Silence
from gristmill.project.read import read_project
from gristmill.warehouse import embedded, server_settings
from gristmill.warehouse.credentials import read_passwords

PROJECT = """
[project]
name = "shop"
source = "bucket"

[tables.stores]
path = "stores.csv"
key = ["idx"]
[tables.stores.columns]
idx = "integer"

[tables.sales]
path = "sales/{{period:%Y-%m}}.csv"
period = {{ every = "month", column = "day" }}
key = ["ticket"]
references = {{ store = "stores.idx" }}
max_rejects = 0.2
[tables.sales.columns]
ticket = "integer"
store = "integer"
day = "date"
value = {value}

[derived.monthly]
sql = "monthly.sql"
from = ["sales"]
period = "sales"
key = ["store"]

[database]
name = "shop"
owner = "keeper"
"""
SELECT = "SELECT store, {sum} FROM sales GROUP BY store"


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """What a step finds, and what it is to do."""

    step: str
    names: tuple[str, ...]
    rounds: tuple[dict[str, str], ...]
    """Files to write before each run that leads to the state before."""
    change: dict[str, str]
    """Files to write before the step that is killed."""
    refused: bool = False


def project(value: str = '"number"') -> dict[str, str]:
    """The project file, with one column's type to choose."""
    return {"gristmill.toml": PROJECT.format(value=value)}


def month(
    period: str, rows: int, *, scale: int = 1, bad: int = 0, twice: int = 0
) -> dict[str, str]:
    """A month's file: some rows break a type, some repeat a key, some name an unknown store."""
    lines = ["ticket,store,day,value"]
    for ticket in range(1, rows + 1):
        value = "much" if ticket <= bad else str(ticket * scale)
        key = ticket - 1 if rows - ticket < twice else ticket
        lines.append(f"{key},{ticket % 3 + 1},{period}-{ticket % 28 + 1:02},{value}")
    return {f"bucket/sales/{period}.csv": "\n".join([*lines, ""])}


STORES = {"bucket/stores.csv": "idx\n1\n2\n3\n"}
MONTHLY = {"monthly.sql": SELECT.format(sum="sum(value) AS value")}
BEGINNING = project() | STORES | MONTHLY
TWO_MONTHS = BEGINNING | month("2026-01", 40) | month("2026-02", 50)

SCENARIOS = {
    "a load that replaces one": Scenario(
        step="load", names=("sales",),
        rounds=(TWO_MONTHS,), change=month("2026-02", 60, scale=2, bad=3, twice=2),
    ),
    "a first load": Scenario(
        step="load", names=("sales",),
        rounds=(BEGINNING,), change=month("2026-01", 40, bad=1),
    ),
    "a load that is refused": Scenario(
        step="load", names=("sales",),
        rounds=(TWO_MONTHS,), change=month("2026-02", 60, bad=40), refused=True,
    ),
    "a load of changed columns": Scenario(
        step="load", names=("sales",),
        rounds=(TWO_MONTHS,), change=project('"integer?"') | month("2026-02", 30, bad=2),
    ),
    "a load that leaves something to tidy": Scenario(
        step="load", names=("sales",),
        rounds=(TWO_MONTHS, month("2026-02", 51)), change=month("2026-02", 52, bad=1),
    ),
    "a build of a changed month": Scenario(
        step="build", names=("monthly",),
        rounds=(TWO_MONTHS, month("2026-02", 51, scale=3)), change={},
    ),
    "a build of another SELECT": Scenario(
        step="build", names=("monthly",),
        rounds=(TWO_MONTHS,),
        change={"monthly.sql": SELECT.format(sum="count(*) AS n, max(value) AS most")},
    ),
}  # fmt: skip


THOROUGH = "a load that replaces one"


class Shop:
    """A project, its server and its database, brought back to a known state before each kill."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.scenario: Scenario
        self.url: str
        self.server: embedded.Server

    def write(self, files: dict[str, str]) -> None:
        for name, text in files.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    def prepare(self, scenario: Scenario) -> None:
        """Run what comes before, and keep the database as it is then."""
        self.scenario = scenario
        shutil.rmtree(self.folder / "bucket", ignore_errors=True)
        self.start()
        self._as_superuser("DROP DATABASE IF EXISTS shop WITH (FORCE)")
        for number, files in enumerate(scenario.rounds):
            self.write(files)
            self.run("load", ("stores",) if scenario.rounds == (BEGINNING,) else ())
            if scenario.step == "build" and number + 1 < max(2, len(scenario.rounds)):
                self.run("build", ("monthly",))
        self.write(scenario.change)
        self._as_superuser(
            "DROP DATABASE IF EXISTS before",
            "CREATE DATABASE before TEMPLATE shop OWNER keeper STRATEGY file_copy",
        )

    def reset(self) -> None:
        """The state before.

        Not by the usual strategy: PostgreSQL logs a sequence's page as it is then, and numbers that
        it gives out later, without a word in the log, come again after a crash.
        """
        self._as_superuser(
            "DROP DATABASE IF EXISTS shop WITH (FORCE)",
            "CREATE DATABASE shop TEMPLATE before OWNER keeper STRATEGY file_copy",
        )

    def run(self, step: str, names: tuple[str, ...]) -> None:
        """A step as the command line takes it: find or start the server, open, work."""
        context = open_context(read_project(self.folder / "gristmill.toml"), home=self.home)
        getattr(steps, step)(context, Silence(), names)

    def run_step(self) -> None:
        """The scenario's step, undisturbed."""
        if self.scenario.refused:
            with pytest.raises(LoadError, match="refused"):
                self.run(self.scenario.step, self.scenario.names)
        else:
            self.run(self.scenario.step, self.scenario.names)

    def start(self) -> None:
        """Find the server, or start it after a kill."""
        self.url = embedded.start(self.home, database="shop", owner="keeper").url
        found = embedded.find(self.home)
        assert found is not None
        self.server = found

    def connect(self, database: str = "shop") -> psycopg.Connection:
        return psycopg.connect(
            host="127.0.0.1",
            port=self.server.port,
            user="postgres",
            password=read_passwords(self.home / "credentials.json")["postgres"],
            dbname=database,
            autocommit=True,
        )

    def _as_superuser(self, *statements: str) -> None:
        with closing(self.connect("postgres")) as connection:
            for statement in statements:
                connection.execute(statement)


class Driver:
    """The process that forks the steps to be killed."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("kill_driver.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def begin(self, shop: Shop, *, victim: str = "", point: int = 0) -> int:
        """Start the scenario's step, to be struck before an exchange; its process id."""
        request = {
            "project": str(shop.folder / "gristmill.toml"),
            "home": str(shop.home),
            "url": shop.url,
            "step": shop.scenario.step,
            "names": shop.scenario.names,
            "victim": victim,
            "point": point,
            "postmaster": shop.server.pid,
        }
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return int(self._answer()["pid"])

    def end(self) -> dict[str, Any]:
        """How it ended."""
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def close(self) -> None:
        self._process.communicate()


@pytest.fixture(scope="module")
def shop() -> Iterator[Shop]:
    # Not under pytest's folder, which root closes to the user that root's server runs as.
    folder = Path(tempfile.mkdtemp(prefix="gristmill-kill-", dir="/tmp"))
    folder.chmod(0o711 if os.geteuid() == 0 else 0o700)
    shop = Shop(folder)
    # The system outlives every kill here, and with it what was written but not synced: half of the
    # time would go to syncing. Whether a commit survives a power cut is not what is asked.
    unsynced = server_settings.settings() | {"fsync": "off"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embedded, "settings", lambda: unsynced)
        yield shop
    embedded.stop(shop.home)
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def driver() -> Iterator[Driver]:
    driver = Driver()
    yield driver
    driver.close()


# --- What is true of the database -----------------------------------------------------------------

LOADS = """
SELECT load, table_name, period, file, etag, contract, status, rows, rejected
FROM gristmill.loads ORDER BY load
"""
BUILDS = """
SELECT build, name, period, definition, loads, builds, rows FROM gristmill.builds ORDER BY build
"""
REJECTS = "SELECT load, file, line, rule, reason, raw FROM gristmill.rejects ORDER BY load, line"
MARKS = """
SELECT 'load', table_name, period, load FROM gristmill.current_loads
UNION ALL SELECT 'build', name, period, build FROM gristmill.current_builds ORDER BY 1, 2, 3
"""
SCHEMAS = {"load": "raw", "build": "builds"}
VIEWS = "SELECT viewname FROM pg_views WHERE schemaname = 'public' ORDER BY viewname"


def state(shop: Shop) -> dict[str, Any]:
    """Everything that a load or a build may change; loads and builds numbered without gaps."""
    with closing(shop.connect()) as connection, connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        loads = connection.execute(LOADS).fetchall()
        builds = connection.execute(BUILDS).fetchall()
        load = {row[0]: place for place, row in enumerate(loads)}
        build = {row[0]: place for place, row in enumerate(builds)}
        kinds = {"load": load, "build": build}
        return {
            "views": {
                name: connection.execute(
                    f"SELECT count(*), md5(string_agg(row::text, '|' ORDER BY row::text))"
                    f' FROM public."{name}" AS row'
                ).fetchone()
                for (name,) in connection.execute(VIEWS).fetchall()
            },
            "loads": [row[1:] for row in loads],
            "builds": [
                (*row[1:4], [load[n] for n in row[4]], [build[n] for n in row[5]], row[6])
                for row in builds
            ],
            "rejects": [(load[row[0]], *row[1:]) for row in connection.execute(REJECTS)],
            "marks": [(*row[:3], kinds[row[0]][row[3]]) for row in connection.execute(MARKS)],
        }


TABLES = """
SELECT namespace.nspname, class.relname, class.relkind, parent.relname,
       (SELECT count(*) FROM pg_inherits WHERE inhparent = class.oid)
FROM pg_class AS class
JOIN pg_namespace AS namespace ON namespace.oid = class.relnamespace
LEFT JOIN pg_inherits ON inhrelid = class.oid
LEFT JOIN pg_class AS parent ON parent.oid = inhparent
WHERE namespace.nspname IN ('raw', 'builds') AND class.relkind NOT IN ('i', 'I')
"""
IN_LEDGER = """
SELECT 'raw', table_name || '_' || load, rows FROM gristmill.loads
WHERE status = 'loaded' AND dropped_at IS NULL
UNION ALL SELECT 'builds', name || '_' || build, rows FROM gristmill.builds
WHERE dropped_at IS NULL
"""
COUNTED = """
SELECT loads.file, loads.etag, loads.rows + loads.rejected, loads.rejected, loads.status,
       (SELECT count(*) FROM gristmill.rejects WHERE rejects.load = loads.load)
FROM gristmill.loads ORDER BY loads.load
"""


def check_catalog(shop: Shop, *, is_tidy: bool = True) -> None:
    """No table without its row in the ledger, no row without its table, what is shown attached."""
    with closing(shop.connect()) as connection:
        ledger = {(row[0], row[1]): row[2] for row in connection.execute(IN_LEDGER)}
        found = connection.execute(TABLES).fetchall()
        tables = {(row[0], row[1]): row[3] for row in found if row[2] == "r"}
        assert tables.keys() == ledger.keys()
        for kind, name, _, number in connection.execute(MARKS):
            assert tables[SCHEMAS[kind], f"{name}_{number}"] == name, "shown, and not attached"
        for schema, name, kind, _, children in found:
            assert kind in ("r", "p"), f"{schema}.{name} is a {kind}"
            if kind == "p" and not ("_until_" in name and not is_tidy):
                assert children, f"{schema}.{name} is an orphan"
        for (schema, name), rows in ledger.items():
            counted = connection.execute(f'SELECT count(*) FROM {schema}."{name}"').fetchone()
            assert counted == (rows,), f"{schema}.{name}"


def check_ledger(shop: Shop) -> None:
    """What the ledger says of each file that still is what it was: etag, rows in, rejects."""
    bucket = open_bucket("bucket", root=shop.folder)
    seen = 0
    with closing(shop.connect()) as connection:
        for file, etag, rows, rejected, status, kept in connection.execute(COUNTED):
            if bucket.stat(file).etag != etag:
                continue
            seen += 1
            with (shop.folder / "bucket" / file).open(newline="") as lines:
                assert sum(1 for _ in csv.DictReader(lines)) == rows
            assert kept == rejected
            assert status in ("loaded", "refused")
    assert seen


def check_files(shop: Shop) -> None:
    """The database's folder holds the files of its relations and no other, after a recovery."""
    with closing(shop.connect()) as connection:
        rows = connection.execute(
            "SELECT pg_relation_filepath(oid) FROM pg_class WHERE relkind <> 'v'"
        ).fetchall()
        row = connection.execute(
            "SELECT oid FROM pg_database WHERE datname = current_database()"
        ).fetchone()
    assert row is not None
    folder = f"base/{row[0]}"
    meant = {path for (path,) in rows if path and path.startswith(f"{folder}/")}
    data = shop.server.data
    there = {f"{folder}/{path.name}" for path in (data / folder).iterdir() if path.name.isdigit()}
    assert there == meant


def settle(shop: Shop) -> None:
    """Wait until the server has ended the sessions of whom was killed."""
    deadline = time.monotonic() + 60
    with closing(shop.connect()) as connection:
        while connection.execute(
            "SELECT FROM pg_stat_activity WHERE datname = 'shop' AND pid <> pg_backend_pid()"
            " AND backend_type = 'client backend'"
        ).fetchone():
            assert time.monotonic() < deadline
            time.sleep(0.002)


# --- The kills ------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Expected:
    """The states that there may be."""

    before: dict[str, Any]
    after: dict[str, Any]
    points: int
    seconds: float


def expected(shop: Shop, driver: Driver) -> Expected:
    """What the step does when nobody disturbs it."""
    shop.reset()
    before = state(shop)
    driver.begin(shop)
    result = driver.end()
    assert bool(result["error"]) == ("was refused" in result["error"]) == shop.scenario.refused
    after = state(shop)
    check_catalog(shop)
    check_ledger(shop)
    shop.run_step()
    assert state(shop) == after
    assert before != after
    assert before["views"] != after["views"] or shop.scenario.refused
    points, seconds = result["points"], result["seconds"]
    return Expected(before=before, after=after, points=points, seconds=seconds)


def kill_at_point(shop: Shop, driver: Driver, victim: str, point: int) -> None:
    """Let the step be struck before one exchange."""
    driver.begin(shop, victim=victim, point=point)
    result = driver.end()
    assert result["killed"] == (victim == "step")
    if victim == "server":
        assert embedded.find(shop.home) is None
        assert "does not answer" in result["error"] or "terminat" in result["error"], result


def kill_at_some_time(shop: Shop, driver: Driver, victim: str, seconds: float) -> None:
    """Strike from outside, wherever the step is by then."""
    postmaster = shop.server.pid
    pid = driver.begin(shop)
    time.sleep(seconds)
    children = Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text().split()
    for victim_pid in [pid] if victim == "step" else [postmaster, *map(int, children)]:
        try:
            os.kill(victim_pid, signal.SIGKILL)
        except ProcessLookupError:
            continue  # It was over already; what it did must stand.
    driver.end()


def check_after_kill(shop: Shop, states: Expected, victim: str) -> str:
    """The next command finds a sound database, and ends the work; which state it found."""
    if victim == "server":
        shop.start()
        check_files(shop)
    settle(shop)
    found = state(shop)
    assert found in (states.before, states.after)
    check_catalog(shop, is_tidy=False)
    shop.run_step()
    assert state(shop) == states.after
    check_catalog(shop)
    check_ledger(shop)
    return "before" if found == states.before else "after"


def planned(points: int, budget: int, dice: random.Random) -> list[int | None]:
    """Before which exchanges to strike, and how often at some time (None)."""
    if budget >= points:
        return [*range(1, points + 1), *[None] * (budget - points)]
    some = dice.sample(range(2, points), max(0, (budget + 1) // 2 - 2))
    return [1, *some, points, *[None] * (budget // 2)]


@pytest.mark.parametrize("victim", ["step", "server"])
@pytest.mark.parametrize("name", SCENARIOS)
def test_killed_at_every_exchange_and_at_random_times(
    shop: Shop, driver: Driver, name: str, victim: str, kills: int
) -> None:
    """The load that replaces one is killed at its every exchange; the others too, in `make soak`.

    For lack of time the others are killed at some of theirs only, the first and the last included.
    """
    started = time.monotonic()
    shop.prepare(SCENARIOS[name])
    states = expected(shop, driver)
    budget = max(7, kills * 2 // 5 // (2 * len(SCENARIOS) - 2))
    if name == THOROUGH:
        budget = max(states.points + 5, kills * 3 // 10)
    dice = random.Random(f"{name} {victim} {kills}")
    outcomes = {"before": 0, "after": 0}
    for point in planned(states.points, budget, dice):
        shop.reset()
        if point is not None:
            kill_at_point(shop, driver, victim, point)
        else:
            kill_at_some_time(shop, driver, victim, dice.uniform(0, states.seconds * 1.2))
        outcomes[check_after_kill(shop, states, victim)] += 1
    seconds = time.monotonic() - started
    print(f"\n{name}, {victim}: {outcomes} of {states.points} points, {seconds:.1f} s")
    assert outcomes["before"]
    assert outcomes["after"]
