"""A prediction back to files and lines: hand-made files, whose lines are known beforehand."""

import csv
import hashlib
import io
import json
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from gristmill.console import terminal
from gristmill.console.trace import trace_lines
from gristmill.errors import BuildError, PredictionNotFound
from gristmill.loading.difference import undo
from gristmill.predictions.prediction import Prediction, new_prediction_id
from gristmill.predictions.ship import record
from gristmill.predictions.spool import open_spool
from gristmill.predictions.trace import parse_prediction_id, trace

TABLES = """
[tables.clients]
path = "clients.csv"
key = ["idx"]
columns = { idx = "integer", name = "text", age = "integer?" }

[tables.activity]
path = "activity.csv"
key = ["idx", "valid_from"]
valid = ["valid_from", "valid_to"]
columns = { idx = "integer", valid_from = "date", valid_to = "date?", score = "number" }

[tables.labels]
path = "labels.csv"
key = ["idx"]
columns = { idx = "integer", label = "integer", seen_on = "date" }

[tables.orders]
path = "orders/{period:%Y-%m}.csv"
period = { every = "month", column = "day" }
references = { client = "clients.idx" }
columns = { client = "integer", day = "date", paid = "decimal(8,2)" }

[derived.spending]
sql = "spending.sql"
from = ["orders"]
key = ["idx"]
"""
FEATURES = """
[features]
entity = "clients.idx"
features = ["clients.age", "activity.score", "spending.spent"]
label = "labels.label"
"""
SPENDING = "SELECT client AS idx, sum(paid) AS spent FROM orders GROUP BY client"
FILES = {
    # The name of client 1 has a line of its own, so that client 2 begins on line 4.
    "clients.csv": 'idx,name,age\n1,"Ann\nof the hill",30\n2,Bob,40\n3,"Cy, jr.",\n',
    "activity.csv": "idx,valid_from,valid_to,score\n"
    "2,2020-01-01,2020-06-01,0.5\n"
    "1,2020-01-01,,0.1\n"
    "2,2020-06-01,2027-01-01,0.75\n"
    "2,2027-01-01,,0.9\n",
    "labels.csv": "idx,label,seen_on\n3,0,2021-01-01\n2,1,2020-03-01\n",
    "orders/2025-11.csv": "client,day,paid\n1,2025-11-01,1.00\n2,2025-11-03,10.00\n",
    "orders/2025-12.csv": "client,day,paid\n2,2025-12-24,5.50\n",
}
BOB = {"age": 40, "score": 0.75, "spent": 15.5}


@pytest.fixture
def shop(shop):
    shop.declare(TABLES + FEATURES, spending=SPENDING)
    for path, content in FILES.items():
        shop.put(path, content)
    shop.load()
    shop.build()
    return shop


def version(shop, number="1"):
    """A version on record, as if it were trained on the current training set."""
    lineage = {"holdout": {"salt": "shop", "share": 0.2}}
    with shop.warehouse.transaction() as transaction:
        transaction.execute(
            "INSERT INTO gristmill.model_versions (version, candidate, verdict, reasons, no_signal,"
            " evaluation, build, lineage, run_id, bundle, code_version, seed) "
            "SELECT %s, 'logistic', 'promote', '[]', false, '{}', build, %s, 'r1', %s, '0.1.0', 7 "
            "FROM gristmill.current_builds WHERE name = 'training_set'",
            [number, json.dumps(lineage), number],
        )


def predict(shop, features, entity="2", *, number="1", moment=None):
    """An answer on record, given now."""
    made = Prediction(
        prediction_id=new_prediction_id(),
        entity=entity,
        features=features,
        probability=0.25,
        label=0,
        model_version=number,
        predicted_at=moment or datetime.now(UTC),
        latency_ms=1.5,
    )
    record(shop.warehouse, [made])
    return made.prediction_id


def traced(shop, prediction_id):
    context = shop.context
    found = trace(
        prediction_id,
        project=context.project,
        warehouse=context.warehouse,
        bucket=context.bucket,
        registry=context.registry,
        spool=context.home.spool,
    )
    printed = "\n".join(trace_lines(found))
    wrapped = [line for line in printed.splitlines() if " " in line.strip()]
    long = [line for line in wrapped if len(line) > 80 and "etag" not in line]
    assert long == []
    for note in found.notes:
        assert " ".join(note.split()) in " ".join(printed.split()).replace("! ", "")
    return found


def rows(source):
    """File, line and whether it counted, of each of the entity's rows in a source."""
    return [(row.file, row.line, row.counted) for row in source.rows]


def by_name(row):
    return {source.name: source for source in row.sources}


def record_at(content, line):
    """The CSV record that begins on a physical line, as Python reads it."""
    header = content.splitlines()[0].split(",")
    rest = "".join(content.splitlines(keepends=True)[line - 1 :])
    return dict(zip(header, next(csv.reader(io.StringIO(rest))), strict=True))


