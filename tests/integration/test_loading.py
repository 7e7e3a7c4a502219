"""Loading, file to view: what is in, what is refused, and that nothing lies between."""

import gzip
import subprocess
import sys
import threading
from collections.abc import Iterator

import boto3
import pytest
from moto.server import ThreadedMotoServer

from gristmill.bucket.bucket import Bucket, open_bucket
from gristmill.errors import GristmillError, LoadError, ObjectChanged, ObjectNotFound
from gristmill.loading import rejects
from gristmill.loading.tables import find_files, load_pending, pending_files
from gristmill.warehouse.sql import SQL

STORES = """
[tables.stores]
path = "stores.csv"
key = ["idx"]
columns = { idx = "integer", location = "text?" }
"""
SALES = """
[tables.sales]
path = "sales/{period:%Y-%m-%d}/sales.csv"
period = { every = "month", column = "date" }
references = { store = "stores.idx" }
max_rejects = 0.6
columns = { store = "integer", date = "date", value = "number?" }
"""


def sales(month: str, *values: object) -> str:
    lines = [
        f"{number % 2 + 1},{month}-{number + 1:02},{value}" for number, value in enumerate(values)
    ]
    return "store,date,value\n" + "\n".join(lines) + "\n"


@pytest.fixture
def retailer(shop):
    """Two stores and three months of sales in the bucket, nothing loaded."""
    shop.declare(STORES + SALES)
    shop.put("stores.csv", "idx,location\n1,Porto\n2,\n")
    for month in ("2020-01", "2020-02", "2020-03"):
        shop.put(f"sales/{month}-01/sales.csv", sales(month, 1.5, 2.5))
    return shop


def ledger(shop):
    return shop.rows(
        "SELECT table_name, period, status, rows, rejected FROM gristmill.loads ORDER BY load"
    )


def state(shop):
    """Everything a load changes, but for numbers that it used up."""
    return {
        "loads": shop.rows("SELECT * FROM gristmill.loads ORDER BY load"),
        "marks": shop.rows("SELECT * FROM gristmill.current_loads ORDER BY 1, 2"),
        "rejects": shop.rows("SELECT * FROM gristmill.rejects ORDER BY load, line"),
        "tables": shop.rows(
            "SELECT relname FROM pg_class WHERE relnamespace = 'raw'::regnamespace "
            "AND relkind IN ('r', 'p') ORDER BY 1"
        ),
        "views": shop.rows(
            "SELECT viewname, definition FROM pg_views WHERE schemaname = 'public' ORDER BY 1"
        ),
    }


def test_files_become_views_of_exactly_their_columns(retailer):
    loaded = retailer.load()

    assert [(one.table, one.period, one.rows) for one in loaded] == [
        ("stores", "all", 2),
        ("sales", "2020-01", 2),
        ("sales", "2020-02", 2),
        ("sales", "2020-03", 2),
    ]
    assert retailer.rows("SELECT * FROM stores ORDER BY idx") == [(1, "Porto"), (2, None)]
    assert retailer.rows("SELECT store, date::text, value FROM sales ORDER BY date LIMIT 3") == [
        (1, "2020-01-01", 1.5),
        (2, "2020-01-02", 2.5),
        (1, "2020-02-01", 1.5),
    ]
    assert retailer.rows(
        "SELECT column_name, data_type FROM information_schema.columns "
        "WHERE table_schema = 'public' AND table_name = 'sales' ORDER BY ordinal_position"
    ) == [("store", "bigint"), ("date", "date"), ("value", "double precision")]


def test_every_type_arrives_as_it_was_written(shop):
    shop.declare("""
    [tables.t]
    path = "t.csv.gz"
    csv = { delimiter = ";", decimal = ",", nulls = ["NA"] }
    [tables.t.columns]
    "margin %" = "number?"
    i = "integer?"
    d = "decimal(38,10)?"
    t = "text?"
    day = "date?"
    at = "timestamp?"
    b = "boolean?"
    """)
    shop.put(
        "t.csv.gz",
        gzip.compress(
            "\ufeffb;i;at;d;day;t;margin %;more\r\n"
            "true;-9223372036854775808;2020-01-31T12:00:00.5+02:00;-1234567890123456789012345678,"
            '0123456789;0001-01-01;"a;""b""\n{%s}";0,1;x\r\n'
            'NA;;;;;"";;\r\n'.encode()
        ),
    )

    (loaded,) = shop.load()

    assert loaded.extra_columns == ("more",)
    assert shop.rows('SELECT "margin %", i, d::text, t, day::text, at::text, b FROM t') == [
        (
            0.1, -(2**63), "-1234567890123456789012345678.0123456789", 'a;"b"\n{%s}',
            "0001-01-01", "2020-01-31 10:00:00.5+00", True,
        ),
        (None, None, None, "", None, None, None),
    ]  # fmt: skip
    assert shop.rows("SELECT _line FROM raw.t ORDER BY 1") == [(2,), (4,)]


