"""Connections that do not speak HTTP as they should are answered and ended, at no other's cost."""

import contextlib
import json
import logging
import re
import socket
import time

import pytest
from prometheus_client.parser import text_string_to_metric_families

from gristmill.serving import protocol
from gristmill.serving.entry import build
from gristmill.serving.guard import MOST_LOGGED
from gristmill.serving.protocol import LARGEST_HEADERS
from gristmill.serving.server import Deployment

BODY = json.dumps(
    {"idx": 1, "features": {"attr_a": 1, "attr_b": "c", "scd_a": 0.55, "scd_b": 3}}
).encode()
HEAD = b"POST /predict HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
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


UPGRADE = (
    b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\n"
    b"http2-settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA\r\n"
)
"""What Java's own client sends with every first request."""


@pytest.mark.parametrize("wish", [UPGRADE, b"connection: upgrade\r\nupgrade: websocket\r\n"])
@pytest.mark.parametrize("apart", [False, True])
def test_who_would_rather_speak_another_protocol_is_answered_in_this_one(connect, wish, apart):
    connection = connect()
    request = WHOLE.replace(b"host: localhost\r\n", b"host: localhost\r\n" + wish)
    for _ in range(2):
        for piece in [request[:-40], request[-40:]] if apart else [request]:
            connection.sendall(piece)
            time.sleep(0.05 * apart)
        assert answered(connection).startswith(b"HTTP/1.1 200")
    connection.sendall(WHOLE)
    assert answered(connection).startswith(b"HTTP/1.1 200")


def test_a_wish_for_another_protocol_and_an_end(connect):
    connection = connect()
    wish = UPGRADE.replace(b"Upgrade,", b"close, Upgrade,")
    connection.sendall(WHOLE.replace(b"host: localhost\r\n", b"host: localhost\r\n" + wish))
    assert b"prediction_id" in until_it_ends(connection)


def test_a_tunnel_is_refused(connect):
    connection = connect()
    connection.sendall(b"CONNECT example.com:443 HTTP/1.1\r\nhost: example.com\r\n\r\n")
    problem(until_it_ends(connection), 400, "malformed-http")


def refused(client, status, route="other"):
    """How many requests of a route were counted by a status."""
    name, labels = "gristmill_requests_total", {"route": route, "status": str(status)}
    return sum(
        sample.value
        for family in text_string_to_metric_families(client.get("/metrics").text)
        for sample in family.samples
        if sample.name == name and sample.labels == labels
    )


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"hello\r\n\r\n", 400),
        (b"GET /" + b"x" * LARGEST_HEADERS, 431),
        (b"POST /pre", 408),
    ],
)
def test_what_never_became_a_request_is_counted_once(impatient, connect, client, sent, status):
    before = refused(client, status)
    connection = connect()
    connection.sendall(sent)
    until_it_ends(connection)
    assert refused(client, status) == before + 1


@pytest.mark.parametrize(
    ("rest", "status"),
    [(b"content-length: 9\r\n\r\n{", 408), (b"transfer-encoding: chunked\r\n\r\nZ", 400)],
)
def test_a_request_that_is_cut_short_is_counted_and_logged_as_that_request(
    impatient, connect, client, caplog, rest, status
):
    caplog.set_level(logging.INFO)
    before = [refused(client, status, route) for route in ("/predict", "other")]
    connection = connect()
    connection.sendall(HEAD + b"x-request-id: mine\r\n" + rest)
    received = until_it_ends(connection)
    problem(received, status, "timeout" if status == 408 else "malformed-http")
    assert received.count(b"HTTP/1.1") == 1
    assert b"x-request-id: mine\r\n" in received
    after = [refused(client, status, route) for route in ("/predict", "other")]
    assert after == [before[0] + 1, before[1]]
    (line,) = [one for one in caplog.records if one.getMessage() == "refused"]
    assert (line.request_id, line.status, line.route) == ("mine", status, "/predict")


@pytest.mark.parametrize("path", [b"/nothing", b"/health"])
def test_the_body_of_a_request_that_is_answered_without_it(connect, path):
    """It is not taken for headers that do not end: one answer, and the connection goes on."""
    connection = connect()
    head = HEAD.replace(b"/predict", path)
    connection.sendall(head + b"content-length: %d\r\n\r\n" % (100 * LARGEST_HEADERS))
    received = b""
    while not received.endswith(b"}"):
        received += connection.recv(65536)
    for _ in range(100):
        connection.sendall(b"x" * LARGEST_HEADERS)
    connection.sendall(WHOLE)
    received += answered(connection)
    assert re.findall(rb"HTTP/1.1 (\d+)", received) == [
        b"404" if path == b"/nothing" else b"405",
        b"200",
    ]


def test_the_body_of_an_answered_request_that_does_not_come(impatient, connect):
    connection = connect()
    connection.sendall(HEAD.replace(b"/predict", b"/nothing") + b"content-length: 9\r\n\r\n{")
    received = until_it_ends(connection)
    assert received.count(b"HTTP/1.1") == 1


def test_what_is_not_http_behind_requests_ends_the_connection_once_they_are_answered(connect):
    connection = connect()
    connection.sendall(WHOLE * 3 + b"hello\r\n\r\n" + WHOLE)
    received = until_it_ends(connection)
    assert re.findall(rb"HTTP/1.1 (\d+)", received)[:3] == [b"200"] * 3
    assert received.count(b"prediction_id") == 3


def test_an_answer_that_nobody_reads_is_given_up(impatient, connect, client):
    """Many of them: more than what the kernel holds for one connection."""
    connection = connect()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.settimeout(0.2)
    one = b"GET /openapi.json HTTP/1.1\r\nhost: localhost\r\n\r\n"
    with pytest.raises(OSError):  # noqa: PT012 (it is ended at some piece)
        while True:
            with contextlib.suppress(TimeoutError):
                connection.sendall(one * 100)
    assert client.get("/health").status_code == 200


def test_what_is_not_http_is_logged_by_its_kind_and_does_not_fill_the_log(connect, caplog):
    caplog.set_level(logging.INFO)
    started, identifiers = time.monotonic(), []
    for _ in range(10 * MOST_LOGGED):
        connection = connect()
        connection.sendall(b"secret\r\n\r\n")
        received = until_it_ends(connection)
        told = re.search(rb"x-request-id: ([0-9a-f]+)\r\n", received)
        identifiers.append(told[1].decode() if told else None)
    seconds = int(time.monotonic() - started) + 2
    assert 0 < len(caplog.records) <= (MOST_LOGGED + 1) * seconds
    line = next(one for one in caplog.records if one.getMessage() == "refused")
    assert (line.status, line.problem, line.client) == (400, "malformed-http", "127.0.0.1")
    assert line.request_id in identifiers
    assert len(set(identifiers)) == len(identifiers)
    assert "secret" not in json.dumps([vars(one) for one in caplog.records], default=str)


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
