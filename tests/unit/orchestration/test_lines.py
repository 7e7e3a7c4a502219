"""What the terminal and the file get of what Airflow says."""

import io
import json

import pytest

from gristmill.orchestration import lines
from gristmill.orchestration.lines import OURSELVES, Speaker, readable

OF_A_TASK = {
    "timestamp": "2026-11-23T10:24:09.764641Z",
    "level": "info",
    "event": "sales: loaded 3 rows",
    "dag_id": "load_sales_data",
    "run_id": "scheduled__2026-11-01",
    "task_id": "load",
    "map_index": -1,
    "try_number": 1,
    "ti_id": "01a2",
    "logger": "airflow.task",
    "filename": "subprocess.py",
    "lineno": 1,
}
START = "10:24:09 load_sales_data scheduled__2026-11-01 load |"


def test_a_tasks_line_has_its_dag_run_and_task():
    assert readable("scheduler", OF_A_TASK) == f"{START} sales: loaded 3 rows"


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({"map_index": 4}, f"{START[:-2]}[4] | sales: loaded 3 rows"),
        ({"level": "error", "event": "failed"}, f"{START} ERROR: failed"),
        ({"level": "warning", "event": "odd"}, f"{START} WARNING: odd"),
        ({"event": "one\ntwo\n"}, f"{START} one\n{START} two"),
        ({"event": "Skipping.", "reason": "nothing"}, f"{START} Skipping. (reason=nothing)"),
        ({"event": "::group::Pre Execute"}, None),
        ({"event": ""}, None),
        ({"ti": "x" * 200}, f"{START} sales: loaded 3 rows"),
        (
            {"level": "error", "event": "failed",
             "error_detail": [{"exc_type": "OSError", "exc_value": "no disk", "frames": []}]},
            f"{START} ERROR: failed\n{START} ERROR: OSError: no disk",
        ),
    ],
)  # fmt: skip
def test_how_a_tasks_line_is_shown(changes, shown):
    assert readable("scheduler", {**OF_A_TASK, **changes}) == shown


@pytest.mark.parametrize(
    ("record", "shown"),
    [
        ({"event": "an info", "level": "info"}, None),
        ({"event": "a warning", "level": "warning"}, None),
        ({"event": "an error", "level": "error"}, "scheduler | ERROR: an error"),
        ({"event": "an error\n  File x, line 1", "level": "error"}, "scheduler | ERROR: an error"),
        ({"event": "printed", "level": "info", "logger": "task.stdout"}, "scheduler | printed"),
    ],
)
def test_of_airflows_own_lines_errors_are_shown(record, shown):
    assert readable("scheduler", record) == shown


@pytest.fixture
def spoken(tmp_path):
    def speak(*said, **options):
        out = io.StringIO()
        with Speaker(out, tmp_path / "airflow.log", **options) as speaker:
            for who, line in said:
                speaker(who, line)
        return out.getvalue().splitlines()

    return speak


def test_the_file_gets_all_but_what_we_say_ourselves(spoken, tmp_path):
    said = [("scheduler", json.dumps(OF_A_TASK)), ("scheduler", "no JSON"), (OURSELVES, "secret")]
    assert spoken(*said) == [f"{START} sales: loaded 3 rows", "gristmill | secret"]
    kept = [json.loads(line) for line in (tmp_path / "airflow.log").read_text().splitlines()]
    assert kept == [
        {"service": "scheduler", **OF_A_TASK},
        {"service": "scheduler", "event": "no JSON"},
    ]


def test_as_json_every_line_is_an_object_that_says_whose_it_is(spoken):
    said = [("scheduler", json.dumps(OF_A_TASK)), ("triggerer", "[1]"), (OURSELVES, "ready")]
    assert [json.loads(line) for line in spoken(*said, as_json=True)] == [
        {"service": "scheduler", **OF_A_TASK},
        {"service": "triggerer", "event": "[1]"},
        {"service": "gristmill", "event": "ready"},
    ]


def test_the_file_does_not_grow_for_ever(spoken, tmp_path, monkeypatch):
    monkeypatch.setattr(lines, "LOG_LIMIT", 1000)
    spoken(*[("scheduler", f"line {number}") for number in range(100)])
    kept = [
        json.loads(line)["event"]
        for name in ("airflow.log.1", "airflow.log")
        for line in (tmp_path / name).read_text().splitlines()
    ]
    assert kept[-1] == "line 99"
    assert (tmp_path / "airflow.log").stat().st_size < 1100
    assert kept == [f"line {number}" for number in range(100 - len(kept), 100)]
