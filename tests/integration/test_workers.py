"""Worker processes: replaced when they die, never left alone, stopped when their work is done."""

import contextlib
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

PROGRAM = """
import os, sys, time
from gristmill.serving.workers import Workers

def work(ready, orphaned):
    os.write(1, b"started\\n")
    {body}

print("parent", flush=True)
Workers(work, 2, stopping=lambda: None).run()
print("stopped", flush=True)
"""
WAITS = "ready(); orphaned.wait(600)"
DIES = "sys.exit(3)"

SERVER = """
import sys
from pathlib import Path
from gristmill.serving.server import Deployment, serve

bundle, spool, port = sys.argv[1:]
serve(Deployment(bundle=Path(bundle), spool=Path(spool)), host="127.0.0.1", port=int(port))
"""


@contextlib.contextmanager
def _program(body):
    parent = subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(body=body)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with parent:
        assert parent.stdout.readline() == "parent\n"
        try:
            yield parent
        finally:
            parent.kill()


def _children(pid):
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _wait_until(holds):
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline, "it did not come about within 60 seconds"
        time.sleep(0.02)


def _is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_one_that_is_killed_is_replaced():
    with _program(WAITS) as parent:
        assert [parent.stdout.readline() for _ in range(2)] == ["started\n"] * 2
        first, second = _children(parent.pid)
        os.kill(first, signal.SIGKILL)
        assert parent.stdout.readline() == "started\n"
        assert second in _children(parent.pid)
        assert first not in _children(parent.pid)


def test_those_that_never_get_ready_are_started_more_and_more_seldom():
    with _program(DIES) as parent:
        began = time.monotonic()
        moments = []
        for _ in range(8):
            assert parent.stdout.readline() == "started\n"
            moments.append(time.monotonic() - began)
    # Two at once, then after 1/4, 1/2, 1, … seconds, whoever of the two it is.
    assert moments[-1] - moments[2] >= 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopped_in_good_order(number):
    with _program("ready(); time.sleep(600)") as parent:
        assert [parent.stdout.readline() for _ in range(2)] == ["started\n"] * 2
        workers = _children(parent.pid)
        parent.send_signal(number)
        assert parent.stdout.readline() == "stopped\n"
        assert not any(_is_alive(worker) for worker in workers)


def test_workers_whose_parent_is_killed_end():
    with _program(WAITS) as parent:
        assert [parent.stdout.readline() for _ in range(2)] == ["started\n"] * 2
        workers = _children(parent.pid)
        parent.kill()
        _wait_until(lambda: not any(_is_alive(worker) for worker in workers))


@contextlib.contextmanager
def _server(bundle, folder, **limits):
    """A server, and its port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    arguments = [bundle, folder / "spool", port]
    server = subprocess.Popen([sys.executable, "-c", SERVER, *map(str, arguments)], **limits)
    with server:
        try:
            _wait_until(lambda: _listens(port))
            _wait_until(lambda: _children(server.pid))
            yield server, port
        finally:
            server.terminate()
    assert server.returncode == 0


def test_what_is_in_flight_is_answered_before_the_server_stops(bundle_folder, tmp_path):
    """The second half of the request is sent after the server was told to stop."""
    features = {"attr_a": 1, "attr_b": "c", "scd_a": 0.55, "scd_b": 3}
    body = json.dumps({"idx": 1, "features": features}).encode()
    with (
        _server(bundle_folder, tmp_path) as (server, port),
        socket.create_connection(("127.0.0.1", port), timeout=60) as client,
    ):
        head = "POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        client.sendall(head.encode() + b"Expect: 100-continue\r\n\r\n")
        assert client.recv(65536).startswith(b"HTTP/1.1 100 ")
        client.sendall(body[:10])
        server.terminate()
        # It takes no others any more, which tells that it is stopping.
        _wait_until(lambda: not _listens(port))
        client.sendall(body[10:])
        answer = b""
        while piece := client.recv(65536):
            answer += piece
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b'"prediction_id"' in answer


def test_more_connections_than_a_shell_allows_where_the_machine_does(bundle_folder, tmp_path):
    def few():
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 4096))

    with (
        _server(bundle_folder, tmp_path, preexec_fn=few) as (_, port),
        contextlib.ExitStack() as all_,
    ):
        for _ in range(100):
            client = socket.create_connection(("127.0.0.1", port), timeout=60)
            all_.enter_context(client)
            client.sendall(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n")
            assert client.recv(65536).startswith(b"HTTP/1.1 200 ")


def _listens(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
