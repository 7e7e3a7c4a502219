"""What a killed server leaves in its folder goes at the next start, and nothing else ever does."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from gristmill.warehouse import embedded, orphans
from gristmill.warehouse.connection import Warehouse
from gristmill.warehouse.credentials import read_passwords
from gristmill.warehouse.programs import find_programs

NUMBERED = re.compile(r"\d+(_\w+)?(\.\d+)?")


@pytest.fixture
def home(passable: Path) -> Iterator[Path]:
    folder = passable / ".gristmill"
    yield folder
    embedded.stop(folder)


def start(home: Path) -> Warehouse:
    return embedded.start(home, database="companydata", owner="admin")


def superuser(home: Path, database: str = "companydata") -> psycopg.Connection:
    server = embedded.find(home)
    assert server is not None
    return psycopg.connect(
        host=str(server.socket),
        port=server.port,
        user="postgres",
        password=read_passwords(home / "credentials.json")["postgres"],
        dbname=database,
        autocommit=True,
    )


def kill_all(home: Path) -> None:
    """End every process of a home's server at once, as a power cut would."""
    server = embedded.find(home)
    assert server is not None
    children = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
    for pid in [server.pid, *map(int, children)]:
        os.kill(pid, signal.SIGKILL)
    while any(Path(f"/proc/{pid}/cwd").exists() for pid in [server.pid, *children]):
        time.sleep(0.01)


def folder_of(home: Path, database: str = "companydata") -> Path:
    with superuser(home, database) as connection:
        number = connection.execute(
            "SELECT oid FROM pg_database WHERE datname = current_database()"
        ).fetchone()
    assert number is not None
    return home / "postgres" / "data" / "base" / str(number[0])


def sizes(folder: Path) -> dict[str, int]:
    return {
        path.name: path.stat().st_size for path in folder.iterdir() if NUMBERED.fullmatch(path.name)
    }


def meant(home: Path, database: str = "companydata") -> set[str]:
    """The main files that the catalog names, asked one relation at a time by their path."""
    with superuser(home, database) as connection:
        rows = connection.execute("SELECT pg_relation_filepath(oid) FROM pg_class").fetchall()
    return {path.rpartition("/")[2] for (path,) in rows if path and path.startswith("base/")}


def main_files(folder: Path) -> set[str]:
    return {name for name in sizes(folder) if name.isdigit()}


def said(home: Path) -> list[tuple[int, int]]:
    """The files and bytes that each start told of."""
    log = (home / "log" / "postgres.log").read_text()
    found = re.findall(r"gristmill: removed (\d+) files, (\d+) bytes", log)
    return [(int(files), int(size)) for files, size in found]


def leak(home: Path, warehouse: Warehouse, rows: int = 60_000) -> dict[str, int]:
    """Kill the server in a transaction that made a table; the files it leaves, with their sizes."""
    folder = folder_of(home)
    before = sizes(folder)
    with psycopg.connect(warehouse.url) as connection:
        connection.execute(
            "CREATE TABLE public.lost AS SELECT n AS idx, repeat('x', 50) AS text, NULL::text AS b"
            f" FROM generate_series(1, {rows}) AS n"
        )
        connection.execute("ALTER TABLE public.lost ADD PRIMARY KEY (idx)")
        with superuser(home) as administrator:
            administrator.execute("CHECKPOINT")  # So that recovery has nothing to do with them.
        kill_all(home)
        connection.close()
    after = sizes(folder)
    return {name: size for name, size in after.items() if name not in before}


def test_the_files_of_a_load_that_was_killed_are_counted_and_removed(home: Path) -> None:
    warehouse = start(home)
    folder = folder_of(home)
    assert main_files(folder) == meant(home)
    left = leak(home, warehouse)
    assert sum(left.values()) > 4_000_000
    start(home)
    assert not left.keys() & sizes(folder).keys()
    assert main_files(folder) == meant(home)
    assert said(home) == [(len(left), sum(left.values()))]
    assert not (home / "postgres" / "crashed.json").exists()
    embedded.stop(home)
    start(home)
    assert len(said(home)) == 1


