"""A new champion takes over under load: no request fails, and each answer is its version's own."""

import contextlib
import hashlib
import json
import math
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections import Counter

import httpx
import onnx
import psycopg
import pytest
from onnx import numpy_helper

FEATURES = {"attr_a": 1, "attr_b": "c", "scd_a": 0.55, "scd_b": 3}

TLS = ssl.create_default_context()
"""Made once: each client would take longer to make one than to ask."""

PROGRAM = """
import sys
from pathlib import Path
from gristmill.serving import follow
from gristmill.serving.server import Deployment, serve

follow.LOOK_EVERY = 0.1
follow.RETRY_EVERY = 0.2
bundle, spool, port, url, bundles = sys.argv[1:]
serve(
    Deployment(
        bundle=Path(bundle), spool=Path(spool), database_url=url or None,
        bundles=Path(bundles) if bundles else None, counters=Path(spool).parent / "counters",
    ),
    host="127.0.0.1", port=int(port), workers=2,
)
"""


@pytest.fixture
def write_version(example_model, tmp_path):
    """Writes a version whose weights are its own."""

    def write(version):
        class Version(type(example_model)):
            def graph(self):
                graph = onnx.load_from_string(super().graph())
                (weights,) = (each for each in graph.graph.initializer if each.name == "weights")
                scaled = numpy_helper.to_array(weights) * (version / 10)
                weights.CopyFrom(numpy_helper.from_array(scaled, "weights"))
                return graph.SerializeToString()

        folder = tmp_path / "bundles" / str(version)
        made = Version()
        made.write(folder, manifest=made.manifest(version=str(version)))
        return folder

    return write


def _expected(version):
    score = 0.25 * 1 + 0.5 - 0.55 + 0.125 * 3
    return 1 / (1 + math.exp(-score * version / 10))


class Load:
    """Clients that ask without end; what they were answered."""

    def __init__(self, address, clients=4):
        self.answers = []
        self.failures = []
        self._address = address
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(clients)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self):
        with httpx.Client(base_url=self._address, timeout=60, trust_env=False) as client:
            while not self._stop.is_set():
                try:
                    response = client.post("/predict", json={"idx": 1, "features": FEATURES})
                except httpx.TransportError as error:
                    self.failures.append(error)
                    continue
                if response.status_code == 200:
                    answer = response.json()
                    self.answers.append((int(answer["model_version"]), answer["probability"]))
                else:
                    self.failures.append(response.text)

    def wait_until_all_are(self, version):
        """Both workers have gone over, or no more of another would come."""
        deadline = time.monotonic() + 60
        while {each for each, _ in self.answers[-60:]} != {version}:
            assert time.monotonic() < deadline, Counter(v for v, _ in self.answers[-60:])
            time.sleep(0.02)


@contextlib.contextmanager
def _serving(folder, bundle, url="", bundles=""):
    program = folder / "serve_it.py"
    program.write_text(PROGRAM)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    arguments = [bundle, folder / "spool", port, url, bundles]
    server = subprocess.Popen([sys.executable, program, *map(str, arguments)])
    client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, trust_env=False)
    with server, client:
        deadline = time.monotonic() + 60
        while not _is_ready(client):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        try:
            yield client
        finally:
            server.terminate()


def _is_ready(client):
    try:
        return client.get("/ready").status_code == 200
    except httpx.TransportError:
        return False


def _ready(client):
    """What both workers say, whichever is asked."""
    found = []
    for _ in range(20):
        with httpx.Client(
            base_url=client.base_url, timeout=60, trust_env=False, verify=TLS
        ) as fresh:
            found.append(fresh.get("/ready").json())
    return found


def _wait_until(holds):
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline, "it did not come about within 60 seconds"
        time.sleep(0.05)


def _link(link, target):
    beside = link.with_name("next")
    beside.symlink_to(target)
    beside.rename(link)


def test_twenty_champions_and_not_one_failed_request(write_version, tmp_path):
    link = tmp_path / "current"
    _link(link, write_version(1))
    with _serving(tmp_path, link) as client, Load(str(client.base_url)) as load:
        for version in range(1, 22):
            _link(link, write_version(version)) if version > 1 else None
            load.wait_until_all_are(version)
    assert load.failures == []
    assert {version for version, _ in load.answers} == set(range(1, 22))
    for version, probability in set(load.answers):
        assert probability == pytest.approx(_expected(version), abs=1e-12)


