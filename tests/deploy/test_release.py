"""Releases to a booted host: a good one loses nothing, a bad one changes nothing."""

import contextlib
import http.client
import itertools
import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

import psycopg
import pytest

from gristmill.warehouse import embedded
from gristmill.warehouse.migrate import migrate

from .host import WITHIN, write_bundle
from .tools import ROOT, need

pytestmark = pytest.mark.xdist_group("host")

FEATURES = {"attr_a": 1, "attr_b": "c", "scd_a": 0.55, "scd_b": 3}
CLIENTS = 4
PAUSE = 0.04
"""Seconds between two requests of a client: some 80 in a second are asked together."""


@dataclass(kw_only=True)
class Load:
    """Clients that keep their connections and ask without end, and what they got."""

    host: object
    key: str
    answered: dict[str, str] = field(default_factory=dict)
    """Of each prediction id the entity."""
    versions: list[str] = field(default_factory=list)
    """The model versions that answered, as they changed."""
    failed: list[str] = field(default_factory=list)
    connections: int = 0
    first: int = 1_000_000
    """The first entity that is asked for; each is asked for once."""
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self):
        self._numbers = itertools.count(self.first)
        self._threads = [threading.Thread(target=self._ask_on) for _ in range(CLIENTS)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self):
        """Have the clients finish what they asked."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask_on(self):
        connection = None
        while not self._stop.wait(PAUSE):
            entity = next(self._numbers)
            body = json.dumps({"idx": entity, "features": FEATURES}).encode()
            try:
                connection = connection or self._connect()
                connection.request(
                    "POST",
                    "/predict",
                    body,
                    {"content-type": "application/json", "authorization": f"Bearer {self.key}"},
                )
                found = connection.getresponse()
                content = found.read()
                if found.status != 200:
                    self.failed.append(f"{found.status} {content[:200]!r}")
                    continue
                answer = json.loads(content)
            except (OSError, http.client.HTTPException, ValueError) as error:
                self.failed.append(repr(error))
                connection = None
                continue
            self.answered[answer["prediction_id"]] = str(entity)
            with self._lock:
                if self.versions[-1:] != [answer["model_version"]]:
                    self.versions.append(answer["model_version"])
            if found.headers.get("connection") == "close":
                connection = None
        if connection:
            connection.close()

    def _connect(self):
        self.connections += 1
        context = ssl.create_default_context(cafile=self.host.certificate)
        raw = socket.create_connection((self.host.address, 443), timeout=60)
        connection = http.client.HTTPSConnection(self.host.domain, timeout=60)
        connection.sock = context.wrap_socket(raw, server_hostname=self.host.domain)
        connection.auto_open = 0  # a connection that is cut is a failure, and no second try
        return connection


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    """Bundles of many versions."""
    folder = tmp_path_factory.mktemp("bundles")
    return [write_bundle(folder / str(version), str(version)) for version in range(1, 5)]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of this work tree."""
    return _wheel(tmp_path_factory.mktemp("wheel"), "")


def _wheel(folder, added):
    """A wheel of this work tree's code with lines added to what a worker starts from."""
    for name in ("pyproject.toml", "README.md", "src"):
        source = ROOT / name
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, folder / name)
    with (folder / "src/gristmill/serving/entry.py").open("a", encoding="utf-8") as entry:
        entry.write(added)
    subprocess.run(
        [_uv(), "build", "--quiet", "--wheel", "--out-dir", folder / "dist", folder], check=True
    )
    (made,) = (folder / "dist").glob("*.whl")
    return made


def _uv():
    own = ROOT / ".uv/bin/uv"
    return shutil.which("uv") or (str(own) if own.exists() else need("uv"))


BROKEN = """
_sound = build

def build(deployment):
    sound = _sound(deployment)

    async def broken(scope, receive, send):
        if scope["type"] == "http" and scope["path"] == "/predict" and {condition}:
            await send({{"type": "http.response.start", "status": 500, "headers": []}})
            await send({{"type": "http.response.body", "body": b"broken"}})
        else:
            await sound(scope, receive, send)

    return broken
"""


SLOW = """
import asyncio

_sound = build

def build(deployment):
    sound = _sound(deployment)

    async def slow(scope, receive, send):
        headers = dict(scope.get("headers", ()))
        if scope.get("path") == "/health" and b"x-forwarded-proto" in headers:
            await asyncio.sleep(5)
        await sound(scope, receive, send)

    return slow
"""


@pytest.fixture(scope="module")
def slow(tmp_path_factory):
    """A wheel whose smoke test behind the proxy takes a while."""
    return _wheel(tmp_path_factory.mktemp("slow"), SLOW)


