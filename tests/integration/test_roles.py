"""What each user of the database may do, tried as that user."""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from psycopg.errors import InsufficientPrivilege

from gristmill.errors import WarehouseError
from gristmill.project.project import User
from gristmill.warehouse.connect import connection_url, psql_command
from gristmill.warehouse.connection import Warehouse
from gristmill.warehouse.roles import apply_users, derived_role

READER = User(name="reader", role="reading people", may="read")
WRITER = User(name="writer", role="writing people", may="write")
LONER = User(name='lo"ner', may="write")

As = Callable[[str | None], psycopg.Connection]


@pytest.fixture
def credentials(warehouse_home: Path) -> Path:
    return warehouse_home / "credentials.json"


@pytest.fixture
def loaded(warehouse: Warehouse) -> Warehouse:
    """A database with a load behind a view, a build and a table of MLflow."""
    with warehouse.transaction() as transaction:
        for statement in (
            "CREATE TABLE raw.sales_1 AS SELECT 1 AS store, 2.5 AS value",
            "CREATE VIEW public.sales AS SELECT * FROM raw.sales_1",
            "CREATE TABLE builds.monthly_1 AS SELECT 1 AS store",
            "CREATE TABLE mlflow.experiments AS SELECT 1 AS id",
        ):
            transaction.execute(statement)
    return warehouse


@pytest.fixture
def as_user(loaded: Warehouse, credentials: Path) -> Iterator[As]:
    """Opens a connection as one of the project's users, who have all been applied."""
    apply_users(loaded, [READER, WRITER, LONER], credentials)
    opened = []

    def connect(user: str | None) -> psycopg.Connection:
        connection = psycopg.connect(connection_url(loaded, credentials, user), autocommit=True)
        opened.append(connection)
        return connection

    yield connect
    for connection in opened:
        connection.close()


def forbidden(connection: psycopg.Connection, statement: str) -> None:
    with pytest.raises(InsufficientPrivilege):
        connection.execute(statement)


READS = [
    "SELECT * FROM public.sales",
    "SELECT * FROM gristmill.loads",
    "SELECT * FROM gristmill.predictions",
]
NEVER = [
    "SELECT * FROM raw.sales_1",
    "SELECT * FROM builds.monthly_1",
    "DELETE FROM public.sales",
    "UPDATE public.sales SET value = 0",
    "INSERT INTO public.sales VALUES (1, 1)",
    "DELETE FROM raw.sales_1",
    "DROP VIEW public.sales",
    "INSERT INTO gristmill.outcomes VALUES ('1', 1, now())",
    "DELETE FROM gristmill.predictions",
    "DROP TABLE gristmill.findings",
    "CREATE TABLE gristmill.mine (a integer)",
    "CREATE TABLE raw.mine (a integer)",
    "CREATE TABLE builds.mine (a integer)",
    "CREATE TABLE mlflow.mine (a integer)",
    "CREATE SCHEMA mine",
    "CREATE ROLE mine",
    "SET ROLE admin",
    "COPY (SELECT 1) TO PROGRAM 'true'",
    "SELECT pg_read_file('postgresql.conf')",
    "SELECT * FROM pg_authid",
]


@pytest.mark.parametrize("user", [READER.name, WRITER.name, LONER.name])
def test_every_user_reads_and_none_reaches_behind_the_views(as_user: As, user: str) -> None:
    connection = as_user(user)
    for statement in READS:
        connection.execute(statement)
    assert connection.execute("SELECT store, value FROM sales").fetchall() == [(1, 2.5)]
    for statement in NEVER:
        forbidden(connection, statement)


def test_a_reader_makes_nothing(as_user: As) -> None:
    connection = as_user("reader")
    for statement in (
        "CREATE TABLE public.mine (a integer)",
        "CREATE TEMPORARY TABLE mine (a integer)",
        "SELECT * FROM mlflow.experiments",
        "SET ROLE writer",
    ):
        forbidden(connection, statement)


def test_a_writer_owns_what_they_make_and_others_read_it(as_user: As) -> None:
    writer = as_user("writer")
    writer.execute("CREATE TABLE public.segments AS SELECT 7 AS segment")
    writer.execute("UPDATE public.segments SET segment = 8")
    writer.execute("SELECT * FROM mlflow.experiments")
    writer.execute("CREATE TEMPORARY TABLE scratch (a integer)")
    owner = writer.execute("SELECT tableowner FROM pg_tables WHERE tablename = 'segments'")
    assert owner.fetchone() == ("writer",)
    for user in ("reader", LONER.name, None):
        assert as_user(user).execute("SELECT segment FROM segments").fetchall() == [(8,)]
    for user in ("reader", LONER.name):
        forbidden(as_user(user), "UPDATE public.segments SET segment = 9")
        forbidden(as_user(user), "DROP TABLE public.segments")
    writer.execute("DROP TABLE public.segments")


