"""One key, one prediction: whichever worker is asked, at the same time or after a restart."""

import contextlib
import hashlib
import json
import socket
import ssl
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import psycopg

from gristmill.predictions.once import RememberedAnswers

FEATURES = {"attr_a": 1, "attr_b": "c", "scd_a": 0.55, "scd_b": 3}

TLS = ssl.create_default_context()
"""Made once: each client would take longer to make one than to ask."""

PROGRAM = """
import sys
from pathlib import Path
from gristmill.serving.server import Deployment, serve

bundle, spool, port, url = sys.argv[1:]
serve(
    Deployment(bundle=Path(bundle), spool=Path(spool), database_url=url),
    host="127.0.0.1", port=int(port), workers=3,
)
"""


@contextlib.contextmanager
def _serving(folder, bundle, url):
    """A function that posts a request, each by a connection of its own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    arguments = [bundle, folder / "spool", port, url]
    server = subprocess.Popen([sys.executable, "-c", PROGRAM, *map(str, arguments)])

    def post(key, entity, path="/predict"):
        body = {"idx": entity, "features": FEATURES}
        with httpx.Client(timeout=60, trust_env=False, verify=TLS) as client:
            return client.post(
                f"http://127.0.0.1:{port}{path}",
                content=json.dumps(body),
                headers={"idempotency-key": key, "content-type": "application/json"},
            )

    with server:
        try:
            deadline = time.monotonic() + 60
            while not _is_ready(port):
                assert time.monotonic() < deadline
                time.sleep(0.05)
            yield post
        finally:
            server.terminate()


def _is_ready(port):
    try:
        return httpx.get(f"http://127.0.0.1:{port}/ready", timeout=60).status_code == 200
    except httpx.TransportError:
        return False


def _logged(warehouse):
    with psycopg.connect(warehouse.url) as connection:
        rows = connection.execute("SELECT prediction_id::text, entity FROM gristmill.predictions")
        return sorted(rows.fetchall(), key=lambda row: int(row[1]))


def test_a_key_is_answered_once_by_all_workers_and_after_a_restart(
    warehouse, bundle_folder, tmp_path
):
    with _serving(tmp_path, bundle_folder, warehouse.url) as post, ThreadPoolExecutor(8) as pool:
        first = post("a", 1)
        again = list(pool.map(lambda _: post("a", 1), range(30)))
        other = post("b", 2)
        assert post("a", 2).json()["type"] == "/docs#key-reused"
        assert post("a", 2).status_code == 422
    assert {each.content for each in (first, *again)} == {first.content}
    with _serving(tmp_path, bundle_folder, warehouse.url) as post:
        assert post("a", 1).content == first.content
        assert post("b", 2).content == other.content
    expected = [(first.json()["prediction_id"], "1"), (other.json()["prediction_id"], "2")]
    assert _logged(warehouse) == expected


def test_at_the_same_time_one_answers_and_the_others_wait_or_get_the_same(
    warehouse, bundle_folder, tmp_path
):
    with _serving(tmp_path, bundle_folder, warehouse.url) as post, ThreadPoolExecutor(8) as pool:
        asked = [(f"key-{n}", n) for n in range(20) for _ in range(8)]
        responses = list(pool.map(lambda one: (one[1], post(*one)), asked))
    assert {response.status_code for _, response in responses} <= {200, 409}
    answers = {}
    for entity, response in responses:
        if response.status_code == 200:
            answers.setdefault(entity, set()).add(response.content)
    assert {entity: len(each) for entity, each in answers.items()} == dict.fromkeys(range(20), 1)
    assert [entity for _, entity in _logged(warehouse)] == [str(n) for n in range(20)]


def test_while_another_finds_the_answer_a_request_is_sent_away(warehouse, bundle_folder, tmp_path):
    body = json.dumps({"idx": 1, "features": FEATURES}).encode()
    with _serving(tmp_path, bundle_folder, warehouse.url) as post:
        another = RememberedAnswers(tmp_path / "spool")
        assert another.claim(":a", hashlib.sha256(b"/predict\0" + body).digest()) is None
        response = post("a", 1)
        assert (response.status_code, response.json()["type"]) == (409, "/docs#key-in-use")
        assert response.headers["retry-after"] == "1"
        another.release(":a")
        another.close()
        assert post("a", 1).status_code == 200


def test_a_refused_request_keeps_no_key(warehouse, bundle_folder, tmp_path):
    with _serving(tmp_path, bundle_folder, warehouse.url) as post:
        assert post("a", "one").status_code == 422
        assert post("a", 1).status_code == 200
    assert [entity for _, entity in _logged(warehouse)] == ["1"]