def test_every_row_is_told_by_file_and_line(shop):
    version(shop)
    found = traced(shop, predict(shop, BOB))

    sources = by_name(found.stored)
    assert rows(sources["clients"]) == [("clients.csv", 4, True)]
    assert rows(sources["activity"]) == [
        ("activity.csv", 2, False), ("activity.csv", 4, True), ("activity.csv", 5, False),
    ]  # fmt: skip
    assert rows(sources["labels"]) == [("labels.csv", 3, True)]
    (spent,) = sources["spending"].rows
    assert (spent.values, spent.line, spent.counted) == ({"idx": 2, "spent": 15.5}, None, True)
    (orders,) = sources["spending"].sources
    assert (orders.name, orders.column) == ("orders", "client")
    assert rows(orders) == [("orders/2025-11.csv", 3, None), ("orders/2025-12.csv", 2, None)]
    for source in found.stored.every_source():
        for row in source.rows:
            if row.file:
                told = {name: "" if value is None else str(value) for name, value in
                        row.values.items() if name != "paid"}  # fmt: skip
                assert told.items() <= record_at(FILES[row.file], row.line).items()

    assert [(one.name, one.given, one.stored, one.trained, one.differs)
            for one in found.features] == [
        ("age", 40, 40, 40, False), ("score", 0.75, 0.75, 0.75, False),
        ("spent", 15.5, 15.5, 15.5, False),
    ]  # fmt: skip
    assert {load.file_now for load in found.loads} == {"unchanged"}
    assert {load.file for load in found.loads} == set(FILES)
    assert found.notes == ()
    fraction = int.from_bytes(hashlib.blake2b(b"shop:2", digest_size=8).digest(), "big") / 2**64
    assert found.version.part == ("holdout" if fraction < 0.2 else "training")
    assert found.version.loads == tuple(load.load for load in found.loads)


def test_it_is_printed_as_people_read_it_and_as_json(shop, capsys):
    version(shop)
    found = traced(shop, predict(shop, {**BOB, "age": 41}))
    printed = list(trace_lines(found))
    assert "age      41     ≠  40      40" in printed
    assert "      line 4: name=Bob, age=40" in printed
    assert "      line 4 (valid then): valid_from=2020-06-01, valid_to=2027-01-01," in printed
    assert "    not valid then: lines 2, 5 of activity.csv (load 2)" in printed
    assert "      orders/2025-12.csv (load 5)" in printed
    assert "  clients, activity, labels, spending, orders: the same rows as above" in printed
    assert "  trained on build 3, made of 5 files: 5 unchanged" in printed

    terminal.print_json(found)
    told = json.loads(capsys.readouterr().out)
    assert told["stored"]["sources"][0]["rows"][0]["line"] == 4
    assert told["features"][0] == {
        "name": "age", "given": 41, "stored": 40, "trained": 40, "differs": True,
    }  # fmt: skip
    assert told["loads"][0]["etag"] == told["loads"][0]["etag_now"]


def test_what_a_request_carried_stands_beside_what_is_stored(shop):
    version(shop)
    given = {"age": 40.0, "score": None, "spent": 15.25, "gone": "x"}
    found = traced(shop, predict(shop, given))
    assert {one.name: one.differs for one in found.features} == {
        "age": False, "score": True, "spent": True, "gone": False,
    }  # fmt: skip


def test_an_entity_that_nobody_knows_comes_from_no_file(shop):
    version(shop)
    for entity in ("150000", "not a number"):
        found = traced(shop, predict(shop, BOB, entity))
        assert found.stored.values is None
        assert all(source.rows == () for source in found.stored.every_source())
        assert not any(one.differs for one in found.features)
        (note,) = found.notes
        assert f"has no idx {entity}: the features are those that the request carried" in note


def test_without_a_label_there_is_no_row_in_training(shop):
    version(shop)
    found = traced(shop, predict(shop, {"age": 30, "score": 0.1, "spent": 1}, "1"))
    assert (found.trained.values, found.trained.dropped_at) == (None, None)
    assert found.stored.values["age"] == 30
    assert rows(by_name(found.stored)["clients"]) == [("clients.csv", 2, True)]
    assert any("no row in it, for it had no label" in line for line in trace_lines(found))


