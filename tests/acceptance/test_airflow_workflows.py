"""The schedule runs itself: from a filled bucket to answers, and on through what changes in it.

Nobody touches Airflow here but where a test says so. The tests go in their order: the bucket
changes from one to the next.
"""

import csv
import io
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import psycopg
import pytest
from playwright.sync_api import sync_playwright

from .airflow_stack import PASSWORD, PATIENCE, Stack, free_port, until

pytestmark = pytest.mark.xdist_group("airflow")

FEATURES = {"attr_a": 1, "attr_b": "c", "scd_a": 0.55, "scd_b": 3}
MONTHS = ["2025-09", "2025-10", "2025-11", "2025-12"]


def panels(view: str, left: int) -> dict[str, str]:
    """How wide the left one of a page's two panels is, as Airflow's pages remember it."""
    layout = {"expandToSizes": {}, "layout": [left, 100 - left]}
    key = f"react-resizable-panels:{view}-ltr"
    return {key: json.dumps({"details-panel,main-panel": layout})}


PICTURES = [
    ("list", {}, "/dags", ["load_client_data", "load_sales_data", "notice_changes"]),
    (
        "grid",
        panels("grid", 45),
        "/dags/load_sales_data",
        ["load", "Runs", "Backfills", "Failed Runs"],
    ),
    (
        "graph",
        {"default_dag_view": '"graph"', "dependencies-process_data": '"all"'}
        | panels("graph", 100),
        "/dags/process_data",
        ["build", "done", "load_client_data", "load_sales_data", "train_model"],
    ),
]
"""Name of the picture, what the browser remembers, the page, and what has to be seen on it."""


def sales_file(month: str) -> str:
    return f"sales/{month}-01/sales.csv"


def rows_of(stack: Stack, path: str) -> list[dict[str, str]]:
    text = stack.bucket.Object(path).get()["Body"].read().decode()
    return list(csv.DictReader(io.StringIO(text)))


def totals(rows: list[dict[str, str]]) -> tuple[int, float]:
    return len(rows), pytest.approx(sum(float(row["value"]) for row in rows))


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


@pytest.fixture(scope="module")
def connection(airflow_stack: Stack) -> Iterator[psycopg.Connection]:
    with airflow_stack.installation.connect() as connection:
        yield connection


@pytest.fixture(scope="module")
def champion(airflow_stack: Stack, connection: psycopg.Connection) -> str:
    """The version that Airflow's own runs have trained and promoted."""

    def promoted() -> tuple | None:
        return connection.execute("SELECT version FROM gristmill.promotions").fetchone()

    return str(until(promoted, "a champion")[0])


@pytest.fixture(scope="module")
def service(airflow_stack: Stack, champion: str) -> Iterator[str]:
    port = free_port()
    command = airflow_stack.installation.command("serve", "--port", str(port))
    server = subprocess.Popen(command, env=airflow_stack.installation.variables)
    url = f"http://127.0.0.1:{port}"

    def is_ready() -> bool:
        assert server.poll() is None
        try:
            return httpx.get(f"{url}/ready", timeout=5).status_code == 200
        except httpx.TransportError:
            return False

    try:
        until(is_ready, "the API")
        yield url
    finally:
        server.terminate()
        server.wait(timeout=120)


def answering_version(service: str) -> str:
    asked = {"idx": 150000, "features": FEATURES}
    answer = httpx.post(f"{service}/predict", json=asked, timeout=60)
    assert answer.status_code == 200, answer.text
    return answer.json()["model_version"]


def sales_by_month(connection: psycopg.Connection) -> dict[str, tuple[int, float]]:
    found = connection.execute(
        "SELECT to_char(date, 'YYYY-MM'), count(*), sum(value::numeric)::float "
        "FROM public.sales GROUP BY 1"
    )
    return {month: (count, value) for month, count, value in found}


