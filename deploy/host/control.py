"""What happens on the host when a release comes, is undone, or the machine starts.

Two slots, blue and green, take turns. The link `live.sock` is the one record of which of them
answers: nginx follows it, and moving it loses no request. A release that is not confirmed in the
end, for whatever reason, leaves the one before it answering. It runs as `deploy`, by the Python of
the machine alone.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import platform
import re
import secrets
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

BASE = Path("/opt/gristmill")
RELEASES = BASE / "releases"
ENVIRONMENTS = BASE / "environments"
INCOMING = BASE / "incoming"
SLOTS = BASE / "slots"
LIVE = BASE / "live.sock"
SWITCHING = BASE / "switching"
"""There from a switch until it is confirmed: the slot to go back to."""
KEY = BASE / "smoke-test.key"
SMOKE_TEST = BASE / "bin" / "smoke-test"
SETTINGS = Path("/etc/gristmill")
NAMES = ("blue", "green")
ENDINGS = (signal.SIGHUP, signal.SIGTERM, signal.SIGINT)
CONFIRMED = "confirmed"
"""A release has this file since it answered well through nginx, until it is rolled back."""

KEPT = 3
"""Releases that stay on the machine."""
READY_WITHIN = 60.0
"""Seconds within which a started slot has to answer."""
DRAIN = 2.0
"""Seconds that a slot goes on after a switch away from it: who had just connected is answered."""


class Failure(Exception):
    """Why nothing has changed: a sentence for who releases."""


# The lock


@contextmanager
def alone() -> Iterator[None]:
    """Hold the machine's releases; what an interrupted one left is put back first."""
    with (BASE / "lock").open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Failure("Another release or rollback is under way on this machine.") from None
        # A dead connection, or the machine's shutting down, ends this in good order.
        for number in ENDINGS:
            signal.signal(number, _interrupted)
        put_back()
        yield


def _interrupted(number: int, _: object) -> None:
    for each in ENDINGS:  # once: what it undoes is undone to the end
        signal.signal(each, signal.SIG_IGN)
    raise Failure(f"Interrupted by {signal.Signals(number).name}.")


def say(line: str) -> None:
    """Tell who releases; raises Failure where nobody listens any more."""
    try:
        print(line, flush=True)
    except OSError:
        # Or the interpreter would try again when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise Failure("The connection to who releases is gone.") from None


# Slots and links


def live_slot() -> str | None:
    """The slot that answers; None before the first release."""
    try:
        return LIVE.readlink().parent.name
    except FileNotFoundError:
        return None


def idle_slot() -> str:
    """The slot that does not."""
    return "green" if live_slot() == "blue" else "blue"


def socket_of(slot: str) -> Path:
    """Where a slot listens."""
    return Path("/run/gristmill") / slot / "api.sock"


def release_in(slot: str | None) -> Path | None:
    """The release that a slot runs."""
    if slot is None or not (SLOTS / slot).is_symlink():
        return None
    return (SLOTS / slot).resolve()


def link(path: Path, target: Path) -> None:
    """Make or move a link, atomically and durably."""
    beside = path.with_name(f".{path.name}.new")
    beside.unlink(missing_ok=True)
    beside.symlink_to(target)
    beside.replace(path)
    synchronise(path.parent)


