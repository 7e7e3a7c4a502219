"""Large bodies: as many at a time as there is room for, whoever else comes waits for its turn."""

import asyncio
import contextlib
import json
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from gristmill.serving import protocol, room
from gristmill.serving.bodies import LARGEST_BATCH_BODY
from gristmill.serving.entry import build
from gristmill.serving.problems import Refused
from gristmill.serving.room import ROOM, Room
from gristmill.serving.server import Deployment

HEAD = b"POST /predict/batch HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
ROW = {"idx": 1, "features": {"attr_a": 1, "attr_b": "c", "scd_a": 0.55, "scd_b": 3}}


# Room by itself


def test_it_is_given_in_the_order_in_which_it_was_asked_for():
    given = []

    async def ask(space, name, octets, held):
        async with space.of(octets):
            given.append(name)
            await held.wait()

    async def story():
        space, first, rest = Room(10), asyncio.Event(), asyncio.Event()
        tasks = [asyncio.create_task(ask(space, "a", 6, first))]
        tasks += [
            asyncio.create_task(ask(space, name, octets, rest))
            for name, octets in (("large", 9), ("small", 1), ("left", 5))
        ]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert given == ["a"]  # the small one fits, and goes before nobody
        tasks[3].cancel()
        first.set()
        await asyncio.wait(tasks[:1])
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert given == ["a", "large", "small"]
        rest.set()
        await asyncio.wait(tasks)
        async with space.of(10):
            pass

    asyncio.run(story())


def test_who_waits_too_long_is_sent_away_and_holds_up_nobody(monkeypatch):
    async def story():
        monkeypatch.setattr(room, "PATIENCE", 0.05)
        space = Room(10)
        async with space.of(6):
            waiting = asyncio.create_task(space.of(9).__aenter__())
            await asyncio.sleep(0)
            monkeypatch.setattr(room, "PATIENCE", 60)
            behind = asyncio.create_task(space.of(4).__aenter__())
            with pytest.raises(Refused) as refused:
                await waiting
            assert refused.value.kind.name == "busy"
            await asyncio.wait_for(behind, 60)

    asyncio.run(story())


def test_who_gives_up_in_the_moment_of_its_turn_gives_it_back():
    async def story():
        space = Room(10)
        async with space.of(6):
            waiting = asyncio.create_task(space.of(9).__aenter__())
            await asyncio.sleep(0)
        waiting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await waiting
        await asyncio.wait_for(space.of(10).__aenter__(), 60)

    asyncio.run(story())


# Room under a service


PROGRAM = """
import sys
from pathlib import Path
from gristmill.serving.server import Deployment, serve

bundle, spool, port = sys.argv[1:]
serve(Deployment(bundle=Path(bundle), spool=Path(spool)), host="127.0.0.1", port=int(port))
"""
SENDERS = 40


@pytest.fixture
def server(bundle_folder, tmp_path):
    """A server of one worker: its address, and the worker's process id."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    arguments = [bundle_folder, tmp_path / "spool", port]
    with subprocess.Popen([sys.executable, "-c", PROGRAM, *map(str, arguments)]) as process:
        try:
            address = ("127.0.0.1", port)
            ready = httpx.HTTPTransport(retries=10)  # with a growing pause between them
            with httpx.Client(transport=ready, timeout=60) as client:
                assert client.get(f"http://127.0.0.1:{port}/ready").status_code == 200
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
            yield address, int(children)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(120)


def held(process):
    """The most memory that a process ever had of its own, in bytes."""
    (line,) = [
        line
        for line in Path(f"/proc/{process}/status").read_text().splitlines()
        if line.startswith("VmHWM")
    ]
    return int(line.split()[1]) * 1024


def test_memory_does_not_grow_with_the_number_of_large_bodies(server):
    address, worker = server
    before = held(worker)
    body = json.dumps({"rows": [ROW]}).encode().ljust(LARGEST_BATCH_BODY)
    head = HEAD + b"connection: close\r\ncontent-length: %d\r\n\r\n" % len(body)
    connections = [socket.create_connection(address, 60) for _ in range(SENDERS)]
    whole = [head + body] * SENDERS
    sent = [0] * SENDERS
    for connection in connections:
        connection.setblocking(False)
    # All but the last byte of each, as far as the kernel takes it.
    for _ in range(200):
        for place, connection in enumerate(connections):
            with contextlib.suppress(BlockingIOError):
                piece = whole[place][sent[place] : len(whole[place]) - 1][: 1 << 20]
                sent[place] += connection.send(piece)
    taken = held(worker) - before
    # What one connection holds before it is its turn is read at once: 256 KiB.
    assert taken < ROOM * 1.5 + SENDERS * (512 << 10), f"{taken >> 20} MiB"
    assert sum(sent) > 2 * ROOM
    statuses = []
    for place, connection in enumerate(connections):
        connection.settimeout(120)
        with connection, contextlib.suppress(OSError):
            connection.sendall(whole[place][sent[place] :])
            statuses.append(connection.recv(65536)[9:12])
    assert b"200" in statuses
    assert set(statuses) <= {b"200", b"408", b"503"}


def test_who_sends_slowly_is_cut_off_and_the_next_is_let_in(
    example_model, served, tmp_path, monkeypatch
):
    """The next one is not cut off for having waited, though it waited longer than is allowed."""
    monkeypatch.setattr(protocol, "TIMEOUT", 0.5)
    monkeypatch.setattr(Room.__init__, "__defaults__", (LARGEST_BATCH_BODY,))
    example_model.write(tmp_path / "3")
    body = json.dumps({"rows": [ROW]}).encode().ljust(1 << 20)
    with served(build(Deployment(bundle=tmp_path / "3", spool=tmp_path / "spool"))) as client:
        address = (client.base_url.host, client.base_url.port)
        slow = [socket.create_connection(address, 60) for _ in range(3)]
        for connection in slow:
            connection.sendall(HEAD + b"content-length: %d\r\n\r\n" % LARGEST_BATCH_BODY)
            connection.sendall(b" " * (1 << 17))
        answer = client.post(
            "/predict/batch", content=body, headers={"content-type": "application/json"}
        )
        assert answer.status_code == 200
        for connection in slow:
            assert connection.recv(65536).startswith(b"HTTP/1.1 408 ")
            connection.close()
