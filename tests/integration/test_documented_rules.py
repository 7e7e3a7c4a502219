"""Each rule of docs/project-file.md, broken once: the reject that it says, and the line."""

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "project-file.md"

STORES = """
[tables.stores]
path = "stores.csv"
key = ["idx"]
columns = { idx = "integer" }
"""
CLIENTS = """
[tables.clients]
path = "clients.csv"
key = ["idx"]
max_rejects = 1
[tables.clients.columns]
idx   = "integer"
known = { type = "integer?", in = [0, 1] }
money = { type = "number?", min = 0, max = 5 }
zip   = { type = "text?", matches = "[0-9]{5}" }
"""
SALES = """
[tables.sales]
path = "sales/{period:%Y-%m}.csv"
period = { every = "month", column = "date" }
references = { store = "stores.idx" }
max_rejects = 1
columns = { store = "integer", date = "date" }
"""
HISTORY = """
[tables.history]
path = "history.csv"
key = ["idx", "since"]
valid = ["since", "until"]
max_rejects = 1
columns = { idx = "integer", since = "date", until = "date?" }
"""
CLIENT = "idx,known,money,zip\n1,0,2.5,12345\n"
SALE = "store,date\n1,2020-01-31\n"
ROW = "idx,since,until\n1,2024-01-01,2024-05-01\n"

BROKEN = {
    "record": ("clients.csv", CLIENT + "2,1\n"),
    "type": ("clients.csv", CLIENT + "3.0,1,2,12345\n"),
    "null": ("clients.csv", CLIENT + ",1,2,12345\n"),
    "in": ("clients.csv", CLIENT + "2,2,2,12345\n"),
    "min": ("clients.csv", CLIENT + "2,1,-1,12345\n"),
    "max": ("clients.csv", CLIENT + "2,1,6,12345\n"),
    "matches": ("clients.csv", CLIENT + "2,1,2,1234\n"),
    "key": ("clients.csv", CLIENT + "1,1,2,12345\n"),
    "period": ("sales/2020-01.csv", SALE + "1,2020-02-01\n"),
    "reference": ("sales/2020-01.csv", SALE + "7,2020-01-30\n"),
    "inverted": ("history.csv", ROW + "2,2024-02-01,2024-01-01\n"),
    "empty": ("history.csv", ROW + "2,2024-01-01,2024-01-01\n"),
    "overlap": ("history.csv", ROW + "1,2024-03-01,2024-07-01\n"),
    "two_open": ("history.csv", "idx,since,until\n1,2024-01-01,\n1,2024-03-01,\n"),
}
"""Rule → a file whose third line breaks it and no other."""


def test_every_documented_rule_is_broken_here():
    table = PAGE.read_text(encoding="utf-8").split("### Rules")[1].split("### ")[0]
    assert set(re.findall(r"^\| `(\w+)`", table, re.MULTILINE)) == set(BROKEN)


@pytest.mark.parametrize("rule", BROKEN)
def test_a_broken_rule_gives_its_reject_and_leaves_the_good_row(rule, shop):
    path, content = BROKEN[rule]
    name = path.partition("/")[0].removesuffix(".csv")
    shop.declare(STORES + {"clients": CLIENTS, "sales": SALES, "history": HISTORY}[name])
    shop.put("stores.csv", "idx\n1\n")
    shop.put(path, content)
    shop.load()
    raw = content.splitlines()[2]
    assert shop.rows("SELECT file, line, rule, raw FROM gristmill.rejects") == [
        (path, 3, rule, raw)
    ]
    assert shop.rows(f"SELECT count(*) FROM {name}") == [(1,)]


def test_touching_intervals_and_gaps_are_no_rejects(shop):
    shop.declare(HISTORY)
    shop.put("history.csv", ROW + "1,2024-05-01,2024-06-01\n1,2024-09-01,\n")
    shop.load()
    assert shop.rows("SELECT count(*) FROM gristmill.rejects") == [(0,)]
    assert shop.rows("SELECT count(*) FROM history") == [(3,)]


def test_a_history_of_one_thing_has_valid_from_alone_as_its_key(shop):
    shop.declare(HISTORY.replace('key = ["idx", "since"]', 'key = ["since"]'))
    shop.put("history.csv", ROW + "2,2024-03-01,2024-07-01\n3,2024-08-01,\n")
    shop.load()
    assert shop.rows("SELECT line, rule FROM gristmill.rejects") == [(3, "overlap")]


@pytest.mark.parametrize("time", ["date", "timestamp"])
def test_intervals_overlap_whatever_else_of_them_is_in_the_key(shop, time):
    declared = HISTORY.replace('"since"]\nvalid', '"since", "until"]\nvalid')
    shop.declare(declared.replace('"date', f'"{time}').replace("?", ""))
    day = "" if time == "date" else "T00:00:00Z"
    rows = [("01-01", "05-01"), ("03-01", "07-01"), ("01-01", "02-01")]
    lines = [f"1,2024-{since}{day},2024-{until}{day}" for since, until in rows]
    shop.put("history.csv", "\n".join(["idx,since,until", *lines]))
    shop.load()
    found = shop.rows("SELECT line, rule FROM gristmill.rejects ORDER BY line")
    assert found == [(3, "overlap"), (4, "overlap")]
