"""Kept connections: used again, made anew where the server closed them, never waited for long."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from psycopg import sql

from gristmill.errors import StatementFailed, WarehouseUnreachable
from gristmill.warehouse import kept
from gristmill.warehouse.kept import MOST_KEPT, KeptWarehouse

PID = "SELECT pg_backend_pid()"


@pytest.fixture
def keeping(warehouse):
    found = KeptWarehouse(url=warehouse.url)
    yield found
    found.close()


def pid(warehouse):
    with warehouse.transaction() as transaction:
        return transaction.value(PID)


def test_one_connection_serves_transaction_after_transaction(keeping):
    assert len({pid(keeping) for _ in range(20)}) == 1


def test_what_one_transaction_did_the_next_one_sees_or_not(keeping, warehouse):
    with keeping.transaction() as transaction:
        transaction.execute("CREATE TABLE public.kept (number integer)")
        transaction.after_commit.append("INSERT INTO public.kept VALUES (1)")
    before = pid(keeping)
    with pytest.raises(ZeroDivisionError), keeping.transaction() as transaction:  # noqa: PT012
        transaction.execute("INSERT INTO public.kept VALUES (2)")
        raise ZeroDivisionError
    with pytest.raises(StatementFailed), keeping.transaction() as transaction:  # noqa: PT012
        transaction.execute("INSERT INTO public.kept VALUES (3)")
        transaction.execute("SELECT 1 / 0")
    assert pid(keeping) == before
    with warehouse.transaction() as transaction:
        assert transaction.rows("SELECT number FROM public.kept") == [{"number": 1}]


def test_settings_are_those_of_every_transaction(keeping, warehouse):
    shown = "SELECT current_setting('search_path') || current_setting('TimeZone')"
    with warehouse.transaction() as one, keeping.transaction() as other:
        assert other.value(shown) == one.value(shown)
        assert other.value("SHOW statement_timeout") == "8s"


def test_a_connection_that_the_server_ended_is_not_used_again(keeping, superuser):
    for _ in range(3):
        before = pid(keeping)
        superuser.execute("SELECT pg_terminate_backend(%s)", [before])
        wait_until_gone(superuser, before)
        assert pid(keeping) != before


def wait_until_gone(superuser, number):
    ends = time.monotonic() + 60
    query = "SELECT count(*) FROM pg_stat_activity WHERE pid = %s"
    while superuser.execute(query, [number]).fetchone()[0]:
        assert time.monotonic() < ends
        time.sleep(0.02)


def test_a_connection_that_ends_in_the_middle_is_an_error_and_not_kept(keeping, superuser):
    with (  # noqa: PT012
        pytest.raises((WarehouseUnreachable, StatementFailed)),
        keeping.transaction() as transaction,
    ):
        number = transaction.value(PID)
        superuser.execute("SELECT pg_terminate_backend(%s)", [number])
        wait_until_gone(superuser, number)
        transaction.value(PID)
    assert pid(keeping) != number


def test_many_threads_have_a_connection_each_and_few_are_kept(keeping):
    everyone = threading.Barrier(MOST_KEPT + 4)

    def one(_):
        with keeping.transaction() as transaction:
            number = transaction.value(PID)
            everyone.wait(60)
            return number

    with ThreadPoolExecutor(MOST_KEPT + 4) as pool:
        used = list(pool.map(one, range(MOST_KEPT + 4)))
    assert len(set(used)) == len(used)
    assert len(keeping._kept.idle) == MOST_KEPT


def test_after_closing_nothing_is_kept(keeping, superuser):
    with keeping.transaction() as transaction:
        number = transaction.value(PID)
        keeping.close()
    wait_until_gone(superuser, number)


def test_where_nothing_answered_a_moment_ago_nobody_asks_again(warehouse, superuser, monkeypatch):
    name = sql.Identifier(psycopg.conninfo.conninfo_to_dict(warehouse.url)["dbname"])
    allow = sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS {}")
    keeping = KeptWarehouse(url=warehouse.url)
    monkeypatch.setattr(kept, "IMPATIENCE", 3600.0)
    keeping._kept.refused_at = -3600.0
    superuser.execute(allow.format(name, sql.SQL("false")))
    with pytest.raises(WarehouseUnreachable, match=r"refused the connection|does not answer"):
        pid(keeping)
    superuser.execute(allow.format(name, sql.SQL("true")))
    with pytest.raises(WarehouseUnreachable):
        pid(keeping)
    monkeypatch.setattr(kept, "IMPATIENCE", 0.0)
    assert pid(keeping)
    keeping.close()
