"""Thirty-six months loaded by Airflow's backfill beside the same months by the command alone."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

EXAMPLE = Path(__file__).parents[1] / "examples/clients"
MONTHS = 36
CUSTOMERS = 20_000
PASSWORD = "benchmark"
DAG = "load_sales_data"
PERIODS = [f"{2023 + one // 12}-{one % 12 + 1:02}" for one in range(MONTHS)]
"""The months of the sample, which ends with 2025."""
SPAN = (f"{PERIODS[0]}-01", f"{PERIODS[-1]}-01")


class Project:
    """The clients project with a folder as its bucket, and its Airflow."""

    def __init__(self, folder: Path, home: Path) -> None:
        self.folder = folder / "project"
        shutil.copytree(EXAMPLE, self.folder)
        file = self.folder / "gristmill.toml"
        # Noticing would load what the backfills are to load.
        never = '[workflows]\nnotice_changes = { steps = ["notice"], schedule = "0 0 29 2 *" }'
        file.write_text(file.read_text().replace("[workflows]", never))
        self.home = home
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.headers = {"content-type": "application/json"}

    def command(self, *words: str, home: Path | None = None) -> subprocess.CompletedProcess[str]:
        """A command of the product's; raises where it fails."""
        done = subprocess.run(
            self.words(*words), env=self.environment(home), capture_output=True, text=True
        )
        if done.returncode:
            raise RuntimeError(f"{words}: {done.stderr}")
        return done

    def words(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "gristmill", "--project", str(self.folder), *words]

    def environment(self, home: Path | None = None) -> dict[str, str]:
        ours = {
            "GRISTMILL_SOURCE": str(self.folder / "bucket"),
            "GRISTMILL_HOME": str(home or self.home),
            "GRISTMILL_AIRFLOW_PASSWORD": PASSWORD,
            # The sample ends with 2025: the run of last month finds no file, four times.
            "AIRFLOW__CORE__DEFAULT_TASK_RETRY_DELAY": "1",
        }
        return {**os.environ, **ours}

    def rewrite(self, seed: int) -> None:
        """Other sales in every month; the first time the whole bucket."""
        sample = self.folder / "sample"
        size = ("--customers", str(CUSTOMERS), "--months", str(MONTHS), "--seed", str(seed))
        self.command("sample", str(sample), *size)
        bucket = self.folder / "bucket"
        if not bucket.exists():
            sample.rename(bucket)
            return
        shutil.rmtree(bucket / "sales")
        (sample / "sales").rename(bucket / "sales")
        shutil.rmtree(sample)

    def ask(self, path: str, body: dict | None = None, *, api: str = "/api/v2") -> dict:
        """What Airflow's REST API answers."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{api}{path}",
            data=json.dumps(body).encode() if body else None,
            headers=self.headers,
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    def start(self) -> subprocess.Popen:
        """Start Airflow; back when it is ready and its first runs are over."""
        output = self.folder / "airflow.txt"
        with output.open("wb") as said:
            server = subprocess.Popen(
                self.words("airflow", "--port", str(self.port)),
                env=self.environment(), stdout=said, stderr=subprocess.STDOUT,
            )  # fmt: skip
        wait(lambda: "Airflow is ready" in output.read_text())
        who = {"username": "airflow", "password": PASSWORD}
        token = self.ask("/auth/token", who, api="")["access_token"]
        self.headers["authorization"] = f"Bearer {token}"
        wait(lambda: self.ask(f"/dags/{DAG}/dagRuns")["total_entries"] > 0)
        wait(self.is_idle)
        return server

    def is_idle(self) -> bool:
        return not any(
            self.ask(f"/dags/~/dagRuns?state={state}")["total_entries"]
            for state in ("running", "queued")
        )

    def wait_for_backfill(self) -> None:
        """Until every month is in, and what follows from it is done."""

        def completed() -> bool:
            found = self.ask(f"/backfills?dag_id={DAG}")["backfills"]
            return bool(found) and all(one["completed_at"] for one in found)

        wait(completed)
        wait(self.is_idle)

    def sales(self, home: Path) -> str:
        """A digest of all sales."""
        query = "SELECT md5(string_agg(sales::text, ',' ORDER BY sales)) FROM public.sales"
        return self.command("psql", "--", "-Atc", query, home=home).stdout.strip()


def wait(condition: Callable[[], bool]) -> None:
    """Until it is so; an API server that is too busy to answer is asked again."""
    while True:
        try:
            if condition():
                return
        except OSError:
            pass
        time.sleep(0.1)


def backfill(folder: Path, home: Path, _: int, __: int) -> dict:
    """The same months four ways, the files rewritten in between; rows compared each time."""
    project = Project(folder, home)
    alone = folder / "alone"
    project.rewrite(0)
    project.command("load", home=alone)
    project.command("load")
    server = project.start()
    rows = []

    def measure(way: str, seed: int, act: Callable[[], object], home: Path) -> None:
        project.rewrite(seed)
        started = time.monotonic()
        act()
        seconds = time.monotonic() - started
        rows.append({"way": way, "seconds": seconds, "a month": seconds / MONTHS})
        if home == project.home:
            project.command("load", "sales", home=alone)
            if project.sales(home) != project.sales(alone):
                raise RuntimeError(f"{way}: the rows are not those of `gristmill load`")

    def by_command_line() -> None:
        span = ("--from-date", SPAN[0], "--to-date", SPAN[1])
        project.command("airflow", "--", "backfill", "create", "--dag-id", DAG, *span)
        project.wait_for_backfill()

    def by_rest() -> None:
        span = {"from_date": f"{SPAN[0]}T00:00:00Z", "to_date": f"{SPAN[1]}T00:00:00Z"}
        project.ask("/backfills", {"dag_id": DAG, "reprocess_behavior": "completed", **span})
        project.wait_for_backfill()

    def month_by_month() -> None:
        for period in PERIODS:
            project.command("load", "stores", "sales", "--period", period, home=alone)

    try:
        measure("backfill by the command line", 1, by_command_line, home)
        measure("backfill by REST", 2, by_rest, home)
    finally:
        project.command("down")
        server.wait()
    measure("`gristmill load --period`, one after the other", 3, month_by_month, alone)
    measure(
        "`gristmill load`, all in one", 4,
        lambda: project.command("load", "sales", home=alone), alone,
    )  # fmt: skip
    project.command("down", home=alone)
    count = sum(file.read_bytes().count(b"\n") - 1 for file in project.folder.rglob("sales.csv"))
    return {"what": f"{MONTHS} months of {count // MONTHS:,} sales, rewritten", "rows": rows}
