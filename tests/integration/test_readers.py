"""Who reads while loads and builds are swapped in: never blocked, never half a table."""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import psycopg
import pytest
from psycopg import IsolationLevel

from gristmill.loading import contract, ledger
from gristmill.loading.tidy import tidy_builds, tidy_loads
from gristmill.project.table import Table

LIVENESS = 60
"""Seconds after which something that waits counts as waiting for ever."""

TOML = """
[tables.sales]
path = "sales/{period:%Y-%m}.csv"
period = { every = "month", column = "date" }
columns = { date = "date", value = "integer" }

[derived.monthly]
sql = "monthly.sql"
from = ["sales"]
period = "sales"
key = ["month"]
"""
MONTHLY = "SELECT min(date) AS month, count(*) AS number, max(value) AS value FROM sales"
MONTHS = ("2020-01", "2020-02", "2020-03")
ROWS = 20


def put(shop, month, value):
    lines = [f"{month}-{day + 1:02},{value}" for day in range(ROWS)]
    shop.put(f"sales/{month}.csv", "\n".join(["date,value", *lines]) + "\n")


@pytest.fixture
def busy(shop):
    """Three months of sales, loaded and built, all of value 0."""
    shop.declare(TOML, monthly=MONTHLY)
    for month in MONTHS:
        put(shop, month, 0)
    shop.load()
    shop.build()
    return shop


