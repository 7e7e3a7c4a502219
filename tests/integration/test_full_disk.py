"""A full disk under a running service: told, never silently unlogged, and over by itself.

The kernel refuses to let the worker's files grow, as a full disk does, and then allows it again.
"""

import contextlib
import resource
import socket
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import httpx
import psycopg
import pytest

from gristmill.errors import SpoolError
from gristmill.predictions.once import Remembered, RememberedAnswers
from gristmill.predictions.prediction import Prediction, new_prediction_id
from gristmill.predictions.ship import ship
from gristmill.predictions.spool import open_spool

REQUEST = {"idx": 7, "features": {"attr_a": 1, "attr_b": "c", "scd_a": 0.55, "scd_b": 3}}

PROGRAM = """
import sys
from pathlib import Path
from gristmill.serving.server import Deployment, serve

bundle, spool, port, log, url = sys.argv[1:]
serve(
    Deployment(bundle=Path(bundle), spool=Path(spool), log=log or None, database_url=url or None),
    host="127.0.0.1", port=int(port),
)
"""


class Service:
    """A server with one worker, and what its disk holds."""

    def __init__(self, process, client):
        self._process = process
        self.client = client

    def ask(self):
        return self.client.post("/predict", json=REQUEST).status_code

    def let_files_grow_to(self, octets):
        (worker,) = _children(self._process.pid)
        resource.prlimit(worker, resource.RLIMIT_FSIZE, (octets, resource.RLIM_INFINITY))


def _children(pid):
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@contextlib.contextmanager
def _serving(folder, bundle, log="", url=""):
    program = folder / "serve_it.py"
    program.write_text(PROGRAM)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    arguments = [bundle, folder / "spool", port, log, url]
    process = subprocess.Popen([sys.executable, program, *map(str, arguments)])
    client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, trust_env=False)
    with process, client:
        try:
            _wait_until(lambda: _answers(client))
            yield Service(process, client)
        finally:
            process.terminate()
        assert process.wait(60) == 0


def _answers(client):
    try:
        return client.get("/ready").status_code == 200
    except httpx.TransportError:
        return False


def _wait_until(holds):
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline, "it did not come about within 60 seconds"
        time.sleep(0.05)


def _logged(warehouse):
    with psycopg.connect(warehouse.url) as connection:
        return connection.execute("SELECT count(*) FROM gristmill.predictions").fetchone()[0]


@pytest.fixture
def small_disk(tmp_path):
    """A disk of its own, with little room."""
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=30m", "tmpfs", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _prediction(number):
    return Prediction(
        prediction_id=new_prediction_id(),
        entity=str(number),
        features={"note": "x" * 20_000},
        probability=0.5,
        label=1,
        model_version="3",
        predicted_at=datetime.now(UTC),
        latency_ms=0.1,
    )


def test_a_disk_that_the_record_itself_has_filled_is_emptied_by_shipping(warehouse, small_disk):
    """After hours without a database: what gives room back needs some itself."""
    spool = open_spool(small_disk / "spool")
    kept = 0
    with pytest.raises(SpoolError, match="free space"):  # noqa: PT012 (whichever meets the end)
        while True:
            spool.append([_prediction(kept)])
            kept += 1
    answers = RememberedAnswers(small_disk / "spool")
    for number in range(100):
        answers.claim(str(number), b"digest")
        with pytest.raises(SpoolError):
            answers.remember(str(number), Remembered(answer=b"x" * 500_000, records=b"{}", count=1))
        answers.release(str(number))
    answers.close()
    assert kept > 100
    assert ship(spool, warehouse) == kept
    spool.append([_prediction(kept)])
    assert ship(spool, warehouse) == 1
    spool.close()
    assert _logged(warehouse) == kept + 1


def test_nothing_is_answered_without_its_record_and_soon_all_is_again(
    warehouse, bundle_folder, tmp_path
):
    with _serving(tmp_path, bundle_folder, url=warehouse.url) as service:
        answered = sum(service.ask() == 200 for _ in range(10))
        assert answered == 10
        service.let_files_grow_to(4096)
        statuses = [service.ask() for _ in range(20)]
        assert 503 in statuses
        answered += statuses.count(200)
        refused = service.client.get("/ready")
        assert (refused.status_code, refused.json()["type"]) == (503, "/docs#record-unavailable")
        assert service.client.get("/health").status_code == 200
        failing = 'gristmill_log_workers{state="failing"} 1.0'
        _wait_until(lambda: failing in service.client.get("/metrics").text)

        service.let_files_grow_to(resource.RLIM_INFINITY)
        _wait_until(lambda: service.client.get("/ready").status_code == 200)
        answered += sum(service.ask() == 200 for _ in range(10))
        assert service.client.get("/ready").json()["unlogged"] == 0
    assert _logged(warehouse) == answered >= 20


@pytest.mark.parametrize("said_by", ["the deployment", "the bundle"])
def test_at_best_effort_answers_go_on_and_are_counted(warehouse, example_model, tmp_path, said_by):
    log = "best_effort"
    in_bundle = log if said_by == "the bundle" else "durable"
    example_model.write(tmp_path / "bundle", manifest=example_model.manifest(log=in_bundle))
    said = log if said_by == "the deployment" else ""
    with _serving(tmp_path, tmp_path / "bundle", said, warehouse.url) as service:
        assert {service.ask() for _ in range(10)} == {200}
        service.let_files_grow_to(4096)
        assert {service.ask() for _ in range(20)} == {200}
        ready = service.client.get("/ready").json()
        assert (ready["status"], ready["log"]) == ("ready", "failing")
        unlogged = ready["unlogged"]
        assert unlogged > 0

        service.let_files_grow_to(resource.RLIM_INFINITY)
        _wait_until(lambda: service.client.get("/ready").json()["log"] == "writing")
        assert {service.ask() for _ in range(10)} == {200}
        assert service.client.get("/ready").json()["unlogged"] == unlogged
        counted = f"gristmill_unlogged_total {unlogged}.0"
        _wait_until(lambda: counted in service.client.get("/metrics").text)
    assert _logged(warehouse) == 40 - unlogged