def test_what_is_unchanged_is_skipped_and_what_changed_takes_its_place(retailer):
    retailer.load()

    assert retailer.load() == []

    retailer.put("sales/2020-02-01/sales.csv", sales("2020-02", 7))
    (again,) = retailer.load()

    assert (again.period, again.rows) == ("2020-02", 1)
    assert sorted(retailer.rows("SELECT date::text, value FROM sales")) == [
        ("2020-01-01", 1.5),
        ("2020-01-02", 2.5),
        ("2020-02-01", 7.0),
        ("2020-03-01", 1.5),
        ("2020-03-02", 2.5),
    ]


def test_again_loads_what_is_unchanged(retailer):
    before = retailer.load()

    again = retailer.load("sales", again=True, period="2020-01")

    assert [(one.table, one.period) for one in again] == [("sales", "2020-01")]
    assert again[0].load > max(one.load for one in before)
    assert retailer.rows("SELECT count(*) FROM sales") == [(6,)]


@pytest.mark.parametrize(
    ("span", "periods"),
    [
        ({"period": "2020-02"}, ["2020-02"]),
        ({"period": "2020-02-15"}, ["2020-02"]),
        ({"first": "2020-02"}, ["2020-02", "2020-03"]),
        ({"last": "2020-02"}, ["2020-01", "2020-02"]),
        ({"first": "2020-02", "last": "2020-02"}, ["2020-02"]),
    ],
)
def test_a_span_narrows_the_periods(retailer, span, periods):
    loaded = retailer.load(**span)

    assert [one.period for one in loaded if one.table == "sales"] == periods
    assert next(one.table for one in loaded) == "stores", "what it refers to comes first"


@pytest.mark.parametrize(
    ("span", "message"),
    [
        ({"period": "2021-01"}, r"no file for 2021-01 .*it has 2020-01, …, 2020-03"),
        ({"first": "2020-03", "last": "2020-01"}, "no file for 2020-03 to 2020-01"),
        ({"period": "January"}, "'January' is not a month such as 2020-01"),
    ],
)
def test_a_span_that_means_nothing_is_an_error(retailer, span, message):
    with pytest.raises(LoadError, match=message):
        retailer.load("sales", **span)


def test_two_files_of_one_period_are_an_error_that_names_both(retailer):
    retailer.put("sales/2020-02-15/sales.csv", sales("2020-02", 1))

    with pytest.raises(LoadError, match=r"2020-02-01/sales\.csv and sales/2020-02-15/sales\.csv"):
        retailer.load()
    assert retailer.rows("SELECT table_name FROM gristmill.current_loads") == [("stores",)]


BAD_FILES = {
    "empty": ("", r"stores\.csv is empty"),
    "header only": ("idx,location\n", r"stores\.csv has a header and no row"),
    "missing column": ("idx\n1\n", "the header lacks 'location'; it has 'idx'"),
    "delimiter": ("idx;location\n1;Porto\n", r'declare csv = \{ delimiter = ";" \}'),
    "unclosed quote": ('idx,location\n1,"Porto\n', "record: a quote is opened and never closed"),
    "wrong types": ("idx,location\none,Porto\ntwo,Faro\n", "2 of 2 rows break the contract"),
}


@pytest.mark.parametrize("bad", BAD_FILES)
def test_a_file_that_cannot_be_loaded_leaves_all_as_it_was(retailer, bad):
    retailer.load()
    content, message = BAD_FILES[bad]
    before = state(retailer)
    retailer.put("stores.csv", content)

    with pytest.raises(LoadError, match=message):
        retailer.load("stores")

    after = state(retailer)
    assert retailer.rows("SELECT * FROM stores ORDER BY idx") == [(1, "Porto"), (2, None)]
    for kept in ("marks", "tables", "views"):
        assert after[kept] == before[kept]


def test_a_file_that_is_gone_is_an_error(retailer):
    retailer.remove("stores.csv")

    with pytest.raises(ObjectNotFound, match=r"stores\.csv"):
        retailer.load("stores")


