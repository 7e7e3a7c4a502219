"""The API as a process that outlives the command: started, found and stopped by its home.

Alive means that it holds its lock: a process id alone may be somebody else's by now.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gristmill.errors import ServingError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from io import BufferedWriter
    from pathlib import Path

STARTED_WITHIN = 60.0
"""Seconds within which a started API has to answer."""

STOPPED_WITHIN = 30.0
"""Seconds within which it finishes what is in flight and ships what is spooled."""


@dataclass(frozen=True, kw_only=True)
class Running:
    """An API that runs in the background."""

    pid: int
    url: str
    version: str
    """The model version that it was started with."""


def address(host: str, port: int) -> str:
    """The URL under which an API that listens there is reached from this machine."""
    reached = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    return f"http://[{reached}]:{port}" if ":" in reached else f"http://{reached}:{port}"


def start(home: Path, command: Sequence[str], *, url: str, version: str) -> Running:
    """Start the API and wait until it is ready to answer; its log is `home/log/api.log`.

    Raises ServingError with the last lines of its log where it does not come up.
    """
    log_path = home / "log" / "api.log"
    log_path.parent.mkdir(parents=True, exist_ok=True)
    with _lock_file(home) as lock, log_path.open("ab") as log:
        mark = log.tell()
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ServingError(
                "The API of this project runs already: `gristmill down` stops it."
            ) from error
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            pass_fds=[lock.fileno()],  # the lock lives as long as the API and its workers do
        )
        running = Running(pid=process.pid, url=url, version=version)
        _record(home).write_text(json.dumps(running.__dict__), encoding="utf-8")
    deadline = time.monotonic() + STARTED_WITHIN
    while not _is_ready(url):
        if process.poll() is not None or time.monotonic() > deadline:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            told = log_path.read_bytes()[mark:].decode(errors="replace").strip()
            raise ServingError(
                f"The API did not come up on {url}. Its log, {log_path}, ends with:\n"
                + "\n".join(told.splitlines()[-10:])
            )
        time.sleep(0.05)
    return running


def find(home: Path) -> Running | None:
    """The API of a project's home; None where none runs."""
    if not _record(home).exists():
        return None
    with _lock_file(home) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return Running(**json.loads(_record(home).read_text(encoding="utf-8")))
    return None


def stop(home: Path) -> bool:
    """End the API of a project's home, what is in flight finished; False where none ran."""
    running = find(home)
    if running is None:
        return False
    with suppress(ProcessLookupError):
        os.kill(running.pid, signal.SIGTERM)
    deadline = time.monotonic() + STOPPED_WITHIN
    while find(home):
        if time.monotonic() > deadline:
            with suppress(ProcessLookupError):
                os.killpg(running.pid, signal.SIGKILL)
            break
        time.sleep(0.05)
    _record(home).unlink(missing_ok=True)
    return True


def _record(home: Path) -> Path:
    return home / "api.json"


def _lock_file(home: Path) -> BufferedWriter:
    return (home / "api.lock").open("ab")


def _is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/ready", timeout=2) as answer:  # noqa: S310
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False
