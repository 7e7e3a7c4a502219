"""Many periods: one that changed among 120, and queries through the view before and after tidy."""

import statistics
import time
from pathlib import Path

from benchmarks import data
from gristmill.bucket.bucket import open_bucket
from gristmill.loading.tables import find_files, load_pending, pending_files
from gristmill.loading.tidy import tidy_loads
from gristmill.warehouse import embedded
from gristmill.warehouse.migrate import migrate

MONTHS = [f"{year}-{month:02}" for year in range(2016, 2026) for month in range(1, 13)]
ROWS = 20_000


def one_changed(folder: Path, home: Path, _: int, rounds: int) -> dict:
    load, bucket = _filled(folder, home)
    first = load()
    nothing = [load() for _ in range(rounds)]
    changed = []
    for number in range(rounds):
        data.write_month(bucket / f"sales/{MONTHS[60]}.csv", MONTHS[60], ROWS + number + 1)
        changed.append(load())
    return {
        "what": f"sales of {len(MONTHS)} months, {ROWS:,} rows each, in a folder",
        "rows": [
            {"what": "the first load of all", "seconds": first},
            {"what": "one month changed", "seconds": statistics.median(changed)},
            {"what": "nothing changed", "seconds": statistics.median(nothing)},
        ],
    }


def through_the_view(folder: Path, home: Path, _: int, rounds: int) -> dict:
    load, bucket = _filled(folder, home)
    load()
    warehouse = embedded.start(home, database="benchmark", owner="admin")
    clean = _query(warehouse, rounds)
    for month in MONTHS * 2:
        path = bucket / f"sales/{month}.csv"
        path.write_bytes(path.read_bytes() + b"1," + f"{month}-01".encode() + b",1.0\n")
        if month == MONTHS[-1]:
            load()
    superseded = _query(warehouse, rounds)
    tidied = tidy_loads(warehouse, [])
    return {
        "what": "SELECT sum(value) of one month's days, and of all, through public.sales; "
        f"tidy dropped {tidied.dropped} loads",
        "rows": [
            {"attached": "120 loads, all current", **clean},
            {"attached": "360 loads, 240 superseded", **superseded},
            {"attached": "after tidy: 240 loads", **_query(warehouse, rounds)},
        ],
    }


def _filled(folder: Path, home: Path):
    bucket = folder / "bucket"
    for month in MONTHS:
        data.write_month(bucket / f"sales/{month}.csv", month, ROWS)
    warehouse = embedded.start(home, database="benchmark", owner="admin")
    migrate(warehouse)
    opened = open_bucket(str(bucket), root=folder)

    def load() -> float:
        started = time.monotonic()
        files = find_files(data.SALES, opened)
        pending = pending_files(data.SALES, files, warehouse, again=False)
        load_pending(
            data.SALES, pending, files, opened, warehouse,
            again=False, progress=lambda _: None, report=lambda _: None,
        )  # fmt: skip
        return time.monotonic() - started

    return load, bucket


def _query(warehouse, rounds: int) -> dict:
    def median(query: str) -> float:
        found = []
        with warehouse.transaction() as transaction:
            transaction.value(query)
            for _ in range(max(rounds, 5)):
                started = time.monotonic()
                transaction.value(query)
                found.append((time.monotonic() - started) * 1000)
        return statistics.median(found)

    month = "WHERE date BETWEEN '2021-01-01' AND '2021-01-31'"
    return {
        "a month, ms": median(f"SELECT sum(value) FROM public.sales {month}"),
        "all, ms": median("SELECT sum(value) FROM public.sales"),
    }