def test_a_refused_load_keeps_its_evidence(retailer):
    retailer.load()
    lines = [f"{number},x" if number % 2 else f"{number}.5,x" for number in range(3, 3003)]
    retailer.put("stores.csv", "idx,location\n" + "\n".join(lines) + "\n1,y\n1,z\n")

    with pytest.raises(LoadError, match=r"1,501 of 3,002 rows break the contract of stores"):
        retailer.load("stores")

    assert ledger(retailer)[-1] == ("stores", "all", "refused", 1501, 1501)
    assert retailer.rows(
        "SELECT rule, count(*), min(line), max(line) FROM gristmill.rejects GROUP BY 1 ORDER BY 1"
    ) == [("key", 1, 3003, 3003), ("type", 1000, 3, 2001)]
    assert retailer.rows("SELECT DISTINCT file, raw FROM gristmill.rejects WHERE line = 3003") == [
        ("stores.csv", "1,z")
    ]
    assert retailer.rows("SELECT count(*) FROM stores") == [(2,)]


def test_rows_that_break_a_rule_are_kept_with_line_and_rule_and_the_others_load(retailer):
    retailer.put(
        "sales/2020-01-01/sales.csv",
        "store,date,value\n"
        "1,2020-01-01,1\n"
        "9,2020-01-02,2\n"
        ",2020-01-03,3\n"
        "2,2020-02-01,4\n"
        "2,2020-01-05,\n"
        "2,2020-01-05,six\n"
        "1,2020-01-06,7\n"
        '"1",2020-01-07,8\n'
        "2,2020-01-08,9,9\n",
    )

    loaded = retailer.load("sales", period="2020-01")[-1]

    assert (loaded.rows, loaded.rejected) == (4, 5)
    assert retailer.rows("SELECT line, rule, reason, raw FROM gristmill.rejects ORDER BY line") == [
        (3, "reference", "store is not in stores.idx", "9,2020-01-02,2"),
        (4, "null", "store is empty", ",2020-01-03,3"),
        (5, "period", "date lies outside the file's month, 2020-01", "2,2020-02-01,4"),
        (7, "type", "value is not a finite number such as -1.5e3", "2,2020-01-05,six"),
        (10, "record", "it has 4 fields where the header has 3", "2,2020-01-08,9,9"),
    ]
    assert retailer.rows("SELECT _line FROM raw.sales ORDER BY 1") == [(2,), (6,), (8,), (9,)]


def test_the_first_row_of_a_key_loads_and_later_ones_are_rejects(shop):
    shop.declare(STORES.replace('["idx"]', '["idx"]\nmax_rejects = 0.5'))
    shop.put("stores.csv", 'idx,location\n1,"a\nb"\n2,x\n1,again\n1,more\n3,y\n4,z\n')

    (loaded,) = shop.load()

    assert (loaded.rows, loaded.rejected) == (4, 2)
    assert shop.rows("SELECT * FROM stores WHERE idx = 1") == [(1, "a\nb")]
    assert shop.rows("SELECT line, rule, raw FROM gristmill.rejects ORDER BY 1") == [
        (5, "key", "1,again"),
        (6, "key", "1,more"),
    ]


PEOPLE = """
[tables.people]
path = "people.csv"
key = ["idx"]
references = { boss = "people.idx" }
max_rejects = 0.5
columns = { idx = "integer", boss = "integer?" }
"""


def test_a_table_may_refer_to_itself(shop):
    shop.declare(PEOPLE)
    shop.put("people.csv", "idx,boss\n1,2\n2,\n3,9\n")

    shop.load()

    assert shop.rows("SELECT idx, boss FROM people ORDER BY 1") == [(1, 2), (2, None)]


def test_a_table_that_refers_to_itself_refers_to_nothing_that_is_not_in_it(shop):
    """Neither to rows of the load that is replaced, nor to rows that are rejects themselves."""
    people = PEOPLE.replace("people.idx", 'people.idx", store = "stores.idx')
    shop.declare(STORES + people.replace("integer?", 'integer?", store = "integer'))
    shop.put("stores.csv", "idx,location\n1,Porto\n")
    shop.put("people.csv", "idx,boss,store\n1,,1\n2,1,1\n9,,1\n")
    shop.load()
    shop.put("people.csv", "idx,boss,store\n1,,1\n2,,7\n3,9,1\n4,3,1\n5,2,1\n6,1,1\n7,,1\n8,,1\n")

    shop.load()

    assert shop.rows("SELECT idx FROM people ORDER BY 1") == [(1,), (6,), (7,), (8,)]
    assert shop.rows("SELECT line, rule FROM gristmill.rejects ORDER BY line") == [
        (3, "reference"), (4, "reference"), (5, "reference"), (6, "reference"),
    ]  # fmt: skip


