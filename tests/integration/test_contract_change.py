"""A contract that changes: other columns reload everything at once, other rules file by file."""

import psycopg
import pytest

from gristmill.errors import BuildError, LoadError

SALES = """
[tables.sales]
path = "sales/{{period:%Y-%m}}.csv"
period = {{ every = "month" }}
max_rejects = 0.5
columns = {{ {columns} }}

[derived.total]
sql = "total.sql"
from = ["sales"]
"""
MONTHS = ("2020-01", "2020-02", "2020-03")
PLAIN = 'store = "integer", value = "integer"'


def declare(shop, columns, total="SELECT sum(value) AS value FROM sales"):
    shop.declare(SALES.format(columns=columns), total=total)


@pytest.fixture
def loaded(shop):
    declare(shop, PLAIN)
    for number, month in enumerate(MONTHS):
        shop.put(f"sales/{month}.csv", f"store,value,note\n1,{number},x\n2,{number},\n")
    shop.load()
    return shop


def columns_of(shop, relation):
    return shop.rows(
        "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute "
        "WHERE attrelid = to_regclass(%s) AND attnum > 0 ORDER BY attnum",
        relation,
    )


def oid(shop, relation):
    return shop.rows("SELECT to_regclass(%s)::oid", relation)[0][0]


def loads(shop):
    return dict(shop.rows("SELECT period, load FROM gristmill.current_loads ORDER BY 1"))


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (PLAIN + ', note = "text?"', [("store", "bigint"), ("value", "bigint"), ("note", "text")]),
        ('value = "integer"', [("value", "bigint")]),
        (
            'store = "text", value = "decimal(5,1)"',
            [("store", "text"), ("value", "numeric(5,1)")],
        ),
        ('value = "integer", store = "integer"', [("value", "bigint"), ("store", "bigint")]),
    ],
)
def test_other_columns_are_a_new_parent_with_every_period(loaded, columns, expected):
    before, parent = loads(loaded), oid(loaded, "raw.sales")
    declare(loaded, columns)

    reloaded = loaded.load(period="2020-02")

    assert [one.period for one in reloaded] == list(MONTHS), "one period alone cannot change shape"
    assert columns_of(loaded, "public.sales") == expected
    assert loaded.rows("SELECT count(*), sum(value) FROM sales") == [(6, 6)]
    assert not set(loads(loaded).values()) & set(before.values())
    assert oid(loaded, "raw.sales") != parent
    assert loaded.load() == []


def test_a_column_that_now_allows_null_is_another_shape(loaded):
    parent = oid(loaded, "raw.sales")
    declare(loaded, 'store = "integer", value = "integer?"')

    loaded.load()

    assert oid(loaded, "raw.sales") != parent
    assert loaded.rows("SELECT count(*) FROM sales") == [(6,)]


def test_the_view_switches_only_when_all_periods_are_in(loaded):
    before, view = loads(loaded), columns_of(loaded, "public.sales")
    loaded.put("sales/2020-03.csv", "store,value,note\nx,y,\n")
    declare(loaded, PLAIN + ', note = "text?"')

    with pytest.raises(LoadError, match=r"2020-03\.csv was refused"):
        loaded.load()

    assert loads(loaded) == before
    assert columns_of(loaded, "public.sales") == view
    assert loaded.rows("SELECT sum(value) FROM sales") == [(6,)]
    assert loaded.rows("SELECT period FROM gristmill.loads WHERE status = 'refused'") == [
        ("2020-03",)
    ]

    loaded.put("sales/2020-03.csv", "store,value,note\n1,5,z\n")
    loaded.load()
    assert loaded.rows("SELECT sum(value), max(note) FROM sales") == [(7, "z")]


def test_a_view_of_a_user_on_the_old_shape_is_named_and_nothing_changes(loaded):
    with psycopg.connect(loaded.warehouse.url) as connection:
        connection.execute('CREATE VIEW public."My view" AS SELECT sum(value) AS total FROM sales')
    before = loads(loaded)
    declare(loaded, PLAIN + ', note = "text?"')

    with pytest.raises(
        LoadError, match=r'sales: its columns changed, and (public\.)?"My view" reads'
    ):
        loaded.load()

    assert loads(loaded) == before
    assert loaded.rows('SELECT total FROM "My view"') == [(6,)]

    with psycopg.connect(loaded.warehouse.url) as connection:
        connection.execute('DROP VIEW public."My view"')
    assert len(loaded.load()) == len(MONTHS)


def test_a_function_of_a_user_on_the_old_shape_is_named_too(loaded):
    with psycopg.connect(loaded.warehouse.url) as connection:
        connection.execute(
            "CREATE FUNCTION public.total() RETURNS bigint LANGUAGE sql "
            "BEGIN ATOMIC SELECT sum(value)::bigint FROM sales; END"
        )
    declare(loaded, PLAIN + ', note = "text?"')

    with pytest.raises(LoadError, match=r"(?s)something reads it as it was: .*total\(\)"):
        loaded.load()
    assert loaded.rows("SELECT total()") == [(6,)]


@pytest.mark.parametrize(
    "columns",
    [
        'store = "integer", value = { type = "integer", min = 1 }',
        'store = { type = "integer", in = [1, 2] }, value = { type = "integer", max = 1 }',
    ],
)
def test_another_rule_reloads_by_the_file_and_the_parent_stays(loaded, columns):
    parent, view = oid(loaded, "raw.sales"), oid(loaded, "public.sales")
    with psycopg.connect(loaded.warehouse.url) as connection:
        connection.execute("CREATE VIEW public.mine AS SELECT value FROM sales")
    before = loads(loaded)
    declare(loaded, columns)

    with pytest.raises(LoadError, match="was refused: 2 of 2 rows"):
        loaded.load()

    after = loads(loaded)
    assert len([period for period in MONTHS if after[period] == before[period]]) == 1
    assert (oid(loaded, "raw.sales"), oid(loaded, "public.sales")) == (parent, view)
    assert loaded.rows("SELECT count(*) FROM mine") == [(6,)]


def test_a_build_on_the_old_shape_goes_on_until_it_is_built_anew(loaded):
    loaded.build()
    declare(loaded, 'store = "integer", value = "number"')
    loaded.load()
    assert loaded.rows("SELECT value FROM total") == [(6,)]

    loaded.build()

    assert loaded.rows("SELECT value FROM total") == [(6.0,)]
    assert columns_of(loaded, "public.total") == [("value", "double precision")]


def test_a_view_of_a_user_on_a_build_is_named_and_nothing_changes(loaded):
    loaded.build()
    with psycopg.connect(loaded.warehouse.url) as connection:
        connection.execute("CREATE VIEW public.mine AS SELECT value FROM total")
    declare(loaded, PLAIN, total="SELECT count(*) AS number FROM sales")

    with pytest.raises(
        BuildError, match=r"total: its columns changed, and .*mine reads it as it was"
    ):
        loaded.build()
    assert loaded.rows("SELECT * FROM mine") == [(6,)]


def test_a_build_before_the_reload_says_what_is_missing(loaded):
    declare(loaded, PLAIN + ', note = "text?"', total="SELECT max(note) AS value FROM sales")

    with pytest.raises(
        BuildError, match=r"sales was loaded without note: its contract changed\. Run"
    ):
        loaded.build()