def synchronise(folder: Path) -> None:
    """Make a folder's entries durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def unit(action: str, slot: str) -> None:
    """Start or stop a slot. Raises Failure."""
    done = subprocess.run(
        ["sudo", "-n", "/usr/bin/systemctl", action, f"gristmill-api@{slot}.service"],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise Failure(f"systemctl {action} of the slot {slot} failed: {done.stderr.strip()}")


def log_of(slot: str, since: float) -> str:
    """The last lines that a slot logged."""
    done = subprocess.run(
        [
            *("journalctl", f"--unit=gristmill-api@{slot}.service", "--output=cat"),
            *("--lines=15", "--no-pager", f"--since=@{since:.0f}"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip()


def put_back() -> None:
    """Undo a switch that was never confirmed: who made it is dead."""
    with suppress(FileNotFoundError):
        before = SWITCHING.read_text(encoding="utf-8").strip()
        if before in NAMES:
            unit("start", before)
            link(LIVE, socket_of(before))
        SWITCHING.unlink()


# Bringing a release live


def bring_live(release: Path) -> None:
    """Start a release in the idle slot and let it answer, or change nothing. Raises Failure."""
    before, slot = live_slot(), idle_slot()
    started = time.time()
    unit("stop", slot)  # an interrupted release may have left it running
    link(SLOTS / slot, release)
    try:
        unit("start", slot)
        wait_for(socket_of(slot), slot)
        say(smoke_test(release, "--socket", str(socket_of(slot))))
        switch(release, before, slot)
    except BaseException:
        try:
            unit("stop", slot)
        finally:
            with suppress(Failure):
                say(f"The slot {slot} logged:\n{log_of(slot, started)}")
        raise
    if before:
        time.sleep(DRAIN)
        unit("stop", before)


def wait_for(socket: Path, slot: str) -> None:
    """Wait until a slot listens. Raises Failure where it does not, or ends again and again."""
    deadline = time.monotonic() + READY_WITHIN
    while not socket.exists():
        shown = subprocess.run(
            ["systemctl", "show", "--property=NRestarts", f"gristmill-api@{slot}.service"],
            capture_output=True,
            text=True,
            check=True,
        )
        if int(shown.stdout.partition("=")[2] or 0) >= 2 or time.monotonic() > deadline:
            raise Failure(f"The slot {slot} does not come up.")
        time.sleep(0.1)


def switch(release: Path, before: str | None, slot: str) -> None:
    """Let a slot answer, and go back unless it does so well through nginx. Raises Failure."""
    say(f"Switching from {before or 'nothing'} to {slot}.")
    if before:
        SWITCHING.write_text(before, encoding="utf-8")
        synchronise(BASE)
    try:
        link(LIVE, socket_of(slot))
        domain = (SETTINGS / "domain").read_text(encoding="utf-8").strip()
        certificate = str(SETTINGS / "tls" / "fullchain.pem")
        here = ("--address", "127.0.0.1", "--certificate", certificate)
        say(smoke_test(release, "--url", f"https://{domain}", *here))
        (release / CONFIRMED).touch()
        synchronise(release)
    except BaseException:
        if before:
            link(LIVE, socket_of(before))
            time.sleep(DRAIN)
        else:
            LIVE.unlink()
        raise
    finally:
        SWITCHING.unlink(missing_ok=True)


def smoke_test(release: Path, *where: str) -> str:
    """What the smoke test said. Raises Failure with it where it failed."""
    done = subprocess.run(
        [
            *(sys.executable, "-I", str(SMOKE_TEST), *where),
            *("--bundle", str(release / "bundle"), "--key-file", str(KEY)),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise Failure(done.stderr.strip())
    return done.stdout.strip()


# Releases


def releases() -> list[Path]:
    """The releases on this machine, the oldest first."""
    found = [path for path in RELEASES.glob("*") if path.name.isdigit()]
    return sorted(found, key=lambda path: int(path.name))


def expect() -> None:
    """Say what a release has to bring, as JSON, and make room for it."""
    with alone():
        for folder in (RELEASES, ENVIRONMENTS, INCOMING, SLOTS):
            folder.mkdir(exist_ok=True)
        for old in INCOMING.iterdir():
            if time.time() - old.stat().st_mtime > 86_400:
                shutil.rmtree(old)
        libc = platform.libc_ver()[1].replace(".", "_")
        name = f"{time.strftime('%Y%m%dT%H%M%S')}-{secrets.token_hex(4)}"
        (INCOMING / name).mkdir()
        answer = {
            "incoming": name,
            "python": ".".join(platform.python_version_tuple()[:2]),
            "platform": f"{platform.machine()}-manylinux_{libc}",
            "environments": [path.name for path in ENVIRONMENTS.iterdir()],
        }
        say(json.dumps(answer))


def release(name: str, environment: str, code: str) -> None:
    """Bring live what was uploaded. Raises Failure, and then nothing has changed."""
    digests = {"environment": environment, "code": code}
    if not re.fullmatch(r"[0-9T]+-[0-9a-f]{8}", name) or not all(
        re.fullmatch(r"[0-9a-f]{16}", digest) for digest in digests.values()
    ):
        raise Failure("deploy/release calls this, with what `expect` told it.")
    with alone():
        brought = INCOMING / name
        for part, digest in digests.items():
            adopt(brought / part, ENVIRONMENTS / digest)
            (brought / part).symlink_to(ENVIRONMENTS / digest)
        number = max((int(path.name) for path in releases()), default=0) + 1
        made = RELEASES / str(number)
        brought.rename(made)
        try:
            make_key(made)
            say(f"Release {number} starts in the slot {idle_slot()}.")
            bring_live(made)
        except BaseException:
            shutil.rmtree(made)
            raise
        prune()
        say(f"Release {number} is live.")


def adopt(brought: Path, environment: Path) -> None:
    """Make packages or code that were uploaded what releases can share."""
    if environment.is_dir():
        shutil.rmtree(brought, ignore_errors=True)
        return
    if not brought.is_dir():
        raise Failure(f"{brought.name} {environment.name} was not uploaded.")
    compile_all(brought)
    brought.rename(environment)


def compile_all(folder: Path) -> None:
    """Compile what Python would otherwise compile at each start: it may not write there."""
    command = [sys.executable, "-I", "-m", "compileall", "-q", "-j", "0", str(folder)]
    # Some packages bring files for a Python that is not this one.
    subprocess.run(command, capture_output=True, check=False)


def make_key(made: Path) -> None:
    """Have a key to test with; since there is one, nobody is answered without."""
    if not KEY.exists():
        key = keys(made, "add", f"smoke-test-{secrets.token_hex(4)}")
        descriptor = os.open(KEY, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(key)


CHANGE_KEYS = """
import sys
from pathlib import Path
from gristmill.errors import GristmillError
from gristmill.serving.keys import add_key, list_keys, revoke_key