def test_a_table_of_periods_may_refer_to_its_other_periods(shop):
    periods = '{period:%Y-%m}.csv"\nperiod = { every = "month" }'
    shop.declare(PEOPLE.replace('people.csv"', f"people/{periods}"))
    shop.put("people/2020-01.csv", "idx,boss\n1,\n2,1\n")
    shop.put("people/2020-02.csv", "idx,boss\n3,1\n4,3\n5,9\n")

    shop.load()

    found = shop.rows("SELECT idx, boss FROM people ORDER BY 1")
    assert found == [(1, None), (2, 1), (3, 1), (4, 3)]


def test_rows_that_are_rejected_are_the_rows_that_go(retailer):
    """A count that the database does not share fails the load."""
    retailer.load()
    twice = rejects.broken_references
    before = state(retailer)
    retailer.put("sales/2020-01-01/sales.csv", "store,date,value\n1,2020-01-01,1\n9,2020-01-02,2\n")

    def counted_twice(*arguments):
        for query in twice(*arguments):
            yield SQL("{} UNION ALL {}").format(query, query)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rejects, "broken_references", counted_twice)
        with pytest.raises(LoadError, match=r"2 rows were found .* and 1 were taken out"):
            retailer.load()
    assert state(retailer) == before


def test_what_refers_to_a_table_that_could_not_be_loaded_says_so(retailer):
    retailer.put("stores.csv", "idx,location\nx,y\n")

    with pytest.raises(
        LoadError, match=r"(?s)stores\.csv was refused.*refers to stores, which was"
    ):
        retailer.load()
    assert retailer.rows("SELECT count(*) FROM gristmill.current_loads") == [(0,)]


def test_a_refused_file_does_not_hold_up_the_others(retailer):
    retailer.put("sales/2020-02-01/sales.csv", "store,date,value\nx,x,x\n")

    with pytest.raises(LoadError, match=r"2020-02-01/sales\.csv was refused"):
        retailer.load()

    assert retailer.rows("SELECT period FROM gristmill.current_loads ORDER BY 1") == [
        ("2020-01",), ("2020-03",), ("all",),
    ]  # fmt: skip


def test_rows_in_are_rows_loaded_and_rows_rejected(retailer):
    retailer.put("sales/2020-01-01/sales.csv", sales("2020-01", 1, "x", 3, "y", 5, 6))
    retailer.load()

    for rows, rejected, load in retailer.rows(
        "SELECT rows, rejected, load FROM gristmill.loads WHERE table_name = 'sales'"
    ):
        assert retailer.rows("SELECT count(*) FROM raw.sales WHERE _load = %s", load) == [(rows,)]
        assert retailer.rows("SELECT count(*) FROM gristmill.rejects WHERE load = %s", load) == [
            (rejected,)
        ]
    assert ledger(retailer)[1] == ("sales", "2020-01", "loaded", 4, 2)


def test_a_view_of_somebody_else_is_left_alone(retailer):
    with retailer.warehouse.transaction() as transaction:
        transaction.execute("CREATE VIEW public.stores AS SELECT 1 AS mine")

    with pytest.raises(LoadError, match=r"public\.stores exists already and is not Gristmill's"):
        retailer.load("stores")
    assert retailer.rows("SELECT mine FROM stores") == [(1,)]


def test_a_file_that_is_replaced_while_it_is_read_changes_nothing(retailer):
    retailer.load()
    retailer.put("stores.csv", "idx,location\n" + "".join(f"{n},x\n" for n in range(400_000)))
    context = retailer.context
    table = context.project.tables["stores"]
    files = find_files(table, context.bucket)
    pending = pending_files(table, files, context.warehouse, again=False)
    before = state(retailer)

    def replace(_bytes: int) -> None:
        path = retailer.folder / "bucket" / "stores.csv"
        with path.open("r+b") as file:
            file.write(b"IDX")

    with pytest.raises(ObjectChanged):
        load_pending(
            table, pending, files, context.bucket, context.warehouse,
            again=False, progress=replace, report=lambda _: None,
        )  # fmt: skip
    assert state(retailer) == before


def test_two_loaders_at_once_load_once(retailer):
    failures, done = [], []

    def load() -> None:
        try:
            done.append(retailer.load())
        except GristmillError as error:
            failures.append(error)

    loaders = [threading.Thread(target=load) for _ in range(3)]
    for loader in loaders:
        loader.start()
    for loader in loaders:
        loader.join(timeout=60)

    assert not failures
    assert len(done) == len(loaders)
    assert [row[:3] for row in sorted(ledger(retailer))] == [
        ("sales", "2020-01", "loaded"),
        ("sales", "2020-02", "loaded"),
        ("sales", "2020-03", "loaded"),
        ("stores", "all", "loaded"),
    ]
    assert retailer.rows("SELECT count(*) FROM sales") == [(6,)]


