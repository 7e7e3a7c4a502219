"""Keeps a few programs running, each with all its descendants, and stops them in order.

Knows nothing of Airflow. A program that died is started again only once nothing of it is left.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

MARK = "GRISTMILL_SUPERVISED"
"""The variable by which a program's descendants are known, in whatever session they are."""
LONGEST_PAUSE = 30.0
"""Seconds before a program is started again that keeps dying."""
SETTLED = 60.0
"""Seconds that a program has to live for its next death to count as the first."""
_TICK = 0.25
_DYING = 10.0
"""Seconds that what was killed may take to be gone."""


@dataclass(frozen=True, kw_only=True)
class Service:
    """A program to keep running."""

    name: str
    command: tuple[str, ...]
    grace: float
    """Seconds within which it may end by itself when it is told to stop."""
    stopped: int
    """When it is stopped: the lowest numbers first, each once those before it have ended."""
    may_start: Callable[[], bool] = lambda: True
    """Whether what it needs is there; asked until it is."""


@dataclass(kw_only=True)
class _Running:
    """A service and its process, if it has one."""

    service: Service
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    deaths: int = 0
    """How many in a row, without having settled between them."""
    due: float = 0.0
    """When it is to be started again."""
    reader: threading.Thread | None = field(default=None, repr=False)


class Supervisor:
    """A number of programs, until SIGTERM, SIGINT or SIGHUP."""

    def __init__(
        self,
        services: Sequence[Service],
        *,
        mark: str,
        environment: Mapping[str, str],
        tell: Callable[[str, str], None],
        say: Callable[[str], None],
    ) -> None:
        """`mark` is this supervisor's own; `tell` gets a service's name and a line that it said.

        `say` gets what the supervisor itself has to tell.
        """
        self._mark = mark
        self._environment = environment
        self._tell = tell
        self._say = say
        self._running = [_Running(service=service) for service in services]
        self._told_to_stop = 0
        self._woken = threading.Event()

    def run(self, watch: Callable[[], None]) -> None:
        """Keep them running until a signal says to stop, then stop them in order.

        `watch` is called four times a second, and may raise to end it all. In the main thread only.
        """
        handled = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
        handlers = {each: signal.signal(each, self._note) for each in handled}
        try:
            while not self._told_to_stop:
                for running in self._running:
                    self._keep(running)
                watch()
                self._woken.wait(_TICK)
        finally:
            for number in sorted({running.service.stopped for running in self._running}):
                self._stop([one for one in self._running if one.service.stopped == number])
            for each, handler in handlers.items():
                signal.signal(each, handler)

    def _note(self, *_: object) -> None:
        self._told_to_stop += 1
        self._woken.set()

    def _keep(self, running: _Running) -> None:
        """Start it where it does not run, and bury it where it died."""
        process = running.process
        if process is not None and process.poll() is not None:
            settled = time.monotonic() - running.started >= SETTLED
            running.deaths = 1 if settled else running.deaths + 1
            pause = min(2.0 ** (running.deaths - 1), LONGEST_PAUSE)
            how = _how(process.returncode)
            self._say(f"{running.service.name} ended ({how}); it starts again in {pause:.0f} s")
            self._bury(running)
            running.due = time.monotonic() + pause
        due = running.process is None and running.due <= time.monotonic()
        if due and running.service.may_start():
            self._start(running)

    def _start(self, running: _Running) -> None:
        service = running.service
        running.started = time.monotonic()
        running.process = subprocess.Popen(
            service.command,
            cwd="/",
            env={**self._environment, MARK: f"{self._mark}/{service.name}"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        running.reader = threading.Thread(
            target=self._read, args=(service.name, running.process), daemon=True
        )
        running.reader.start()

    def _read(self, name: str, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        with process.stdout as lines:
            for line in lines:
                self._tell(name, line.decode(errors="replace").rstrip("\n"))

    def _bury(self, running: _Running) -> None:
        """Kill what is left of a service: its process group, and who else descends from it."""
        process = running.process
        if process is None:
            return
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        kill_marked(f"{self._mark}/{running.service.name}")
        process.wait()
        if running.reader is not None:
            running.reader.join(timeout=5)
        running.process = None

    def _stop(self, these: Sequence[_Running]) -> None:
        """Tell them to end, wait as long as they may take, or until it is said a second time."""
        waited_for = [one for one in these if one.process is not None]
        for running in waited_for:
            assert running.process is not None
            running.process.terminate()
        started = time.monotonic()
        for running in waited_for:
            assert running.process is not None
            deadline = started + running.service.grace
            while running.process.poll() is None and time.monotonic() < deadline:
                if self._told_to_stop > 1:
                    break
                time.sleep(0.05)
            self._bury(running)


def kill_marked(mark: str) -> int:
    """Kill all that carry a mark, or one that begins with it and a slash; how many there were.

    None of them is left when this returns, but for one that the system itself keeps busy. Linux
    tells who carries a mark; elsewhere nobody is found.
    """
    found: set[int] = set()
    deadline = time.monotonic() + _DYING
    while True:
        carrying = _kill_groups(mark)
        found |= carrying
        is_done = not carrying and all(map(_is_over, found))
        if is_done or time.monotonic() > deadline:
            return len(found)
        time.sleep(0.02)


def _kill_groups(mark: str) -> set[int]:
    """Kill the process groups of those who carry a mark; who carried it.

    By the group, for a process that hides its environment is found by one of its group that does
    not.
    """
    found = set()
    for entry in Path("/proc").glob("[0-9]*"):
        pid = int(entry.name)
        try:
            if pid == os.getpid() or not _carries(entry, mark):
                continue
            os.killpg(os.getpgid(pid), signal.SIGKILL)
        except OSError:
            continue  # It ended, or is somebody else's.
        found.add(pid)
    return found


def _is_over(pid: int) -> bool:
    """Whether a process holds nothing any more, no port either; its mark goes before that."""
    try:
        state = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b") ")[2][:1]
        return state in b"ZX" and len([*Path(f"/proc/{pid}/task").iterdir()]) == 1
    except OSError:
        return True


def _carries(entry: Path, mark: str) -> bool:
    ours = os.fsencode(f"{MARK}={mark}")
    variables = (entry / "environ").read_bytes().split(b"\0")
    return any(each == ours or each.startswith(ours + b"/") for each in variables)


def _how(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit {code}"
