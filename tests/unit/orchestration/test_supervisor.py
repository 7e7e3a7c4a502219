"""Programs that are kept running: real processes, killed and stopped."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from gristmill.orchestration import supervisor
from gristmill.orchestration.supervisor import MARK, Service, Supervisor, kill_marked

PATIENCE = 60.0
LINUX = pytest.mark.skipif(
    not Path("/proc/self/environ").exists(), reason="Linux tells who is whose"
)


@pytest.fixture(autouse=True)
def watchdog():
    """A program that is not as it should be would be kept running for ever."""
    timer = threading.Timer(PATIENCE, os.kill, [os.getpid(), signal.SIGTERM])
    timer.start()
    yield
    timer.cancel()


def service(name, code, *, stopped=1, grace=10.0, may_start=lambda: True):
    return Service(
        name=name,
        command=(sys.executable, "-u", "-c", code),
        stopped=stopped,
        grace=grace,
        may_start=may_start,
    )


class Run:
    """A supervisor's run, ended by itself once something is true."""

    def __init__(self, folder, *services):
        self.mark = str(folder)
        self.lines = []
        self.said = []
        self.supervisor = Supervisor(
            services,
            mark=self.mark,
            environment=dict(os.environ),
            tell=lambda *line: self.lines.append(line),
            say=self.said.append,
        )

    def until(self, condition, then=lambda: signal.raise_signal(signal.SIGTERM)):
        def watch():
            if condition():
                then()

        self.supervisor.run(watch)
        return self

    def texts(self, name):
        return [line for who, line in list(self.lines) if who == name]


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


SPEAKS = "import os, time; print(os.getpid()); time.sleep(600)"
LEAVES_ONE = f"""
import subprocess, sys, time
subprocess.Popen([sys.executable, "-u", "-c", {SPEAKS!r}], start_new_session=True)
time.sleep(600)
"""


def test_what_dies_is_started_again_and_said(tmp_path):
    run = Run(tmp_path, service("one", "print('here'); raise SystemExit(3)"))
    run.until(lambda: len(run.texts("one")) == 2)
    assert run.texts("one") == ["here", "here"]
    assert run.said[0] == "one ended (exit 3); it starts again in 1 s"


def test_who_keeps_dying_is_started_less_and_less_often(tmp_path, monkeypatch):
    monkeypatch.setattr(supervisor, "LONGEST_PAUSE", 2.0)
    run = Run(tmp_path, service("one", "raise SystemExit(3)"))
    run.until(lambda: len(run.said) == 3)
    assert [line.partition(" again in ")[2] for line in run.said] == ["1 s", "2 s", "2 s"]


@LINUX
def test_nothing_of_what_died_is_left_when_it_starts_again(tmp_path):
    """Not even what made a session of its own, as Airflow's tasks do."""
    run = Run(tmp_path, service("one", LEAVES_ONE))
    killed = []

    def kill_once():
        if not killed and run.texts("one"):
            (group,) = [
                int(entry.name)
                for entry in Path("/proc").glob("[0-9]*")
                if supervisor_of(entry) == os.getpid() and carries(entry, f"{run.mark}/one")
            ]
            killed.append(group)
            os.kill(group, signal.SIGKILL)
        return len(run.texts("one")) == 2

    run.until(kill_once)
    first, second = run.texts("one")
    assert first != second
    assert not alive(first)
    assert not alive(second)
    assert run.said == ["one ended (SIGKILL); it starts again in 1 s"]


def supervisor_of(entry):
    try:
        return int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return None


def carries(entry, mark):
    try:
        return f"{MARK}={mark}".encode() in (entry / "environ").read_bytes().split(b"\0")
    except OSError:
        return False


def test_they_are_stopped_in_order_each_once_those_before_it_ended(tmp_path):
    ends = (
        "import signal, sys, time\n"
        "def end(*_):\n"
        "    time.sleep(0.5)\n"
        "    print('ends')\n"
        "    sys.exit()\n"
        "signal.signal(signal.SIGTERM, end)\n"
        "print('ready')\n"
        "while True: time.sleep(0.1)\n"
    )
    services = [service("last", ends, stopped=2), service("first", ends, stopped=1)]
    run = Run(tmp_path, *services)
    run.until(lambda: len(run.lines) == 2)
    assert run.lines[2:] == [("first", "ends"), ("last", "ends")]
    assert run.said == []


@LINUX
def test_who_does_not_stop_in_time_is_killed(tmp_path):
    stubborn = (
        "import os, signal, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "print(os.getpid())\n"
        "while True: time.sleep(0.1)\n"
    )
    run = Run(tmp_path, service("one", stubborn, grace=0.5))
    run.until(lambda: run.texts("one"))
    assert not alive(run.texts("one")[0])


@LINUX
def test_who_is_told_twice_does_not_wait(tmp_path):
    stubborn = (
        "import os, signal, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "print(os.getpid())\n"
        "while True: time.sleep(0.1)\n"
    )
    run = Run(tmp_path, service("one", stubborn, grace=10 * PATIENCE))

    def twice():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    run.until(lambda: run.texts("one"), twice)
    assert not alive(run.texts("one")[0])


def test_what_needs_another_waits_for_it(tmp_path):
    run = Run(tmp_path)
    services = [
        service("needy", SPEAKS, may_start=lambda: bool(run.texts("needed"))),
        service("needed", SPEAKS),
    ]
    run.__init__(tmp_path, *services)
    run.until(lambda: len(run.lines) == 2)
    assert [who for who, _ in run.lines] == ["needed", "needy"]


def test_an_error_of_what_is_watched_stops_them_all(tmp_path):
    run = Run(tmp_path, service("one", SPEAKS))

    def fail():
        raise RuntimeError("watched")

    with pytest.raises(RuntimeError, match="watched"):
        run.until(lambda: run.texts("one"), fail)
    assert not alive(run.texts("one")[0])


@LINUX
def test_only_who_carries_the_mark_is_killed(tmp_path):
    def start(mark):
        return subprocess.Popen(
            [sys.executable, "-c", "import time; time.sleep(600)"],
            env={**os.environ, MARK: mark},
            start_new_session=True,
        )

    ours, theirs = start(f"{tmp_path}/one"), start(f"{tmp_path}x/one")
    try:
        deadline = time.monotonic() + PATIENCE
        while not carries(Path(f"/proc/{ours.pid}"), f"{tmp_path}/one"):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert kill_marked(str(tmp_path)) == 1
        assert ours.wait(PATIENCE) == -signal.SIGKILL
        assert theirs.poll() is None
    finally:
        for process in (ours, theirs):
            process.kill()
            process.wait()
