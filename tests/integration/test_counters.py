"""Several workers on one port: whichever is asked tells what all of them counted."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
from prometheus_client.parser import text_string_to_metric_families

REQUEST = {"idx": 1, "features": {"attr_a": 1, "attr_b": "c", "scd_a": 0.55, "scd_b": 3}}
WORKERS = 3
PROGRAM = """
import sys
from pathlib import Path
from gristmill.serving.server import Deployment, serve

bundle, home, port = sys.argv[1:]
deployment = Deployment(
    bundle=Path(bundle), spool=Path(home, "spool"), counters=Path(home, "counters")
)
serve(deployment, host="127.0.0.1", port=int(port), workers=3)
"""


@contextlib.contextmanager
def serving(bundle, home):
    """The server as a process of its own; its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen([sys.executable, "-c", PROGRAM, str(bundle), str(home), str(port)])
    address = f"http://127.0.0.1:{port}"
    try:
        until(lambda: server.poll() is not None or told(address).get(WORKING) == WORKERS)
        assert server.poll() is None
        yield address
        server.send_signal(signal.SIGTERM)
        assert server.wait(120) == 0
    finally:
        if server.poll() is None:
            server.kill()
            server.wait()


def until(holds):
    deadline = time.monotonic() + 120
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def ask(address, method, path, **content):
    """By a connection of its own, so that any worker may be the one that takes it."""
    with httpx.Client(base_url=address, timeout=60, trust_env=False) as client:
        return client.request(method, path, **content)


WORKING = ("gristmill_log_workers", "writing")
ANSWERED = ("gristmill_requests_total", "/predict", "200")
PREDICTED = ("gristmill_predictions_total",)


def told(address):
    try:
        text = ask(address, "GET", "/metrics").text
    except httpx.TransportError:
        return {}
    return {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def counting(folder):
    """The files of counts by the workers that hold them."""
    files = {file.stat().st_ino: file.name for file in folder.iterdir()}
    held = {}
    for line in Path("/proc/locks").read_text().splitlines():
        words = line.split()
        inode = int(words[5].split(":")[2]) if words[1] == "FLOCK" else None
        if inode in files:
            held[files[inode]] = int(words[4])
    return held


def test_any_worker_tells_of_all_and_a_killed_one_s_counts_stay(bundle_folder, tmp_path):
    with serving(bundle_folder, tmp_path) as address:
        for _ in range(60):
            assert ask(address, "POST", "/predict", json=REQUEST).status_code == 200
        for _ in range(10):
            found = told(address)
            assert (found[ANSWERED], found[PREDICTED]) == (60, 60)
        until(lambda: told(address)["gristmill_log_waiting",] == 60)
        assert told(address)["gristmill_model_workers", "3"] == WORKERS
        killed = min(counting(tmp_path / "counters").values())
        os.kill(killed, signal.SIGKILL)
        until(lambda: len(set(counting(tmp_path / "counters").values()) - {killed}) == WORKERS)
        until(lambda: told(address).get(WORKING) == WORKERS)
        assert told(address)[ANSWERED] == 60
    with serving(bundle_folder, tmp_path) as address:
        assert ask(address, "POST", "/predict", json=REQUEST).status_code == 200
        assert told(address)[ANSWERED] == 61
        assert len(list((tmp_path / "counters").iterdir())) == WORKERS
