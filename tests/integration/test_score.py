"""Everyone in the feature store is answered, once, all or nothing, and as the other ways answer."""

import json
import threading
from datetime import UTC, datetime

import psycopg
import pytest

from gristmill.errors import BuildError, WarehouseError
from gristmill.features import read
from gristmill.predictions import score as room
from gristmill.predictions.prediction import json_value
from gristmill.predictions.predictor import load_predictor
from gristmill.predictions.score import score
from gristmill.registry.bundle import read_bundle

TOML = """
[tables.clients]
path = "clients.csv"
key = ["idx"]
[tables.clients.columns]
idx = "integer"
attr_a = "integer?"
attr_b = "text?"
scd_a = "number?"
scd_b = "integer?"

[features]
entity = "clients.idx"
features = ["clients.attr_a", "clients.attr_b", "clients.scd_a", "clients.scd_b"]
"""
ROWS = [
    (1, 1, "c", 0.55, 3),
    (2, None, None, None, None),
    (3, -7, 'a "quoted", text\nof two lines', 0.1 + 0.2, 0),
    (4, 2**53, "never seen ü", 5e-324, -1),
    (10, 0, "", -0.0, 0),  # numbers and texts are not in the same order
    (-60, 0, "\\N", -123456789.12345679, 12),
]


def put(shop, rows=ROWS):
    def cell(value):
        if isinstance(value, str):
            return '"' + value.replace('"', '""') + '"'
        return "" if value is None else repr(value)

    lines = [",".join(map(cell, row)) for row in rows]
    shop.put("clients.csv", "\n".join(["idx,attr_a,attr_b,scd_a,scd_b", *lines]) + "\n")
    shop.load()
    shop.build()


@pytest.fixture
def shop(shop):
    shop.declare(TOML)
    put(shop)
    with psycopg.connect(shop.warehouse.url) as connection:
        for version in ("3", "4"):
            connection.execute(
                "INSERT INTO gristmill.model_versions (version, candidate, verdict, reasons, "
                "no_signal, evaluation, build, lineage, run_id, bundle, code_version, seed) "
                "SELECT %s, 'logistic', 'promote', '[]', false, '{}', max(build), '{}', '', '', "
                "'', 0 FROM gristmill.builds",
                [version],
            )
    return shop


@pytest.fixture
def bundle(bundle_folder):
    return read_bundle(bundle_folder)


def scored(bundle, shop, **options):
    told = []
    done = score(bundle, shop.warehouse, begin=told.append, progress=told.append, **options)
    return *done, told


def logged(shop):
    return shop.rows("SELECT entity, features, probability, label FROM gristmill.predictions")


def test_everyone_is_answered_as_one_by_one(shop, bundle):
    predictor, features = load_predictor(bundle), shop.context.project.features

    done, now, told = scored(bundle, shop)

    expected = {}
    for idx, *_ in ROWS:
        found = read.latest(features, shop.warehouse, idx).features
        values = {name: json_value(value) for name, value in found.items()}
        expected[str(idx)] = (values, *predictor.answer(values))
    assert {entity: tuple(rest) for entity, *rest in logged(shop)} == expected
    assert (now, done.entities, told) == (True, 6, [6, 6])
    assert done.positives == sum(label for _, _, label in expected.values())


def test_the_record_says_when_and_by_whom(shop, bundle):
    before = datetime.now(UTC)
    done, _, _ = scored(bundle, shop)

    rows = shop.rows(
        "SELECT DISTINCT model_version, predicted_at, latency_ms > 0, "
        "left(replace(prediction_id::text, '-', ''), 12), "
        "substr(prediction_id::text, 15, 1), substr(prediction_id::text, 20, 1) IN "
        "('8', '9', 'a', 'b') FROM gristmill.predictions"
    )
    [(version, predicted_at, positive, milliseconds, number, variant)] = rows
    assert (version, predicted_at, positive) == ("3", done.scored_at, True)
    assert before <= predicted_at <= datetime.now(UTC)
    assert (number, variant) == ("7", True)  # RFC 9562
    assert int(milliseconds, 16) / 1000 == pytest.approx(done.scored_at.timestamp(), abs=60)


def test_batches_of_any_size_answer_everyone_once(shop, bundle, monkeypatch):
    answered = []
    for size in (1, 2, 3, 5, 6, 7):
        monkeypatch.setattr(room, "CHUNK", size)
        done, _, told = scored(bundle, shop, again=True)
        assert (done.entities, sum(told[1:])) == (6, 6)
        found = shop.rows(
            "DELETE FROM gristmill.predictions RETURNING entity, features::text, probability, label"
        )
        answered.append(sorted(found))
    assert all(each == answered[0] for each in answered)
    assert len(answered[0]) == 6


