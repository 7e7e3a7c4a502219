"""The mission's project on a sample bucket: tables against files, an answer on record."""

import csv
import json
import socket
import subprocess
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psycopg
import pytest

pytestmark = pytest.mark.xdist_group("clients")  # one installation for all

CUSTOMERS = 3000
MONTHS = 4

Row = dict[str, str]


def read(file: Path) -> list[Row]:
    with file.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bucket of the installation, written by it."""
    return tmp_path_factory.mktemp("clients") / "bucket"


@pytest.fixture(scope="module")
def installation(install: Callable, bucket: Path):
    installation = install("clients", source=bucket)
    size = ("--customers", str(CUSTOMERS), "--months", str(MONTHS))
    installation.run("sample", str(bucket), *size)
    installation.run("run")
    return installation


@pytest.fixture(scope="module")
def connection(installation) -> Iterator:
    with installation.connect() as connection:
        yield connection


def sales_by_store(bucket: Path) -> dict[tuple[int, str], list[float]]:
    found: dict[tuple[int, str], list[float]] = defaultdict(list)
    for file in bucket.glob("sales/*/sales.csv"):
        for row in read(file):
            found[int(row["store_idx"]), row["date"][:7] + "-01"].append(float(row["value"]))
    return found


def latest_activity(bucket: Path) -> dict[str, Row]:
    """Rows are in order of valid_from, so the last of a client is the latest."""
    return {row["idx"]: row for row in read(bucket / "customer_activity.csv")}


@pytest.mark.parametrize("table", ["customer_profiles", "customer_activity", "labels", "stores"])
def test_a_table_is_its_file(connection, bucket: Path, table: str) -> None:
    rows = read(bucket / f"{table}.csv")
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT * FROM public.{table}")
        names = [column.name for column in cursor.description]
        found = cursor.fetchall()

    def as_text(row: tuple) -> tuple[str, ...]:
        return tuple("" if value is None else str(value) for value in row)

    def as_number(row: Row) -> tuple[str, ...]:
        return tuple(str(float(value)) if name == "scd_a" else value for name, value in row.items())

    assert names == list(rows[0])
    assert sorted(map(as_text, found)) == sorted(map(as_number, rows))


def test_sales_are_those_of_all_months(connection, bucket: Path) -> None:
    months = connection.execute(
        "SELECT to_char(date, 'YYYY-MM-01'), count(*), sum(value::numeric) "
        "FROM public.sales GROUP BY 1"
    ).fetchall()
    expected = {file.parent.name: read(file) for file in bucket.glob("sales/*/sales.csv")}

    assert len(expected) == MONTHS
    assert {month: (count, float(value)) for month, count, value in months} == {
        month: (len(rows), pytest.approx(sum(float(row["value"]) for row in rows)))
        for month, rows in expected.items()
    }


def test_monthly_sales_add_up(connection, bucket: Path) -> None:
    location = {int(row["idx"]): row["location"] for row in read(bucket / "stores.csv")}
    rows = connection.execute(
        "SELECT store_idx, sale_month::text, location, value FROM public.monthly_sales"
    ).fetchall()

    assert {(store, month): (place, value) for store, month, place, value in rows} == {
        (store, month): (location[store], pytest.approx(sum(values)))
        for (store, month), values in sales_by_store(bucket).items()
    }
    assert len(rows) == len(sales_by_store(bucket))


def test_sales_statistics_add_up_and_are_shown(installation, connection, bucket: Path) -> None:
    rows = connection.execute(
        "SELECT store_idx, sale_month::text, average_sale, number_of_sales "
        "FROM public.sales_statistics"
    ).fetchall()
    expected = sales_by_store(bucket)

    assert {(store, month): (average, count) for store, month, average, count in rows} == {
        key: (pytest.approx(sum(values) / len(values)), len(values))
        for key, values in expected.items()
    }
    shown = installation.run("show", "sales_statistics")
    assert "average_sale" in shown
    assert "number_of_sales" in shown


def test_activity_is_ranked_from_the_latest(connection, bucket: Path) -> None:
    histories: dict[int, list[str]] = defaultdict(list)
    for row in read(bucket / "customer_activity.csv"):
        histories[int(row["idx"])].append(row["valid_from"])
    rows = connection.execute(
        "SELECT idx, rank, valid_from::text FROM public.customer_activity_ranked"
    ).fetchall()

    assert {(idx, rank): start for idx, rank, start in rows} == {
        (idx, rank): start
        for idx, starts in histories.items()
        for rank, start in enumerate(sorted(starts, reverse=True), start=1)
    }


def test_the_feature_store_has_one_row_for_each_client(connection, bucket: Path) -> None:
    labels = {row["idx"]: int(row["label"]) for row in read(bucket / "labels.csv")}
    latest = latest_activity(bucket)
    expected = {
        int(row["idx"]): (
            int(row["attr_a"]),
            row["attr_b"],
            float(latest[row["idx"]]["scd_a"]) if row["idx"] in latest else None,
            int(latest[row["idx"]]["scd_b"]) if row["idx"] in latest else None,
            labels.get(row["idx"]),
        )
        for row in read(bucket / "customer_profiles.csv")
    }
    rows = connection.execute(
        "SELECT idx, attr_a, attr_b, scd_a, scd_b, label FROM public.feature_store"
    ).fetchall()

    assert len(rows) == CUSTOMERS
    assert {row[0]: row[1:] for row in rows} == expected


def test_the_signal_is_found_and_promoted(connection) -> None:
    verdict, evaluation = connection.execute(
        "SELECT verdict, evaluation FROM gristmill.model_versions JOIN gristmill.promotions "
        "USING (version)"
    ).fetchone()

    assert verdict == "promote"
    assert evaluation["roc_auc"]["low"] > 0.6


def test_noise_is_refused(install: Callable, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("noise") / "bucket"
    installation = install("clients", source=folder)
    size = ("--customers", str(CUSTOMERS), "--months", "1")
    installation.run("sample", str(folder), *size, "--labels", "random")
    installation.run("run")

    with installation.connect() as connection:
        versions = connection.execute("SELECT verdict FROM gristmill.model_versions").fetchall()
        promotions = connection.execute("SELECT count(*) FROM gristmill.promotions").fetchone()
    assert versions in ([("refuse",)], [("cannot tell",)])
    assert promotions == (0,)


def test_the_data_scientist_reads_and_changes_nothing(installation) -> None:
    with installation.connect("ds_user") as reader:
        rows = reader.execute("SELECT count(*) FROM public.feature_store").fetchone()
        assert rows == (CUSTOMERS,)
        for statement in (
            "DELETE FROM public.sales",
            "UPDATE public.labels SET label = 1",
            "INSERT INTO public.stores VALUES (0, 'nowhere')",
            "CREATE TABLE public.mine (x integer)",
            "SELECT count(*) FROM raw.sales",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                reader.execute(statement)


def test_a_second_run_loads_and_builds_nothing(installation, connection) -> None:
    counts = (
        "SELECT (SELECT max(load) FROM gristmill.loads), (SELECT max(build) FROM gristmill.builds)"
    )
    before = connection.execute(counts).fetchone()
    installation.run("load")
    installation.run("build")

    assert connection.execute(counts).fetchone() == before


@pytest.fixture
def service(installation) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        installation.command("serve", "--port", str(port)),
        env=installation.variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        assert until(lambda: server.poll() is not None or answers(f"{url}/ready"))
        assert server.poll() is None, server.stdout.read()
        yield url
    finally:
        server.terminate()
        server.communicate(timeout=60)


def answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def until(condition: Callable[[], object], seconds: float = 60) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.1)
    return False


def test_the_request_of_the_mission_is_answered_and_on_record(service: str, connection) -> None:
    features = {"attr_a": 1, "attr_b": "c", "scd_a": 0.55, "scd_b": 3}
    answer = httpx.post(
        f"{service}/predict", json={"idx": 150000, "features": features}, timeout=30
    )
    assert answer.status_code == 200, answer.text
    given = answer.json()
    assert given.keys() >= {"label", "probability", "model_version", "prediction_id"}

    def recorded() -> tuple | None:
        return connection.execute(
            "SELECT entity, features, probability, label, model_version "
            "FROM gristmill.predictions WHERE prediction_id = %s",
            (given["prediction_id"],),
        ).fetchone()

    assert until(recorded)
    assert recorded() == (
        "150000",
        features,
        given["probability"],
        given["label"],
        given["model_version"],
    )


def test_a_client_is_answered_from_the_feature_store(
    service: str, connection, bucket: Path
) -> None:
    client = next(iter(latest_activity(bucket)))
    answer = httpx.get(f"{service}/predict/{client}", timeout=30)
    assert answer.status_code == 200, answer.text
    stored = connection.execute(
        "SELECT attr_a, attr_b, scd_a, scd_b FROM public.feature_store WHERE idx = %s", (client,)
    ).fetchone()
    features = dict(zip(("attr_a", "attr_b", "scd_a", "scd_b"), stored, strict=True))
    same = httpx.post(
        f"{service}/predict", json={"idx": int(client), "features": features}, timeout=30
    )

    assert answer.json()["probability"] == same.json()["probability"]
    assert httpx.get(f"{service}/predict/1", timeout=30).status_code == 404


def test_answers_are_traced_to_the_lines_of_the_files(
    installation, service: str, bucket: Path
) -> None:
    client = next(row["idx"] for row in read(bucket / "labels.csv"))
    lines = {
        (table, number)
        for table in ("customer_profiles.csv", "customer_activity.csv", "labels.csv")
        for number, line in enumerate((bucket / table).read_text().splitlines(), start=1)
        if line.split(",")[0] == client
    }
    stored = httpx.get(f"{service}/predict/{client}", timeout=30).json()
    given = {**stored["features"], "attr_a": stored["features"]["attr_a"] + 1}
    asked = {"idx": int(client), "features": given}
    sent = httpx.post(f"{service}/predict", json=asked, timeout=30).json()

    def shipped(answer: dict) -> dict:
        """What is traced of an answer, once it is in the database."""
        command = installation.command("trace", answer["prediction_id"], "--json")
        while True:
            done = subprocess.run(
                command, env=installation.variables, capture_output=True, text=True
            )
            if done.returncode == 0:
                return json.loads(done.stdout)
            assert "was given and" in done.stderr

    for answer, differing in ((stored, []), (sent, ["attr_a"])):
        found = shipped(answer)
        sources = {source["name"]: source for source in found["stored"]["sources"]}
        places = {(row["file"], row["line"]) for one in sources.values() for row in one["rows"]}
        assert places == lines
        assert [one["name"] for one in found["features"] if one["differs"]] == differing
        latest = latest_activity(bucket).get(client)
        activity = sources["customer_activity"]
        counted = [row["values"]["valid_from"] for row in activity["rows"] if row["counted"]]
        assert counted == ([latest["valid_from"]] if latest else [])
    printed = installation.run("trace", sent["prediction_id"])
    assert f"≠  {stored['features']['attr_a']}" in printed


def test_models_are_listed_for_programs(installation) -> None:
    listed = json.loads(installation.run("models", "--json"))

    assert "promote" in json.dumps(listed)