def in_time(work):
    """Run something beside the test; fails where it waits for ever."""
    outcome = []

    def run():
        try:
            outcome.append((work(), None))
        except BaseException as error:  # noqa: BLE001  told by the assertion below
            outcome.append((None, error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(timeout=LIVENESS)
    assert outcome, "it waits for a reader"
    assert outcome[0][1] is None, outcome[0][1]
    return outcome[0][0]


def sums(connection):
    return connection.execute(
        "SELECT to_char(date, 'YYYY-MM'), count(*), min(value), max(value) FROM sales "
        "GROUP BY 1 ORDER BY 1"
    ).fetchall()


def whole(*values):
    return [(month, ROWS, value, value) for month, value in zip(MONTHS, values, strict=True)]


def test_a_load_and_a_build_wait_for_no_idle_reader(busy):
    with psycopg.connect(busy.warehouse.url) as reader:
        assert sums(reader) == whole(0, 0, 0)
        reader.execute("SELECT * FROM monthly").fetchall()
        put(busy, "2020-02", 1)

        assert [one.period for one in in_time(busy.load)] == ["2020-02"]
        assert [one.period for one in in_time(busy.build)] == ["2020-02"]

        assert reader.info.transaction_status == psycopg.pq.TransactionStatus.INTRANS
        assert sums(reader) == whole(0, 1, 0)
        assert reader.execute("SELECT value FROM monthly ORDER BY month").fetchall() == [
            (0,), (1,), (0,),
        ]  # fmt: skip


def test_a_first_load_of_a_new_period_waits_for_no_idle_reader(busy):
    with psycopg.connect(busy.warehouse.url) as reader:
        sums(reader)
        put(busy, "2020-04", 4)

        in_time(busy.load)

        assert sums(reader) == [*whole(0, 0, 0), ("2020-04", ROWS, 4, 4)]


def test_readers_wait_for_no_load_that_has_not_committed(busy):
    """The load is held before its commit, everything else of it done."""
    put(busy, "2020-02", 1)
    held, go = threading.Event(), threading.Event()
    context = busy.context
    original = type(context.warehouse).transaction

    @contextmanager
    def held_at_the_end(self):
        with original(self) as transaction:
            yield transaction
            if transaction.value(
                "SELECT count(*) FROM gristmill.loads WHERE xmin = pg_current_xact_id()::xid"
            ):
                held.set()
                assert go.wait(LIVENESS)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(context.warehouse), "transaction", held_at_the_end)
        loader = threading.Thread(target=busy.load, daemon=True)
        loader.start()
        assert held.wait(LIVENESS)
        with psycopg.connect(busy.warehouse.url) as reader:
            assert in_time(lambda: sums(reader)) == whole(0, 0, 0)
        go.set()
        loader.join(LIVENESS)
    with psycopg.connect(busy.warehouse.url) as reader:
        assert sums(reader) == whole(0, 1, 0)


@pytest.mark.parametrize("level", [IsolationLevel.REPEATABLE_READ, IsolationLevel.SERIALIZABLE])
def test_a_snapshot_sees_the_old_month_whole_across_the_commit(busy, level):
    with psycopg.connect(busy.warehouse.url) as reader, psycopg.connect(busy.warehouse.url) as late:
        for connection in (reader, late):
            connection.isolation_level = level
            connection.read_only = True
        assert sums(reader) == whole(0, 0, 0)
        late.execute("SELECT 1")  # its snapshot is taken, and it has read nothing of sales yet

        put(busy, "2020-02", 1)
        in_time(busy.load)
        in_time(busy.build)

        for connection in (reader, late):
            assert sums(connection) == whole(0, 0, 0)
            assert connection.execute("SELECT number, value FROM monthly").fetchall() == [
                (ROWS, 0)
            ] * len(MONTHS)
            connection.rollback()
            assert sums(connection) == whole(0, 1, 0)


def test_counts_are_never_short_or_double_while_loads_run(busy):
    done = threading.Event()
    failures = []

    def load():
        try:
            for value in range(1, 7):
                for month in MONTHS[value % 2 :]:
                    put(busy, month, value)
                busy.load()
                busy.build()
        except BaseException as error:  # noqa: BLE001  told by the assertion below
            failures.append(error)
        finally:
            done.set()

    loader = threading.Thread(target=load, daemon=True)
    loader.start()
    seen = set()
    with psycopg.connect(busy.warehouse.url, autocommit=True) as reader:
        last = False
        while not last:
            last = done.is_set()
            for month, count, low, high in sums(reader):
                assert count == ROWS
                assert low == high
                seen.add((month, low))
            numbers = reader.execute("SELECT number FROM monthly").fetchall()
            assert numbers == [(ROWS,)] * len(MONTHS)
    loader.join(LIVENESS)

    assert not failures
    assert ("2020-03", 6) in seen


SHOWN = 3


def swap_in(warehouse, number):
    """What a load does at its end, alone: a table of one row is attached and takes period 2."""
    period = str(number if number <= SHOWN else 2)
    table = Table(name="t", path="t.csv", columns=())
    with warehouse.transaction() as transaction:
        transaction.execute(
            f"CREATE TABLE raw.t_{number} (v int, _load int NOT NULL CHECK (_load = {number}))"
        )
        transaction.execute(f"INSERT INTO raw.t_{number} VALUES (1, {number})")
        transaction.execute(contract.attach_load(table, number))
        transaction.execute(
            "INSERT INTO gristmill.loads (load, table_name, period, file, etag, bytes, "
            "modified_at, contract, status, rows, rejected, seconds) OVERRIDING SYSTEM VALUE "
            "VALUES (%s, 't', %s, '', '', 0, now(), '', 'loaded', 1, 0, 0)",
            [number, period],
        )
        ledger.mark(transaction, table, load=number, period=period)


@pytest.fixture
def swapped(warehouse):
    """A view on three periods, each of one row."""
    with warehouse.transaction() as transaction:
        transaction.execute(
            "CREATE TABLE raw.t (v int, _load int NOT NULL) PARTITION BY LIST (_load)"
        )
        transaction.execute(
            "CREATE VIEW public.t AS SELECT v FROM raw.t "
            "WHERE _load = ANY (gristmill.shown_loads('t'))"
        )
    for number in range(1, SHOWN + 1):
        swap_in(warehouse, number)
    return warehouse


@pytest.mark.parametrize("prepare", [False, True])
@pytest.mark.parametrize("autocommit", [False, True])
def test_a_mark_never_comes_without_its_partition(swapped, swaps, autocommit, prepare):
    """Two readers that plan, or execute what they planned, as fast as they can."""
    counts = set()
    done = threading.Event()

    def read():
        with psycopg.connect(swapped.url, autocommit=autocommit) as reader:
            while not done.is_set():
                counts.update(reader.execute("SELECT count(*) FROM t", prepare=prepare).fetchone())

    with ThreadPoolExecutor(max_workers=2) as readers:
        reading = [readers.submit(read) for _ in range(2)]
        try:
            for number in range(SHOWN + 1, SHOWN + swaps + 1):
                swap_in(swapped, number)
        finally:
            done.set()
        for reader in reading:
            reader.result()

    assert counts == {SHOWN}


@contextmanager
def after_each_commit(look):
    """Call something before each statement that follows a commit on the same connection."""
    plain = psycopg.Connection.execute
    looking = threading.Lock()

    def watched(connection, query, *arguments, **options):
        idle = connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
        if connection.autocommit and idle and looking.acquire(blocking=False):
            try:
                look()
            finally:
                looking.release()
        return plain(connection, query, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(psycopg.Connection, "execute", watched)
        yield


def test_tidying_leaves_what_is_shown_until_all_are_told(busy):
    """Another process tidies between a commit and the telling of it."""
    seen = []

    def look():
        tidy_loads(busy.warehouse, [])
        tidy_builds(busy.warehouse, [])
        query = "SELECT (SELECT count(*) FROM sales), (SELECT sum(number) FROM monthly)"
        seen.extend(busy.rows(query))

    put(busy, "2020-02", 1)
    with after_each_commit(look):
        busy.load()
        busy.build()

    assert seen
    assert set(seen) == {(len(MONTHS) * ROWS, len(MONTHS) * ROWS)}


def test_what_has_new_columns_is_shown_from_its_commit_on(busy):
    seen = []

    def look():
        query = "SELECT (SELECT count(*) FROM sales), (SELECT count(*) > 0 FROM monthly)"
        seen.extend(busy.rows(query))

    other = TOML.replace('"integer" }', '"number" }')
    busy.declare(other, monthly=MONTHLY.replace("max(value)", "max(value)::text"))
    with after_each_commit(look):
        busy.load()
        busy.build()

    assert seen
    assert set(seen) == {(len(MONTHS) * ROWS, True)}


def test_what_is_planned_during_a_commit_is_planned_anew_after_it(swapped):
    """Asked before each statement after the commit: a plan made then does not stay."""
    with psycopg.connect(swapped.url, autocommit=True) as reader:
        load = "SELECT array_agg(tableoid::regclass::text ORDER BY 1) FROM raw.t WHERE "
        load += "_load = ANY (gristmill.shown_loads('t'))"
        seen = [reader.execute(load, prepare=True).fetchone()[0]]
        with pytest.MonkeyPatch.context() as patch:
            plain = psycopg.Connection.execute

            def watched(connection, query, *arguments, **options):
                idle = psycopg.pq.TransactionStatus.IDLE
                if connection is not reader and connection.info.transaction_status == idle:
                    seen.append(plain(reader, load, prepare=True).fetchone()[0])
                return plain(connection, query, *arguments, **options)

            patch.setattr(psycopg.Connection, "execute", watched)
            swap_in(swapped, SHOWN + 1)
        seen.append(reader.execute(load, prepare=True).fetchone()[0])

    before, after = ["raw.t_1", "raw.t_2", "raw.t_3"], ["raw.t_1", "raw.t_3", "raw.t_4"]
    assert seen == [before, before, before, before, after]