KEPT = [
    "CREATE TABLE public.kept AS SELECT n AS idx, md5(n::text) AS text FROM"
    " generate_series(1, 5000) AS n",
    "ALTER TABLE public.kept ADD PRIMARY KEY (idx)",
    "CREATE TABLE public.wide AS SELECT n AS idx, (SELECT string_agg(md5((n * i)::text), '') FROM"
    " generate_series(1, 300) AS i) AS toasted FROM generate_series(1, 50) AS n",
    "CREATE INDEX ON public.kept USING hash (text)",
    "CREATE TABLE public.rewritten AS SELECT n AS idx FROM generate_series(1, 1000) AS n",
    "DELETE FROM public.rewritten WHERE idx % 2 = 0",
    "VACUUM FULL public.rewritten",
    "CREATE TABLE public.emptied AS SELECT 1 AS idx",
    "TRUNCATE public.emptied",
    "INSERT INTO public.emptied VALUES (7)",
    "CREATE MATERIALIZED VIEW public.seen AS SELECT count(*) AS n FROM public.kept",
    "REFRESH MATERIALIZED VIEW public.seen",
    "CREATE SEQUENCE public.numbers START 42",
    "CREATE UNLOGGED TABLE public.fleeting AS SELECT 1 AS idx",
    "CREATE TABLE public.parted (idx integer) PARTITION BY LIST (idx)",
    "CREATE TABLE public.part PARTITION OF public.parted FOR VALUES IN (1)",
    "INSERT INTO public.parted VALUES (1)",
    "SELECT lo_from_bytea(4711, 'large')",
    "VACUUM (FREEZE) public.kept",
    "REINDEX TABLE public.kept",
    "REINDEX SYSTEM",
    "VACUUM FULL pg_class",
    "VACUUM FULL pg_attribute",
    "VACUUM FULL pg_proc",
]
"""Every kind of relation, and files whose number is no longer that of their relation."""
CONTENT = """
SELECT (SELECT md5(string_agg(kept::text, '|' ORDER BY idx)) FROM public.kept AS kept),
       (SELECT md5(string_agg(wide::text, '|' ORDER BY idx)) FROM public.wide AS wide),
       (SELECT sum(idx) FROM public.rewritten), (SELECT sum(idx) FROM public.emptied),
       (SELECT n FROM public.seen), (SELECT last_value FROM public.numbers),
       (SELECT count(*) FROM public.parted), (SELECT lo_get(4711)::text),
       (SELECT md5(string_agg(attribute::text, '|' ORDER BY attrelid, attnum))
        FROM pg_attribute AS attribute)
"""


def content(home: Path, database: str) -> object:
    """Everything, read from the tables and then by their indexes."""
    with superuser(home, database) as connection:
        by_table = connection.execute(CONTENT).fetchone()
        connection.execute("SET enable_seqscan = off")
        connection.execute("SET enable_bitmapscan = off")
        assert connection.execute(CONTENT).fetchone() == by_table
        connection.execute("SELECT count(*) FROM public.fleeting")
    return by_table


def test_no_relation_of_any_kind_in_any_database_loses_a_file(home: Path) -> None:
    databases = ["companydata", "cloned", "template1"]
    warehouse = start(home)
    for database in ("companydata", "template1"):
        with superuser(home, database) as connection:
            for statement in KEPT:
                connection.execute(statement)
    with superuser(home, "postgres") as connection:
        connection.execute("CREATE DATABASE cloned TEMPLATE companydata STRATEGY file_copy")
    before = {database: content(home, database) for database in databases}
    clone = folder_of(home, "cloned")
    elsewhere = superuser(home, "cloned")
    elsewhere.execute("BEGIN")
    elsewhere.execute("CREATE TABLE public.lost AS SELECT generate_series(1, 1000)")
    left = leak(home, warehouse)
    elsewhere.close()
    start(home)
    assert said(home)[0][0] > len(left)
    assert main_files(clone) == meant(home, "cloned")
    assert main_files(folder_of(home)) == meant(home)
    for _ in range(2):
        assert {database: content(home, database) for database in databases} == before
        embedded.stop(home)
        _check_pages(home)
        start(home)


def _check_pages(home: Path) -> None:
    """PostgreSQL's own check of every page's checksum, by a program that wants it stopped."""
    subprocess.run(
        [find_programs().path("pg_checksums"), "--check", home / "postgres" / "data"],
        check=True,
        capture_output=True,
    )


def planted(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).write_bytes(b"somebody's")


def test_nothing_is_removed_after_an_orderly_stop(home: Path) -> None:
    start(home)
    folder = folder_of(home)
    embedded.stop(home)
    planted(folder, "4000000001")
    start(home)
    assert (folder / "4000000001").exists()
    assert said(home) == []


def test_what_is_not_a_relations_file_stays_and_what_has_no_main_file_too(home: Path) -> None:
    start(home)
    folder = folder_of(home)
    kill_all(home)
    strangers = ["4000000001.bak", "4000000001_old", "x4000000001", "04000000001", "4000000001.01"]
    half = ["4000000002_fsm", "4000000003.1"]
    whole = ["4000000004", "4000000004.1", "4000000004_fsm", "4000000004_vm", "4000000004_vm.1"]
    planted(folder, *strangers, *half, *whole)
    (folder / "4000000005").mkdir()
    (folder / "4000000006").symlink_to("PG_VERSION")
    start(home)
    for name in [*strangers, *half, "4000000005", "4000000006", "PG_VERSION"]:
        assert (folder / name).exists()
    for name in whole:
        assert not (folder / name).exists()
    assert said(home) == [(len(whole), len(whole) * len(b"somebody's"))]