action, name = sys.argv[1:]
path = Path("/var/lib/gristmill/keys.json")
try:
    if action == "add":
        print(add_key(path, name))
    elif action == "revoke":
        revoke_key(path, name)
    else:
        for key in list_keys(path):
            print(key.name, key.created_at, key.revoked_at or "")
except GristmillError as error:
    sys.exit(str(error))
"""
"""What the API's user runs: the command line needs more than what answers has."""


def keys(release: Path, action: str, name: str = "") -> str:
    """Add, list or revoke API keys; what that printed. Raises Failure."""
    path = f"PYTHONPATH={release / 'code'}:{release / 'environment'}"
    done = subprocess.run(
        [
            *("sudo", "-n", "-u", "gristmill", "env", "--chdir=/var/lib/gristmill", path),
            *(sys.executable, "-P", "-c", CHANGE_KEYS, action, name),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise Failure(done.stderr.strip())
    return done.stdout.strip()


def rollback() -> None:
    """Bring the release before the live one live again. Raises Failure."""
    with alone():
        live = release_in(live_slot())
        if live is None:
            raise Failure("No release is live on this machine.")
        earlier = [
            path
            for path in releases()
            if int(path.name) < int(live.name) and (path / CONFIRMED).exists()
        ]
        if not earlier:
            raise Failure(f"Before release {live.name} there is none to go back to.")
        target = earlier[-1]
        say(f"Going back from release {live.name} to {target.name}.")
        bring_live(target)
        (live / CONFIRMED).unlink()
        say(f"Release {target.name} is live.")


def prune() -> None:
    """Drop releases that are too many, and packages and code that none uses."""
    live = release_in(live_slot())
    for old in [path for path in releases() if path != live][: -(KEPT - 1)]:
        shutil.rmtree(old)
    used = {(path / part).resolve() for path in releases() for part in ("environment", "code")}
    for environment in ENVIRONMENTS.iterdir():
        if environment not in used:
            shutil.rmtree(environment)


def start() -> None:
    """At boot: start the slot that is live."""
    with alone():
        if slot := live_slot():
            unit("start", slot)


def show() -> None:
    """Say which releases there are, and which is live."""
    live = release_in(live_slot())
    for path in releases():
        manifest = json.loads((path / "bundle" / "manifest.json").read_text(encoding="utf-8"))
        state = "live" if path == live else "kept" if (path / CONFIRMED).exists() else "withdrawn"
        say(f"{path.name}  {state}  version {manifest['version']} of {manifest['project']}")


def change_keys(action: str, name: str) -> None:
    """Add, list or revoke the API's keys, by the live release's code. Raises Failure."""
    live = release_in(live_slot())
    if live is None:
        raise Failure("No release is live on this machine.")
    say(keys(live, action, name))


def main() -> None:
    """Do what the command line says; exit 1 with one message where that cannot be."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("expect", "rollback", "start", "show"):
        commands.add_parser(name)
    releasing = commands.add_parser("release")
    releasing.add_argument("incoming")
    releasing.add_argument("environment")
    releasing.add_argument("code")
    changing = commands.add_parser("keys")
    changing.add_argument("action", choices=("add", "list", "revoke"))
    changing.add_argument("name", nargs="?", default="")
    given = parser.parse_args()
    try:
        if given.command == "release":
            release(given.incoming, given.environment, given.code)
        elif given.command == "keys":
            change_keys(given.action, given.name)
        else:
            {"expect": expect, "rollback": rollback, "start": start, "show": show}[given.command]()
    except Failure as failure:
        sys.exit(str(failure))
    except (OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"This machine could not do it: {error}")


if __name__ == "__main__":
    main()
