"""Connection strings: the driver reads back from them exactly what went in."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from gristmill.errors import WarehouseError
from gristmill.warehouse.connect import connection_url, psql_command
from gristmill.warehouse.connection import Warehouse

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=20)


@given(user=TEXT, password=TEXT, database=TEXT, host=st.sampled_from(["h", "::1", "/a b", "a,b"]))
def test_the_driver_reads_back_what_went_in(
    user: str, password: str, database: str, host: str
) -> None:
    parts = {"user": user, "password": password, "dbname": database, "host": host, "port": "5432"}
    if "," in host:
        parts["port"] = "1,2"
    warehouse = Warehouse(url=make_conninfo("", **parts))
    assert conninfo_to_dict(connection_url(warehouse, Path("/nonexistent"))) == parts
    command = psql_command(warehouse, Path("/nonexistent"), None, ["-c", "SELECT 1"])
    assert command.environment == {"PGPASSWORD": password}
    assert conninfo_to_dict(command.arguments[1]) == {
        key: value for key, value in parts.items() if key != "password"
    }
    assert command.arguments[2:] == ("-c", "SELECT 1")


def test_another_user_of_the_same_database(tmp_path: Path) -> None:
    credentials = tmp_path / "credentials.json"
    credentials.write_text(json.dumps({"reader": "p/w"}))
    warehouse = Warehouse(url="postgresql://admin:x@db.example:6543/data?sslmode=require")
    assert (
        connection_url(warehouse, credentials, "reader")
        == "postgresql://reader:p%2Fw@db.example:6543/data?sslmode=require"
    )
    assert connection_url(warehouse, credentials, "admin") == warehouse.url
    with pytest.raises(WarehouseError, match=r"user 'nobody'.*those of: reader") as caught:
        connection_url(warehouse, credentials, "nobody")
    assert "p/w" not in str(caught.value)
