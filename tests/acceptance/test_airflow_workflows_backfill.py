"""Months loaded again by Airflow's backfill, from the command line and by REST.

Four months in every run; `--months 36` for three years.
"""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from .airflow_stack import Stack, until
from .installation import Installation

pytestmark = pytest.mark.xdist_group("airflow")

DAG = "load_sales_data"
LAST = "2025-12"
"""The last month of every sample."""


@pytest.fixture(scope="module")
def months(request: pytest.FixtureRequest) -> list[str]:
    count = request.config.getoption("--months")
    last = 2025 * 12 + 11
    return [f"{one // 12}-{one % 12 + 1:02}" for one in range(last - count + 1, last + 1)]


@pytest.fixture(scope="module")
def stack(airflow_stack: Stack) -> Iterator[Stack]:
    """The Airflow of all tests, which meanwhile starts no run by itself for what changes."""
    until(lambda: airflow_stack.runs("notice_changes"), "the DAGs")
    airflow_stack.ask("PATCH", "/dags/notice_changes", json={"is_paused": True})
    until(airflow_stack.is_idle, "the end of all runs")
    yield airflow_stack
    airflow_stack.ask("PATCH", "/dags/notice_changes", json={"is_paused": False})


@pytest.fixture(scope="module")
def beside(stack: Stack) -> Iterator[Installation]:
    """The same project and bucket with a database of its own, loaded by the command alone."""
    folder = Path(tempfile.mkdtemp(prefix="gristmill-beside-", dir="/tmp"))
    folder.chmod(0o711)
    installation = replace(stack.installation, home=folder / "home")
    yield installation
    installation.run("down")
    shutil.rmtree(folder)


@pytest.fixture
def rewrite(stack: Stack, months: list[str], tmp_path: Path) -> Callable[[int], None]:
    """Puts other sales of every month into the bucket."""

    def call(seed: int) -> None:
        size = ("--customers", "500", "--months", str(len(months)), "--seed", str(seed))
        stack.installation.run("sample", str(tmp_path / "sample"), *size)
        shutil.rmtree(tmp_path / "sales", ignore_errors=True)
        (tmp_path / "sample" / "sales").rename(tmp_path / "sales")
        shutil.rmtree(tmp_path / "sample")
        stack.put(tmp_path)

    return call


def sales(installation: Installation) -> list[tuple]:
    with installation.connect() as connection:
        return connection.execute("SELECT * FROM public.sales ORDER BY 1, 2, 3").fetchall()


def loads(installation: Installation) -> int:
    with installation.connect() as connection:
        return connection.execute("SELECT count(*) FROM gristmill.loads").fetchone()[0]


def wait_for_backfills(stack: Stack) -> None:
    def completed() -> bool:
        found = stack.ask("GET", "/backfills", params={"dag_id": DAG})["backfills"]
        return bool(found) and all(one["completed_at"] for one in found)

    until(completed, "the end of the backfill")
    until(stack.is_idle, "the end of all runs")


def backfilled(stack: Stack) -> dict[str, str]:
    """How the runs of backfills ended, by month."""
    return {
        run["logical_date"][:7]: run["state"]
        for run in stack.runs(DAG)
        if run["run_type"] == "backfill"
    }


def test_by_the_command_line(
    stack: Stack, beside: Installation, months: list[str], rewrite: Callable[[int], None]
) -> None:
    rewrite(1)
    before = loads(stack.installation)
    span = ("--from-date", f"{months[0]}-01", "--to-date", f"{months[-1]}-01")
    stack.installation.run(
        "airflow", "--", "backfill", "create", "--dag-id", DAG, *span, "--max-active-runs", "4"
    )
    wait_for_backfills(stack)

    assert backfilled(stack) == dict.fromkeys(months, "success")
    assert loads(stack.installation) == before + len(months)
    beside.run("load", "sales")
    assert sales(stack.installation) == sales(beside)


def test_by_rest_and_once_more(
    stack: Stack, beside: Installation, months: list[str], rewrite: Callable[[int], None]
) -> None:
    rewrite(2)
    before = loads(stack.installation)
    wanted = {
        "dag_id": DAG,
        "from_date": f"{months[0]}-01T00:00:00Z",
        "to_date": f"{months[-1]}-01T00:00:00Z",
        "reprocess_behavior": "completed",
        "max_active_runs": 4,
    }
    stack.ask("POST", "/backfills", json=wanted)
    wait_for_backfills(stack)

    assert backfilled(stack) == dict.fromkeys(months, "success")
    assert loads(stack.installation) == before + len(months)
    beside.run("load", "sales")
    assert sales(stack.installation) == sales(beside)

    # Nothing changed since: it runs again and loads nothing twice.
    stack.ask("POST", "/backfills", json=wanted)
    wait_for_backfills(stack)
    assert loads(stack.installation) == before + len(months)


def test_a_month_can_be_asked_for_and_only_a_month(stack: Stack) -> None:
    def run(conf: dict[str, str]) -> tuple[str, str]:
        body = {"logical_date": None, "conf": conf}
        name = stack.ask("POST", f"/dags/{DAG}/dagRuns", json=body)["dag_run_id"]
        states = ("success", "failed")

        def state() -> str | None:
            found = stack.ask("GET", f"/dags/{DAG}/dagRuns/{name}")["state"]
            return found if found in states else None

        ended = until(state, "the run")
        task = stack.tasks(DAG, name)["load"]
        return ended, stack.log(DAG, name, "load", attempt=task["try_number"])

    assert run({"month": LAST})[0] == "success"
    ended, said = run({})
    assert ended == "failed"
    assert "start it with the parameter month, or all" in said
    refused = pytest.raises(AssertionError, match="month")
    with refused:
        run({"month": "2025-12; touch /tmp/owned"})
