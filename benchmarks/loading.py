"""A big history into Postgres: ours from a folder and from S3, `\\copy`, pandas."""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks import data, s3
from gristmill.warehouse import embedded
from gristmill.warehouse.migrate import migrate
from gristmill.warehouse.programs import find_programs

PANDAS_ROWS = 200_000
"""to_sql takes minutes for more; its time grows with the rows, so it is extrapolated."""


def clean(folder: Path, home: Path, rows: int, rounds: int) -> dict:
    return _compare(folder, home, rows, rounds, dirty=0.0)


def dirty(folder: Path, home: Path, rows: int, rounds: int) -> dict:
    return _compare(folder, home, rows, rounds, dirty=0.005)


def _compare(folder: Path, home: Path, rows: int, rounds: int, *, dirty: float) -> dict:
    bucket = folder / "bucket"
    bucket.mkdir()
    path = bucket / data.ACTIVITY.path
    data.write_activity(path, rows, dirty=0.0)
    warehouse = embedded.start(home, database="benchmark", owner="admin")
    migrate(warehouse)
    url = warehouse.url
    limit = bucket / "clean.csv"
    path.rename(limit)
    data.write_activity(path, rows, dirty=dirty)
    with s3.serving(bucket) as (source, environment):
        ways: dict[str, Callable[[], dict]] = {
            r"psql `\copy`, primary key after: the limit": lambda: _copy(url, limit),
            "ours, from a folder": lambda: _ours(url, str(bucket), {}),
            "ours, from S3": lambda: _ours(url, source, environment),
            "ours, from a folder, validity checked too": lambda: _ours(
                url, str(bucket), {}, table="HISTORY"
            ),
            "ours, from S3, validity checked too": lambda: _ours(
                url, source, environment, table="HISTORY"
            ),
        }
        if not dirty:
            ways[f"pandas to_sql ({PANDAS_ROWS:,} rows, extrapolated)"] = lambda: _pandas(
                url, path, rows
            )
        measured: dict[str, list[dict]] = {name: [] for name in ways}
        for _ in range(rounds):
            for name, way in ways.items():
                measured[name].append(way())
    best = statistics.median(one["seconds"] for one in next(iter(measured.values())))
    return {
        "what": f"{rows:,} rows of activity ({path.stat().st_size >> 20} MiB), "
        f"{dirty:.1%} of them wrong, medians of {rounds}",
        "rows": [_row(name, found, best) for name, found in measured.items()],
    }


def _row(name: str, found: list[dict], limit: float) -> dict:
    seconds = statistics.median(one["seconds"] for one in found)
    memory = max(one["megabytes"] for one in found)
    return {
        "way": name,
        "seconds": seconds,
        "speed, × the limit": limit / seconds,
        "client memory, MB": memory or "–",
    }


def _copy(url: str, path: Path) -> dict:
    psql = find_programs().path("psql")
    statements = [
        "DROP TABLE IF EXISTS public.copied",
        "CREATE TABLE public.copied "
        "(idx bigint, valid_from date, valid_to date, scd_a float8, scd_b bigint)",
        f"\\copy public.copied FROM '{path}' CSV HEADER",
        "ALTER TABLE public.copied ADD PRIMARY KEY (idx, valid_from)",
    ]
    started = time.monotonic()
    arguments = [part for statement in statements for part in ("-c", statement)]
    subprocess.run(
        [psql, url, "-q", "-v", "ON_ERROR_STOP=1", *arguments],
        check=True,
        env={**os.environ, "PGOPTIONS": "-c client_min_messages=warning"},
    )
    seconds = time.monotonic() - started
    subprocess.run([psql, url, "-q", "-c", "DROP TABLE public.copied"], check=True)
    return {"seconds": seconds, "megabytes": 0}


def _ours(url: str, source: str, environment: dict, table: str = "ACTIVITY") -> dict:
    return _child("benchmarks.children.load_ours", url, source, table, environment=environment)


def _pandas(url: str, path: Path, rows: int) -> dict:
    found = _child("benchmarks.children.load_pandas", url, str(path), str(PANDAS_ROWS))
    return {**found, "seconds": found["seconds"] * rows / PANDAS_ROWS}


def _child(module: str, *arguments: str, environment: dict | None = None) -> dict:
    """Run a way in a process of its own; its seconds and its greatest resident memory."""
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, **(environment or {})},
    )
    return json.loads(done.stdout.splitlines()[-1])