@pytest.fixture(scope="module")
def live(host, bundles, wheel):
    """The host with version 1 live, and a client's key."""
    done = host.release(bundles[0], wheel)
    assert done.returncode == 0, done.stdout
    assert "is live" in done.stdout
    return host, host.key("crm")


def test_there_is_nothing_to_go_back_to_before_the_second_release(live):
    host, _ = live
    done = host.deploy("rollback", host.login)
    assert done.returncode == 1
    assert "there is none to go back to" in done.stdout


def test_what_is_no_release_is_refused_here(live, bundles, tmp_path):
    host, _ = live
    before = host.live()
    for arguments, said in (
        ((), "usage:"),
        ((host.login,), "usage:"),
        ((host.login, tmp_path), "is no bundle"),
        ((host.login, bundles[0], tmp_path / "no.whl"), "is no wheel"),
    ):
        done = host.deploy("release", *arguments)
        assert done.returncode in {1, 2}
        assert said in done.stdout
    assert host.live() == before


def test_a_spoilt_bundle_is_refused(live, bundles, wheel, tmp_path):
    host, key = live
    before = host.live()
    shutil.copytree(bundles[1], tmp_path / "spoilt")
    graph = tmp_path / "spoilt/model.onnx"
    graph.write_bytes(graph.read_bytes()[:-1] + b"x")
    with Load(host=host, key=key) as load:
        done = host.release(tmp_path / "spoilt", wheel)
    assert done.returncode == 1
    assert "model.onnx is not what it should be" in done.stdout
    assert (host.live(), load.failed, load.versions) == (before, [], ["1"])


def test_one_that_fails_its_smoke_test_gets_no_traffic(live, bundles, tmp_path):
    host, key = live
    before = host.live()
    broken = _wheel(tmp_path, BROKEN.format(condition="scope['method'] == 'POST'"))
    with Load(host=host, key=key) as load:
        done = host.release(bundles[1], broken)
    assert done.returncode == 1
    assert "The smoke test failed" in done.stdout
    assert "Switching" not in done.stdout
    assert (host.live(), load.failed, load.versions) == (before, [], ["1"])
    assert len(load.answered) > 10


def test_one_that_fails_behind_the_proxy_is_taken_back(live, bundles, tmp_path):
    host, key = live
    before = host.live()
    behind = "any(name == b'x-forwarded-proto' for name, _ in scope['headers'])"
    done = host.release(bundles[1], _wheel(tmp_path, BROKEN.format(condition=behind)))
    assert done.returncode == 1
    said = done.stdout
    assert said.index("smoke test passed") < said.index("Switching") < said.index("test failed")
    assert host.live() == before
    with Load(host=host, key=key) as load:
        time.sleep(1)
    assert (load.failed, load.versions) == ([], ["1"])


def test_two_at_once_refuse_each_other(live, bundles, slow, wheel):
    host, key = live
    with Load(host=host, key=key) as load, _begun(host, bundles[1], slow) as releasing:
        next(line for line in releasing.stdout if "starts in the slot" in line)
        second = host.release(bundles[2], wheel)
        third = host.deploy("rollback", host.login)
        assert "is live" in releasing.stdout.read()
        assert releasing.wait() == 0
    for refused in (second, third):
        assert refused.returncode == 1
        assert "Another release or rollback is under way" in refused.stdout
    assert (load.failed, load.versions[-1]) == ([], "2")
    assert set(load.versions) == {"1", "2"}


@contextlib.contextmanager
def _begun(host, bundle, wheel):
    """A release that is under way, in a session of its own."""
    with subprocess.Popen(
        [ROOT / "deploy/release", host.login, bundle, wheel],
        env=host.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    ) as releasing:
        yield releasing


@pytest.mark.parametrize("after", ["upload", "starts in the slot", "Switching"])
def test_one_that_is_interrupted_changes_nothing(live, bundles, slow, after):
    """Its connections die, as when a runner is taken away; nobody is there to undo it."""
    host, key = live
    before = host.live()
    known = host.ssh("ls /opt/gristmill/incoming")
    with Load(host=host, key=key) as load, _begun(host, bundles[2], slow) as releasing:
        if after == "upload":
            _until(lambda: host.ssh("ls /opt/gristmill/incoming") != known)
        else:
            next(line for line in releasing.stdout if after in line)
        os.killpg(releasing.pid, signal.SIGKILL)
        releasing.wait()
        _until(lambda: host.live() == before and _is_free(host))
    assert load.failed == []
    assert load.versions[-1] == "2"
    assert set(load.versions) <= ({"2", "3"} if after == "Switching" else {"2"})


