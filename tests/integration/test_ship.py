"""Predictions reach the warehouse exactly once, whatever dies or is away on the way."""

import json
import math
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime

import psycopg
import pytest

from gristmill.errors import StatementFailed, WarehouseUnreachable
from gristmill.flow import context
from gristmill.predictions.prediction import Prediction, new_prediction_id
from gristmill.predictions.ship import Pace, Shipper, record, ship, ship_left_behind, ship_refused
from gristmill.predictions.spool import adopt_spools, open_spool
from gristmill.warehouse.connection import Warehouse
from gristmill.warehouse.sql import SQL


def _prediction(entity="150000", **changes):
    given = {
        "prediction_id": new_prediction_id(),
        "entity": entity,
        "features": {"attr_a": 1, "attr_b": 'ü"\\', "scd_a": 0.1 + 0.2, "scd_b": None},
        "probability": 1 / 3,
        "label": 0,
        "model_version": "3",
        "predicted_at": datetime(2026, 11, 1, 12, 0, 0, 123457, tzinfo=UTC),
        "latency_ms": 0.25,
    }
    return Prediction(**given | changes)


@pytest.fixture
def spool(tmp_path):
    spool = open_spool(tmp_path / "spool")
    yield spool
    spool.close()


def _logged(warehouse):
    with warehouse.transaction() as transaction:
        return transaction.rows("SELECT * FROM gristmill.predictions ORDER BY prediction_id")


def _wait_until(holds):
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline, "it did not come about within 30 seconds"
        time.sleep(0.05)


def test_a_prediction_arrives_exactly_as_it_was_given(warehouse, spool):
    prediction = _prediction()
    spool.append([prediction])
    assert ship(spool, warehouse) == 1
    assert spool.count == 0
    assert _logged(warehouse) == [
        {
            "prediction_id": prediction.prediction_id,
            "entity": "150000",
            "features": {"attr_a": 1, "attr_b": 'ü"\\', "scd_a": 0.1 + 0.2, "scd_b": None},
            "probability": 1 / 3,
            "label": 0,
            "model_version": "3",
            "predicted_at": prediction.predicted_at,
            "latency_ms": 0.25,
        }
    ]


def test_more_than_one_batch(warehouse, spool):
    spool.append([_prediction(str(number)) for number in range(2500)])
    assert ship(spool, warehouse) == 2500
    assert {row["entity"] for row in _logged(warehouse)} == {str(n) for n in range(2500)}


def test_a_death_between_commit_and_forgetting_doubles_nothing(warehouse, spool):
    predictions = [_prediction(str(number)) for number in range(10)]
    spool.append(predictions)
    assert record(warehouse, predictions[:7]) == 7
    assert ship(spool, warehouse) == 10
    assert len(_logged(warehouse)) == 10
    assert record(warehouse, predictions) == 0


def test_nothing_is_forgotten_while_the_warehouse_is_away(spool):
    spool.append([_prediction()])
    nowhere = Warehouse(url="postgresql://nobody@127.0.0.1:1/nothing")
    with pytest.raises(WarehouseUnreachable):
        ship(spool, nowhere)
    assert spool.count == 1


def test_one_that_the_warehouse_refuses_holds_up_nobody(warehouse, spool):
    spool.append([_prediction(str(number)) for number in range(5)])
    spool.append([_prediction("5"), _prediction("bad", model_version="a\x00b"), _prediction("6")])
    spool.append([_prediction(str(number)) for number in range(7, 10)])
    assert ship(spool, warehouse) == 10
    assert {row["entity"] for row in _logged(warehouse)} == {str(n) for n in range(10)}
    assert "is refused" in ship_refused(spool, warehouse)
    ((_, failures, _, record_),) = spool.refused(10)
    assert (json.loads(record_)["entity"], failures, spool.count) == ("bad", 2, 1)
    spool.append([_prediction("later")])
    assert ship(spool, warehouse) == 1
    spool.forget_refused(spool.refused(10))
    assert spool.count == 0


def test_why_one_is_refused_is_told_without_what_it_holds(warehouse, tmp_path, caplog):
    """PostgreSQL quotes the row, or the value, in what it says."""
    with warehouse.transaction() as transaction:
        transaction.execute(
            SQL("ALTER TABLE gristmill.predictions ADD CONSTRAINT cheap CHECK (probability < 0.9)")
        )
    spool = open_spool(tmp_path)
    shipper = Shipper(spool, warehouse)
    spool.append([_prediction("who", probability=0.95, features={"attr_b": "a secret"})])
    shipper.start()
    _wait_until(lambda: shipper.shipping.problem is not None)
    shipper.stop()
    spool.close()
    told = caplog.text + shipper.shipping.problem
    assert "cheap" in told
    assert "a secret" not in told
    assert "who" not in told


