"""What is superseded goes once nobody needs it: no reader waits, none misses a period."""

import threading
from collections import Counter

import psycopg
import pytest
from psycopg import IsolationLevel

from gristmill.loading.difference import undo
from gristmill.loading.tidy import tidy_builds, tidy_loads

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
key = ["month"]

[features]
entity = "clients.idx"
features = ["clients.value"]
"""
MONTHLY = "SELECT date AS month, value FROM sales"
MONTHS = ("2020-01", "2020-02", "2020-03")
VIEWS = ("clients", "sales", "monthly", "feature_store")
ROWS = 3
"""In each of the views, at any time."""


def put(shop, value, month="2020-02"):
    """A new file of clients, and a new one of a month."""
    shop.put("clients.csv", "idx,value\n" + "".join(f"{n},{value}\n" for n in range(ROWS)))
    shop.put(f"sales/{month}.csv", f"date,value\n{month}-01,{value}\n")


@pytest.fixture
def shop(shop):
    shop.declare(TOML, monthly=MONTHLY)
    for month in MONTHS:
        put(shop, 0, month)
    return shop


def renew(shop, *values):
    """Load and build files of these values, one after the other."""
    for value in values:
        put(shop, value)
        shop.load()
        shop.build()


def tidy(shop, loads=(), builds=()):
    """Tidy until nothing is left for another time: the server's own workers may be reading."""
    for _ in range(100):
        tidied = tidy_builds(shop.warehouse, builds), tidy_loads(shop.warehouse, loads)
        if not any(one.postponed for one in tidied):
            return
    raise AssertionError(tidied)


def kept(shop, table="clients", period="all"):
    """The loads of a period whose rows are still there, by the ledger; and by the catalog."""
    rows = shop.rows(
        "SELECT load, to_regclass(format('raw.%%I', table_name || '_' || load)) IS NOT NULL "
        "FROM gristmill.loads WHERE table_name = %s AND period = %s AND dropped_at IS NULL "
        "ORDER BY load",
        table,
        period,
    )
    assert all(there for _, there in rows)
    return [load for load, _ in rows]


def relations(shop, schema):
    return {
        name
        for (name,) in shop.rows(
            "SELECT relname FROM pg_class WHERE relnamespace = to_regnamespace(%s) "
            "AND relkind IN ('r', 'p')",
            schema,
        )
    }


def attached(shop, parent):
    return {
        name
        for (name,) in shop.rows(
            "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = to_regclass(%s)",
            parent,
        )
    }


def test_the_current_load_stays_and_the_one_before_of_every_period(shop):
    renew(shop, 1, 2, 3)
    tidy(shop)

    loads = dict(shop.rows("SELECT load, table_name || ' ' || period FROM gristmill.loads"))
    there = {int(name.rsplit("_", 1)[1]) for name in relations(shop, "raw") if "_" in name}
    assert Counter(loads[load] for load in there) == {
        "clients all": 2, "sales 2020-01": 1, "sales 2020-02": 2, "sales 2020-03": 1,
    }  # fmt: skip
    for key in ("clients all", "sales 2020-02"):
        of_key = sorted(load for load, of in loads.items() if of == key)
        assert sorted(there & set(of_key)) == of_key[-2:] == kept(shop, *key.split())
    assert attached(shop, "raw.clients") == {f"raw.clients_{kept(shop)[-1]}"}
    assert len(attached(shop, "raw.sales")) == len(MONTHS)

    builds = Counter(
        shop.rows("SELECT name, period FROM gristmill.builds WHERE dropped_at IS NULL")
    )
    assert builds == {
        ("monthly", "2020-01"): 1, ("monthly", "2020-02"): 2, ("monthly", "2020-03"): 1,
        ("feature_store", "all"): 2,
    }  # fmt: skip
    assert len(relations(shop, "builds")) == sum(builds.values()) + len({n for n, _ in builds})
    assert shop.rows("SELECT value, count(*) FROM feature_store GROUP BY 1") == [(3, ROWS)]