def test_what_was_scored_is_not_scored_again_unless_asked(shop, bundle, example_model, tmp_path):
    first, _, _ = scored(bundle, shop)
    assert scored(bundle, shop) == (first, False, [])
    assert len(logged(shop)) == 6

    again, now, _ = scored(bundle, shop, again=True)
    assert (now, len(logged(shop))) == (True, 12)
    assert scored(bundle, shop) == (again, False, [])

    other = example_model.write(tmp_path / "4", manifest=example_model.manifest(version="4"))
    assert scored(other, shop)[1] is True

    put(shop, [*ROWS, (70, 1, "a", 1.5, 1)])
    done, now, _ = scored(bundle, shop)
    assert (now, done.entities) == (True, 7)
    assert len(logged(shop)) == 25


def test_all_or_nothing(shop, bundle, monkeypatch):
    """The third batch fails: of the first two nothing stays, and the next try is whole."""
    monkeypatch.setattr(room, "CHUNK", 2)
    seen = []

    def lose_the_connection(rows):
        seen.append(rows)
        if len(seen) == 2:
            with psycopg.connect(shop.warehouse.url) as other:
                other.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE "
                    "application_name = 'gristmill' AND datname = current_database()"
                )

    with pytest.raises(WarehouseError):
        score(bundle, shop.warehouse, begin=lambda _: None, progress=lose_the_connection)

    assert seen == [2, 2]
    assert logged(shop) == []
    assert shop.rows("SELECT * FROM gristmill.scores") == []
    assert scored(bundle, shop)[0].entities == 6


def test_two_at_once_score_once(shop, bundle):
    done = []
    threads = [
        threading.Thread(target=lambda: done.append(scored(bundle, shop)[1])) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(done) == [False, False, True]
    assert len(logged(shop)) == 6


def test_a_feature_that_is_no_longer_there_is_named(shop, bundle):
    shop.declare(TOML.replace('"clients.attr_b", ', ""))
    shop.build()
    with pytest.raises(BuildError, match=r"feature_store has no attr_b"):
        scored(bundle, shop)
    assert logged(shop) == []


EVERY_TYPE = """
[tables.things]
path = "things.csv"
key = ["name"]
[tables.things.columns]
name = "text"
at = "timestamp?"
day = "date?"
price = "decimal(20,10)?"
on = "boolean?"

[derived.made]
sql = "made.sql"
from = ["things"]
key = ["name"]

[features]
entity = "things.name"
features = ["things.at", "things.day", "things.price", "things.on", "made.odd", "made.small"]
"""
MADE = """
SELECT name, CASE name WHEN 'b' THEN 'NaN'::double precision ELSE 0.1 END AS odd,
       0.1::real AS small
FROM things
"""


def test_the_record_of_a_batch_is_that_of_one_for_every_type(shop):
    """Keys are texts in an order of their own; what is asked for one by one says the same."""
    shop.declare(EVERY_TYPE, made=MADE)
    shop.put(
        "things.csv",
        "name,at,day,price,on\n"
        "b,2020-01-31T12:00:00.250000+02:00,2020-02-29,12345678.0123456789,true\n"
        "A,1969-12-31T23:59:59.999999Z,0001-01-01,-0.1,false\n"
        "Ä,2020-01-31T00:00:00Z,,,\n"
        "'%s,,9999-12-31,0.3,1\n",
    )
    shop.load()
    shop.build()
    features = shop.context.project.features

    with shop.warehouse.transaction() as transaction:
        build = read.feature_store_build(features, transaction).build
        batches = list(read.latest_batches(features, transaction, build, size=1))

    keys = [batch.keys[0].as_py() for batch in batches]
    assert sorted(keys) == ["'%s", "A", "b", "Ä"]
    for key, batch in zip(keys, batches, strict=True):
        one = read.latest(features, shop.warehouse, key).features
        plain = {name: json_value(value) for name, value in one.items()}
        record = json.loads(batch.records[0].as_py())
        # Postgres leaves noughts at the end of a second away; the moment is the same.
        for moments in (plain, record):
            moments["at"] = moments["at"] and datetime.fromisoformat(moments["at"])
        assert record == plain
    assert {json.loads(batch.records[0].as_py())["odd"] for batch in batches} == {0.1, None}