def test_what_was_refused_is_brought_once_the_warehouse_takes_it(warehouse, spool):
    constraint = "ALTER TABLE gristmill.predictions {} CONSTRAINT no_two {}"
    with warehouse.transaction() as transaction:
        transaction.execute(SQL(constraint.format("ADD", "CHECK (entity <> '2')")))
    spool.append([_prediction(str(number)) for number in range(4)])
    assert ship(spool, warehouse) == 3
    assert "no_two" in ship_refused(spool, warehouse)
    with warehouse.transaction() as transaction:
        transaction.execute(SQL(constraint.format("DROP", "")))
    assert ship_refused(spool, warehouse) is None
    assert spool.count == 0
    assert sorted(row["entity"] for row in _logged(warehouse)) == ["0", "1", "2", "3"]


def test_what_is_wrong_with_the_warehouse_is_not_blamed_on_the_rows(warehouse, spool):
    """After hours without its table, all of them go together again, not one by one."""
    spool.append([_prediction(str(number)) for number in range(4)])
    rename = "ALTER TABLE gristmill.{} RENAME TO {}"
    with warehouse.transaction() as transaction:
        transaction.execute(SQL(rename.format("predictions", "elsewhere")))
    with pytest.raises(StatementFailed, match="predictions"):
        ship(spool, warehouse)
    assert (spool.refused(10), [group.size for group in spool.oldest(10)]) == ([], [4])
    with warehouse.transaction() as transaction:
        transaction.execute(SQL(rename.format("elsewhere", "predictions")))
    assert ship(spool, warehouse) == 4


SLOWLY = """
CREATE FUNCTION public.slowly() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN PERFORM pg_catalog.pg_sleep(0.005); RETURN NEW; END $$;
CREATE TRIGGER slowly BEFORE INSERT ON gristmill.predictions
    FOR EACH ROW EXECUTE FUNCTION public.slowly();
"""


@pytest.fixture
def slow(warehouse):
    """Makes the warehouse slow, and impatient by a setting."""
    database = psycopg.conninfo.conninfo_to_dict(warehouse.url)["dbname"]

    def make(setting):
        with psycopg.connect(warehouse.url, autocommit=True) as connection:
            connection.execute(SLOWLY)
            connection.execute(
                psycopg.sql.SQL("ALTER DATABASE {} SET {} = '500ms'").format(
                    *map(psycopg.sql.Identifier, (database, setting))
                )
            )

    return make


def _transactions(warehouse):
    """How many brought what is there."""
    with warehouse.transaction() as transaction:
        return transaction.value(
            SQL("SELECT count(DISTINCT xmin::text) FROM gristmill.predictions")
        )


@pytest.mark.parametrize("setting", ["statement_timeout", "transaction_timeout"])
def test_what_takes_too_long_gets_through_in_parts(warehouse, spool, slow, setting):
    """As it is, it could be tried for ever."""
    slow(setting)
    spool.append([_prediction(str(number)) for number in range(300)])
    spool.append([_prediction("bad", model_version="a\x00b"), _prediction("300")])
    pace = Pace()
    deadline = time.monotonic() + 60
    while spool.count > 1:
        assert time.monotonic() < deadline
        # A transaction that is too long may cost the connection: the shipper comes again.
        with suppress(WarehouseUnreachable):
            ship(spool, warehouse, pace=pace)
    assert sorted(int(row["entity"]) for row in _logged(warehouse)) == list(range(301))
    assert spool.count == len(spool.refused(10)) == 1
    assert _transactions(warehouse) > 3


def test_half_as_many_after_too_long_and_more_again_once_there_is_time_to_spare():
    pace = Pace()
    assert [pace.slower(tried, 8.0) for tried in (9000, 4500)] == [True, True]
    assert pace.most == 2250
    pace.faster(3.0)
    assert pace.most == 2250
    pace.faster(1.0)
    assert pace.most == 4500
    # Few that were too much: it is a lock that was waited for. One cannot be halved.
    assert [pace.slower(tried, 8.0) for tried in (2, 1)] == [True, False]
    for _ in range(14):
        assert pace.most < 10_000
        pace.faster(0.1)
    assert pace.most == math.inf