def test_one_that_is_killed_is_undone_by_the_next(live, bundles, slow):
    """Not even what runs on the host is left to undo it."""
    host, _ = live
    before = host.live()
    with _begun(host, bundles[2], slow) as releasing:
        next(line for line in releasing.stdout if "Switching" in line)
        host.root("pkill --signal KILL --full bin/control.py")
    assert releasing.returncode != 0
    assert host.live() != before
    done = host.deploy("rollback", host.login)
    assert done.returncode == 0, done.stdout
    assert "from release 2 to 1" in done.stdout


def _is_free(host):
    """Whether no release is under way."""
    return "free" in host.ssh("flock --nonblock /opt/gristmill/lock echo free", check=False)


def _until(holds):
    deadline = time.monotonic() + WITHIN
    while not holds():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.2)


# Nothing lost, each answer logged once


@dataclass(kw_only=True)
class Database:
    """A warehouse on this machine, and how the host reaches it."""

    url: str
    port: int
    home: Path

    def rows(self, first):
        """Id and entity of each prediction of entities from that number on."""
        with psycopg.connect(self.url) as connection:
            found = connection.execute(
                "SELECT prediction_id, entity FROM gristmill.predictions"
                " WHERE entity::bigint >= %s",
                [first],
            )
            return found.fetchall()


@pytest.fixture
def database():
    """A warehouse with a user that may add predictions and nothing else."""
    # Not under pytest's folder, which root closes to the user that root's server runs as.
    folder = Path(tempfile.mkdtemp(prefix="gristmill-tests-", dir="/tmp"))
    folder.chmod(0o711)
    home = folder / ".gristmill"
    try:
        warehouse = embedded.start(home, database="companydata", owner="admin")
        migrate(warehouse)
        with psycopg.connect(warehouse.url) as connection:
            for statement in _documented_rights():
                connection.execute(statement)
            connection.execute("ALTER ROLE api PASSWORD 'rehearsal'")
        yield Database(url=warehouse.url, port=embedded.find(home).port, home=home)
    finally:
        embedded.stop(home)
        shutil.rmtree(folder)


def _documented_rights():
    """The statements of docs/deploy-vm.md that make the user."""
    page = (ROOT / "docs/deploy-vm.md").read_text(encoding="utf-8")
    return re.search("```sql\n(.*?)```", page, re.DOTALL)[1].strip().split(";")[:-1]


@contextlib.contextmanager
def _tunnel(host, port):
    """The host's way to a warehouse that it cannot reach: from here."""
    command = [*host.ssh_command.split(), "-N", "-o", "ExitOnForwardFailure=yes"]
    way = f"127.0.0.1:15432:127.0.0.1:{port}"
    with subprocess.Popen([*command, "-R", way, host.login], stdin=subprocess.DEVNULL) as tunnel:
        try:
            yield
        finally:
            tunnel.kill()


def test_ten_releases_and_two_rollbacks_lose_nothing(live, bundles, wheel, database):
    host, key = live
    first = 10_000_000
    url = "postgresql://api:rehearsal@127.0.0.1:15432/companydata"
    with Load(host=host, key=key, first=first) as load, contextlib.ExitStack() as tunnels:
        for number in range(10):
            if number == 2:  # until here the predictions waited on the host
                host.root(f"echo GRISTMILL_DATABASE_URL={url} >> /etc/gristmill/gristmill.env")
                tunnels.enter_context(_tunnel(host, database.port))
            if number == 6:  # the warehouse is away
                tunnels.close()
            done = host.release(bundles[number % len(bundles)], wheel)
            assert done.returncode == 0, done.stdout
            if number in {4, 8}:
                done = host.deploy("rollback", host.login)
                assert done.returncode == 0, done.stdout
        tunnels.enter_context(_tunnel(host, database.port))
        load.stop()
        _until(lambda: len(database.rows(first)) >= len(load.answered))
    assert load.failed == []
    # Version by version: 1 2 3 4 1, back to 4, 2 3 4 1, back to 4, 2
    assert load.versions[-1] == "2"
    assert len(load.versions) >= 12
    assert len(load.answered) > 500
    assert dict(database.rows(first)) == {UUID(i): one for i, one in load.answered.items()}
    assert len(host.ssh("ls /opt/gristmill/releases").split()) == 3
    assert len(host.ssh("ls /opt/gristmill/environments").split()) == 2
    print(f"{len(load.answered)} answers on {load.connections} connections")