def test_a_cold_start_ends_in_answers(
    airflow_stack: Stack, connection: psycopg.Connection, champion: str, service: str
) -> None:
    until(airflow_stack.is_idle, "the end of all runs")

    assert answering_version(service) == champion
    assert connection.execute("SELECT count(*) FROM gristmill.model_versions").fetchone() == (1,)
    assert sales_by_month(connection) == {
        month: totals(rows_of(airflow_stack, sales_file(month))) for month in MONTHS
    }
    built = connection.execute(
        "SELECT count(*), sum(number_of_sales) FROM public.sales_statistics"
    ).fetchone()
    sold = [row for month in MONTHS for row in rows_of(airflow_stack, sales_file(month))]
    assert built == (
        len({(row["store_idx"], row["date"][:7]) for row in sold}),
        len(sold),
    )


def test_every_past_month_had_a_run_and_training_waited_for_them(
    airflow_stack: Stack, connection: psycopg.Connection
) -> None:
    loads = airflow_stack.runs("load_sales_data")
    of_months = {run["conf"]["month"]: run for run in loads if run["conf"]}
    assert sorted(of_months) == MONTHS
    assert {run["state"] for run in of_months.values()} == {"success"}

    trainings = [
        airflow_stack.tasks("train_model", run["dag_run_id"])["train"]
        for run in airflow_stack.runs("train_model")
    ]
    builds = [
        airflow_stack.tasks("process_data", run["dag_run_id"])["build"]
        for run in airflow_stack.runs("process_data")
    ]
    assert {one["state"] for one in [*trainings, *builds]} <= {"success", "skipped"}
    trained = [one for one in trainings if one["state"] == "success"]
    built = [one for one in builds if one["state"] == "success"]
    assert (len(trained), len(built)) == (1, 1)
    assert moment(trained[0]["start_date"]) >= moment(built[0]["end_date"])
    loaded, built_at = connection.execute(
        "SELECT (SELECT max(loaded_at) FROM gristmill.loads), "
        "(SELECT min(built_at) FROM gristmill.builds)"
    ).fetchone()
    assert loaded < built_at


def test_a_month_without_a_file_is_tried_again_and_fails_by_name(airflow_stack: Stack) -> None:
    first_of_month = datetime.now(UTC).date().replace(day=1)
    month = f"{first_of_month - timedelta(days=1):%Y-%m}"

    def failed() -> list:
        return [
            run
            for run in airflow_stack.runs("load_sales_data")
            if run["run_type"] == "scheduled" and run["state"] == "failed"
        ]

    (run,) = until(failed, "the run of the month without a file")
    task = airflow_stack.tasks("load_sales_data", run["dag_run_id"])["load"]
    assert (task["state"], task["try_number"]) == ("failed", 4)
    said = airflow_stack.log("load_sales_data", run["dag_run_id"], "load", attempt=4)
    assert f"the bucket has no file for {month} ({sales_file(month)})" in said


def test_what_tasks_say_is_in_the_terminal_by_dag_run_and_task(airflow_stack: Stack) -> None:
    printed = airflow_stack.printed()
    for month in MONTHS:
        count = len(rows_of(airflow_stack, sales_file(month)))
        line = rf"load_sales_data noticed__{month}\S* load \| sales: loaded {count:,} rows"
        assert re.search(line, printed), printed
    assert re.search(r"train_model asset_triggered\S* train \| version 1: promote", printed)
    assert re.search(r"process_data asset_triggered\S* build \| feature_store: built", printed)


def test_statistics_are_printed_by_hand(airflow_stack: Stack) -> None:
    run = airflow_stack.ask("POST", "/dags/sales_statistics/dagRuns", json={"logical_date": None})
    name = run["dag_run_id"]

    def state() -> str | None:
        found = airflow_stack.ask("GET", f"/dags/sales_statistics/dagRuns/{name}")["state"]
        return found if found in ("success", "failed") else None

    assert until(state, "the statistics") == "success"
    said = airflow_stack.log("sales_statistics", name, "show_sales_statistics")
    assert re.search(r"store_idx\s+sale_month\s+average_sale\s+number_of_sales", said)
    assert len(re.findall(r"2025-\d\d-01", said)) >= 48