def test_a_spoilt_bundle_is_refused_until_it_is_whole(write_version, tmp_path):
    link = tmp_path / "current"
    _link(link, write_version(1))
    spoilt = write_version(2)
    graph = (spoilt / "model.onnx").read_bytes()
    (spoilt / "model.onnx").write_bytes(graph[:-1] + b"?")
    with _serving(tmp_path, link) as client, Load(str(client.base_url)) as load:
        _link(link, spoilt)
        _wait_until(lambda: all(each.get("refused") == "2" for each in _ready(client)))
        assert {each["model_version"] for each in _ready(client)} == {"1"}
        refusals = "gristmill_swaps_refused_total 2.0"  # of both workers, each once
        _wait_until(lambda: refusals in client.get("/metrics").text)
        (spoilt / "model.onnx").write_bytes(graph)
        load.wait_until_all_are(2)
        _wait_until(lambda: all("refused" not in each for each in _ready(client)))
    assert load.failures == []


def test_a_bundle_that_answers_otherwise_than_it_says_is_refused(write_version, tmp_path):
    """Its digests are right: only its samples, computed again, tell."""
    link = tmp_path / "current"
    _link(link, write_version(1))
    wrong = write_version(2)
    samples = json.loads((wrong / "samples.json").read_text())
    samples[0]["probability"] += 1e-9
    (wrong / "samples.json").write_text(json.dumps(samples))
    _sign(wrong, "samples.json")
    with _serving(tmp_path, link) as client, Load(str(client.base_url)) as load:
        _link(link, wrong)
        _wait_until(lambda: all(each.get("refused") == "2" for each in _ready(client)))
    assert load.failures == []
    assert {version for version, _ in load.answers} == {1}


def _sign(folder, name):
    content = (folder / name).read_bytes()
    manifest = json.loads((folder / "manifest.json").read_text())
    digest = hashlib.sha256(content).hexdigest()
    manifest["files"][name] = {"sha256": digest, "bytes": len(content)}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_the_champion_of_the_database_is_followed(warehouse, write_version, tmp_path):
    """Promoted, without its bundle on this machine, rolled back, and with the bundle."""
    folders = {version: write_version(version) for version in (1, 2)}
    away = tmp_path / "away"
    folders[2].rename(away)
    with psycopg.connect(warehouse.url, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO gristmill.builds (build, name, period, definition, loads, builds, as_of,"
            " rows, seconds) OVERRIDING SYSTEM VALUE"
            " VALUES (1, 'training_set', 'all', '', '{}', '{}', now(), 1, 0)"
        )
        for version in (1, 2):
            connection.execute(
                "INSERT INTO gristmill.model_versions (version, candidate, verdict, reasons,"
                " no_signal, evaluation, build, lineage, run_id, bundle, code_version, seed)"
                " VALUES (%s, 'logistic', 'promote', '[]', false, '{}', 1, '{}', '', %s, '', 0)",
                (str(version), str(version)),
            )

        def promote(version):
            connection.execute(
                "INSERT INTO gristmill.promotions (version, by, why) VALUES (%s, 'us', 'test')",
                (str(version),),
            )

        promote(1)
        with (
            _serving(tmp_path, folders[1], warehouse.url, folders[1].parent) as client,
            Load(str(client.base_url), clients=2) as load,
        ):
            promote(2)
            time.sleep(0.5)
            assert {each["model_version"] for each in _ready(client)} == {"1"}
            shutil.copytree(away, tmp_path / "copy")
            (tmp_path / "copy").rename(folders[2])
            load.wait_until_all_are(2)
            promote(1)
            load.wait_until_all_are(1)
    assert load.failures == []
    counted = Counter(version for version, _ in load.answers)
    with psycopg.connect(warehouse.url) as connection:
        rows = connection.execute(
            "SELECT model_version::integer, count(*) FROM gristmill.predictions GROUP BY 1"
        ).fetchall()
    assert dict(rows) == counted
