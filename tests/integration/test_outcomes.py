"""What turned out to be true: recorded once, corrected when told otherwise, all or nothing."""

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from psycopg import sql

from gristmill.errors import OutcomesRefused
from gristmill.predictions.outcomes import (
    MOST_PROBLEMS,
    Outcome,
    Recorded,
    record_outcomes,
    record_outcomes_file,
)
from gristmill.registry.bundle import Entity
from gristmill.serving.entry import build
from gristmill.serving.server import Deployment

NOW = datetime(2026, 6, 1, tzinfo=UTC)
NUMBERED = Entity(name="idx", type="integer")
NAMED = Entity(name="e mail", type="text")
MONDAY = datetime(2026, 3, 2, 12, tzinfo=UTC)


def told(number, outcome=1, at=MONDAY):
    return Outcome(entity=str(number), outcome=outcome, observed_at=at)


def recorded(warehouse):
    with warehouse.transaction() as transaction:
        rows = transaction.rows("SELECT * FROM gristmill.outcomes ORDER BY entity, observed_at")
    return [(row["entity"], row["outcome"], row["observed_at"]) for row in rows]


def test_told_twice_is_recorded_once_and_told_otherwise_corrects(warehouse):
    first = [told(1), told(2, 0), told(2, 1, MONDAY + timedelta(microseconds=1)), told(1)]
    assert record_outcomes(warehouse, first) == Recorded(added=3, corrected=0, known=0)
    assert record_outcomes(warehouse, first) == Recorded(added=0, corrected=0, known=3)
    second = [told(2, 1), told(3), told(1)]
    assert record_outcomes(warehouse, second) == Recorded(added=1, corrected=1, known=1)
    assert recorded(warehouse) == [
        ("1", 1, MONDAY),
        ("2", 1, MONDAY),
        ("2", 1, MONDAY + timedelta(microseconds=1)),
        ("3", 1, MONDAY),
    ]


def test_those_who_tell_at_once_do_not_wait_in_a_circle(warehouse):
    def tell(turn):
        outcomes = [told(number, turn % 2) for number in range(300)]
        record_outcomes(warehouse, outcomes if turn % 3 else outcomes[::-1])

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(tell, range(24)))
    assert len(recorded(warehouse)) == 300


# Files


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "outcomes.csv"

    def write(content):
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


def test_a_file_in_any_order_of_columns(warehouse, file):
    path = file(
        "\ufeffobserved_at,outcome,idx\r\n"
        "2026-03-02,1,0150\r\n"
        '"2026-03-02T12:00:00+02:00","0",-7\r\n'
        "\r\n"
        "2026-03-02 12:00:00.25,0,150\r\n"
        "2026-03-02,1,150\r\n"
    )
    found = record_outcomes_file(warehouse, path, NUMBERED, now=NOW)
    assert found == Recorded(added=3, corrected=0, known=0)
    day = datetime(2026, 3, 2, tzinfo=UTC)
    assert recorded(warehouse) == [
        ("-7", 0, day + timedelta(hours=10)),
        ("150", 1, day),
        ("150", 0, day + timedelta(hours=12, milliseconds=250)),
    ]
    assert record_outcomes_file(warehouse, path, NUMBERED, now=NOW).known == 3


def test_wrong_lines_are_named_by_where_they_begin_and_nothing_is_recorded(warehouse, file):
    path = file(
        "e mail,outcome,observed_at\n"
        '"a\nb",1,2026-01-01\n'  # lines 2 and 3
        "c,2,2026-01-01\n"
        '"d\n\n",0,yesterday\n'  # lines 5 to 7
        ",1,2026-01-01\n"
        "e,1\n"
        "f,1,2026-06-03\n"
        '"a\nb",0,2026-01-01\n'
        "g,true,2026-01-01\n"
    )
    with pytest.raises(OutcomesRefused) as refused:
        record_outcomes_file(warehouse, path, NAMED, now=NOW)
    lines = [one.partition(":")[0] for one in refused.value.lines]
    assert lines == [f"line {line}" for line in (4, 5, 8, 9, 10, 13, 11)]
    assert "outcome must be 0 or 1" in refused.value.lines[0]
    assert "lies in the future" in refused.value.lines[4]
    assert "says otherwise than an earlier line" in refused.value.lines[-1]
    assert recorded(warehouse) == []


