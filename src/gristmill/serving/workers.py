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

    Work = Callable[[Callable[[], object], threading.Event], None]
    """What a worker does: it says when it is ready, and ends by SIGTERM or where the event says."""

logger = logging.getLogger(__name__)

LONGEST_PAUSE = 10.0
"""Seconds before another worker is started where one after the other does not get ready."""
STOPPED_WITHIN = 25.0
"""Seconds after which workers that were told to stop are killed."""


class Workers:
    """A number of processes that do the same work."""

    def __init__(self, work: Work, count: int, *, stopping: Callable[[], None]) -> None:
        """`stopping` is called before they are told to stop, in the parent."""
        self._work = work
        self._before_stop = stopping
        self._living: dict[int, int] = {}
        """Of each living worker, by its process id, the pipe on which it says that it is ready."""
        self._pauses: list[float] = [0.0] * count
        """For each worker that is to be started: when the earliest."""
        self._never_ready = 0
        """How many in a row died before they were ready."""
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
        self._before_stop()
        for pid in self._living:
            os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + STOPPED_WITHIN
        while self._living and time.monotonic() < deadline:
            self._wait(0.1)
            self._reap()
        for pid in self._living:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)

    def _wait(self, seconds: float) -> None:
        """Until a signal comes, or so many seconds."""
        if select.select([self._woken], [], [], max(seconds, 0.0))[0]:
            os.read(self._woken, 512)

    def _start(self) -> None:
        told, tell = os.pipe()
        pid = os.fork()
        if pid == 0:
            self._be_worker(lambda: os.write(tell, b"."))
        os.close(tell)
        self._living[pid] = told

    def _reap(self) -> None:
        """Have those started again that died."""
        for pid in list(self._living):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if not ended:
                continue
            told = self._living.pop(pid)
            was_ready = bool(os.read(told, 1))
            os.close(told)
            self._never_ready = 0 if was_ready else self._never_ready + 1
            pause = 0.0 if was_ready else min(2.0**self._never_ready / 8, LONGEST_PAUSE)
            self._pauses.append(time.monotonic() + pause)
            if not self._stopping:
                code = os.waitstatus_to_exitcode(status)
                logger.error("Worker %d died (%d); another takes over.", pid, code)

    def _be_worker(self, ready: Callable[[], object]) -> NoReturn:
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
            self._work(ready, orphaned)
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