def test_what_is_made_later_is_readable_too(as_user: As, loaded: Warehouse) -> None:
    with loaded.transaction() as transaction:
        transaction.execute("CREATE TABLE raw.stores_2 AS SELECT 1 AS idx")
        transaction.execute("CREATE VIEW public.stores AS SELECT * FROM raw.stores_2")
        transaction.execute("CREATE TABLE gristmill.later AS SELECT 1 AS idx")
    for user in ("reader", "writer"):
        as_user(user).execute("SELECT * FROM stores, gristmill.later")
        forbidden(as_user(user), "SELECT * FROM raw.stores_2")
        forbidden(as_user(user), "DELETE FROM public.stores")


def test_the_role_that_a_user_shares_holds_the_rights(
    as_user: As, superuser: psycopg.Connection
) -> None:
    as_user("reader")
    superuser.execute(
        'DROP ROLE IF EXISTS guest; CREATE ROLE guest; GRANT "reading people" TO guest'
    )
    rows = superuser.execute(
        "SELECT rolcanlogin, rolsuper, rolcreaterole, rolcreatedb FROM pg_roles"
        " WHERE rolname = 'reading people'"
    ).fetchall()
    assert rows == [(False, False, False, False)]


def test_derived_sql_reads_loads_and_makes_builds_and_no_more(
    loaded: Warehouse, credentials: Path
) -> None:
    apply_users(loaded, [READER], credentials)
    with loaded.transaction() as transaction:
        database = transaction.value("SELECT current_database()")
    role = sql.Identifier(derived_role(database))
    with psycopg.connect(loaded.url, autocommit=True) as owner:
        owner.execute("CREATE TABLE raw.sales_2 AS SELECT 2 AS store")
        owner.execute(sql.SQL("SET ROLE {}").format(role))
        owner.execute("CREATE TABLE builds.fresh AS SELECT * FROM raw.sales_2")
        owner.execute("SELECT * FROM raw.sales_1, builds.monthly_1")
        for statement in (
            "SELECT * FROM public.sales",
            "SELECT * FROM gristmill.loads",
            "SELECT * FROM mlflow.experiments",
            "DELETE FROM raw.sales_1",
            "INSERT INTO raw.sales_1 VALUES (1, 1)",
            "DROP TABLE builds.monthly_1",
            "CREATE TABLE public.mine (a integer)",
            "CREATE TABLE raw.mine (a integer)",
        ):
            forbidden(owner, statement)
        owner.execute("RESET ROLE")
        owner.execute("ALTER TABLE builds.fresh OWNER TO admin")
        owner.execute("INSERT INTO builds.fresh VALUES (3)")
        owner.execute("DROP TABLE builds.fresh")


def test_a_second_time_changes_nothing(
    loaded: Warehouse, credentials: Path, superuser: psycopg.Connection
) -> None:
    users = [User(name="again_r", may="read"), User(name="again_w", role="again", may="write")]
    first = apply_users(loaded, users, credentials)
    assert first.created == ("again_r", "again_w")
    passwords = credentials.read_text()
    before = _rights(loaded, superuser)
    second = apply_users(loaded, users, credentials)
    assert second.created == ()
    assert second.without_password == ()
    assert credentials.read_text() == passwords
    assert _rights(loaded, superuser) == before


def _rights(warehouse: Warehouse, superuser: psycopg.Connection) -> list[object]:
    with warehouse.transaction() as transaction:
        tables = transaction.rows("SELECT oid, relacl::text, xmin::text FROM pg_class ORDER BY oid")
        schemas = transaction.rows("SELECT oid, nspacl::text FROM pg_namespace ORDER BY oid")
        defaults = transaction.rows("SELECT defaclacl::text FROM pg_default_acl ORDER BY oid")
    roles = superuser.execute(
        "SELECT roleid, member, grantor, inherit_option, set_option"
        " FROM pg_auth_members ORDER BY oid"
    ).fetchall()
    passwords = superuser.execute("SELECT rolname, rolpassword FROM pg_authid ORDER BY oid")
    return [tables, schemas, defaults, roles, passwords.fetchall()]


@pytest.mark.parametrize("role", [None, "changing people"])
def test_a_changed_right_is_given_and_taken(
    loaded: Warehouse, credentials: Path, role: str | None
) -> None:
    name = "changing" if role is None else "changing2"

    def try_to_write(may: str) -> None:
        apply_users(loaded, [User(name=name, role=role, may=may)], credentials)
        with psycopg.connect(connection_url(loaded, credentials, name)) as connection:
            connection.execute("SELECT * FROM public.sales")
            connection.execute("CREATE TABLE public.mine (a integer)")
            connection.rollback()

    with pytest.raises(InsufficientPrivilege):
        try_to_write("read")
    try_to_write("write")
    with pytest.raises(InsufficientPrivilege):
        try_to_write("read")