def test_the_feature_store_of_then_is_told_after_it_was_built_anew(shop):
    version(shop)
    prediction = predict(shop, BOB)
    then = traced(shop, prediction).stored.build
    shop.put("clients.csv", "idx,name,age\n2,Bob,41\n")
    shop.load()
    shop.build()

    found = traced(shop, prediction)
    assert (found.stored.build, found.stored.is_current) == (then, False)
    assert found.stored.values["age"] == 40
    assert rows(by_name(found.stored)["clients"]) == [("clients.csv", 4, True)]
    rebuilt, changed, replaced = found.notes
    assert rebuilt.endswith("it now has age 41.")
    assert changed.startswith("clients.csv has changed since load 1 took it")
    assert "load 1 of clients was replaced since: load 6 is shown now" in replaced.lower()

    now = traced(shop, predict(shop, {**BOB, "age": 41}))
    assert now.stored.values["age"] == 41
    assert rows(by_name(now.stored)["clients"]) == [("clients.csv", 2, True)]
    assert now.trained.values["age"] == 40


def test_a_file_that_changed_or_went_since_is_told(shop):
    version(shop)
    prediction = predict(shop, BOB)
    shop.put("labels.csv", "idx,label,seen_on\n2,0,2020-03-01\n")
    shop.remove("orders/2025-11.csv")

    found = traced(shop, prediction)
    states = {load.file: load.file_now for load in found.loads}
    assert {file for file, state in states.items() if state == "unchanged"} == {
        "clients.csv", "activity.csv", "orders/2025-12.csv",
    }  # fmt: skip
    assert (states["labels.csv"], states["orders/2025-11.csv"]) == ("changed", "gone")
    assert [note.split(":")[0] for note in found.notes] == [
        "labels.csv has changed since load 3 took it",
        "orders/2025-11.csv is no longer in the bucket; load 4 still has its rows.",
    ]
    assert rows(by_name(found.stored)["labels"]) == [("labels.csv", 3, True)]


def test_many_files_are_looked_at_by_one_listing(shop):
    for month in range(1, 9):
        shop.put(f"orders/2025-0{month}.csv", f"client,day,paid\n1,2025-0{month}-01,1\n")
    shop.put("orders/2025-09.csv", "client,day,paid\n1,2025-09-01,1\n")
    shop.put("orders/2025-10.csv", "client,day,paid\n1,2025-10-01,1\n")
    shop.load()
    shop.build()
    version(shop)
    prediction = predict(shop, BOB)
    shop.put("orders/2025-03.csv", "client,day,paid\n1,2025-03-01,2\n")
    shop.remove("orders/2025-04.csv")

    found = traced(shop, prediction)
    (orders,) = by_name(found.stored)["spending"].sources
    assert rows(orders) == [("orders/2025-11.csv", 3, None), ("orders/2025-12.csv", 2, None)]
    assert [load.period for load in found.loads if load.table_name == "orders"] == sorted(
        f"2025-{month:02}" for month in range(1, 13)
    )
    states = {load.file: load.file_now for load in found.loads if load.file_now != "unchanged"}
    assert states == {"orders/2025-03.csv": "changed", "orders/2025-04.csv": "gone"}
    (note,) = found.notes
    assert "2 changed since or are gone: orders/2025-03.csv, orders/2025-04.csv" in note


def test_a_bucket_that_is_away_is_said_and_the_lines_are_told(shop):
    version(shop)
    prediction = predict(shop, BOB)
    (shop.folder / "bucket").rename(shop.folder / "elsewhere")

    found = traced(shop, prediction)
    assert {load.file_now for load in found.loads} == {"unknown"}
    assert all("have changed is not known" in note for note in found.notes)
    assert rows(by_name(found.stored)["clients"]) == [("clients.csv", 4, True)]


def test_an_undone_load_is_told(shop):
    shop.put("clients.csv", "idx,name,age\n2,Bob,39\n")
    shop.load()
    shop.build()
    version(shop)
    prediction = predict(shop, {**BOB, "age": 39})
    undo(shop.context.project.tables["clients"], None, shop.warehouse)

    found = traced(shop, prediction)
    assert found.stored.values["age"] == 39
    assert any(note.startswith("Load 6 of clients was undone on 20") for note in found.notes)


def renew(shop, *ages):
    for age in ages:
        shop.put("clients.csv", f"idx,name,age\n2,Bob,{age}\n")
        shop.load()
        shop.build()


def test_what_was_tidied_away_is_said_and_what_is_in_use_stays(shop):
    version(shop, "1")
    old = predict(shop, BOB)
    renew(shop, 50)
    version(shop, "2")
    new = predict(shop, {**BOB, "age": 50}, number="2")
    renew(shop, 60, 70, 80)

    found = traced(shop, new)  # the newest version: what it was made of is in use
    assert (found.trained.dropped_at, found.trained.values["age"]) == (None, 50)
    assert rows(by_name(found.stored)["clients"]) == [("clients.csv", 2, True)]
    assert any("it now has age 80" in note for note in found.notes)

    found = traced(shop, old)
    assert found.trained.values is None
    assert found.trained.dropped_at is not None
    assert (found.stored.is_current, found.stored.values["age"]) == (True, 80)
    said = "\n".join(found.notes)
    assert "is no longer kept; what is told as stored is the present one" in said
    assert "The training set of version 1 (build 3) was tidied away" in said
    assert "Load 1 of clients is no longer kept" in said
    assert {load.file for load in found.loads} == set(FILES)
    assert found.features[0].differs