def test_an_undone_load_goes_before_one_that_could_be_shown_again(shop):
    renew(shop, 1, 2)
    first, current = kept(shop)
    assert undo(shop.context.project.tables["clients"], None, shop.warehouse) == (current, first)
    renew(shop, 3)
    tidy(shop)

    assert kept(shop)[0] == first
    assert len(kept(shop)) == 2


def champion(shop, version, lineage):
    """A model version on record that was trained from what is current, and is promoted."""
    shop.rows(
        "WITH made AS (INSERT INTO gristmill.model_versions (version, candidate, verdict, reasons, "
        "no_signal, evaluation, build, lineage, run_id, bundle, code_version, seed) VALUES "
        "(%s, 'logistic', 'promote', '[]', false, '{}', %s, %s, 'run', 'bundle', '1', 0) "
        "RETURNING version) INSERT INTO gristmill.promotions (version, by, why) "
        "SELECT version, 'gate', 'better' FROM made RETURNING version",
        version,
        max(lineage["builds"]),
        psycopg.types.json.Jsonb(lineage),
    )


def lineage(shop):
    """What the current feature store was made of."""
    ((build, loads),) = shop.rows(
        "SELECT build, loads FROM gristmill.builds JOIN gristmill.current_builds USING (build) "
        "WHERE builds.name = 'feature_store'"
    )
    return {"builds": [build], "loads": [{"load": load} for load in loads]}


def test_what_the_champion_and_the_one_before_were_made_of_stays(shop):
    of = []
    for number in (1, 2, 3):
        renew(shop, number)
        of.append(lineage(shop))
        champion(shop, str(number), of[-1])
    renew(shop, 4, 5)

    loads, builds = ([one[kind][0] for one in of] for kind in ("loads", "builds"))
    loads = [load["load"] for load in loads]
    there = relations(shop, "raw") | relations(shop, "builds")
    assert {f"clients_{load}" for load in loads} & there == {f"clients_{one}" for one in loads[1:]}
    assert {f"feature_store_{build}" for build in builds} & there == {
        f"feature_store_{build}" for build in builds[1:]
    }
    assert len(kept(shop)) == 2 + 2

    tidy(shop)
    assert len(kept(shop)) == 2


def test_of_a_former_shape_nothing_stays_once_nothing_of_it_is_kept(shop):
    renew(shop, 1)
    shop.declare(
        TOML.replace('value = "integer" }\n\n[tables.sales]', 'value = "text" }\n\n[tables.sales]')
    )
    for value in (2, 3, 4):
        put(shop, value)
        shop.load("clients")
        assert shop.rows("SELECT DISTINCT value FROM clients") == [(str(value),)]
    tidy(shop)

    assert not [name for name in relations(shop, "raw") if "until" in name]
    assert attached(shop, "raw.clients") == {f"raw.clients_{kept(shop)[-1]}"}


def read(connection):
    """In each view: how many rows, and how many different values."""
    return {
        view: connection.execute(
            f"SELECT count(*), count(DISTINCT value) FROM public.{view}"
        ).fetchone()
        for view in VIEWS
    }


def test_what_open_readers_have_read_is_left_for_another_time(shop):
    renew(shop, 1)
    readers = {view: psycopg.connect(shop.warehouse.url) for view in VIEWS}
    query = "SELECT * FROM public.{} ORDER BY 1"
    before = {view: one.execute(query.format(view)).fetchall() for view, one in readers.items()}

    renew(shop, 2, 3)  # waits for no reader, and neither does another reader
    assert shop.rows("SELECT DISTINCT value FROM clients") == [(3,)]
    assert len(kept(shop)) == len(kept(shop, "sales", "2020-02")) == 3
    assert len(attached(shop, "raw.clients")) == 3
    assert tidy_loads(shop.warehouse, ()).postponed

    for view, reader in readers.items():
        after = reader.execute(query.format(view)).fetchall()
        assert len(after) == len(before[view]) == ROWS
        assert after != before[view]
        reader.close()
    tidy(shop)

    assert len(kept(shop)) == len(kept(shop, "sales", "2020-02")) == 2
    assert len(attached(shop, "raw.clients")) == 1


