"""Connections that do not speak HTTP as they should are answered and ended, at no other's cost."""

import json
import socket

import pytest

from gristmill.serving import protocol
from gristmill.serving.entry import build
from gristmill.serving.protocol import LARGEST_HEADERS
from gristmill.serving.server import Deployment

BODY = json.dumps(
    {"idx": 1, "features": {"attr_a": 1, "attr_b": "c", "scd_a": 0.55, "scd_b": 3}}
).encode()
HEAD = b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
WHOLE = HEAD + b"content-length: %d\r\n\r\n%b" % (len(BODY), BODY)


@pytest.fixture(scope="module")
def client(example_model, served, tmp_path_factory):
    folder = tmp_path_factory.mktemp("protocol")
    example_model.write(folder / "3")
    with served(build(Deployment(bundle=folder / "3", spool=folder / "spool"))) as client:
        yield client


@pytest.fixture
def connect(client):
    """Makes plain connections; what the server sends until it ends one."""
    made = []

    def make():
        made.append(socket.create_connection((client.base_url.host, client.base_url.port), 60))
        return made[-1]

    yield make
    for one in made:
        one.close()


def until_it_ends(connection):
    received = b""
    try:
        while piece := connection.recv(65536):
            received += piece
    except ConnectionResetError:
        # It was ended with something of ours unread: what was received before counts.
        pass
    return received


def problem(received, status, kind):
    head, _, content = received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status), received
    assert b"content-type: application/problem+json" in head
    assert json.loads(content)["type"] == f"/docs#{kind}"


def answered(connection):
    """One answer on a connection that stays open."""
    received = b""
    while b"prediction_id" not in received or not received.endswith(b"}"):
        piece = connection.recv(65536)
        assert piece, received
        received += piece
    return received


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(protocol, "TIMEOUT", 0.3)


@pytest.mark.parametrize("begun", [b"", b"POST /pre", HEAD])
def test_headers_that_do_not_come(impatient, connect, begun):
    connection = connect()
    connection.sendall(begun)
    problem(until_it_ends(connection), 408, "timeout")


def test_headers_that_do_not_come_after_an_answer(impatient, connect):
    connection = connect()
    connection.sendall(WHOLE)
    assert answered(connection).startswith(b"HTTP/1.1 200")
    connection.sendall(b"POST /pre")
    problem(until_it_ends(connection), 408, "timeout")


def test_an_open_connection_may_pause_between_requests(impatient, connect, client):
    connection = connect()
    for _ in range(3):
        connection.sendall(WHOLE)
        assert answered(connection).startswith(b"HTTP/1.1 200")
        # Longer than headers may take, by the time that others were waited for.
        slow = connect()
        problem(until_it_ends(slow), 408, "timeout")


@pytest.mark.parametrize("sent", [b"", BODY[:-1]])
def test_a_body_that_does_not_come(impatient, connect, sent):
    connection = connect()
    connection.sendall(HEAD + b"content-length: %d\r\n\r\n%b" % (len(BODY), sent))
    problem(until_it_ends(connection), 408, "timeout")


def test_headers_that_do_not_end(connect):
    connection = connect()
    with pytest.raises(OSError):  # noqa: PT012 (whichever piece meets the closed connection)
        connection.sendall(b"GET / HTTP/1.1\r\n")
        for number in range(1_000_000):
            connection.sendall(b"x-%d: %b\r\n" % (number, b"y" * 1000))


def test_an_address_that_does_not_end_is_answered(connect):
    connection = connect()
    connection.sendall(b"GET /" + b"x" * LARGEST_HEADERS)
    problem(until_it_ends(connection), 431, "headers-too-large")


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(50),  # TLS
        b"hello\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        HEAD + b"content-length: -1\r\n\r\n",
        HEAD + b"content-length: 1\r\ncontent-length: 2\r\n\r\n",
        HEAD + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n",
        HEAD + b"transfer-encoding: chunked\r\n\r\nZZZ\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nbad header\r\n\r\n",
    ],
)
def test_what_is_not_http(connect, sent):
    connection = connect()
    connection.sendall(sent)
    connection.shutdown(socket.SHUT_WR)
    received = until_it_ends(connection)
    assert received.startswith(b"HTTP/1.1 4"), received
    assert b"application/problem+json" in received


def test_many_bad_connections_leave_the_service_as_it_was(connect, client):
    for _ in range(100):
        connect().sendall(b"POST /pre")
    connection = connect()
    connection.sendall(WHOLE)
    assert answered(connection).startswith(b"HTTP/1.1 200")


def test_requests_that_come_together_are_answered_in_their_order(connect):
    connection = connect()
    connection.sendall(WHOLE * 50)
    received = b""
    while received.count(b"prediction_id") < 50 or not received.endswith(b"}"):
        received += connection.recv(65536)
    assert received.count(b"HTTP/1.1 200") == 50
