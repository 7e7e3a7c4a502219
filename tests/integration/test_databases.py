"""A database for a program beside ours: its owner reaches it, and nothing else."""

import itertools

import psycopg
import pytest

from gristmill.errors import EmbeddedServerError, WarehouseError
from gristmill.warehouse import embedded
from gristmill.warehouse.databases import provide_on

PASSWORD = "it's a secret: 100%"
_numbers = itertools.count(1)


@pytest.fixture
def beside():
    return f"Beside {next(_numbers)}"


def values(url, statement):
    with psycopg.connect(url, autocommit=True) as connection:
        return connection.execute(statement).fetchone()


RIGHTS = """
SELECT current_user, current_database(), rolsuper, rolcreaterole, rolcreatedb,
       pg_catalog.pg_get_userbyid(datdba)
FROM pg_catalog.pg_roles, pg_catalog.pg_database
WHERE rolname = current_user AND datname = current_database()
"""


def test_on_the_embedded_server(warehouse_home, warehouse, beside):
    url = embedded.provide_beside(warehouse_home, database=beside, password=PASSWORD)
    assert values(url, RIGHTS) == (beside, beside, False, False, False, beside)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 1 AS one")
    again = embedded.provide_beside(warehouse_home, database=beside, password="another")
    assert values(again, "SELECT one FROM kept") == (1,)
    with pytest.raises(psycopg.OperationalError, match="authentication failed"):
        values(url, "SELECT 1")


def test_neither_enters_the_others(warehouse_home, warehouse, beside):
    url = embedded.provide_beside(warehouse_home, database=beside, password=PASSWORD)
    for here, there in ((url, "migrated"), (url, "postgres"), (warehouse.url, beside)):
        with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
            psycopg.connect(here, dbname=there)


def test_where_no_server_runs(passable):
    with pytest.raises(EmbeddedServerError, match="No database runs"):
        embedded.provide_beside(passable / ".gristmill", database="beside", password=PASSWORD)


def test_somebody_elses_database_is_not_taken(warehouse_home, warehouse):
    ours = values(warehouse.url, "SELECT current_database()")[0]
    with pytest.raises(EmbeddedServerError, match="was to own the database"):
        embedded.provide_beside(warehouse_home, database=ours, password=PASSWORD)


def test_on_a_server_whose_user_may_not_make_one(warehouse, beside):
    with pytest.raises(WarehouseError, match='ALTER ROLE "admin" CREATEROLE CREATEDB') as caught:
        provide_on(warehouse.url, database=beside, password=PASSWORD)
    assert PASSWORD not in str(caught.value)


def test_on_a_server_whose_user_may(warehouse, superuser, beside):
    superuser.execute("ALTER ROLE admin CREATEDB")
    try:
        url = provide_on(warehouse.url, database=beside, password=PASSWORD)
    finally:
        superuser.execute("ALTER ROLE admin NOCREATEDB")
    assert values(url, RIGHTS) == (beside, beside, False, False, False, beside)
    # Once it is there, nothing needs to be made.
    assert provide_on(warehouse.url, database=beside, password=PASSWORD) == url
