"""How a project stands, table by period, before anything was done and after everything."""

import dataclasses
from datetime import UTC, datetime

import pytest

from gristmill.errors import LoadError
from gristmill.flow.status import status
from gristmill.loading.difference import undo

TOML = """
[tables.clients]
path = "clients.csv"
key = ["idx"]
columns = { idx = "integer", value = "integer" }

[tables.sales]
path = "sales/{period:%Y-%m}.csv"
period = { every = "month", column = "date" }
columns = { date = "date", value = "integer" }

[derived.monthly]
sql = "monthly.sql"
from = ["sales"]
period = "sales"

[features]
entity = "clients.idx"
features = ["clients.value"]
"""


def put(shop, month, value=1):
    shop.put(f"sales/{month}.csv", f"date,value\n{month}-01,{value}\n")


@pytest.fixture
def shop(shop):
    shop.declare(TOML, monthly="SELECT count(*) AS number FROM sales")
    shop.put("clients.csv", "idx,value\n1,1\n2,2\n")
    for month in ("2020-01", "2020-02"):
        put(shop, month)
    return shop


def states(shop):
    return [(one.table, one.period, one.state) for one in status(shop.context).periods]


def test_before_anything_is_done_all_is_new(shop):
    found = status(shop.context)

    assert [(one.table, one.period, one.state, one.rows) for one in found.periods] == [
        ("clients", "all", "new", None),
        ("sales", "2020-01", "new", None),
        ("sales", "2020-02", "new", None),
    ]
    assert [(one.name, one.periods, one.rows, one.built_at) for one in found.builds] == [
        ("monthly", 0, 0, None),
        ("feature_store", 0, 0, None),
    ]
    assert (found.champion, found.problems) == (None, [])


def test_after_everything_it_says_what_is_in_since_when(shop):
    began = datetime.now(UTC)
    shop.load()
    shop.build()

    found = status(shop.context)

    assert [(one.state, one.rows, one.rejected, one.load) for one in found.periods] == [
        ("loaded", 2, 0, 1),
        ("loaded", 1, 0, 2),
        ("loaded", 1, 0, 3),
    ]
    assert all(began <= one.loaded_at <= datetime.now(UTC) for one in found.periods)
    assert [(one.name, one.periods, one.rows) for one in found.builds] == [
        ("monthly", 2, 2),
        ("feature_store", 1, 2),
    ]
    assert [one.file for one in found.periods] == [
        "clients.csv", "sales/2020-01.csv", "sales/2020-02.csv",
    ]  # fmt: skip


def test_every_state_is_told_from_the_others(shop):
    for month in ("2020-03", "2020-04", "2020-06", "2020-07"):
        put(shop, month)
    shop.load()
    put(shop, "2020-01", 5)  # changed
    put(shop, "2020-02", "x")
    with pytest.raises(LoadError):
        shop.load("sales", period="2020-02")
    undo(shop.context.project.tables["sales"], "2020-03", shop.warehouse)
    shop.remove("sales/2020-04.csv")
    put(shop, "2020-08")
    shop.declare(TOML.replace('value = "integer" }', 'value = "integer?" }', 1))

    assert states(shop) == [
        ("clients", "all", "contract changed"),
        ("sales", "2020-01", "changed"),
        ("sales", "2020-02", "refused"),
        ("sales", "2020-03", "undone"),
        ("sales", "2020-04", "vanished"),
        ("sales", "2020-05", "missing"),
        ("sales", "2020-06", "loaded"),
        ("sales", "2020-07", "loaded"),
        ("sales", "2020-08", "new"),
    ]
    refused = status(shop.context).periods[2]
    assert (refused.load, refused.rows) == (3, 1)  # what is shown still


def test_an_undone_load_says_what_is_shown_instead(shop):
    shop.load()
    put(shop, "2020-02", 9)
    shop.load()
    undo(shop.context.project.tables["sales"], "2020-02", shop.warehouse)

    assert states(shop)[-1] == ("sales", "2020-02", "undone")
    assert status(shop.context).periods[-1].load == 3
    shop.load(again=True)
    assert states(shop)[-1] == ("sales", "2020-02", "loaded")
    put(shop, "2020-02", 10)
    assert states(shop)[-1] == ("sales", "2020-02", "changed")


def test_a_mended_file_after_a_refusal_is_changed_again(shop):
    shop.load()
    put(shop, "2020-02", "x")
    with pytest.raises(LoadError):
        shop.load()
    assert states(shop)[-1] == ("sales", "2020-02", "refused")

    put(shop, "2020-02", 3)
    assert states(shop)[-1] == ("sales", "2020-02", "changed")
    shop.load()
    assert states(shop)[-1] == ("sales", "2020-02", "loaded")


def test_a_file_that_is_gone_is_vanished_and_the_others_are_looked_at(shop):
    shop.load()
    shop.remove("clients.csv")

    assert states(shop)[0] == ("clients", "all", "vanished")
    found = status(shop.context)
    assert [one.state for one in found.periods] == ["vanished", "loaded", "loaded"]
    assert len(found.problems) == 1
    assert "clients.csv" in found.problems[0]


def test_without_its_bucket_it_says_what_is_in(shop):
    shop.load()
    (shop.folder / "bucket").rename(shop.folder / "elsewhere")

    found = status(shop.context)

    assert [(one.table, one.state, one.rows) for one in found.periods] == [
        ("clients", "unknown", 2),
        ("sales", "unknown", 1),
        ("sales", "unknown", 1),
    ]
    assert len(found.problems) == 2
    assert dataclasses.asdict(found)  # as the command prints it
