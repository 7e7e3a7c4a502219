"""Answers a second: ours, its limit and what people use instead, side by side in one run.

Each server has one worker on one core; the load, and PostgreSQL, are on the other.
"""

import json
import os
import shutil
import statistics
import subprocess
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path

from benchmarks.stacks import LOAD_CORE, SERVER_CORE, Running, stacks, started
from benchmarks.trained import Trained, some_rows, train_champion
from gristmill.predictions.predictor import load_predictor
from gristmill.registry.bundle import read_bundle

CONCURRENCIES = (1, 32, 256)
CUSTOMERS = 20_000
BODIES = 1_000
"""Different requests that are sent in turn."""
CHECKED = 50
"""Requests whose answers are compared before anything is measured."""
SAME = 1e-12
"""How far answers may differ: the last bits of an exponential."""
WARM_UP = 1
DRAINED_WITHIN = 120
SCRIPT = Path(__file__).parent / "servers" / "load.lua"


def answers(folder: Path, home: Path, seconds: int, rounds: int) -> dict:
    """Answers a second and their latencies, medians of the rounds."""
    _require("wrk", "Install it: apt-get install wrk.")
    _require("taskset", "It is part of util-linux.")
    if not {SERVER_CORE, LOAD_CORE} <= os.sched_getaffinity(0):
        raise SystemExit("The server and the load need a core each: this machine has one.")
    # What is started from here on and not told otherwise runs beside the load.
    os.sched_setaffinity(0, {LOAD_CORE})
    trained = train_champion(folder, home, customers=CUSTOMERS)
    rows = some_rows(trained, BODIES)
    measured: dict[str, dict[int, list[dict]]] = {}
    unmeasured: dict[str, int] = {}
    with ExitStack() as alive:
        servers = [alive.enter_context(started(stack, folder)) for stack in stacks(trained)]
        bodies = {server.stack.name: _write_bodies(server, rows, folder) for server in servers}
        for server in servers:
            _check_answers(server, trained, rows[:CHECKED])
            warm = _load(server, bodies[server.stack.name], seconds=WARM_UP, concurrency=32)
            unmeasured[server.stack.name] = CHECKED + warm["answers"]
            measured[server.stack.name] = {concurrency: [] for concurrency in CONCURRENCIES}
        for _ in range(rounds):
            for concurrency in CONCURRENCIES:
                for server in servers:
                    name = server.stack.name
                    found = _load(server, bodies[name], seconds=seconds, concurrency=concurrency)
                    measured[name][concurrency].append(found | {"to_drain": _drain(server)})
        _check_record(trained, measured, unmeasured, under_way=rounds * sum(CONCURRENCIES))
    return {
        "what": f"one worker on one core, wrk on the other, {BODIES:,} different requests in turn, "
        f"{seconds} s each, medians of {rounds}; every server's answers were the same",
        "rows": _rows(measured),
        "measured": measured,
    }


def _require(program: str, hint: str) -> None:
    if shutil.which(program) is None:
        raise SystemExit(f"This benchmark needs the program {program}, which is not here. {hint}")


def _write_bodies(server: Running, rows: list[tuple[int, dict]], folder: Path) -> Path:
    path = folder / f"bodies-{server.address.rpartition(':')[2]}"
    path.write_bytes(b"\n".join(server.stack.body(*row) for row in rows) + b"\n")
    return path


def _check_answers(server: Running, trained: Trained, rows: list[tuple[int, dict]]) -> None:
    """No number counts of a server that answers otherwise."""
    if server.stack.probability is None:
        return
    predictor = load_predictor(read_bundle(trained.bundle))
    for entity, features in rows:
        expected = predictor.answer(features).probability
        found = server.stack.probability(server.ask(server.stack.body(entity, features)))
        if abs(found - expected) > SAME:
            raise SystemExit(
                f"{server.stack.name} answers {found!r} for {features}, where {expected!r} is right"
            )


def _load(server: Running, bodies: Path, *, seconds: int, concurrency: int) -> dict:
    before = server.processor_seconds()
    done = subprocess.run(
        ["taskset", "-c", str(LOAD_CORE), "wrk", "--threads", "1", "--timeout", "60s",
         "--connections", str(concurrency), "--duration", f"{seconds}s", "--script", str(SCRIPT),
         server.url, "--", str(bodies)],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    used = server.processor_seconds() - before
    found = json.loads(done.stdout.splitlines()[-1])
    return found | {
        "per_second": found["answers"] / found["seconds"],
        "processor_us": used / max(found["answers"], 1) * 1e6,
    }


def _drain(server: Running) -> float:
    """The seconds until all answers are in the database, so that the next server has the core."""
    began = time.monotonic()
    while server.stack.record:
        with urllib.request.urlopen(f"{server.address}/ready", timeout=60) as answer:
            waiting = json.load(answer)["waiting"]
        if not waiting:
            break
        if time.monotonic() - began > DRAINED_WITHIN:
            raise SystemExit(f"{waiting:,} answers are not in the database after two minutes.")
        time.sleep(0.05)
    return time.monotonic() - began


def _check_record(
    trained: Trained,
    measured: dict[str, dict[int, list[dict]]],
    unmeasured: dict[str, int],
    *,
    under_way: int,
) -> None:
    """What our server answered and shipped is in the database; what the unlogged one did is not."""
    [ours] = [name for name in measured if "shipped" in name]
    answered = sum(one["answers"] for found in measured[ours].values() for one in found)
    answered += unmeasured[ours]
    with trained.context.warehouse.transaction() as transaction:
        recorded = transaction.value(
            "SELECT count(*) FROM gristmill.predictions WHERE model_version <> 'flask'"
        )
    print(f"{answered:,} answers of ours were counted by the load; {recorded:,} are on record")
    # The load leaves without the last answers, which are on record all the same.
    if not answered <= recorded <= answered + under_way + 32:
        raise SystemExit("That is not the same, so the numbers do not count.")


def _rows(measured: dict[str, dict[int, list[dict]]]) -> list[dict]:
    def median(name: str, concurrency: int, what: str) -> float:
        return statistics.median(one[what] for one in measured[name][concurrency])

    [flask] = [name for name in measured if name.startswith("Flask")]
    limit = median(flask, 32, "per_second")
    return [
        {
            "server": name,
            **{
                f"{concurrency} at a time": round(median(name, concurrency, "per_second"))
                for concurrency in CONCURRENCIES
            },
            "processor µs at 32": round(median(name, 32, "processor_us")),
            "p99 ms at 32": median(name, 32, "p99_ms"),
            "p99 ms at 256": median(name, 256, "p99_ms"),
            "× Flask at 32": median(name, 32, "per_second") / limit,
            "failed": sum(one["failed"] for found in measured[name].values() for one in found),
        }
        for name in measured
    ]