KILLED = """
import os, signal, sys
from gristmill.bucket.bucket import open_bucket
from gristmill.loading import tables
from gristmill.project.read import read_project
from gristmill.warehouse.connection import Transaction, Warehouse
from pathlib import Path

url, folder = sys.stdin.readline().strip(), Path(sys.argv[1])
execute, copy_in = Transaction.execute, Transaction.copy_in

def load(limit):
    left = [limit]
    def dying(method):
        def call(*arguments, **more):
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return method(*arguments, **more)
        return call
    Transaction.execute, Transaction.copy_in = dying(execute), dying(copy_in)
    project = read_project(folder)
    bucket, warehouse = open_bucket(project.source, root=folder), Warehouse(url=url)
    table = project.tables["stores"]
    files = tables.find_files(table, bucket)
    pending = tables.pending_files(table, files, warehouse, again=True)
    tables.load_pending(table, pending, files, bucket, warehouse, again=True,
                        progress=lambda _: None, report=lambda _: None)

limit = 0
while True:
    limit += 1
    child = os.fork()
    if child == 0:
        load(limit)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    print("finished" if os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0
          else "killed" if os.WIFSIGNALED(status) else "failed", flush=True)
    if not sys.stdin.readline():
        break
"""


def test_a_loader_killed_at_any_statement_leaves_exactly_what_was_there(retailer):
    retailer.load()
    retailer.put("stores.csv", "idx,location\n5,Lisboa\n5,twice\n" + "6,\n" * 1)
    retailer.declare((STORES + SALES).replace('stores.csv"', 'stores.csv"\nmax_rejects = 0.5'))
    before = state(retailer)
    killed = 0
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, str(retailer.folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        print(retailer.warehouse.url, file=process.stdin, flush=True)
        while (outcome := process.stdout.readline().strip()) == "killed":
            killed += 1
            # A connection of the killed process may end a moment later; its locks tell when.
            with retailer.warehouse.transaction() as transaction:
                transaction.execute("LOCK TABLE gristmill.loads IN EXCLUSIVE MODE")
            assert state(retailer) == before
            print("on", file=process.stdin, flush=True)
        process.stdin.close()

    assert outcome == "finished"
    assert killed > 8, "every statement of the load, and its COPY"
    assert retailer.rows("SELECT * FROM stores ORDER BY idx") == [(5, "Lisboa"), (6, None)]
    assert retailer.load("stores") == []


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


def test_an_s3_bucket_loads_as_a_folder_does(retailer, s3):
    amazon = boto3.client(
        "s3",
        endpoint_url=s3,
        aws_access_key_id="key",
        aws_secret_access_key="secret",
        region_name="us-east-1",
    )
    amazon.create_bucket(Bucket="shop")
    for month in ("2020-01", "2020-02"):
        content = sales(month, 1, 2)
        amazon.put_object(Bucket="shop", Key=f"in/sales/{month}-01/sales.csv", Body=content)
    bucket: Bucket = open_bucket(
        "s3://shop/in",
        root=retailer.folder,
        options={
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": s3,
        },
    )
    retailer.load("stores")
    table = retailer.context.project.tables["sales"]

    def load() -> list[str]:
        files = find_files(table, bucket)
        done: list[str] = []
        load_pending(
            table,
            pending_files(table, files, retailer.warehouse, again=False),
            files,
            bucket,
            retailer.warehouse,
            again=False,
            progress=lambda _: None,
            report=lambda one: done.append(one.period),
        )
        return done

    assert load() == ["2020-01", "2020-02"]
    assert load() == []
    assert retailer.rows("SELECT date::text, value FROM sales ORDER BY 1") == [
        ("2020-01-01", 1.0), ("2020-01-02", 2.0), ("2020-02-01", 1.0), ("2020-02-02", 2.0),
    ]  # fmt: skip

    amazon.put_object(Bucket="shop", Key="in/sales/2020-02-01/sales.csv", Body=sales("2020-02", 5))
    assert load() == ["2020-02"]
    assert retailer.rows("SELECT sum(value) FROM sales") == [(8.0,)]


def test_copied_rows_are_counted_by_the_database(warehouse):
    with warehouse.transaction() as transaction:
        transaction.execute("CREATE TEMPORARY TABLE pg_temp.counted (number integer)")
        with transaction.copy_in("COPY pg_temp.counted FROM STDIN") as copy:
            copy.write(b"1\n2\n3\n")
        assert transaction.copied == 3
