"""Plain requests are answered together, exactly as the ordinary way answers each alone."""

import json
import socket
import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from gristmill.errors import SpoolError
from gristmill.predictions.predictor import Predictor, load_predictor
from gristmill.registry.bundle import read_bundle
from gristmill.serving.api import create_app
from gristmill.serving.fast_path import FastPath

ORDINARY = {"content-type": "application/json; charset=utf-8"}
"""What the fast path leaves to the ordinary one, and what that one answers all the same."""


@pytest.fixture
def app(example_model, tmp_path):
    example_model.write(tmp_path / "3")
    return create_app(bundle=read_bundle(tmp_path / "3"), spool=tmp_path / "spool")


@pytest.fixture
def client(app, served):
    with served(app) as client:
        yield client


@pytest.fixture
def asked(app, monkeypatch):
    """How many rows the model was asked for at a time."""
    asked = []
    answers = Predictor.answers

    def counting(self, rows):
        asked.append(len(rows))
        return answers(self, rows)

    monkeypatch.setattr(Predictor, "answers", counting)
    return asked


def row(number):
    return {"attr_a": number, "attr_b": "c", "scd_a": number / 7, "scd_b": -number}


def body(number, **features):
    return {"idx": number, "features": row(number) | features}


def whole(content, *headers):
    """A request as it goes over the wire."""
    octets = content if isinstance(content, bytes) else json.dumps(content).encode()
    head = [b"POST /predict HTTP/1.1", b"host: localhost", b"content-type: application/json"]
    head += [*headers, b"content-length: %d" % len(octets)]
    return b"\r\n".join([*head, b"", octets])


@pytest.fixture
def send(client):
    """Sends octets on a connection of its own; the (status, document) of so many answers."""

    def send(*pieces, answers):
        with socket.create_connection((client.base_url.host, client.base_url.port), 60) as made:
            for piece in pieces:
                made.sendall(piece)
            stream = made.makefile("rb")
            return [read(stream) for _ in range(answers)]

    return send


def read(stream):
    status = int(stream.readline().split()[1])
    length = 0
    while (line := stream.readline()) != b"\r\n":
        name, _, value = line.partition(b":")
        length = int(value) if name == b"content-length" else length
    return status, json.loads(stream.read(length))


def records(app):
    [path] = app.state.service.log._spool.path.parent.glob("*.spool")
    with sqlite3.connect(path) as connection:
        groups = connection.execute("SELECT records FROM groups").fetchall()
    return [record for (group,) in groups for record in json.loads(group)]


def test_both_ways_answer_the_same_and_leave_the_same_record(app, client):
    found = [client.post("/predict", json=body(5), headers=way) for way in ({}, ORDINARY)]
    fast, ordinary = (one.json() for one in found)
    assert fast.pop("prediction_id") != ordinary.pop("prediction_id")
    assert fast == ordinary
    assert set(found[0].headers) == set(found[1].headers)
    fast, ordinary = records(app)
    for record in (fast, ordinary):
        for own in ("prediction_id", "predicted_at", "latency_ms"):
            assert record.pop(own)
    assert fast == ordinary
    counted = client.get("/metrics").text
    assert 'gristmill_requests_total{route="/predict",status="200"} 2.0' in counted
    assert "gristmill_predictions_total 2.0" in counted
    assert 'gristmill_request_seconds_count{route="/predict"} 2.0' in counted


def test_what_comes_while_the_server_is_busy_is_one_run_with_the_same_bits(
    app, client, asked, monkeypatch, tmp_path
):
    is_busy, go_on = threading.Event(), threading.Event()
    address = (client.base_url.host, client.base_url.port)
    made = [socket.create_connection(address, 60) for _ in range(50)]
    for one in made:
        one.sendall(whole(body(0)))
        assert read(one.makefile("rb"))[0] == 200
    before = len(records(app))
    asked.clear()
    answer = FastPath._answer

    def busy(self):
        is_busy.set()
        go_on.wait(60)
        answer(self)

    monkeypatch.setattr(FastPath, "_answer", busy)
    try:
        for number, one in enumerate(made):
            one.sendall(whole(body(number)))
            assert is_busy.wait(60)
        go_on.set()
        found = [read(one.makefile("rb"))[1] for one in made]
    finally:
        go_on.set()
        for one in made:
            one.close()
    assert asked == [1, 49]
    alone = load_predictor(read_bundle(tmp_path / "3"))
    expected = [alone.answer(row(number)) for number in range(50)]
    assert [(one["probability"], one["label"]) for one in found] == expected
    recorded = {one["prediction_id"] for one in records(app)[before:]}
    assert recorded == {one["prediction_id"] for one in found}


def test_what_is_wrong_fails_alone(client):
    wrong = [
        body(1, attr_a="two"),
        {"idx": "one", "features": row(1)},
        {"idx": 1, "features": {}},
        {"idx": 1},
    ]

    def ask(content):
        found = client.post("/predict", json=content)
        return found.status_code, found.json().get("field")

    with ThreadPoolExecutor(12) as pool:
        found = list(pool.map(ask, [body(0), *wrong, body(1)] * 20))
    expected = [(200, None), *((422, field) for field in ("attr_a", "idx", "attr_a", "features"))]
    assert found == [*expected, (200, None)] * 20


def test_where_the_model_itself_fails_nobody_waits_for_ever(app, client):
    app.state.service.served.predictor._session = None
    url = f"{client.base_url}/predict"
    with ThreadPoolExecutor(5) as pool:
        found = list(pool.map(lambda number: httpx.post(url, json=body(number)), range(5)))
    assert [one.status_code for one in found] == [500] * 5
    assert all(one.json()["type"] == "/docs#internal-error" for one in found)


def test_where_the_disk_refuses_nothing_is_answered(app, client, monkeypatch):
    def refuse(*_):
        raise SpoolError("The disk is full.")

    monkeypatch.setattr(app.state.service.log._spool, "append_soon", refuse)
    found = client.post("/predict", json=body(1))
    assert (found.status_code, found.json()["type"]) == (503, "/docs#record-unavailable")


def test_plain_and_other_requests_of_one_connection_are_answered_in_their_order(send):
    numbers = range(6)
    pieces = [
        whole(body(number), *([b"x-request-id: a"], [b"idempotency-key: %d" % number])[number % 2])
        for number in numbers
    ]
    found = send(b"".join([*pieces, whole(b"{"), whole(body(7))]), answers=8)
    assert [status for status, _ in found] == [200] * 6 + [400, 200]
    apart = [send(piece, answers=1)[0] for piece in pieces]
    assert [one["probability"] for _, one in found[:6]] == [one["probability"] for _, one in apart]


def test_a_body_may_come_in_pieces(send):
    request = whole(body(3))
    middle = len(request) - 20
    assert send(request[:middle], request[middle:], answers=1)[0][0] == 200


def test_a_body_that_never_comes_whole_is_counted(client, send):
    send(whole(body(3))[:-5], answers=0)
    expected = 'gristmill_requests_total{route="/predict",status="400"} 1.0'
    deadline = time.monotonic() + 60
    while expected not in client.get("/metrics").text:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_client_that_leaves_costs_no_other_its_answer(client, send):
    for number in range(20):
        send(whole(body(number)), answers=0)
    assert client.post("/predict", json=body(1)).status_code == 200