def test_what_the_dead_left_is_shipped_by_the_next_command(warehouse, tmp_path):
    for number in range(3):
        left = open_spool(tmp_path)
        left.append([_prediction(str(number))])
        left.close()
    living = open_spool(tmp_path)
    living.append([_prediction("living")])
    assert ship_left_behind(tmp_path, warehouse) == 3
    assert sorted(row["entity"] for row in _logged(warehouse)) == ["0", "1", "2"]
    living.forget(living.oldest(10))
    living.close()
    assert list(tmp_path.iterdir()) == []


def test_a_command_goes_on_where_what_was_left_cannot_be_shipped(tmp_path, caplog):
    left = open_spool(tmp_path)
    left.append([_prediction()])
    left.close()
    nowhere = Warehouse(url="postgresql://nobody@127.0.0.1:1/nothing")
    context._ship_left_behind(tmp_path, nowhere)
    assert "does not answer" in caplog.text
    (spool,) = adopt_spools(tmp_path).spools
    assert spool.count == 1
    spool.close()


def test_the_background_ships_what_comes_and_what_the_dead_left(warehouse, tmp_path):
    left = open_spool(tmp_path)
    left.append([_prediction("left")])
    left.close()
    spool = open_spool(tmp_path)
    shipper = Shipper(spool, warehouse)
    shipper.start()
    spool.append([_prediction("new")])
    _wait_until(lambda: {row["entity"] for row in _logged(warehouse)} == {"left", "new"})
    spool.append([_prediction("last")])
    shipper.stop()
    spool.close()
    assert {row["entity"] for row in _logged(warehouse)} == {"left", "new", "last"}
    assert list(tmp_path.iterdir()) == []


def test_under_load_without_a_pause_the_dead_are_shipped_too(warehouse, tmp_path, monkeypatch):
    """More comes than one transaction brings, all the time: nobody ever finds the spool empty."""
    monkeypatch.setattr("gristmill.predictions.ship.ADOPT_EVERY", 0.5)
    spool = open_spool(tmp_path)
    shipper = Shipper(spool, warehouse)
    over = threading.Event()

    def load():
        while not over.is_set():
            spool.append([_prediction("load")])

    loading = threading.Thread(target=load)
    loading.start()
    try:
        shipper.start()
        _wait_until(lambda: _logged(warehouse))
        left = open_spool(tmp_path)
        left.append([_prediction("left")])
        left.close()
        _wait_until(lambda: "left" in {row["entity"] for row in _logged(warehouse)})
        assert loading.is_alive()
    finally:
        over.set()
        loading.join()
        shipper.stop()
        spool.close()
    assert list(tmp_path.iterdir()) == []


def test_the_background_waits_for_a_warehouse_that_is_away(warehouse, spool, superuser):
    """The database refuses connections, as while it restarts; then it takes them again."""
    database = psycopg.conninfo.conninfo_to_dict(warehouse.url)["dbname"]
    name = psycopg.sql.Identifier(database)
    superuser.execute(psycopg.sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS false").format(name))
    shipper = Shipper(spool, warehouse)
    shipper.start()
    spool.append([_prediction("patient")])
    _wait_until(lambda: shipper.shipping.problem is not None and spool.count == 1)
    superuser.execute(psycopg.sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS true").format(name))
    _wait_until(lambda: spool.count == 0 and shipper.shipping.problem is None)
    shipper.stop()
    assert [row["entity"] for row in _logged(warehouse)] == ["patient"]


def test_that_a_spool_cannot_be_looked_at_is_told_once(tmp_path, caplog):
    """As where a process may open no more files; and that it can be again."""
    spool = open_spool(tmp_path)
    shipper = Shipper(spool, None)
    spool.append([_prediction()])
    away = spool.path.with_suffix(".away")
    for change in (None, (spool.path, away), None, None, (away, spool.path), None, None):
        if change:
            change[0].rename(change[1])
        shipper._try()
    spool.close()
    assert [record.getMessage().split(":")[0] for record in caplog.records] == [
        "Predictions wait in the spool",
        "Predictions are shipped again.",
    ]


def test_what_cannot_be_shipped_at_the_end_stays_on_disk(tmp_path):
    spool = open_spool(tmp_path)
    shipper = Shipper(spool, Warehouse(url="postgresql://nobody@127.0.0.1:1/nothing"))
    shipper.start()
    spool.append([_prediction("stays")])
    shipper.stop()
    spool.close()
    assert shipper.shipping.oldest_seconds > 0
    assert json.dumps("stays").encode()[1:-1] in spool.path.read_bytes()
