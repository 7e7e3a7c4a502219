"""Answers a second where requests bring an API key, an Idempotency-Key, or both.

One worker on one core; the load and PostgreSQL are on the other. Every answer is on record.
"""

import json
import os
import secrets
import statistics
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

from benchmarks.serving import BODIES, CONCURRENCIES, CUSTOMERS, _drain, _require, _write_bodies
from benchmarks.stacks import LOAD_CORE, SERVER_CORE, Running, Stack, started
from benchmarks.trained import Trained, some_rows, train_champion

SCRIPT = Path(__file__).parent / "servers" / "keyed.lua"
WARM_UP = 1
NEITHER = "neither"
WAYS = {NEITHER: (False, False), "an API key": (True, False), "an Idempotency-Key": (False, True),
        "both": (True, True)}  # fmt: skip
"""What requests bring: an API key, an Idempotency-Key that is new each time."""


def answers(folder: Path, home: Path, seconds: int, rounds: int) -> dict:
    """Answers a second and their latencies, medians of the rounds."""
    _require("wrk", "Install it: apt-get install wrk.")
    _require("taskset", "It is part of util-linux.")
    if not {SERVER_CORE, LOAD_CORE} <= os.sched_getaffinity(0):
        raise SystemExit("The server and the load need a core each: this machine has one.")
    os.sched_setaffinity(0, {LOAD_CORE})
    trained = train_champion(folder, home, customers=CUSTOMERS)
    rows = some_rows(trained, BODIES)
    api_key = secrets.token_urlsafe(32)
    measured: dict[str, dict[int, list[dict]]] = {
        name: {concurrency: [] for concurrency in CONCURRENCIES} for name in WAYS
    }
    warm = 0
    with ExitStack() as alive:
        servers = {
            key: alive.enter_context(started(_ours(trained, key), folder)) for key in ("", api_key)
        }
        bodies = {key: _write_bodies(server, rows, folder) for key, server in servers.items()}
        for key, server in servers.items():
            warm += _load(server, bodies[key], key, "-", WARM_UP, 32)["answers"]
        for _ in range(rounds):
            for concurrency in CONCURRENCIES:
                for name, (with_key, once) in WAYS.items():
                    key = api_key if with_key else ""
                    prefix = f"{secrets.token_hex(8)}-" if once else "-"
                    found = _load(servers[key], bodies[key], key, prefix, seconds, concurrency)
                    measured[name][concurrency].append(found)
                    _drain(servers[key])
    _check_record(trained, measured, warm, under_way=4 * rounds * sum(CONCURRENCIES) + 64)
    return {
        "what": f"one worker on one core, wrk on the other, {seconds} s each, medians of {rounds}; "
        "by what requests bring, every answer on record",
        "rows": _rows(measured),
        "measured": measured,
    }


def _ours(trained: Trained, api_key: str) -> Stack:
    """Our server from the bundle, with a home of its own, which has the API key or none."""
    environment = {
        "GRISTMILL_BUNDLE": str(trained.bundle),
        "GRISTMILL_DATABASE_URL": trained.context.warehouse.url,
        "GRISTMILL_HOME": str(trained.folder / f"home-{'keyed' if api_key else 'open'}"),
    }
    if api_key:
        environment["GRISTMILL_API_KEY"] = api_key
    return Stack(
        name="ours",
        command=["env", "GRISTMILL_PORT={port}", sys.executable, "-m", "gristmill.serving"],
        environment=environment,
        body=lambda entity, features: json.dumps({"idx": entity, "features": features}).encode(),
        probability=lambda answer: answer["probability"],
        record=True,
    )


def _load(
    server: Running, bodies: Path, api_key: str, prefix: str, seconds: int, concurrency: int
) -> dict:
    before = server.processor_seconds()
    done = subprocess.run(
        ["taskset", "-c", str(LOAD_CORE), "wrk", "--threads", "1", "--timeout", "60s",
         "--connections", str(concurrency), "--duration", f"{seconds}s", "--script", str(SCRIPT),
         server.url, "--", str(bodies), prefix],
        check=True, capture_output=True, text=True,
        env=os.environ | ({"BENCHMARK_API_KEY": api_key} if api_key else {}),
    )  # fmt: skip
    used = server.processor_seconds() - before
    found = json.loads(done.stdout.splitlines()[-1])
    if found["failed"]:
        raise SystemExit(f"{found['failed']} of {found['answers']} answers were errors.")
    return found | {
        "per_second": found["answers"] / found["seconds"],
        "processor_us": used / max(found["answers"], 1) * 1e6,
    }


def _check_record(
    trained: Trained, measured: dict[str, dict[int, list[dict]]], warm: int, *, under_way: int
) -> None:
    """What was answered is in the database; the load leaves without the last answers."""
    answered = warm + sum(
        one["answers"] for found in measured.values() for some in found.values() for one in some
    )
    with trained.context.warehouse.transaction() as transaction:
        recorded = transaction.value("SELECT count(*) FROM gristmill.predictions")
    print(f"{answered:,} answers were counted by the load; {recorded:,} are on record")
    if not answered <= recorded <= answered + under_way:
        raise SystemExit("That is not the same, so the numbers do not count.")


def _rows(measured: dict[str, dict[int, list[dict]]]) -> list[dict]:
    def median(name: str, concurrency: int, what: str) -> float:
        return statistics.median(one[what] for one in measured[name][concurrency])

    return [
        {
            "requests bring": name,
            **{
                f"{concurrency} at a time": round(median(name, concurrency, "per_second"))
                for concurrency in CONCURRENCIES
            },
            "processor µs at 32": round(median(name, 32, "processor_us")),
            "p99 ms at 32": median(name, 32, "p99_ms"),
            "p99 ms at 256": median(name, 256, "p99_ms"),
            f"× {NEITHER}, at 32": median(name, 32, "per_second")
            / median(NEITHER, 32, "per_second"),
        }
        for name in measured
    ]
