"""`python -m benchmarks.soak`: ten minutes at half speed; nothing may grow and nothing be lost.

One worker answers on one core at half of what it can, with its durable log and its database. Its
memory and its open files are looked at all the time; afterwards the record has to be complete.
"""

import argparse
import asyncio
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import deque
from dataclasses import dataclass
from pathlib import Path

from benchmarks.stacks import LOAD_CORE, SERVER_CORE
from benchmarks.trained import some_rows, train_champion
from gristmill.warehouse import embedded

CUSTOMERS = 5_000
CONNECTIONS = 32
FULL_SPEED_SECONDS = 10
LOOK_EVERY = 5.0
"""Seconds between two looks at the worker."""
TICK = 0.005
"""Seconds between two portions of requests."""
DRAINED_WITHIN = 120
MOST_GROWTH = 0.05
"""By which share the memory may have grown from the second fifth of the time to the last one."""
MOST_FILES = 5
"""More files open than before: what a shipment or a look happens to have open."""

SERVER = """
import sys
from pathlib import Path
from gristmill.serving.server import Deployment, serve

bundle, spool, port, url = sys.argv[1:]
serve(
    Deployment(bundle=Path(bundle), spool=Path(spool), database_url=url),
    host="127.0.0.1", port=int(port),
)
"""


@dataclass(frozen=True, kw_only=True)
class Look:
    """The worker at a moment."""

    seconds: float
    megabytes: float
    """Its memory that no other process shares: PostgreSQL's or the parent's is not its own."""
    files: int
    waiting: int


class Connection(asyncio.Protocol):
    """One connection, with one request at a time."""

    def __init__(self, idle: deque["Connection"], counts: dict[str, int]) -> None:
        self._idle, self._counts = idle, counts
        self._came = b""
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._idle.append(self)

    def data_received(self, data: bytes) -> None:
        self._came += data
        if self._came.endswith(b"}"):
            self._counts["answered" if self._came.startswith(b"HTTP/1.1 200") else "failed"] += 1
            self._came = b""
            self._idle.append(self)

    def connection_lost(self, exc: Exception | None) -> None:
        if exc:
            raise SystemExit(f"The server cut a connection: {exc}")


async def load(port: int, bodies: list[bytes], seconds: float, rate: float) -> dict[str, int]:
    """Ask for so long, at most so often a second; how many were answered."""
    loop = asyncio.get_running_loop()
    idle: deque[Connection] = deque()
    counts = {"answered": 0, "failed": 0}
    for _ in range(CONNECTIONS):
        await loop.create_connection(lambda: Connection(idle, counts), "127.0.0.1", port)
    began, sent = time.monotonic(), 0
    while (passed := time.monotonic() - began) < seconds:
        while idle and sent < rate * passed:
            idle.popleft().transport.write(bodies[sent % len(bodies)])
            sent += 1
        await asyncio.sleep(TICK if rate < float("inf") else 0)
    while len(idle) < CONNECTIONS:
        await asyncio.sleep(TICK)
    for connection in idle:
        connection.transport.close()
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    minutes = parser.parse_args().minutes
    os.sched_setaffinity(0, {LOAD_CORE})
    with tempfile.TemporaryDirectory(prefix="gristmill-soak-", dir="/var/tmp") as folder:
        Path(folder).chmod(0o711)
        home = Path(folder) / ".gristmill"
        try:
            wrong = soak(Path(folder), home, minutes * 60)
        finally:
            embedded.stop(home)
    for line in wrong:
        print(f"WRONG: {line}")
    sys.exit(1 if wrong else 0)


def soak(folder: Path, home: Path, seconds: float) -> list[str]:
    """What was wrong."""
    trained = train_champion(folder, home, customers=CUSTOMERS)
    warehouse = trained.context.warehouse
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    bodies = [_request(*row) for row in some_rows(trained, 1000)]
    arguments = [str(trained.bundle), str(folder / "spool"), str(port), warehouse.url]
    command = ["taskset", "-c", str(SERVER_CORE), sys.executable, "-c", SERVER, *arguments]
    with subprocess.Popen(command) as server:
        try:
            _wait_until_ready(port)
            worker = _children(server.pid)[0]
            full = asyncio.run(load(port, bodies, FULL_SPEED_SECONDS, float("inf")))
            rate = full["answered"] / FULL_SPEED_SECONDS / 2
            print(f"full speed: {rate * 2:,.0f} answers/s; {seconds:,.0f} s at half of it")
            looks: list[Look] = []
            half = asyncio.run(_load_and_look(port, bodies, seconds, rate, worker, looks))
            drained = _drain(port)
        finally:
            server.terminate()
    with warehouse.transaction() as transaction:
        logged = transaction.value("SELECT count(*) FROM gristmill.predictions")
    return _judge(looks, full, half, logged, drained)


async def _load_and_look(
    port: int, bodies: list[bytes], seconds: float, rate: float, worker: int, looks: list[Look]
) -> dict[str, int]:
    loading = asyncio.create_task(load(port, bodies, seconds, rate))
    began = time.monotonic()
    while not loading.done():
        await asyncio.wait([loading], timeout=LOOK_EVERY)
        waiting = (await asyncio.to_thread(_ready, port))["waiting"]
        looks.append(
            Look(
                seconds=time.monotonic() - began,
                megabytes=_megabytes(worker),
                files=len(list(Path(f"/proc/{worker}/fd").iterdir())),
                waiting=waiting,
            )
        )
        if len(looks) % 12 == 1:
            print(looks[-1], flush=True)
    return loading.result()


def _judge(
    looks: list[Look], full: dict[str, int], half: dict[str, int], logged: int, drained: bool
) -> list[str]:
    fifth = max(len(looks) // 5, 1)
    early, late = looks[fifth : 2 * fifth] or looks[:1], looks[-fifth:]
    megabytes = [statistics.median(look.megabytes for look in part) for part in (early, late)]
    files = [statistics.median(look.files for look in part) for part in (early, late)]
    answered = full["answered"] + half["answered"]
    print(
        f"{half['answered']:,} answers at half speed; memory {megabytes[0]:.1f} → "
        f"{megabytes[1]:.1f} MB, open files {files[0]:g} → {files[1]:g}, at most "
        f"{max(look.waiting for look in looks):,} waited; "
        f"in the database {logged:,} of {answered:,}"
    )
    wrong = {
        "the memory grew": megabytes[1] > megabytes[0] * (1 + MOST_GROWTH),
        "more files are open": files[1] > files[0] + MOST_FILES,
        "the record was not shipped": not drained,
        "the record is not complete": logged != answered,
        "requests failed": full["failed"] + half["failed"] > 0,
    }
    return [what for what, is_so in wrong.items() if is_so]


def _request(entity: int, features: dict[str, object]) -> bytes:
    body = json.dumps({"idx": entity, "features": features}).encode()
    head = "POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def _ready(port: int) -> dict:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=30) as answer:
        return json.load(answer)


def _wait_until_ready(port: int) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            _ready(port)
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def _drain(port: int) -> bool:
    deadline = time.monotonic() + DRAINED_WITHIN
    while _ready(port)["waiting"]:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def _children(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _megabytes(pid: int) -> float:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    private = [int(line.split()[1]) for line in lines if line.startswith("Private_")]
    return sum(private) / 1024


if __name__ == "__main__":
    main()
