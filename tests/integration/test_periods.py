"""Months that are missing, late, rewritten or gone; and what of the rest is made anew."""

import pytest

from gristmill.errors import BuildError, LoadError
from gristmill.flow import steps
from gristmill.flow.check import check
from gristmill.flow.status import status
from gristmill.loading.difference import undo

TOML = """
[tables.stores]
path = "stores.csv"
key = ["idx"]
columns = {{ idx = "integer", location = "text" }}

[tables.sales]
path = "sales/{{period:%Y-%m}}.csv"
period = {{ every = "month", column = "date"{} }}
columns = {{ store = "integer", date = "date", value = "integer" }}

[derived.monthly]
sql = "monthly.sql"
from = ["sales", "stores"]
period = "sales"
key = ["month"]

[derived.top]
sql = "top.sql"
from = ["monthly"]

[features]
entity = "stores.idx"
features = ["stores.location"]
"""
SELECTS = {
    "monthly": "SELECT min(date) AS month, sum(value)::bigint AS value, max(location) AS location "
    "FROM sales JOIN stores ON stores.idx = sales.store",
    "top": "SELECT max(value) AS value FROM monthly",
}


def put(shop, month, value=1):
    shop.put(f"sales/{month}.csv", f"store,date,value\n1,{month}-01,{value}\n")


@pytest.fixture
def shop(shop):
    """January, February, April and May of 2020: March is missing."""
    shop.declare(TOML.format(""), **SELECTS)
    shop.put("stores.csv", "idx,location\n1,Porto\n")
    for month in ("2020-01", "2020-02", "2020-04", "2020-05"):
        put(shop, month)
    return shop


class Lines:
    """A report that keeps what it was told."""

    def __init__(self):
        self.told = []

    def begin(self, what, total):
        pass

    def advance(self, amount):
        pass

    def done(self, line):
        self.told.append(line)


def told(shop, step=steps.load):
    """What a step tells; of what failed the message too."""
    lines = Lines()
    try:
        step(shop.context, lines)
    except (LoadError, BuildError) as error:
        return [*lines.told, str(error)]
    return lines.told


def states(shop):
    return {one.period: one.state for one in status(shop.context).periods if one.table == "sales"}


def built(shop):
    return [(one.name, one.period) for one in shop.build()]


EVERYTHING = [
    *(("monthly", month) for month in ("2020-01", "2020-02", "2020-04", "2020-05")),
    ("top", "all"),
]


def test_a_gap_is_named_wherever_one_looks(shop):
    missing = [one for one in check(shop.context) if one.level != "ok"]
    assert [one.subject for one in missing] == ["tables.sales.period.missing"]
    assert "2020-03" in missing[0].message

    assert "  sales: MISSING, so nothing is built of it: 2020-03" in told(shop)
    assert "  sales: MISSING, so nothing is built of it: 2020-03" in told(shop)  # nothing to load
    assert states(shop)["2020-03"] == "missing"


def test_nothing_is_built_past_a_gap_until_it_is_declared(shop):
    shop.load()
    with pytest.raises(
        BuildError,
        match=r"sales has no 2020-03 between 2020-01 and 2020-05(.|\n)*"
        r"tables\.sales\.period\.missing = \['2020-03'\](.|\n)*top was not built",
    ):
        shop.build()
    assert shop.rows("SELECT name FROM gristmill.builds") == [("feature_store",)]  # reads no sales

    shop.declare(TOML.format(', missing = ["2020-03"]'), **SELECTS)
    assert [one.level for one in check(shop.context)] == ["ok"] * 4
    assert shop.load() == []
    assert built(shop) == EVERYTHING
    assert "2020-03" not in states(shop)


def test_a_late_month_fills_the_gap_and_is_told(shop):
    shop.load()
    put(shop, "2020-03", 5)
    assert states(shop)["2020-03"] == "new"

    lines = told(shop)

    assert lines[1:] == ["sales: loaded 1 rows, 1 period", "  sales: came late: 2020-03"]
    assert ("monthly", "2020-03") in built(shop)
    put(shop, "2020-06")
    assert not [line for line in told(shop) if "late" in line]  # it is the next one


