"""Keeps a server's worker processes running, and stops them in good order.

They are forked from a parent that has loaded everything, so that one which dies is back within
milliseconds. A worker whose parent is gone finishes what is in flight and ends.
"""

from __future__ import annotations

import logging
import os
import select
import signal
import sys
import threading
import time
import traceback
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable

    Work = Callable[[threading.Event], None]
    """What a worker does until it is told to stop by SIGTERM, or by the event."""

logger = logging.getLogger(__name__)

QUICK_DEATH = 1.0
"""Seconds: a worker that lived for less is started again only after a pause."""
LONGEST_PAUSE = 10.0
"""Seconds: the pause doubles with each such death, up to this."""
STOPPED_WITHIN = 25.0
"""Seconds after which workers that were told to stop are killed."""


class Workers:
    """A number of processes that do the same work."""

    def __init__(self, work: Work, count: int) -> None:
        self._work = work
        self._started: dict[int, float] = {}
        """When each living worker was started, by its process id."""
        self._pauses: list[float] = [0.0] * count
        """For each worker that is to be started: when the earliest."""
        self._quick_deaths = 0
        self._stopping = False
        # What is never written to and whose writing end the parent alone holds tells its end.
        self._lifeline, self._held = os.pipe()
        self._woken, self._wake = os.pipe()

    def run(self) -> None:
        """Keep them running until SIGTERM or SIGINT, then stop them; in the main thread only."""
        os.set_blocking(self._wake, False)
        os.set_blocking(self._woken, False)
        before = signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        handled = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)
        handlers = {each: signal.signal(each, self._note) for each in handled}
        try:
            self._keep_running()
        finally:
            for each, handler in handlers.items():
                signal.signal(each, handler)
            signal.set_wakeup_fd(before)
            for descriptor in (self._lifeline, self._held, self._woken, self._wake):
                os.close(descriptor)

    def _note(self, number: int, _: object) -> None:
        if number != signal.SIGCHLD:
            self._stopping = True

    def _keep_running(self) -> None:
        while not self._stopping:
            now = time.monotonic()
            due = [moment for moment in self._pauses if moment <= now]
            self._pauses = [moment for moment in self._pauses if moment > now]
            for _ in due:
                self._start()
            self._wait(min(self._pauses, default=now + 1.0) - now)
            self._reap()
        for pid in self._started:
            os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + STOPPED_WITHIN
        while self._started and time.monotonic() < deadline:
            self._wait(0.1)
            self._reap()
        for pid in self._started:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)

    def _wait(self, seconds: float) -> None:
        """Until a signal comes, or so many seconds."""
        if select.select([self._woken], [], [], max(seconds, 0.0))[0]:
            os.read(self._woken, 512)

    def _start(self) -> None:
        pid = os.fork()
        if pid == 0:
            self._be_worker()
        self._started[pid] = time.monotonic()

    def _reap(self) -> None:
        """Have those started again that died."""
        for pid in list(self._started):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if not ended:
                continue
            lived = time.monotonic() - self._started.pop(pid)
            if self._stopping:
                continue
            self._quick_deaths = self._quick_deaths + 1 if lived < QUICK_DEATH else 0
            pause = min(2.0**self._quick_deaths / 8, LONGEST_PAUSE) if self._quick_deaths else 0.0
            self._pauses.append(time.monotonic() + pause)
            code = os.waitstatus_to_exitcode(status)
            logger.error("A worker died (%d) after %.1f seconds; another takes over.", code, lived)

    def _be_worker(self) -> NoReturn:
        """The worker's process: it ends here, and never returns into what its parent was doing."""
        code = None
        try:
            signal.set_wakeup_fd(-1)
            for each in (signal.SIGTERM, signal.SIGCHLD):
                signal.signal(each, signal.SIG_DFL)
            # The terminal sends it to all; the parent then says SIGTERM.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            for descriptor in (self._held, self._woken, self._wake):
                os.close(descriptor)
            orphaned = threading.Event()
            threading.Thread(
                target=self._watch_parent, args=(orphaned,), name="gristmill-parent", daemon=True
            ).start()
            self._work(orphaned)
            code = 0
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 1
        finally:
            if code is None:
                traceback.print_exc()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(1 if code is None else code)

    def _watch_parent(self, orphaned: threading.Event) -> None:
        os.read(self._lifeline, 1)
        orphaned.set()
