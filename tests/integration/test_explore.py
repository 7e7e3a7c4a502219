"""`explore`: what the page says of the data, against what was put into it."""

import stat
from html.parser import HTMLParser

import psycopg
import pytest

from gristmill.errors import TrainingError
from gristmill.features import profile
from gristmill.features.read import training_set
from gristmill.features.sources import Source
from gristmill.flow.explore import explore
from gristmill.flow.report import Silence
from gristmill.training.split import split

TOML = """
[tables.clients]
path = "clients.csv"
key = ["idx"]
columns = { idx = "integer", shop = "text?", born = "date", empty = "text?" }

[tables.activity]
path = "activity.csv"
key = ["idx", "valid_from"]
valid = ["valid_from", "valid_to"]
columns = { idx = "integer", valid_from = "date", valid_to = "date?", amount = "number" }

[tables.labels]
path = "labels.csv"
key = ["idx"]
columns = { idx = "integer", label = "integer" }

[tables.sales]
path = "sales/{period:%Y-%m}.csv"
period = { every = "month", column = "day" }
columns = { day = "date", value = "number" }
max_rejects = 0.5

[tables.never]
path = "never.csv"
columns = { idx = "integer" }

[derived.per_shop]
sql = "per_shop.sql"
from = ["clients"]

[features]
table = "feature_store"
entity = "clients.idx"
features = ["clients.shop", "clients.born", "activity.amount"]
label = "labels.label"
"""
PER_SHOP = "SELECT shop, count(*) AS clients FROM clients GROUP BY shop"
HOSTILE = '"><script>alert(1)</script>'


class Reader(HTMLParser):
    def __init__(self, page):
        super().__init__(convert_charrefs=True)
        self.tags, self.text = set(), ""
        self.feed(page)
        self.close()
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)

    def handle_data(self, data):
        self.text += data


@pytest.fixture
def filled(shop):
    """60 clients, of whom 58 have a history and 40 a label that goes with their shop."""
    shop.declare(TOML, per_shop=PER_SHOP)
    quoted = HOSTILE.replace('"', '""')
    clients = ["idx,shop,born,empty"]
    clients += [
        f"{number},{'north' if number % 2 else chr(34) + quoted + chr(34)},"
        f"19{60 + number % 30}-05-0{1 + number % 9},"
        for number in range(60)
    ]
    shop.put("clients.csv", "\n".join(clients) + "\n")
    activity = ["idx,valid_from,valid_to,amount"]
    for number in range(58):
        # An end is the last day: the next row begins a day later, but for two after a gap of 10.
        second = "2025-03-11" if number < 2 else "2025-03-02"
        activity += [f"{number},2025-01-01,2025-03-01,{number}", f"{number},{second},,{-number}"]
    shop.put("activity.csv", "\n".join([*activity, "999,2025-01-01,,7"]) + "\n")
    labels = [f"{number},{number % 2}" for number in range(40)]
    shop.put("labels.csv", "\n".join(["idx,label", *labels]) + "\n")
    for month, rows in {"01": 20, "02": 21, "04": 19, "05": 4, "06": 20}.items():
        lines = [f"2025-{month}-0{1 + row % 9},{row}" for row in range(rows)]
        lines += ["2025-01-01,oops"] if month == "01" else []
        shop.put(f"sales/2025-{month}.csv", "\n".join(["day,value", *lines]) + "\n")
    shop.load("clients", "activity", "labels", "sales")
    shop.build()
    return shop


def page_of(shop):
    path = explore(shop.context, Silence())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    return path.read_text(encoding="utf-8")


def test_what_is_worth_a_look_is_said(filled):
    (filled.folder / "home").mkdir()
    read = Reader(page_of(filled))
    for said in (
        "Declared and not there yet: never.",
        "clients.empty is null in every row.",
        "activity: entities without a row in it: 2.",
        "activity: rows of entities that are not listed: 1.",
        "labels: entities without a row in it: 20.",
        "sales: rejected rows (type 1): gristmill rejects sales shows them.",
        "sales: no file for 2025-03.",
        "sales: 2025-05 has 4 rows; the median one has 20.",
        "The label goes with shop more than by chance, and not visibly with ",
    ):
        assert said in read.text, said


def test_numbers_of_tables_and_histories(filled):
    (filled.folder / "home").mkdir()
    read = Reader(page_of(filled))
    for said in (
        "59 histories of 2.0 rows on average, 2 at the most.",
        "Still valid: 59.",
        "2 gaps of more than a day, 10 days in the median, 10 at the longest.",
        "5 periods, 2025-01 to 2025-06, missing: 2025-03; rows rejected: 1.",
        "as of 2026-01-01 00:00 UTC: 60 entities.",
        "With a label4066.7% of them",
        "Label 150.0%20",
    ):
        assert said in read.text, said