def test_a_file_of_wrong_lines_only_names_the_first_ones(warehouse, file):
    path = file("idx,outcome,observed_at\n" + "x,1,2026-01-01\n" * 5000)
    with pytest.raises(OutcomesRefused, match=r"…$") as refused:
        record_outcomes_file(warehouse, path, NUMBERED, now=NOW)
    assert str(refused.value).count("\n") == MOST_PROBLEMS + 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "has the columns \\(none\\)"),
        ("idx,outcome\n", "has the columns idx, outcome; it has to have idx, outcome, obs"),
        ("idx,outcome,observed_at,more\n", "more; it has to have"),
        (b"idx,outcome,observed_at\n\xff,1,2026-01-01\n", "cannot be read as CSV in UTF-8"),
        ('idx,outcome,observed_at\n1,1,2026-01-01\n"2,1,2026-01-01\n', "from line 3 on"),
    ],
)
def test_what_is_no_such_file(warehouse, file, content, message):
    with pytest.raises(OutcomesRefused, match=message):
        record_outcomes_file(warehouse, file(content), NUMBERED, now=NOW)


def test_a_file_that_is_not_there(warehouse, tmp_path):
    with pytest.raises(OutcomesRefused, match="none"):
        record_outcomes_file(warehouse, tmp_path / "none.csv", NUMBERED, now=NOW)


# The API


@pytest.fixture
def client(warehouse, served, bundle_folder, tmp_path):
    deployment = Deployment(
        bundle=bundle_folder, spool=tmp_path / "spool", database_url=warehouse.url
    )
    with served(build(deployment)) as client:
        yield client


def one(number=1, outcome=1, observed_at="2026-03-02T12:00:00Z"):
    return {"idx": number, "outcome": outcome, "observed_at": observed_at}


def test_what_is_posted_is_committed_when_it_is_answered(client, warehouse):
    answer = client.post("/outcomes", json=one())
    assert answer.json() == {"added": 1, "corrected": 0, "known": 0}
    assert recorded(warehouse) == [("1", 1, MONDAY)]
    many = {"outcomes": [one(), one(2, 0), one(1, 0, "2026-03-03")]}
    assert client.post("/outcomes", json=many).json() == {"added": 2, "corrected": 0, "known": 1}
    assert client.post("/outcomes", json=one(2, 1)).json()["corrected"] == 1
    assert [row[:2] for row in recorded(warehouse)] == [("1", 1), ("1", 0), ("2", 1)]


def test_ten_thousand_at_once(client, warehouse):
    many = {"outcomes": [one(number, number % 2) for number in range(10_000)]}
    assert client.post("/outcomes", json=many).json()["added"] == 10_000
    assert len(recorded(warehouse)) == 10_000


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        *((one(outcome=wrong), "outcome") for wrong in (2, -1, True, "1", 1.0, None, [])),
        *(
            (one(observed_at=wrong), "observed_at")
            for wrong in ("", "soon", 1, None, "2026-13-01", "9999-12-31T23:59:59-10:00", "x" * 99)
        ),
        *((one(number=wrong), "idx") for wrong in ("1", 1.5, None, 2**63)),
        (one() | {"more": 1}, "more"),
        ({"idx": 1, "outcome": 1}, "observed_at"),
    ],
)
def test_a_wrong_outcome_refuses_all_and_is_named(client, warehouse, wrong, field):
    problem = client.post("/outcomes", json=wrong).json()
    assert (problem["status"], problem["field"], problem["pointer"]) == (422, field, f"#/{field}")
    problem = client.post("/outcomes", json={"outcomes": [one(), wrong]}).json()
    assert (problem["field"], problem["row"]) == (field, 1)
    assert problem["pointer"] == f"#/outcomes/1/{field}"
    assert recorded(warehouse) == []


def test_what_contradicts_itself_is_refused(client, warehouse):
    many = {"outcomes": [one(), one(2), one(), one(1, 0, "2026-03-02T13:00:00+01:00")]}
    answer = client.post("/outcomes", json=many)
    assert (answer.status_code, answer.json()["row"]) == (409, 3)
    assert recorded(warehouse) == []


def test_a_database_that_is_away_is_told_and_sending_again_is_safe(client, warehouse, superuser):
    database = psycopg.conninfo.conninfo_to_dict(warehouse.url)["dbname"]
    name = sql.Identifier(database)
    allow = sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS {}")
    superuser.execute(allow.format(name, sql.SQL("false")))
    superuser.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [database]
    )
    answer = client.post("/outcomes", json=one())
    assert (answer.status_code, answer.json()["type"]) == (503, "/docs#database-unavailable")
    assert "retry-after" in answer.headers
    superuser.execute(allow.format(name, sql.SQL("true")))
    while (answer := client.post("/outcomes", json=one())).status_code == 503:
        pass
    assert answer.json()["added"] == 1
    assert recorded(warehouse) == [("1", 1, MONDAY)]


def test_without_a_database_outcomes_go_elsewhere(served, bundle_folder, tmp_path):
    with served(build(Deployment(bundle=bundle_folder, spool=tmp_path / "spool"))) as client:
        answer = client.post("/outcomes", content=json.dumps(one()))
    assert (answer.status_code, answer.json()["type"]) == (501, "/docs#no-database")