def test_new_rewritten_and_deleted_files_flow_through(
    airflow_stack: Stack, connection: psycopg.Connection, service: str
) -> None:
    before = sales_by_month(connection)
    runs_before = {run["dag_run_id"] for run in airflow_stack.runs("load_sales_data")}
    activity = airflow_stack.bucket.Object("customer_activity.csv")
    lines = activity.get()["Body"].read().splitlines(keepends=True)
    header = "store_idx,date,value\n"
    changes = {
        "2026-01": header + "1,2026-01-05,10.5\n2,2026-01-06,20.25\n",
        "2025-11": header + "3,2025-11-30,7.75\n",
    }

    airflow_stack.bucket.Object(sales_file("2025-10")).delete()
    for month, text in changes.items():
        airflow_stack.bucket.put_object(Key=sales_file(month), Body=text.encode())
    activity.put(Body=b"".join(lines[:-500]))

    def is_judged() -> bool:
        query = "SELECT count(*) FROM gristmill.model_versions"
        return connection.execute(query).fetchone() == (2,)

    until(is_judged, "a second version")
    until(airflow_stack.is_idle, "the end of all runs")
    assert is_judged(), "trained more than once for one change"

    assert sales_by_month(connection) == before | {"2026-01": (2, 30.75), "2025-11": (1, 7.75)}
    monthly = connection.execute(
        "SELECT to_char(sale_month, 'YYYY-MM'), sum(value)::float FROM public.monthly_sales "
        "WHERE sale_month >= '2025-10-01' AND sale_month <> '2025-12-01' GROUP BY 1 ORDER BY 1"
    ).fetchall()
    assert monthly == [("2025-10", pytest.approx(before["2025-10"][1])), ("2025-11", 7.75),
                       ("2026-01", 30.75)]  # fmt: skip
    assert connection.execute("SELECT count(*) FROM public.customer_activity").fetchone() == (
        len(lines) - 501,
    )
    noticed = [
        run["conf"]["month"]
        for run in airflow_stack.runs("load_sales_data")
        if run["conf"] and run["dag_run_id"] not in runs_before
    ]
    assert sorted(noticed) == ["2025-11", "2026-01"]
    printed = airflow_stack.printed()
    assert re.search(rf"\| {re.escape(sales_file('2025-10'))} is gone, its rows stay", printed)
    assert re.search(r"load \| +sales: rewritten: 2025-11", printed)
    (champion,) = connection.execute(
        "SELECT version FROM gristmill.promotions ORDER BY promoted_at DESC LIMIT 1"
    ).fetchone()
    until(lambda: answering_version(service) == str(champion), "answers of the champion")
    found = json.loads(airflow_stack.installation.run("pending", "--json"))
    assert (found["files"], found["lacking"]) == ([], [])


def test_the_pages_show_the_dags_their_runs_and_their_graph(
    airflow_stack: Stack, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """With --pictures they go into the documentation."""
    folder = request.config.rootpath / "docs/images"
    folder = folder if request.config.getoption("--pictures") else tmp_path
    chromium = shutil.which("chromium")
    assert chromium, "The pages are looked at in Chromium: apt-get install chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium)
        page = browser.new_page(viewport={"width": 1280, "height": 720})
        page.set_default_timeout(PATIENCE * 1000)
        page.goto(airflow_stack.url)
        page.fill("input[name=username]", "airflow")
        page.fill("input[name=password]", PASSWORD)
        page.click("input[type=submit]")
        page.wait_for_url(f"{airflow_stack.url}/")
        for name, kept, address, texts in PICTURES:
            page.evaluate("(kept) => Object.assign(localStorage, kept)", kept)
            page.goto(f"{airflow_stack.url}{address}")
            for text in texts:
                page.get_by_text(text, exact=True).first.wait_for()
            page.wait_for_load_state("networkidle")
            page.screenshot(path=folder / f"airflow-{name}.png")
        browser.close()