def test_a_user_who_changes_roles_leaves_the_old_one(loaded: Warehouse, credentials: Path) -> None:
    apply_users(loaded, [User(name="mover", role="from", may="write")], credentials)
    apply_users(loaded, [User(name="mover", role="to", may="read")], credentials)
    with psycopg.connect(connection_url(loaded, credentials, "mover")) as connection:
        connection.execute("SELECT * FROM public.sales")
        forbidden(connection, "CREATE TABLE public.mine (a integer)")


def test_a_user_taken_out_is_reported_and_not_dropped(loaded: Warehouse, credentials: Path) -> None:
    apply_users(loaded, [User(name="leaver"), User(name="stayer")], credentials)
    applied = apply_users(loaded, [User(name="stayer")], credentials)
    assert "leaver" in applied.undeclared
    assert "stayer" not in applied.undeclared
    with psycopg.connect(connection_url(loaded, credentials, "leaver")) as connection:
        connection.execute("SELECT * FROM public.sales")


def test_a_user_who_was_there_keeps_their_password(
    loaded: Warehouse, credentials: Path, superuser: psycopg.Connection
) -> None:
    superuser.execute("DROP ROLE IF EXISTS veteran")
    superuser.execute("CREATE ROLE veteran LOGIN PASSWORD 'kept'")
    superuser.execute("GRANT veteran TO admin WITH ADMIN OPTION")
    applied = apply_users(loaded, [User(name="veteran")], credentials)
    assert applied.without_password == ("veteran",)
    with pytest.raises(WarehouseError, match="No password of a database user 'veteran'"):
        connection_url(loaded, credentials, "veteran")
    url = connection_url(loaded, credentials).split("@")[1]
    with psycopg.connect(f"postgresql://veteran:kept@{url}") as connection:
        connection.execute("SELECT * FROM public.sales")


def test_an_owner_who_may_make_no_roles_is_told_what_an_administrator_must_run(
    loaded: Warehouse, credentials: Path, superuser: psycopg.Connection
) -> None:
    superuser.execute("ALTER ROLE admin NOCREATEROLE")
    try:
        with pytest.raises(WarehouseError, match='ALTER ROLE "admin" CREATEROLE;') as caught:
            apply_users(loaded, [User(name="newcomer")], credentials)
    finally:
        superuser.execute("ALTER ROLE admin CREATEROLE")
    assert "newcomer" in str(caught.value)
    assert "newcomer" not in credentials.read_text()


@pytest.mark.parametrize(
    ("users", "message"),
    [
        ([User(name="admin")], "cannot have the name 'admin'"),
        ([User(name="postgres")], "cannot have the name 'postgres'"),
        ([User(name="a", role="b"), User(name="b")], "both as a user and as a role"),
        (
            [User(name="a", role="g", may="read"), User(name="b", role="g", may="write")],
            "two roles",
        ),
        ([User(name="a" * 64)], "63 bytes"),
    ],
)
def test_names_that_collide_are_refused_before_anything_changes(
    loaded: Warehouse, credentials: Path, users: list[User], message: str
) -> None:
    before = credentials.read_text()
    with pytest.raises(WarehouseError, match=message):
        apply_users(loaded, users, credentials)
    assert credentials.read_text() == before


def test_a_stranger_to_the_project_cannot_even_connect(
    as_user: As, loaded: Warehouse, credentials: Path, superuser: psycopg.Connection
) -> None:
    as_user("reader")
    superuser.execute("DROP ROLE IF EXISTS stranger")
    superuser.execute("CREATE ROLE stranger LOGIN PASSWORD 'known'")
    where = connection_url(loaded, credentials).split("@")[1]
    for database in (where, where.rsplit("/", 1)[0] + "/postgres"):
        with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
            psycopg.connect(f"postgresql://stranger:known@{database}")


def test_no_password_reaches_the_log_even_when_the_statement_fails(
    loaded: Warehouse, credentials: Path, warehouse_home: Path, superuser: psycopg.Connection
) -> None:
    superuser.execute("ALTER SYSTEM SET log_statement = 'all'")
    superuser.execute("SELECT pg_reload_conf()")
    try:
        apply_users(loaded, [User(name="logged")], credentials)
    finally:
        superuser.execute("ALTER SYSTEM RESET log_statement")
        superuser.execute("SELECT pg_reload_conf()")
    log = (warehouse_home / "log" / "postgres.log").read_text()
    assert 'CREATE ROLE "logged"' in log
    password = connection_url(loaded, credentials, "logged").split(":")[2].split("@")[0]
    assert password not in log


def test_psql_runs_as_the_user_with_no_password_in_its_arguments(
    as_user: As, loaded: Warehouse, credentials: Path
) -> None:
    as_user("reader")
    command = psql_command(
        loaded, credentials, "reader", ["-XAtc", "SELECT current_user, count(*) FROM sales"]
    )
    password = command.environment["PGPASSWORD"]
    assert password not in " ".join(command.arguments)
    assert password not in repr(command)
    done = subprocess.run(
        command.arguments,
        env=os.environ | command.environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "reader|1\n"
