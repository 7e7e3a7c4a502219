"""The proof that no answer is lost and none is doubled: under load, whatever serves is killed.

Workers, whole servers and PostgreSQL are killed with SIGKILL, one after the other, while clients
ask without end. What was answered has to be in the warehouse afterwards, exactly once. 100 kills;
`pytest --kills 2000 tests/acceptance/test_no_loss.py` makes a thousand.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from gristmill.warehouse import embedded
from gristmill.warehouse.migrate import migrate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FEATURES = {"attr_a": 1, "attr_b": "c", "scd_a": 0.55, "scd_b": 3}
WORKERS = 2
VICTIMS = {"worker": 8, "server": 1, "postgres": 1}
"""Who is killed, and how often in ten times."""
UNANSWERED = 1 + 1 + 5
"""Predictions that are asked for at a time, but for those with a key, which are asked for again."""

PROGRAM = """
import sys
from pathlib import Path
from gristmill.serving.server import Deployment, serve

bundle, spool, port, workers, url = sys.argv[1:]
serve(
    Deployment(bundle=Path(bundle), spool=Path(spool), database_url=url),
    host="127.0.0.1", port=int(port), workers=int(workers),
)
"""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until(holds: Callable[[], bool], what: str, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"{what}: not within {seconds:g} seconds"
        time.sleep(0.005)


class Clients:
    """Threads that ask without end, and remember what was answered."""

    def __init__(self, port: int) -> None:
        self.answered: dict[str, str] = {}
        """Each answered prediction's entity."""
        self.keyed: dict[str, str] = {}
        """Each keyed entity's one prediction."""
        self.statuses: Counter[int] = Counter()
        self._port = port
        self._lock = threading.Lock()
        self._stop = threading.Event()
        kinds = (self._ask_one, self._ask_one, self._ask_many, self._ask_with_key)
        self._threads = [
            threading.Thread(target=self._ask, args=(kind, number), daemon=True)
            for number, kind in enumerate(kinds)
        ]

    @contextmanager
    def asking(self) -> Iterator[None]:
        """Ask, until the end of the block."""
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in self._threads:
                thread.join()

    def _ask(self, kind: Callable[[http.client.HTTPConnection, str], None], place: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        number = 0
        while not self._stop.is_set():
            number += 1
            try:
                kind(connection, f"{place + 1}{number:08}")
            except (OSError, http.client.HTTPException):
                connection.close()
                time.sleep(0.005)
        connection.close()

    def _post(
        self,
        connection: http.client.HTTPConnection,
        path: str,
        body: object,
        headers: dict[str, str] | None = None,
    ) -> Any:
        """The answer; None where there is none by the server's own word."""
        headers = {"content-type": "application/json", **(headers or {})}
        connection.request("POST", path, json.dumps(body), headers)
        response = connection.getresponse()
        content = response.read()
        with self._lock:
            self.statuses[response.status] += 1
        return json.loads(content) if response.status == 200 else None

    def _ask_one(self, connection: http.client.HTTPConnection, entity: str) -> None:
        answer = self._post(connection, "/predict", {"idx": int(entity), "features": FEATURES})
        if answer:
            with self._lock:
                self.answered[answer["prediction_id"]] = entity

    def _ask_many(self, connection: http.client.HTTPConnection, entity: str) -> None:
        entities = [f"{entity}{number}" for number in range(5)]
        rows = [{"idx": int(each), "features": FEATURES} for each in entities]
        answer = self._post(connection, "/predict/batch", {"rows": rows})
        if answer:
            with self._lock:
                for each in answer["predictions"]:
                    self.answered[each["prediction_id"]] = str(each["idx"])

    def _ask_with_key(self, connection: http.client.HTTPConnection, entity: str) -> None:
        """Until it is answered, and then once more: the same has to come again."""
        body = {"idx": int(entity), "features": FEATURES}
        found: list[str] = []
        while len(found) < 2:
            try:
                headers = {"idempotency-key": entity}
                answer = self._post(connection, "/predict", body, headers)
            except (OSError, http.client.HTTPException):
                connection.close()
                answer = None
            if answer:
                found.append(answer["prediction_id"])
            else:
                time.sleep(0.005)
        assert found[0] == found[1]
        with self._lock:
            self.keyed[entity] = found[0]


class Service:
    """A server with its workers, its database and its spool."""

    def __init__(self, folder: Path, bundle: Path) -> None:
        self._home = folder / "home"
        self._bundle = bundle
        self._database_port = _free_port()
        self.spool = folder / "spool"
        self.port = _free_port()
        self._program = folder / "serve_it.py"
        self._program.write_text(PROGRAM)
        self.log = folder / "log"
        self.start_postgres()

    def start_postgres(self) -> None:
        self._warehouse = embedded.start(
            self._home, database="shop", owner="keeper", port=self._database_port
        )
        migrate(self._warehouse)

    def start_server(self) -> None:
        arguments = [self._bundle, self.spool, self.port, WORKERS, self._warehouse.url]
        with self.log.open("ab") as log:
            self._server = subprocess.Popen(
                [sys.executable, self._program, *map(str, arguments)],
                start_new_session=True,
                stderr=log,
            )
        _wait_until(lambda: len(self._workers()) == WORKERS, "workers")

    def kill(self, victim: str, dice: random.Random) -> None:
        """Kill without warning; what does not come back by itself is started again."""
        if victim == "worker":
            _wait_until(lambda: bool(self._workers()), "a worker to kill")
            os.kill(dice.choice(self._workers()), signal.SIGKILL)
        elif victim == "server":
            os.killpg(self._server.pid, signal.SIGKILL)
            self._server.wait()
            self.start_server()
        else:
            found = embedded.find(self._home)
            assert found is not None
            for pid in [found.pid, *_children(found.pid)]:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            time.sleep(dice.uniform(0, 0.3))
            self.start_postgres()

    def stop(self) -> None:
        """In good order; what waits is shipped."""
        self._server.terminate()
        assert self._server.wait(60) == 0

    def end(self) -> None:
        if self._server.poll() is None:
            os.killpg(self._server.pid, signal.SIGKILL)
            self._server.wait()
        embedded.stop(self._home)

    def logged(self) -> list[tuple[str, str]]:
        """Every prediction in the warehouse, with its entity."""
        with closing(psycopg.connect(self._warehouse.url)) as connection:
            rows = connection.execute("SELECT prediction_id, entity FROM gristmill.predictions")
            return [(str(prediction), entity) for prediction, entity in rows.fetchall()]

    def _workers(self) -> list[int]:
        return _children(self._server.pid)


def _children(pid: int) -> list[int]:
    try:
        return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


@pytest.fixture
def service(example_model: Any) -> Iterator[Service]:
    # Not under pytest's folder, which root closes to the user that root's server runs as.
    folder = Path(tempfile.mkdtemp(prefix="gristmill-no-loss-", dir="/tmp"))
    folder.chmod(0o711 if os.geteuid() == 0 else 0o700)
    example_model.write(folder / "bundle")
    service = Service(folder, folder / "bundle")
    service.start_server()
    yield service
    service.end()
    shutil.rmtree(folder)


def test_no_answer_is_lost_and_none_is_doubled(service: Service, kills: int) -> None:
    dice = random.Random(kills)
    clients = Clients(service.port)
    struck: Counter[str] = Counter()
    started = time.monotonic()
    with clients.asking():
        for _ in range(kills // 2):
            before = len(clients.answered)
            _wait_until(lambda: len(clients.answered) > before + 5, "answers")  # noqa: B023
            time.sleep(dice.uniform(0, 0.1))
            (victim,) = dice.choices(list(VICTIMS), list(VICTIMS.values()))
            service.kill(victim, dice)
            struck[victim] += 1
        keyed = len(clients.keyed)
        _wait_until(lambda: len(clients.keyed) > keyed, "answers")
    service.stop()
    assert [path.name for path in service.spool.iterdir() if path.suffix == ".spool"] == []

    logged = service.logged()
    print(
        f"\nkilled {dict(struck)} in {time.monotonic() - started:.1f} s: "
        f"answered {len(clients.answered)} and {len(clients.keyed)} by key, "
        f"in the warehouse {len(logged)}; {dict(clients.statuses)}"
    )
    assert set(struck) == set(VICTIMS)
    assert set(clients.statuses) <= {200, 409}
    found = dict(logged)
    assert clients.answered.items() <= found.items()
    assert {id_: entity for entity, id_ in clients.keyed.items()}.items() <= found.items()
    # Each entity was asked for by one request, sent once, or again with its key.
    assert max(Counter(entity for _, entity in logged).values()) == 1
    # What a kill cut off: of each client one request, on record and not answered any more.
    unanswered = len(logged) - len(clients.answered) - len(clients.keyed)
    assert 0 <= unanswered <= sum(struck.values()) * UNANSWERED