def test_a_snapshot_sees_the_same_rows_until_it_ends(shop):
    renew(shop, 1)
    with psycopg.connect(shop.warehouse.url) as reader:
        reader.isolation_level = IsolationLevel.REPEATABLE_READ
        reader.execute("SELECT 1")  # the snapshot is taken, and no table is locked yet
        renew(shop, 2, 3)
        assert tidy_loads(shop.warehouse, ()).dropped == 0

        rows = {
            view: reader.execute(f"SELECT value FROM public.{view} ORDER BY 1").fetchall()
            for view in VIEWS
        }
        assert rows == {
            "clients": [(1,)] * ROWS, "feature_store": [(1,)] * ROWS,
            "sales": [(0,), (0,), (1,)], "monthly": [(0,), (0,), (1,)],
        }  # fmt: skip
    tidy(shop)
    assert len(kept(shop)) == 2


def test_a_snapshot_sees_the_same_rows_across_an_undo(shop):
    renew(shop, 1, 2)
    tables = shop.context.project.tables
    with psycopg.connect(shop.warehouse.url) as reader:
        reader.isolation_level = IsolationLevel.REPEATABLE_READ
        before = read(reader)
        undo(tables["clients"], None, shop.warehouse)
        undo(tables["sales"], "2020-02", shop.warehouse)
        shop.build()
        tidy_loads(shop.warehouse, ())

        assert read(reader) == before
        rows = shop.rows("SELECT value FROM sales ORDER BY 1")
        assert rows == shop.rows("SELECT value FROM monthly ORDER BY 1") == [(0,), (0,), (1,)]
        assert shop.rows("SELECT DISTINCT value FROM clients") == [(1,)]
        reader.rollback()
        assert reader.execute("SELECT DISTINCT value FROM feature_store").fetchall() == [(1,)]


def test_a_snapshot_is_whole_while_everything_happens_at_once(shop):
    renew(shop, 1)
    problems, over = [], threading.Event()

    def look():
        with psycopg.connect(shop.warehouse.url) as reader:
            reader.isolation_level = IsolationLevel.REPEATABLE_READ
            while not over.is_set():
                found = read(reader)
                counts = {view: count for view, (count, _) in found.items()}
                if counts != dict.fromkeys(VIEWS, ROWS) or found["clients"][1] != 1:
                    problems.append(found)
                if read(reader) != found:
                    problems.append("a snapshot changed")
                reader.rollback()

    reader = threading.Thread(target=look)
    reader.start()
    try:
        tables = shop.context.project.tables
        for value in range(2, 5):
            renew(shop, value)
            undo(tables["clients"], None, shop.warehouse)
            undo(tables["sales"], "2020-02", shop.warehouse)
            shop.build()
    finally:
        over.set()
        reader.join()

    assert problems == []


def at_once(*works):
    """Run all of them at the same time; what each raised."""
    failures = []

    def run(work):
        try:
            work()
        except Exception as error:  # noqa: BLE001  the caller asserts that there is none
            failures.append(error)

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return failures


def test_undo_and_tidy_at_once_leave_what_is_shown(shop):
    """Whatever the order in which they come, what is marked as current can be read."""
    renew(shop, 0)
    for value in range(1, 4):
        renew(shop, value)
        table = shop.context.project.tables["clients"]
        failures = at_once(
            lambda table=table: undo(table, None, shop.warehouse),
            lambda: tidy_loads(shop.warehouse, ()),
            lambda: tidy_loads(shop.warehouse, ()),
        )
        assert failures == []
        assert shop.rows("SELECT value, count(*) FROM clients GROUP BY 1") == [(0, ROWS)]
    tidy(shop)
    assert shop.rows("SELECT value, count(*) FROM clients GROUP BY 1") == [(0, ROWS)]


def test_two_at_once_tidy_what_there_is_once(shop):
    with psycopg.connect(shop.warehouse.url) as reader:
        reader.execute("SELECT 1")
        renew(shop, 1, 2, 3, 4)
        assert len(kept(shop)) == 4

    assert at_once(*[lambda: tidy_loads(shop.warehouse, ())] * 3) == []
    tidy(shop)

    assert len(kept(shop)) == len(kept(shop, "sales", "2020-02")) == 2
