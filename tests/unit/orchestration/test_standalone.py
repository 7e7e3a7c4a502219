"""Airflow on this machine, but for Airflow: a script stands in that notes how it is called."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from gristmill.errors import OrchestrationError, PortTaken
from gristmill.flow.report import Silence
from gristmill.orchestration import standalone
from gristmill.orchestration.configuration import Secrets
from gristmill.orchestration.environment import Environment
from gristmill.orchestration.standalone import Airflow
from gristmill.orchestration.supervisor import MARK
from gristmill.settings import Settings
from gristmill.warehouse.files import locked, write_private

SECRETS = Secrets(password="it's secret", database="d", tokens="t", sessions="s", connections="c")
LINUX = pytest.mark.skipif(
    not Path("/proc/self/environ").exists(), reason="Linux tells who is whose"
)


@pytest.fixture
def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def airflow(tmp_path, free_port):
    """An Airflow in a home, whose interpreter is a script that a test writes."""
    folder = tmp_path / "home" / "airflow"
    folder.mkdir(parents=True)
    (tmp_path / "environment" / "bin").mkdir(parents=True)
    return Airflow(
        folder=folder,
        environment=Environment(
            folder=tmp_path / "environment", version="9.8.7", locked_list=tmp_path / "list"
        ),
        variables=dict(os.environ),
        host="127.0.0.1",
        port=free_port,
        secrets=SECRETS,
        is_chosen=False,
        revive=None,
    )


def script(airflow, text):
    airflow.environment.python.write_text(f"#!/bin/sh\n{text}\n")
    airflow.environment.python.chmod(0o700)


def silent(*_):
    """Nobody listens."""


def test_a_project_without_a_dag_file_is_told_what_to_write(tmp_path):
    context = SimpleNamespace(project=SimpleNamespace(root=tmp_path))
    with pytest.raises(
        OrchestrationError, match=r"from gristmill\.orchestration\.dag import"
    ) as caught:
        standalone.open_airflow(context, Silence(), Settings())
    lines = str(caught.value).partition("Write into it:\n\n")[2]
    example = Path(__file__).parents[3] / "examples" / "clients" / "dags" / "gristmill_dags.py"

    def without_docstring(text):
        return text.partition('"""\n')[2].split()

    assert without_docstring(lines) == without_docstring(example.read_text("utf-8"))


def test_one_for_each_project(airflow):
    with (
        locked(airflow.folder / "airflow.lock"),
        pytest.raises(OrchestrationError, match="runs already: `gristmill down` stops it"),
    ):
        standalone.run(airflow, silent)


def test_a_port_that_is_taken_is_told_before_anything_is_started(airflow):
    script(airflow, f"touch {airflow.folder}/called")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", airflow.port))
        taken.listen()
        with pytest.raises(PortTaken, match="choose another port with --port"):
            standalone.run(airflow, silent)
    assert not (airflow.folder / "called").exists()


LISTEN = """
import socket, sys, time
taken = socket.create_server(("127.0.0.1", int(sys.argv[1])))
kept = b"x" * (500 << 20)  # it is given back before the port is
print("here", flush=True)
time.sleep(600)
"""


@LINUX
def test_what_a_killed_one_left_running_is_ended_before_its_port_is_needed(airflow):
    script(airflow, "exit 1")
    left = subprocess.Popen(
        [sys.executable, "-c", LISTEN, str(airflow.port)],
        env={**os.environ, MARK: f"{airflow.folder}/api-server"},
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    said = []
    with left:
        assert left.stdout.readline() == b"here\n"
        with pytest.raises(OrchestrationError, match="brought up to date"):
            standalone.run(airflow, lambda *line: said.append(line))
    assert said == [
        ("gristmill", "ended what an Airflow of this project, killed, had left running")
    ]


def test_a_database_that_cannot_be_brought_up_to_date_is_told_with_what_airflow_said(airflow):
    script(airflow, 'test "$*" = "-m airflow db migrate" || exit 5; echo why; exit 1')
    with pytest.raises(OrchestrationError, match=r"brought up to date:\nwhy$"):
        standalone.run(airflow, silent)


@pytest.mark.parametrize("exists", [False, True])
def test_the_password_of_the_user_is_on_no_command_line(airflow, exists):
    """The real one asks for it twice, and sets it for one that exists by another command."""
    calls = airflow.folder / "calls"
    script(
        airflow,
        f'echo "$*" >> {calls}; cat >> {airflow.folder}/answers\n'
        + ('test "$4" = create && echo "airflow already exist in the db"' if exists else "")
        + "\nexit 0",
    )
    standalone._provide_user(airflow)
    called = calls.read_text().splitlines()
    verbs = [line.split()[3] for line in called]
    assert verbs == (["create", "reset-password"] if exists else ["create"])
    assert SECRETS.password not in calls.read_text()
    answers = (airflow.folder / "answers").read_text().splitlines()
    assert answers == [SECRETS.password] * 2 * len(called)


def test_a_user_that_cannot_be_made_is_told_without_the_password(airflow):
    script(airflow, "cat > /dev/null; echo no such table; exit 1")
    with pytest.raises(OrchestrationError, match="no such table") as caught:
        standalone._provide_user(airflow)
    assert SECRETS.password not in str(caught.value)


def test_nothing_is_stopped_where_nothing_ran(airflow):
    home = airflow.folder.parent
    assert standalone.stop(home / "elsewhere") is False
    assert standalone.stop(home) is False
    record = json.dumps({"pid": os.getpid(), "host": "127.0.0.1", "port": 8082})
    write_private(airflow.folder / "airflow.json", record)
    # Our own process has its number by now: what does not hold the lock is not stopped.
    assert standalone.stop(home) is False
    assert not (airflow.folder / "airflow.json").exists()


@LINUX
def test_what_a_killed_one_left_running_is_stopped(airflow):
    left = subprocess.Popen(
        [sys.executable, "-c", "print('here', flush=True); import time; time.sleep(600)"],
        env={**os.environ, MARK: f"{airflow.folder}/scheduler"},
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    with left:
        assert left.stdout.readline() == b"here\n"
        record = json.dumps({"pid": 1 << 30, "host": "127.0.0.1", "port": 8082})
        write_private(airflow.folder / "airflow.json", record)
        assert standalone.stop(airflow.folder.parent) is True
        assert left.wait(60) == -signal.SIGKILL


SUPERVISE = """
import sys
from pathlib import Path
from gristmill.warehouse.files import locked, write_private
import json, os, time
folder = Path(sys.argv[1])
with locked(folder / "airflow.lock"):
    record = {"pid": os.getpid(), "host": "127.0.0.9", "port": 8181}
    write_private(folder / "airflow.json", json.dumps(record))
    time.sleep(600)
"""


def test_the_one_that_runs_is_found_and_stopped(airflow):
    with subprocess.Popen([sys.executable, "-c", SUPERVISE, str(airflow.folder)]) as process:
        deadline = time.monotonic() + 60
        while not (airflow.folder / "airflow.json").exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert standalone._running(airflow.folder)["port"] == 8181
        assert standalone.stop(airflow.folder.parent) is True
        assert process.wait(60) == -signal.SIGTERM
    assert standalone._running(airflow.folder) is None