def test_a_training_row_holds_what_was_valid_when_its_label_was_known(shop):
    shop.declare(TABLES + FEATURES + 'as_of = "labels.seen_on"\n', spending=SPENDING)
    shop.build()
    version(shop)

    found = traced(shop, predict(shop, BOB))
    assert (found.trained.as_of, found.trained.values["score"]) == ("2020-03-01", 0.5)
    assert rows(by_name(found.trained)["activity"]) == [
        ("activity.csv", 2, True), ("activity.csv", 4, False), ("activity.csv", 5, False),
    ]  # fmt: skip
    assert rows(by_name(found.stored)["activity"])[1] == ("activity.csv", 4, True)
    assert "  clients, labels, spending, orders: the same rows as above" in list(trace_lines(found))


def test_a_scoring_names_the_feature_store_that_it_read(shop):
    version(shop)
    (first,) = shop.rows("SELECT build FROM gristmill.current_builds WHERE name = 'feature_store'")
    renew(shop, 50)
    moment = datetime.now(UTC) + timedelta(hours=1)
    with shop.warehouse.transaction() as transaction:
        transaction.execute(
            "INSERT INTO gristmill.scores (model_version, build, entities, positives, seconds, "
            "scored_at) VALUES ('1', %s, 3, 1, 0.1, %s)",
            [first[0], moment],
        )
    assert traced(shop, predict(shop, BOB, moment=moment)).stored.build == first[0]


def test_a_version_from_elsewhere_is_said(shop):
    found = traced(shop, predict(shop, BOB, number="77"))
    assert (found.version, found.trained) == (None, None)
    assert found.stored.values["age"] == 40
    assert "Version 77 is not on record here" in found.notes[0]


def test_an_answer_before_any_feature_store(shop):
    version(shop)
    prediction = predict(shop, BOB, moment=datetime(2020, 1, 1, tzinfo=UTC))
    found = traced(shop, prediction)
    assert found.stored.is_current
    assert "was shown then is no longer kept" in found.notes[0]


def test_keys_that_are_texts_and_names_that_need_quotes(shop):
    shop.declare(
        """
[tables.select]
path = "people.csv"
key = ["who?"]
columns = { "who?" = "text", "100%" = "integer" }
[features]
entity = "select.who?"
features = ["select.100%"]
"""
    )
    shop.put("people.csv", 'who?,100%\nx,1\n"it\'s\n%s",2\n')
    shop.load()
    shop.build()
    found = traced(shop, predict(shop, {"100%": 2}, "it's\n%s"))
    assert found.stored.values == {"who?": "it's\n%s", "100%": 2}
    assert rows(by_name(found.stored)["select"]) == [("people.csv", 3, True)]


def test_of_many_rows_some_are_printed(shop):
    shop.put(
        "orders/2025-12.csv",
        "client,day,paid\n" + "".join(f"2,2025-12-24,{n}\n" for n in range(1, 1_501)),
    )
    shop.load()
    shop.build()
    found = traced(shop, predict(shop, BOB))
    (orders,) = by_name(found.stored)["spending"].sources
    assert (len(orders.rows), orders.more) == (1_000, True)
    assert "      … and 988 or more others (see --json)" in list(trace_lines(found))


def test_what_is_not_on_record_is_said(shop):
    with pytest.raises(PredictionNotFound, match="'17' is not the id of a prediction"):
        parse_prediction_id("17")
    unknown = uuid4()
    with pytest.raises(PredictionNotFound, match=f"There is no prediction {unknown} on record"):
        traced(shop, unknown)


def test_a_prediction_that_waits_in_a_spool_is_named(shop):
    waiting = Prediction(
        prediction_id=uuid4(),
        entity="2",
        features=BOB,
        probability=0.5,
        label=1,
        model_version="1",
        predicted_at=datetime.now(UTC),
        latency_ms=1.0,
    )
    spool = open_spool(shop.context.home.spool)
    try:
        spool.append([waiting])
        with pytest.raises(PredictionNotFound, match=r"was given and waits in .*\.spool"):
            traced(shop, waiting.prediction_id)
        (group,) = spool.oldest(10)
        spool.forget([group], refused=[json.dumps(str(waiting.prediction_id)).encode()])
        with pytest.raises(PredictionNotFound, match="refused to take it 1 times"):
            traced(shop, waiting.prediction_id)
    finally:
        spool.close()


def test_a_project_without_features_has_nothing_to_trace(shop):
    prediction = predict(shop, BOB)
    shop.declare(TABLES, spending=SPENDING)
    with pytest.raises(BuildError, match=r"no \[features\]"):
        traced(shop, prediction)
