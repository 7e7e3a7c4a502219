"""`python -m gristmill.serving` on a Unix socket: for its group, never two on one, none left."""

import contextlib
import os
import signal
import socket
import stat
import subprocess
import sys
import time

import httpx
import pytest

from gristmill.errors import ServingError
from gristmill.serving.keys import add_key
from gristmill.serving.server import at_path

ASKED = {"idx": 7, "features": {"attr_a": 1, "attr_b": "c", "scd_a": 0.55, "scd_b": 3}}


def _command(*options):
    return [sys.executable, "-m", "gristmill.serving", *map(str, options)]


def _environment(bundle, home):
    return {
        "PATH": os.environ["PATH"],
        "GRISTMILL_BUNDLE": str(bundle),
        "GRISTMILL_HOME": str(home),
    }


@contextlib.contextmanager
def _serving(path, bundle, home):
    process = subprocess.Popen(
        _command("--socket", path, "--workers", 2), env=_environment(bundle, home), cwd=home
    )
    try:
        deadline = time.monotonic() + 60
        while not path.exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        with httpx.Client(
            transport=httpx.HTTPTransport(uds=str(path)), base_url="http://socket", timeout=60
        ) as client:
            yield process, client
    finally:
        process.kill()
        process.wait()


def test_it_answers_there_and_takes_the_file_away(bundle_folder, tmp_path, example_model):
    path = tmp_path / "api.sock"
    with _serving(path, bundle_folder, tmp_path) as (process, client):
        answer = client.post("/predict", json=ASKED)
        assert answer.status_code == 200
        expected = example_model.probability(**ASKED["features"])
        assert answer.json()["probability"] == pytest.approx(expected, abs=1e-12)
        assert stat.S_IMODE(path.stat().st_mode) == 0o660

        add_key(tmp_path / "keys.json", "crm")
        time.sleep(1.5)
        assert client.post("/predict", json=ASKED).status_code == 401

        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    assert not path.exists()


def test_a_second_one_is_refused_and_a_dead_ones_place_is_taken(bundle_folder, tmp_path):
    path = tmp_path / "api.sock"
    with _serving(path, bundle_folder, tmp_path) as (process, client):
        second = subprocess.run(
            _command("--socket", path),
            env=_environment(bundle_folder, tmp_path),
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert second.returncode == 1
        assert second.stderr == f"Another program listens on {path}. Stop that one first.\n"
        assert client.get("/ready").status_code == 200
        process.kill()
        process.wait()
        assert path.exists()
        deadline = time.monotonic() + 60
        while _somebody_listens(path):  # its workers end when they see that they are alone
            assert time.monotonic() < deadline
            time.sleep(0.02)
    with at_path(path) as listening, socket.socket(socket.AF_UNIX) as asking:
        asking.connect(str(path))
        listening.accept()[0].close()


def _somebody_listens(path):
    with socket.socket(socket.AF_UNIX) as asking:
        try:
            asking.connect(str(path))
        except ConnectionRefusedError:
            return False
    return True


def test_a_place_that_cannot_be_is_named(tmp_path):
    missing = tmp_path / "missing" / "api.sock"
    with pytest.raises(ServingError, match="No such file"), at_path(missing):
        pass
    too_long = tmp_path / ("x" * 120)
    with pytest.raises(ServingError, match="too long"), at_path(too_long):
        pass


def test_without_a_bundle_it_says_what_to_set(tmp_path):
    done = subprocess.run(
        _command(),
        env={"PATH": os.environ["PATH"]},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "set GRISTMILL_BUNDLE, or GRISTMILL_DATABASE_URL" in done.stderr
    assert len(done.stderr.splitlines()) == 1