def test_a_rewritten_month_is_told_and_only_what_read_it_is_made_anew(shop):
    put(shop, "2020-03")
    shop.load()
    shop.build()
    put(shop, "2020-02", 7)
    assert states(shop)["2020-02"] == "changed"

    assert "  sales: rewritten: 2020-02" in told(shop)

    assert built(shop) == [("monthly", "2020-02"), ("top", "all")]
    assert shop.rows("SELECT value FROM top") == [(7,)]
    assert built(shop) == []


def test_a_month_loaded_again_unchanged_is_made_anew_alone(shop):
    put(shop, "2020-03")
    shop.load()
    shop.build()

    shop.load("sales", period="2020-04", again=True)

    assert built(shop) == [("monthly", "2020-04"), ("top", "all")]


def test_what_every_month_reads_makes_every_month_anew(shop):
    put(shop, "2020-03")
    shop.load()
    shop.build()
    shop.put("stores.csv", "idx,location\n1,Lisboa\n")
    shop.load()

    periods = [period for name, period in built(shop) if name == "monthly"]

    assert periods == ["2020-01", "2020-02", "2020-03", "2020-04", "2020-05"]
    assert shop.rows("SELECT DISTINCT location FROM monthly") == [("Lisboa",)]


def test_another_select_makes_every_month_anew_and_another_gap_rule_none(shop):
    put(shop, "2020-03")
    shop.load()
    shop.build()
    shop.declare(TOML.format(', missing = ["2021-01"]'), **SELECTS)
    assert (shop.load(), built(shop)) == ([], [])

    shop.declare(TOML.format(""), monthly=SELECTS["monthly"].replace("sum", "max"))

    assert len(built(shop)) == 5 + 1


def test_a_vanished_file_is_told_and_its_rows_stay(shop):
    put(shop, "2020-03")
    shop.load()
    shop.build()
    shop.remove("sales/2020-03.csv")

    assert "  sales: vanished from the bucket (its rows stay): 2020-03" in told(shop)

    assert states(shop)["2020-03"] == "vanished"
    assert shop.rows("SELECT count(*) FROM sales") == [(5,)]
    assert built(shop) == []


def test_an_undone_month_is_a_gap_or_the_end(shop):
    put(shop, "2020-03")
    shop.load()
    shop.build()
    table = shop.context.project.tables["sales"]

    undo(table, "2020-05", shop.warehouse)
    assert built(shop) == [("top", "all")]
    assert shop.rows("SELECT to_char(max(month), 'YYYY-MM') FROM monthly") == [("2020-04",)]
    assert states(shop)["2020-05"] == "undone"

    undo(table, "2020-02", shop.warehouse)
    with pytest.raises(BuildError, match="sales has no 2020-02"):
        shop.build()
    shop.load(again=True)
    assert {"2020-02", "2020-05"} <= {period for _, period in built(shop)}


def test_what_is_wrong_with_one_month_does_not_hide_the_rest(shop):
    put(shop, "2020-06", "many")

    lines = told(shop)

    assert lines[1:3] == [
        "sales: loaded 4 rows, 4 periods",
        "  sales: MISSING, so nothing is built of it: 2020-03",
    ]
    assert lines[3].startswith("sales/2020-06.csv was refused: 1 of 1 rows")
    assert states(shop)["2020-06"] == "refused"


def test_days_and_years_have_gaps_too(shop):
    shop.declare("""
    [tables.daily]
    path = "daily/{period:%Y/%m/%d}.csv"
    period = { every = "day", column = "day" }
    columns = { day = "date" }

    [tables.yearly]
    path = "yearly_{period:%Y}.csv"
    period = { every = "year" }
    columns = { n = "integer" }
    """)
    for day in ("2020-02-28", "2020-03-01"):
        shop.put(f"daily/{day.replace('-', '/')}.csv", f"day\n{day}\n")
    for year in ("2019", "2022"):
        shop.put(f"yearly_{year}.csv", "n\n1\n")

    assert [line for line in told(shop) if "MISSING" in line] == [
        "  daily: MISSING, so nothing is built of it: 2020-02-29",
        "  yearly: MISSING, so nothing is built of it: 2020, 2021",
    ]
