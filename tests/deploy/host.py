"""A Debian 12 machine with its own systemd and network, booted here, for releases to be tried on.

`debian_root` makes its files once for a run; `bare_host` boots them; `host` is one that
`deploy/host/prepare-host` has made ready. A test that uses one imports the fixtures and is marked
`xdist_group("host")`, so that all of them share what was made. It refuses to skip.
"""

import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from .network import network
from .tools import ROOT, in_memory, need, run

DOMAIN = "api.gristmill.test"
PACKAGES = (
    *("ca-certificates", "certbot", "dbus", "nginx-light", "openssh-server", "openssl", "python3"),
    *("python3-venv", "rsync", "sudo", "systemd-sysv"),
)
"""What the machine comes with: what prepare-host installs too, as it has no way to a registry."""
ROOM = "3g"
"""Of memory, for its files: thousands of small ones, and none of them to keep."""
WITHIN = 120.0
"""Seconds within which something that was started is waited for."""


@dataclass(kw_only=True)
class Host:
    """A machine that runs; `ssh` and `root` log in to it."""

    folder: Path
    """Its disk, its keys, and what its console showed."""
    files: Path
    """Its root folder, seen from outside."""
    namespace: str
    """Its network namespace."""
    address: str
    gateway: str
    """This machine's address, as the host sees it."""
    domain: str = DOMAIN
    _booted: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def ssh_command(self) -> str:
        """What GRISTMILL_SSH has to be."""
        return f"ssh -F {self.folder / 'ssh_config'}"

    @property
    def environment(self) -> dict[str, str]:
        """The environment for `deploy/release` and its neighbours."""
        return {**os.environ, "GRISTMILL_SSH": self.ssh_command}

    @property
    def login(self) -> str:
        """What `deploy/release` takes as HOST."""
        return f"deploy@{self.address}"

    @property
    def certificate(self) -> Path:
        """The certificate that nginx should show."""
        return self.files / "etc/gristmill/tls/fullchain.pem"

    def ssh(self, command: str, *, user: str = "deploy", check: bool = True) -> str:
        """What a shell command printed there."""
        done = subprocess.run(
            [*self.ssh_command.split(), f"{user}@{self.address}", command],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        assert not check or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def root(self, command: str, *, check: bool = True) -> str:
        """The same as root."""
        return self.ssh(command, user="root", check=check)

    def deploy(self, script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        """Run a script of `deploy/` from here; what it said, both ways."""
        return subprocess.run(
            [str(ROOT / "deploy" / script), *map(str, arguments)],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def release(self, bundle: Path, *wheel: Path) -> subprocess.CompletedProcess[str]:
        """Run `deploy/release` for this host."""
        return self.deploy("release", self.login, bundle, *wheel)

    def key(self, name: str) -> str:
        """A new API key, made by the live release."""
        return self.ssh(f"python3 -I /opt/gristmill/bin/control.py keys add {name}").strip()

    def live(self) -> dict[str, str]:
        """The slot and the number of the release that is live."""
        slot = Path(self.ssh("readlink /opt/gristmill/live.sock").strip()).parent.name
        release = Path(self.ssh(f"readlink /opt/gristmill/slots/{slot}").strip()).name
        return {"slot": slot, "release": release}

    def boot(self) -> None:
        """Start it and wait until it can be logged in to."""
        with (self.folder / "console").open("ab") as console:
            self._booted = subprocess.Popen(
                [
                    *(need("systemd-nspawn"), "--quiet", "--boot", "--keep-unit", "--register=no"),
                    *("--settings=no", "--link-journal=no", "--resolv-conf=off"),
                    *("--timezone=off", "--console=read-only", f"--machine={self.namespace}"),
                    f"--directory={self.files}",
                    f"--network-namespace-path=/run/netns/{self.namespace}",
                ],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
            )
        self.wait()

    def wait(self) -> None:
        """Wait until it has booted, by whatever way."""
        deadline = time.monotonic() + WITHIN
        while "running" not in (state := self.root("systemctl is-system-running", check=False)):
            ended = self._booted is None or self._booted.poll() is not None
            if ended or "degraded" in state or time.monotonic() > deadline:
                failed = self.root("systemctl --failed --no-pager", check=False)
                console = (self.folder / "console").read_text(errors="replace")[-3000:]
                pytest.fail(f"The host does not boot: {state}{failed}\n{console}", pytrace=False)
            time.sleep(0.2)

    def reboot(self) -> None:
        """Have it start anew in good order."""
        self.root("touch /run/before-the-reboot")
        self.root("systemctl reboot", check=False)
        deadline = time.monotonic() + WITHIN
        while "gone" not in self.root("test -e /run/before-the-reboot || echo gone", check=False):
            assert time.monotonic() < deadline, "the host does not reboot"
            if self._booted is not None and self._booted.poll() is not None:
                # Where /run is no tmpfs, nspawn shuts the machine down and cannot start it again.
                self.boot()
                return
            time.sleep(0.2)
        self.wait()

    def cut_power(self) -> None:
        """End every process of it at once; `boot` starts it again."""
        assert self._booted is not None
        # The first process of a namespace takes all others with it.
        for child in _children(self._booted.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        self._booted.kill()
        self._booted.wait()


def _children(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.fixture(scope="session")
def debian_root(tmp_path_factory):
    """The files of a Debian 12 machine, read only, which all workers of a run share."""
    if os.geteuid() != 0:
        pytest.fail("Booting a host takes root.", pytrace=False)
    base = tmp_path_factory.getbasetemp()
    memory = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "debian"
    with memory.with_suffix(".used").open("ab") as used:
        with _only_one(memory):
            if not memory.is_mount():
                _make_root(memory)
            fcntl.flock(used, fcntl.LOCK_SH)
        yield memory / "root"
        with _only_one(memory), contextlib.suppress(BlockingIOError):  # others go on with it
            fcntl.flock(used, fcntl.LOCK_EX | fcntl.LOCK_NB)
            run("umount", "--lazy", memory)


@contextlib.contextmanager
def _only_one(memory: Path):
    """Hold up the other workers."""
    with memory.with_suffix(".lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _make_root(memory: Path) -> None:
    memory.mkdir(exist_ok=True)
    in_memory(memory, ROOM)
    try:
        run(
            *(need("mmdebstrap"), "--quiet", "--mode=root", "--variant=minbase"),
            f"--include={','.join(PACKAGES)}",
            *("--dpkgopt=force-unsafe-io", '--aptopt=Acquire::Languages "none"'),
            "--dpkgopt=path-exclude=/usr/share/man/*",
            "--dpkgopt=path-exclude=/usr/share/locale/*",
            *("bookworm", memory / "root"),
        )
    except BaseException:
        run("umount", "--lazy", memory)
        raise


@contextlib.contextmanager
def booted(root, folder):
    """A machine of its own that starts from these files; gone without a trace at the end."""
    with contextlib.ExitStack() as undo:
        own = undo.enter_context(network("gmhost", "10.214", "host0"))
        files = _disk(root, folder / "disk", undo)
        host = Host(
            folder=folder,
            files=files,
            namespace=own.name,
            address=own.address,
            gateway=own.gateway,
        )
        _let_in(host)
        # Also where it does not boot in the end.
        undo.callback(host.cut_power)
        host.boot()
        yield host


def _disk(root, folder, undo):
    """The machine's files: what it changes is kept beside those that it starts from, in memory."""
    folder.mkdir()
    in_memory(folder, ROOM)
    undo.callback(run, "umount", "--lazy", folder)
    upper, work, files = (folder / name for name in ("upper", "work", "files"))
    for made in (upper, work, files):
        made.mkdir()
    options = f"lowerdir={root},upperdir={upper},workdir={work}"
    run("mount", "-t", "overlay", "overlay", "-o", options, files)
    undo.callback(run, "umount", "--lazy", files)
    return files


def _let_in(host):
    """A key for root, and the host's own, so that ssh asks nothing."""
    key = host.folder / "key"
    run(need("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-C", "release", "-f", key)
    login = host.files / "root/.ssh"
    login.mkdir(mode=0o700, exist_ok=True)
    shutil.copy(key.with_suffix(".pub"), login / "authorized_keys")
    own = (host.files / "etc/ssh/ssh_host_ed25519_key.pub").read_text().split()[:2]
    (host.folder / "known_hosts").write_text(f"{host.address} {' '.join(own)}\n")
    (host.folder / "ssh_config").write_text(
        f"IdentityFile {key}\nIdentitiesOnly yes\nBatchMode yes\nConnectTimeout 5\n"
        f"UserKnownHostsFile {host.folder / 'known_hosts'}\nStrictHostKeyChecking yes\n"
        "LogLevel ERROR\n"
    )
    (host.files / "etc/hostname").write_text("host\n")
    (host.files / "etc/hosts").write_text(f"127.0.0.1 localhost host {host.domain}\n")


@pytest.fixture(scope="module")
def bare_host(debian_root, tmp_path_factory):
    """A machine as it comes: nobody has prepared it."""
    with booted(debian_root, tmp_path_factory.mktemp("host")) as host:
        yield host


@pytest.fixture(scope="module")
def host(bare_host, debian_root):
    """A machine that takes releases."""
    prepare(bare_host)
    own = bare_host.files / "opt/gristmill/environments"
    # The locked packages that were brought to the host before: the next has them already.
    known = debian_root.with_name("environments")
    if known.exists():
        run("cp", "--archive", known, own)
    yield bare_host
    if own.exists() and not known.exists():
        run("cp", "--archive", own, known)


def prepare(host):
    """Run prepare-host there, as docs/deploy-vm.md says."""
    key = (host.folder / "key.pub").read_text().strip()
    run(
        *(need("rsync"), "--archive", f"--rsh={host.ssh_command}"),
        *(ROOT / "deploy/host", f"root@{host.address}:"),
    )
    return host.root(f"host/prepare-host {host.domain} '{key}'")


EXAMPLE = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from conftest import ExampleModel
model = ExampleModel()
model.write(Path(sys.argv[2]), manifest=model.manifest(version=sys.argv[3]))
"""


def write_bundle(folder, version):
    """A bundle small enough to be computed by hand, of that version."""
    run(sys.executable, "-c", EXAMPLE, ROOT / "tests", folder, version)
    assert json.loads((folder / "manifest.json").read_text())["version"] == version
    return folder