def test_a_file_that_is_younger_than_the_start_or_was_replaced_since_stays(home: Path) -> None:
    start(home)
    folder, note = folder_of(home), home / "postgres" / "crashed.json"
    planted(folder, "4000000001", "4000000002", "4000000003")
    orphans.note_files(note, home / "postgres" / "data")
    planted(folder, "4000000004", "4000000003.1", "new")
    (folder / "new").rename(folder / "4000000002")
    removed = orphans.remove_orphans(
        note, home / "postgres" / "data", lambda database: superuser(home, database)
    )
    assert (removed.files, removed.is_complete) == (1, True)
    assert not (folder / "4000000001").exists()
    assert {"4000000002", "4000000003", "4000000003.1", "4000000004"} <= sizes(folder).keys()


def test_a_folder_that_lacks_a_relations_file_is_not_this_databases(home: Path) -> None:
    """Were a folder ever taken for another's, nothing in it would be removed."""
    start(home)
    data, note = home / "postgres" / "data", home / "postgres" / "crashed.json"
    folder = folder_of(home)
    with superuser(home) as connection:
        connection.execute("CREATE TABLE public.kept AS SELECT 1 AS idx")
        row = connection.execute("SELECT pg_relation_filepath('public.kept')").fetchone()
    assert row is not None
    planted(folder, "4000000001")
    orphans.note_files(note, data)
    (data / row[0]).rename(folder / "aside")
    removed = orphans.remove_orphans(note, data, lambda database: superuser(home, database))
    assert (removed.files, removed.is_complete) == (0, False)
    assert note.exists()
    (folder / "aside").rename(data / row[0])
    start(home)  # It runs already; the note is enough.
    assert not (folder / "4000000001").exists()
    assert not note.exists()


def test_prepared_transactions_keep_their_files(home: Path) -> None:
    start(home)
    with superuser(home) as connection:
        connection.execute("ALTER SYSTEM SET max_prepared_transactions = 2")
    embedded.stop(home)
    warehouse = start(home)
    with psycopg.connect(warehouse.url, autocommit=True) as connection:
        connection.execute("BEGIN")
        connection.execute("CREATE TABLE public.prepared AS SELECT 6 * 7 AS answer")
        connection.execute("PREPARE TRANSACTION 'later'")
    left = leak(home, warehouse)
    folder = folder_of_stopped(home, left)
    warehouse = start(home)
    assert left.keys() <= sizes(folder).keys()
    with psycopg.connect(warehouse.url, autocommit=True) as connection:
        connection.execute("COMMIT PREPARED 'later'")
        assert connection.execute("SELECT answer FROM public.prepared").fetchone() == (42,)
    start(home)
    assert not left.keys() & sizes(folder).keys()
    with psycopg.connect(warehouse.url) as connection:
        assert connection.execute("SELECT answer FROM public.prepared").fetchone() == (42,)


def folder_of_stopped(home: Path, left: dict[str, int]) -> Path:
    """The folder that holds these files."""
    (found,) = {path.parent for path in (home / "postgres" / "data" / "base").rglob(min(left))}
    return found


def test_a_command_killed_before_it_cleared_up_leaves_that_to_the_next(home: Path) -> None:
    warehouse = start(home)
    left = leak(home, warehouse)
    folder = folder_of_stopped(home, left)
    script = (
        "import os, signal, sys; from pathlib import Path\n"
        "from gristmill.warehouse import embedded\n"
        "embedded.remove_orphans = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "embedded.start(Path(sys.argv[1]), database='companydata', owner='admin')\n"
    )
    done = subprocess.run([sys.executable, "-c", script, home], check=False, capture_output=True)
    assert done.returncode == -signal.SIGKILL
    assert left.keys() <= sizes(folder).keys()
    with superuser(home) as connection:  # Much happens before the next command.
        connection.execute("CREATE TABLE public.kept AS SELECT generate_series(1, 1000) AS number")
        connection.execute("VACUUM FULL public.kept")
    start(home)
    assert not left.keys() & sizes(folder).keys()
    assert main_files(folder) >= meant(home)
    with superuser(home) as connection:
        assert connection.execute("SELECT sum(number) FROM public.kept").fetchone() == (500_500,)
