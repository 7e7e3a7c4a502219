"""Ways out that a user's SQL might try: a SELECT of a derived table, a function in `public`."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from gristmill.bucket.bucket import open_bucket
from gristmill.errors import BuildError
from gristmill.features.derive import build_derived
from gristmill.loading import ledger
from gristmill.loading.tables import find_files, load_pending, pending_files
from gristmill.project.project import Project, User
from gristmill.project.read import read_project
from gristmill.warehouse.connect import connection_url
from gristmill.warehouse.connection import Warehouse
from gristmill.warehouse.roles import apply_users, derived_role

WRITER = User(name="planter", may="write")

PROJECT = """
[project]
name = "shop"
source = "bucket"

[tables.sales]
path = "sales.csv"
key = ["idx"]
[tables.sales.columns]
idx = "integer"
value = "number?"

[tables.salaries]
path = "salaries.csv"
key = ["idx"]
[tables.salaries.columns]
idx = "integer"

[derived.total]
sql = "total.sql"
from = ["sales"]
"""

Derive = Callable[[str], list[dict[str, object]]]


def declared(folder: Path, select: str) -> Project:
    """The project with this SELECT, and its bucket."""
    (folder / "gristmill.toml").write_text(PROJECT)
    (folder / "total.sql").write_text(select)
    (folder / "bucket").mkdir(exist_ok=True)
    (folder / "bucket" / "sales.csv").write_text("idx,value\n1,2.5\n2,\n")
    (folder / "bucket" / "salaries.csv").write_text("idx\n7\n")
    return read_project(folder / "gristmill.toml")


def load(project: Project, warehouse: Warehouse) -> None:
    bucket = open_bucket("bucket", root=project.root)
    for table in project.tables.values():
        files = find_files(table, bucket)
        pending = pending_files(table, files, warehouse, again=False)
        load_pending(
            table, pending, files, bucket, warehouse,
            again=False, progress=lambda _: None, report=lambda _: None,
        )  # fmt: skip


@pytest.fixture
def credentials(warehouse_home: Path) -> Path:
    return warehouse_home / "credentials.json"


@pytest.fixture
def derive(warehouse: Warehouse, credentials: Path, tmp_path: Path) -> Derive:
    """Builds `total` by a SELECT over loaded tables; its rows."""
    load(declared(tmp_path, "SELECT 1 AS one FROM sales"), warehouse)
    apply_users(warehouse, [WRITER], credentials)

    def build(select: str) -> list[dict[str, object]]:
        project = declared(tmp_path, select)
        build_derived(
            project.derived["total"], project, warehouse,
            now=datetime(2026, 1, 1, tzinfo=UTC), report=lambda _: None,
        )  # fmt: skip
        with warehouse.transaction() as transaction:
            return transaction.rows("SELECT * FROM public.total")

    return build


def test_what_it_declares_is_read_under_its_name(derive: Derive) -> None:
    assert derive("SELECT sum(sales.value) AS total, count(*) AS n FROM sales") == [
        {"total": 2.5, "n": 2}
    ]
    twice = "WITH s AS (SELECT * FROM sales) SELECT max(idx) AS top FROM s JOIN sales USING (idx)"
    assert derive(twice) == [{"top": 2}]


@pytest.mark.parametrize(
    ("select", "why"),
    [
        ("SELECT set_config('role', 'admin', true) FROM sales", "calls set_config"),
        ("SELECT * FROM sales, pg_catalog.set_config('role', 'admin', true)", "calls set_config"),
        ("SELECT set_config('search_path', 'public', true) FROM sales", "calls set_config"),
        ("SELECT \"set_config\"('role', current_user, true) FROM sales", "calls set_config"),
        ("SELECT query_to_xml('SELECT 1', true, true, '')", "calls query_to_xml"),
        ("SELECT * FROM ts_stat('SELECT to_tsvector(idx::text) FROM raw.sales')", "calls ts_stat"),
        ("SELECT * FROM raw.salaries", "reads raw.salaries"),
        ("SELECT * FROM sales WHERE EXISTS (TABLE raw.salaries)", "reads raw.salaries"),
        ("SELECT * FROM sales UNION ALL SELECT idx, value FROM raw.sales", "reads raw.sales"),
        ("SELECT * FROM information_schema.tables", "reads information_schema.tables"),
        ("SELECT * FROM salaries", 'relation "salaries" does not exist'),
        ("SELECT * FROM public.sales", "permission denied for schema public"),
        ("SELECT * FROM gristmill.loads", "permission denied for schema gristmill"),
        ("SELECT * FROM pg_authid", "permission denied for table pg_authid"),
        ("SELECT pg_read_file('postgresql.conf')", "permission denied for function pg_read_file"),
        ("SELECT pg_ls_dir('.')", "permission denied for function pg_ls_dir"),
        ("SELECT lo_import('/etc/passwd')", "permission denied for function lo_import"),
        ("SELECT lo_export(1, '/tmp/x')", "permission denied for function lo_export"),
        ("SELECT dblink('dbname=postgres', 'SELECT 1')", "function dblink.* does not exist"),
        ("SELECT pg_reload_conf()", "permission denied for function pg_reload_conf"),
        ("COPY (SELECT 1) TO PROGRAM 'id'", "syntax error"),
        (
            "SELECT 1) AS derived) AS made; RESET ROLE; SELECT * FROM (SELECT (1",
            "multiple commands",
        ),
        ("SELECT 1) AS derived) AS made; COMMIT; SELECT (SELECT (1", "multiple commands"),
        ("DELETE FROM raw.sales RETURNING *", "syntax error"),
        ("WITH gone AS (DELETE FROM raw.sales RETURNING *) SELECT * FROM gone", "top level"),
    ],
)
def test_ways_out_are_closed(derive: Derive, warehouse: Warehouse, select: str, why: str) -> None:
    with pytest.raises(BuildError, match=rf"(?s)SELECT of total .*{why}"):
        derive(select)
    with warehouse.transaction() as transaction:
        assert transaction.value("SELECT count(*) FROM gristmill.builds") == 0
        assert transaction.value("SELECT count(*) FROM public.sales") == 2
        left = "SELECT count(*) FROM pg_class WHERE relnamespace = 'builds'::regnamespace"
        assert transaction.value(left) == 0


def test_the_limited_role_may_not_change_settings_at_all(
    derive: Derive, warehouse: Warehouse
) -> None:
    """What the database itself refuses, were the SELECT not looked at."""
    with warehouse.transaction() as transaction:
        role = derived_role(transaction.value("SELECT current_database()"))
    with psycopg.connect(warehouse.url) as owner:
        owner.execute(sql.SQL("SET ROLE {}").format(sql.Identifier(role)))
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="set_config"):
            owner.execute("SELECT set_config('role', 'admin', true)")


def test_a_select_that_became_the_owner_is_not_kept(
    derive: Derive, warehouse: Warehouse, superuser: psycopg.Connection
) -> None:
    """On a server that is not ours `set_config` is open to all, and a function may hide it."""
    with warehouse.transaction() as transaction:
        database = transaction.value("SELECT current_database()")
    with psycopg.connect(
        superuser.info.dsn, password=superuser.info.password, dbname=database, autocommit=True
    ) as administrator:
        for statement in (
            "SET allow_system_table_mods = on",
            "CREATE FUNCTION pg_catalog.become(text) RETURNS text LANGUAGE sql VOLATILE"
            " AS $$ SELECT set_config('role', $1, true) $$",
            "GRANT EXECUTE ON FUNCTION pg_catalog.set_config(text, text, boolean) TO PUBLIC",
        ):
            administrator.execute(statement)
        with pytest.raises(BuildError, match="went on as 'admin'"):
            derive("SELECT become('admin') FROM sales")
    with warehouse.transaction() as transaction:
        assert transaction.value("SELECT count(*) FROM gristmill.builds") == 0


def test_clients_of_people_may_still_change_their_settings(
    derive: Derive, warehouse: Warehouse, credentials: Path
) -> None:
    with psycopg.connect(connection_url(warehouse, credentials, WRITER.name)) as person:
        person.execute("SELECT set_config('bytea_output', 'hex', false)")


PLANTED = """
CREATE TABLE public.caught (who text);
CREATE FUNCTION public.hashtextextended(text, integer) RETURNS bigint LANGUAGE plpgsql AS $$
BEGIN INSERT INTO public.caught VALUES (current_user); RETURN 1; END $$;
CREATE FUNCTION public.same(text, text) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN INSERT INTO public.caught VALUES (current_user); RETURN true; END $$;
CREATE OPERATOR public.= (LEFTARG = text, RIGHTARG = text, FUNCTION = public.same);
GRANT ALL ON public.caught TO PUBLIC;
"""
"""A closer match than PostgreSQL's own `hashtextextended(text, bigint)` for a literal nought."""


def test_a_function_planted_in_public_is_not_run_by_the_owner(
    derive: Derive, warehouse: Warehouse, credentials: Path, tmp_path: Path
) -> None:
    url = connection_url(warehouse, credentials, WRITER.name)
    with psycopg.connect(url) as person:
        person.execute(PLANTED)
    project = declared(tmp_path, "SELECT count(*) AS n FROM sales")
    (tmp_path / "bucket" / "sales.csv").write_text("idx,value\n1,2.5\n2,\n3,4\n")
    load(project, warehouse)
    assert derive("SELECT count(*) AS n FROM sales") == [{"n": 3}]
    with warehouse.transaction() as transaction:
        ledger.lock(transaction, project.tables["sales"], "2026-01-01")
        assert transaction.rows("SELECT * FROM public.caught") == []
    with psycopg.connect(warehouse.url) as owner:  # The trap works where a path leads to it.
        owner.execute("SELECT hashtextextended('load', 0)")
        assert owner.execute("SELECT who FROM public.caught").fetchall() == [("admin",)]