def test_hostile_values_stay_text(filled):
    (filled.folder / "home").mkdir()
    page = page_of(filled)
    read = Reader(page)
    assert not read.tags & {"script", "img", "link", "iframe"}
    assert HOSTILE in read.text
    assert "://" not in page


def test_a_boolean_label_is_counted_as_0_and_1(filled):
    (filled.folder / "home").mkdir()
    filled.declare(TOML.replace('label = "integer"', 'label = "boolean"'), per_shop=PER_SHOP)
    filled.load("labels")
    filled.build()
    read = Reader(page_of(filled))
    assert "Label 150.0%20" in read.text
    assert "The label goes with shop more than by chance" in read.text


def test_a_label_that_is_no_number_is_shown_and_refused(filled):
    """A derived table's columns are not declared, so only its rows tell that they cannot do."""
    (filled.folder / "home").mkdir()
    toml = TOML.replace('label = "labels.label"', 'label = "answers.said"') + (
        '[derived.answers]\nsql = "answers.sql"\nfrom = ["labels"]\nkey = ["idx"]\n'
    )
    answers = "SELECT idx, CASE label WHEN 1 THEN 'yes' ELSE 'no' END AS said FROM labels"
    filled.declare(toml, per_shop=PER_SHOP, answers=answers)
    filled.build()
    assert "The label is text: only 0 and 1 can be predicted." in Reader(page_of(filled)).text
    known = training_set(filled.context.project.features, filled.warehouse)
    with pytest.raises(TrainingError, match="said must be an integer, 0 or 1; found string"):
        split(known, salt="shop", share=0.2)


def test_before_anything_is_loaded(shop):
    shop.declare(TOML, per_shop="SELECT 1 AS one FROM clients")
    (shop.folder / "home").mkdir()
    read = Reader(page_of(shop))
    assert "Nothing is loaded yet." in read.text
    assert "clients, activity, labels, sales, never, per_shop and feature_store" in read.text


def test_a_large_table_is_counted_whole_and_sampled(warehouse, monkeypatch):
    """What the sample leaves out is counted all the same: one null and both extremes among many."""
    monkeypatch.setattr(profile, "SAMPLED", 5_000)
    with psycopg.connect(warehouse.url) as connection:
        connection.execute(
            "CREATE TABLE builds.big AS SELECT n AS number, "
            "CASE WHEN n <> 77 THEN 'kind ' || n % 3 END AS kind, "
            "date '2000-01-01' + (n % 1000)::integer AS day, n % 2 = 0 AS even, "
            "CASE WHEN n = 5 THEN 'infinity'::double precision ELSE n / 7.0 END AS share, "
            "now() + n * interval '1 second' AS moment, '{}'::jsonb AS document, 1 AS _build "
            "FROM generate_series(-50000, 150000) AS n"
        )
    columns = ("number", "kind", "day", "even", "share", "moment", "document")
    source = Source(name="big", columns=columns, builds=(1,))
    with warehouse.transaction() as transaction:
        found = profile.profile(transaction, source)
        again = profile.profile(transaction, source)
    by_name = {column.feature.name: column for column in found.columns}
    assert found.rows == 200_001
    assert by_name["kind"].nulls == 1
    assert by_name["number"].extremes == (-50_000, 150_000)
    assert by_name["share"].extremes == (-50_000 / 7, 150_000 / 7)
    assert by_name["document"].feature.type == "text"
    assert found.is_sampled
    assert 4_500 < found.sample.num_rows < 5_500
    assert found.sample.equals(again.sample)
    # A quarter of the rows: of the negative ones none has the remainder 1.
    assert 1_100 < found.sample["kind"].to_pylist().count("kind 1") < 1_400
    assert set(found.sample["even"].to_pylist()) == {True, False}


def test_days_beyond_pythons_are_taken(warehouse):
    with psycopg.connect(warehouse.url) as connection:
        connection.execute(
            "CREATE TABLE builds.far AS SELECT * FROM (VALUES (date '0044-03-15 BC', "
            "timestamp '20000-01-01'), ('infinity', '-infinity'), ('12000-01-01', NULL)) "
            "AS made (day, moment), (VALUES (1)) AS build (_build)"
        )
    source = Source(name="far", columns=("day", "moment"), builds=(1,))
    with warehouse.transaction() as transaction:
        found = profile.profile(transaction, source)
    assert found.sample["day"].null_count == 1
    assert [column.nulls for column in found.columns] == [0, 1]
    days = found.columns[0].extremes
    assert days is not None
    assert days[0] < -700_000 < 3_000_000 < days[1]
