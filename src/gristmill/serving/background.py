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

FOLLOWED_WITHIN = 20.0
"""Seconds within which a running API answers by a new champion."""

STOPPED_WITHIN = 30.0
"""Seconds within which it finishes what is in flight and ships what is spooled."""


@dataclass(frozen=True, kw_only=True)
class Running:
    """An API that runs in the background."""

    pid: int
    url: str


def address(host: str, port: int) -> str:
    """The URL under which an API that listens there is reached from this machine."""
    reached = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    return f"http://[{reached}]:{port}" if ":" in reached else f"http://{reached}:{port}"


def start(home: Path, command: Sequence[str], *, url: str) -> Running:
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
        running = Running(pid=process.pid, url=url)
        _record(home).write_text(json.dumps(running.__dict__), encoding="utf-8")
    deadline = time.monotonic() + STARTED_WITHIN
    while _answering_version(url) is None:
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
            known = json.loads(_record(home).read_text(encoding="utf-8"))
            return Running(pid=known["pid"], url=known["url"])
    return None


def follows(running: Running, version: str) -> bool:
    """Whether it answers by a model version, as it does soon after that became the champion."""
    deadline = time.monotonic() + FOLLOWED_WITHIN
    while _answering_version(running.url) != version:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


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


def _answering_version(url: str) -> str | None:
    """The model version by which an API answers; None where it is not ready to."""
    try:
        with urllib.request.urlopen(f"{url}/ready", timeout=2) as answer:  # noqa: S310
            return str(json.load(answer)["model_version"])
    except (OSError, ValueError, KeyError):
        return None
