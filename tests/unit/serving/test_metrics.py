"""What workers count: their sum is told by each, and no count ever falls."""

import os
import signal
import subprocess
import sys

import pytest
from prometheus_client.parser import text_string_to_metric_families

from gristmill.serving import metrics
from gristmill.serving.api import ROUTES
from gristmill.serving.metrics import Counters


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "counters"


@pytest.fixture
def worker(folder):
    """Makes workers that count in one folder."""
    made = []

    def make():
        made.append(Counters(folder))
        return made[-1]

    yield make
    for one in made:
        one.close()


def told(counters):
    """Every sample by its name and labels."""
    text = counters.exposition().decode()
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def requests(counters, route, status):
    return told(counters).get(("gristmill_requests_total", ("route", route), ("status", status)), 0)


def test_each_worker_tells_the_sum_of_all(worker):
    first, second = worker(), worker()
    first.count("/predict", 200, 0.003)
    first.count("/predict", 422, 0.003)
    second.count("/predict", 200, 0.003)
    second.count("/nothing", 418, 0.003)
    second.add("predictions", 10_000)
    first.add("predictions")
    for one in (first, second):
        assert requests(one, "/predict", "200") == 2
        assert requests(one, "/predict", "422") == 1
        assert requests(one, "other", "other") == 1
        assert told(one)["gristmill_predictions_total",] == 10_001


def test_the_histogram_by_hand(worker):
    one, other = worker(), worker()
    one.count("/predict", 200, 0.0004)
    one.count("/predict", 200, 0.0005)  # a bound belongs to its bucket
    other.count("/predict", 200, 0.03)
    other.count("/predict", 503, 99.0)
    found = told(one)

    def bucket(bound):
        return found["gristmill_request_seconds_bucket", ("le", bound), ("route", "/predict")]

    assert [bucket(bound) for bound in ("0.0005", "0.02", "0.05", "10.0", "+Inf")] == [
        2,
        2,
        3,
        3,
        4,
    ]
    assert found["gristmill_request_seconds_count", ("route", "/predict")] == 4
    assert found["gristmill_request_seconds_sum", ("route", "/predict")] == pytest.approx(99.0309)


def test_how_the_record_stands_is_told_of_the_living(worker, folder):
    first, second = worker(), Counters(folder)
    first.serve("3")
    second.serve("4")
    first.log(waiting=5, oldest_seconds=60, state="writing", unlogged=2)
    second.log(waiting=0, oldest_seconds=0, state="failing", unlogged=0)
    second.log(waiting=7, oldest_seconds=1, state="failing", unlogged=3)
    second.log(waiting=7, oldest_seconds=1, state="failing", unlogged=3)
    found = told(first)
    assert found["gristmill_log_waiting",] == 12
    assert 60 <= found["gristmill_log_oldest_seconds",] < 120
    assert found["gristmill_log_workers", ("state", "writing")] == 1
    assert found["gristmill_log_workers", ("state", "failing")] == 1
    assert found["gristmill_model_workers", ("model_version", "3")] == 1
    assert found["gristmill_model_workers", ("model_version", "4")] == 1
    assert found["gristmill_unlogged_total",] == 5
    second.close()
    found = told(first)
    assert found["gristmill_log_waiting",] == 5
    assert ("gristmill_model_workers", ("model_version", "4")) not in found
    assert found["gristmill_unlogged_total",] == 5


def test_counts_go_on_where_a_worker_ended(worker, folder):
    worker().count("/predict", 200, 0.1)
    ended = Counters(folder)
    ended.count("/predict", 200, 0.1)
    ended.log(waiting=3, oldest_seconds=1, state="writing", unlogged=1)
    ended.close()
    next_one = worker()
    assert requests(next_one, "/predict", "200") == 2
    next_one.count("/predict", 200, 0.1)
    next_one.log(waiting=0, oldest_seconds=0, state="writing", unlogged=1)
    assert requests(next_one, "/predict", "200") == 3
    assert told(next_one)["gristmill_unlogged_total",] == 2
    assert len(list(folder.iterdir())) == 2


PROGRAM = """
import os, signal, sys
from pathlib import Path
from gristmill.serving.metrics import Counters

counters = Counters(Path(sys.argv[1]))
counters.serve("3")
for _ in range(1000):
    counters.count("/predict", 200, 0.001)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_worker_s_counts_stay(worker, folder):
    living = worker()
    for _ in range(2):
        killed = subprocess.run([sys.executable, "-c", PROGRAM, str(folder)], check=False)
        assert killed.returncode == -signal.SIGKILL
    assert requests(living, "/predict", "200") == 2000
    assert ("gristmill_model_workers", ("model_version", "3")) not in told(living)
    assert len(list(folder.iterdir())) == 2


def test_what_is_none_of_ours_is_left_alone(worker, folder):
    living = worker()
    living.count("/predict", 200, 0.1)
    layout = next(folder.iterdir()).name.rpartition("-")[0]
    (folder / f"{layout}-7").write_bytes(b"short")
    (folder / "another-0").write_bytes(os.urandom(100_000))
    assert requests(living, "/predict", "200") == 1
    assert (folder / f"{layout}-7").read_bytes() == b"short"


def test_a_folder_that_cannot_be_written_costs_no_answer(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    alone = Counters(tmp_path / "file" / "counters")
    alone.count("/predict", 200, 0.1)
    assert requests(alone, "/predict", "200") == 1
    alone.close()
    assert "for itself alone" in caplog.text


def test_texts_are_cut_to_what_fits(worker):
    one, other = worker(), worker()
    one.serve("é" * 100)
    assert told(other)["gristmill_model_workers", ("model_version", "é" * 32)] == 1


def test_every_route_of_the_application_is_counted_by_its_name():
    routes = {route.path.replace(":path", "") for route in ROUTES} - {"/"}
    assert routes <= set(metrics._ROUTES)
