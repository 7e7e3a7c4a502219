"""`python -m gristmill.serving` with a database and no bundle: it waits for the first champion."""

import contextlib
import os
import socket
import subprocess
import sys
import time

import httpx
import psycopg
import pytest

KEY = "gristmill_" + "k" * 40
ASKED = {"idx": 7, "features": {"attr_a": 1, "attr_b": "c", "scd_a": 0.55, "scd_b": 3}}


def _free_port():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return listening.getsockname()[1]


@contextlib.contextmanager
def _serving(home, url, **settings):
    port = _free_port()
    with (home / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "gristmill.serving"],
            env={
                "PATH": os.environ["PATH"],
                "GRISTMILL_HOME": str(home),
                "GRISTMILL_DATABASE_URL": url,
                "GRISTMILL_PORT": str(port),
                **settings,
            },
            cwd=home,
            stderr=log,
        )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            yield process, client
    finally:
        process.terminate()
        process.wait(60)


def _until(holds):
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _answers(client):
    with contextlib.suppress(httpx.TransportError):
        return client.get("/health").status_code == 200
    return False


def test_the_first_champion_is_waited_for(warehouse, example_model, tmp_path):
    tables_missing = warehouse.url + "_missing"
    with _serving(tmp_path, tables_missing):
        _until(lambda: "Waiting for a champion" in (tmp_path / "log").read_text())

    with _serving(tmp_path, warehouse.url, GRISTMILL_API_KEY=KEY) as (process, client):
        _until(lambda: "no version is champion yet" in (tmp_path / "log").read_text())
        with psycopg.connect(warehouse.url) as connection:
            connection.execute(
                "INSERT INTO gristmill.builds (build, name, period, definition, loads, builds,"
                " as_of, rows, seconds) OVERRIDING SYSTEM VALUE"
                " VALUES (1, 'training_set', 'all', '', '{}', '{}', now(), 1, 0)"
            )
            connection.execute(
                "INSERT INTO gristmill.model_versions (version, candidate, verdict, reasons,"
                " no_signal, evaluation, build, lineage, run_id, bundle, code_version, seed)"
                " VALUES ('3', 'logistic', 'promote', '[]', false, '{}', 1, '{}', '', '3', '', 0)"
            )
            connection.execute(
                "INSERT INTO gristmill.promotions (version, by, why) VALUES ('3', 'us', 'test')"
            )
        # The champion is on record before its bundle has arrived here.
        _until(lambda: "bundles/3" in (tmp_path / "log").read_text())
        (tmp_path / "bundles").mkdir()
        example_model.write(tmp_path / "bundles" / "3")
        _until(lambda: _answers(client))

        assert client.post("/predict", json=ASKED).status_code == 401
        answer = client.post("/predict", json=ASKED, headers={"authorization": f"Bearer {KEY}"})
        expected = example_model.probability(**ASKED["features"])
        assert answer.json()["probability"] == pytest.approx(expected, abs=1e-12)
        assert KEY not in (tmp_path / "keys.json").read_text() + (tmp_path / "log").read_text()
        process.terminate()
        assert process.wait(60) == 0
    with psycopg.connect(warehouse.url) as connection:
        rows = connection.execute("SELECT prediction_id::text FROM gristmill.predictions")
        assert [row[0] for row in rows] == [answer.json()["prediction_id"]]
