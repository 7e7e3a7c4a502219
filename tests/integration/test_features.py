"""Builds, the feature store and the training set beside independent computations."""

from collections import defaultdict
from datetime import UTC, date, datetime

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gristmill.errors import BuildError, EntityNotFound
from gristmill.features import read
from gristmill.loading.ledger import current_loads

SHOP = """
[tables.stores]
path = "stores.csv"
key = ["idx"]
columns = { idx = "integer", location = "text" }

[tables.sales]
path = "sales/{period:%Y-%m}.csv"
period = { every = "month", column = "date" }
columns = { store = "integer", date = "date", value = "decimal(10,2)" }

[derived.monthly_sales]
sql = "monthly_sales.sql"
from = ["sales", "stores"]
period = "sales"
key = ["store", "month"]

[derived.totals]
sql = "totals.sql"
from = ["monthly_sales"]
"""
MONTHLY = """
SELECT store, location, date_trunc('month', date::timestamp)::date AS month, sum(value) AS value
FROM sales LEFT JOIN stores ON idx = store
GROUP BY 1, 2, 3 -- {a comment with 100% of what could hurt};
"""
TOTALS = "SELECT location, sum(value) AS value FROM monthly_sales GROUP BY location;"
ROWS = [
    (store, f"2020-{month:02}-{day:02}", f"{store * month * day}.{day}5")
    for month in (1, 2, 3)
    for day in (1, 2, 9)
    for store in (1, 2, 3)
    if (month, store) != (2, 3)
]


def month_file(rows, month):
    lines = [f"{store},{day},{value}" for store, day, value in rows if day.startswith(month)]
    return "\n".join(["store,date,value", *lines]) + "\n"


@pytest.fixture
def retailer(shop):
    shop.declare(SHOP, monthly_sales=MONTHLY, totals=TOTALS)
    shop.put("stores.csv", "idx,location\n1,Porto\n2,Faro\n3,Porto\n")
    for month in ("2020-01", "2020-02", "2020-03"):
        shop.put(f"sales/{month}.csv", month_file(ROWS, month))
    shop.load()
    shop.build()
    return shop


def expected_monthly(rows):
    cents = defaultdict(int)
    for store, day, value in rows:
        cents[store, f"{day[:7]}-01"] += int(value.replace(".", ""))
    return sorted(
        (store, {1: "Porto", 2: "Faro", 3: "Porto"}[store], month, value / 100)
        for (store, month), value in cents.items()
    )


def monthly(shop):
    return shop.rows(
        "SELECT store, location, month::text, value::double precision FROM monthly_sales "
        "ORDER BY 1, 3"
    )


def current(shop, name):
    return dict(
        shop.rows("SELECT period, build FROM gristmill.current_builds WHERE name = %s", name)
    )


def test_monthly_sales_are_what_plain_python_adds_up(retailer):
    assert monthly(retailer) == expected_monthly(ROWS)


def test_a_derived_table_reads_another(retailer):
    by_location = defaultdict(float)
    for _, location, _, value in expected_monthly(ROWS):
        by_location[location] += value

    found = dict(retailer.rows("SELECT location, value::double precision FROM totals"))

    assert found == pytest.approx(by_location)


def test_what_is_unchanged_is_not_built_again(retailer):
    assert retailer.build() == []


def test_a_changed_month_makes_that_month_stale_and_no_other(retailer):
    before, totals = current(retailer, "monthly_sales"), current(retailer, "totals")
    changed = [*ROWS, (3, "2020-02-10", "5.00")]
    retailer.put("sales/2020-02.csv", month_file(changed, "2020-02"))
    retailer.load()

    built = retailer.build()

    assert [(one.name, one.period) for one in built] == [
        ("monthly_sales", "2020-02"),
        ("totals", "all"),
    ]
    after = current(retailer, "monthly_sales")
    assert {period for period in before if before[period] != after[period]} == {"2020-02"}
    assert totals != current(retailer, "totals")
    assert monthly(retailer) == expected_monthly(changed)


def test_a_changed_table_without_periods_makes_all_periods_stale(retailer):
    retailer.put("stores.csv", "idx,location\n1,Braga\n2,Faro\n3,Porto\n")
    retailer.load()

    assert [one.period for one in retailer.build("monthly_sales")] == [
        "2020-01",
        "2020-02",
        "2020-03",
    ]
    assert "Braga" in {location for _, location, _, _ in monthly(retailer)}


def test_a_changed_select_builds_all_periods_in_one_transaction(retailer):
    doubled = MONTHLY.replace("sum(value)", "sum(value) * 2")
    retailer.declare(SHOP, monthly_sales=doubled, totals=TOTALS)

    retailer.build("monthly_sales")

    assert monthly(retailer) == [(*row[:3], 2 * row[3]) for row in expected_monthly(ROWS)]
    moments = retailer.rows(
        "SELECT DISTINCT built_at FROM gristmill.current_builds JOIN gristmill.builds "
        "USING (build) WHERE builds.name = 'monthly_sales'"
    )
    assert len(moments) == 1, "now() is the transaction's"


def test_a_select_that_fails_for_one_period_leaves_all_as_they_were(retailer):
    before = monthly(retailer)
    broken = MONTHLY.replace("sum(value)", "sum(value / (date - '2020-03-09'::date))")
    retailer.declare(SHOP, monthly_sales=broken, totals=TOTALS)

    with pytest.raises(
        BuildError, match="The SELECT of monthly_sales failed for 2020-03: division"
    ):
        retailer.build()
    assert monthly(retailer) == before


def test_changed_columns_of_a_source_are_built_for_all_periods_at_once(retailer):
    retailer.declare(SHOP.replace("decimal(10,2)", "number"), monthly_sales=MONTHLY, totals=TOTALS)
    retailer.load()

    retailer.build("monthly_sales")

    assert [row[:3] for row in monthly(retailer)] == [row[:3] for row in expected_monthly(ROWS)]
    moments = retailer.rows(
        "SELECT DISTINCT built_at FROM gristmill.current_builds JOIN gristmill.builds "
        "USING (build) WHERE builds.name = 'monthly_sales'"
    )
    assert len(moments) == 1, "no reader saw some months and not the others"


def test_a_period_that_is_no_longer_loaded_is_no_longer_shown(retailer):
    with retailer.warehouse.transaction() as transaction:
        transaction.execute("DELETE FROM gristmill.current_loads WHERE period = '2020-03'")
        assert "2020-03" not in current_loads(transaction, retailer.context.project.tables["sales"])

    assert [one.name for one in retailer.build()] == ["totals"]
    assert monthly(retailer) == expected_monthly([row for row in ROWS if "-03-" not in row[1]])


@pytest.mark.parametrize(
    ("select", "message"),
    [
        ("SELECT * FROM labels", 'relation "labels" does not exist'),
        ("SELECT * FROM stores; DROP TABLE raw.stores", "cannot insert multiple commands|syntax"),
        ("SELECT 1 AS a) AS x; DELETE FROM raw.stores; SELECT (SELECT 1 AS b", "multiple|syntax"),
        ("DELETE FROM stores RETURNING *", "syntax error|cannot"),
        ("DROP TABLE raw.stores", "syntax error"),
        ("SELECT sum(value) AS a, sum(value) AS a FROM sales", "specified more than once"),
        ("SELECT store, 1 AS month FROM sales", "do not keep its key"),
        ("SELECT store FROM sales", "gives no column 'month'"),
        ("", "syntax error"),
    ],
)
def test_a_select_that_cannot_be_is_a_clear_error_and_changes_nothing(retailer, select, message):
    before = monthly(retailer)
    retailer.declare(SHOP, monthly_sales=select, totals=TOTALS)

    with pytest.raises(BuildError, match=f"monthly_sales.*({message})"):
        retailer.build("monthly_sales")
    assert monthly(retailer) == before
    assert retailer.rows("SELECT count(*) FROM raw.stores") == [(3,)]


CLIENTS = """
[tables.clients]
path = "clients.csv"
key = ["idx"]
columns = { idx = "integer", attr = "text?" }

[tables.activity]
path = "activity.csv"
key = ["client", "since"]
valid = ["since"]
references = { client = "clients.idx" }
columns = { client = "integer", since = "date", score = "decimal(6,2)?", "rate %" = "integer?" }

[tables.labels]
path = "labels.csv"
key = ["client"]
references = { client = "clients.idx" }
max_rejects = 0.9
columns = { client = "integer", label = "integer?", seen = "date" }

[features]
entity = "clients.idx"
features = ["clients.attr", "activity.score", "activity.rate %"]
label = "labels.label"
as_of = "labels.seen"
"""
NAMES = 'idx, attr, score::double precision, "rate %", label'


def fill(shop, clients, activity, labels):
    def lines(header, rows):
        texts = [",".join("" if value is None else str(value) for value in row) for row in rows]
        return "\n".join([header, *texts]) + "\n"

    shop.put("clients.csv", lines("idx,attr", clients))
    shop.put("activity.csv", lines("client,since,score,rate %", activity))
    shop.put("labels.csv", lines("client,label,seen", labels))


@pytest.fixture
def clients(shop):
    """Hand-worked histories; now is noon of 2020-06-15."""
    shop.declare(CLIENTS)
    shop.moment = datetime(2020, 6, 15, 12, tzinfo=UTC)
    fill(
        shop,
        [(1, "a"), (2, "b"), (3, None), (4, "d"), (5, "e")],
        [
            (1, "2020-01-01", 1.5, 10),
            (1, "2020-03-01", 2.5, 20),
            (1, "2020-06-15", 3.5, 30),
            (1, "2020-06-16", 4.5, 40),
            (2, "2020-07-01", 9, 9),
            (3, "2020-02-01", 5.25, None),
            (3, "2020-05-01", None, 7),
            (5, "2019-01-01", 8, 8),
        ],
        [
            (1, 1, "2020-03-01"),
            (2, 0, "2020-02-01"),
            (3, 1, "2020-04-30"),
            (5, None, "2020-05-01"),
        ],
    )
    shop.load()
    shop.build()
    return shop


def test_the_feature_store_has_the_row_that_counts_now_for_everyone(clients):
    assert clients.rows(f"SELECT {NAMES} FROM feature_store ORDER BY idx") == [
        (1, "a", 3.5, 30, 1),  # since today's midnight; tomorrow's row is not valid yet
        (2, "b", None, None, 0),  # known only from July on
        (3, None, None, 7, 1),  # the latest row counts whole, its null too
        (4, "d", None, None, None),  # neither activity nor label
        (5, "e", 8.0, 8, None),
    ]


def test_the_training_set_has_what_was_known_when_the_label_was(clients):
    assert clients.rows(f"SELECT {NAMES}, as_of::text FROM training_set ORDER BY idx") == [
        (1, "a", 2.5, 20, 1, "2020-03-01"),  # a row that begins at that very moment counts
        (2, "b", None, None, 0, "2020-02-01"),  # before its first row
        (3, None, 5.25, None, 1, "2020-04-30"),  # the day before the next one
    ]


def test_both_ways_out_read_the_same_types(clients):
    features = clients.context.project.features
    trained = read.training_set(features, clients.warehouse)
    one = read.latest(features, clients.warehouse, 1)
    with clients.warehouse.transaction() as transaction:
        build = read.feature_store_build(features, transaction).build
        batches = list(read.latest_batches(features, transaction, build, size=2))

    assert [(feature.name, feature.type) for feature in trained.features] == [
        ("attr", "text"), ("score", "number"), ("rate %", "integer"),
    ]  # fmt: skip
    assert trained.table.select(["idx", "attr", "score", "rate %", "label"]).to_pylist() == [
        {"idx": 1, "attr": "a", "score": 2.5, "rate %": 20, "label": 1},
        {"idx": 2, "attr": "b", "score": None, "rate %": None, "label": 0},
        {"idx": 3, "attr": None, "score": 5.25, "rate %": None, "label": 1},
    ]
    assert trained.table["as_of"].to_pylist() == [
        date(2020, 3, 1), date(2020, 2, 1), date(2020, 4, 30),
    ]  # fmt: skip
    assert [batch.keys.to_pylist() for batch in batches] == [["1", "2"], ["3", "4"], ["5"]]
    assert batches[0].features.to_pylist()[0] == one.features
    assert {type(value) for value in one.features.values()} == {str, float, int}
    assert one.as_of == clients.moment


def test_an_entity_that_is_not_there_is_an_error_that_says_as_of_when(clients):
    with pytest.raises(EntityNotFound, match=r"no idx 99\. .* as of 2020-06-15 12:00 UTC"):
        read.latest(clients.context.project.features, clients.warehouse, 99)


def test_time_alone_makes_the_feature_store_stale(clients):
    clients.moment = datetime(2020, 6, 15, 23, 59, tzinfo=UTC)
    assert clients.build() == []

    clients.moment = datetime(2020, 6, 16, tzinfo=UTC)
    assert [one.name for one in clients.build()] == ["feature_store"]

    assert clients.rows('SELECT "rate %" FROM feature_store WHERE idx = 1') == [(40,)]
    assert clients.build() == []


def test_without_a_moment_of_its_own_a_label_has_the_feature_stores(clients):
    clients.declare(CLIENTS.replace('as_of = "labels.seen"', ""))

    clients.build()

    assert clients.rows(f"SELECT {NAMES} FROM training_set ORDER BY idx") == clients.rows(
        f"SELECT {NAMES} FROM feature_store WHERE label IS NOT NULL ORDER BY idx"
    )


def test_a_training_set_without_a_row_can_be_read(clients):
    clients.put("labels.csv", "client,label,seen\n1,,2020-01-01\n")
    clients.load()
    clients.build()

    found = read.training_set(clients.context.project.features, clients.warehouse)

    assert found.table.num_rows == 0
    assert found.table.column_names == ["idx", "attr", "score", "rate %", "label", "as_of"]


def test_a_derived_history_feeds_features(clients):
    toml = CLIENTS.replace('"activity.score"', '"best.top"').replace(
        "[features]",
        '[derived.best]\nsql = "best.sql"\nfrom = ["activity"]\nkey = ["idx", "day"]\n'
        'valid = ["day"]\n[features]',
    )
    clients.declare(
        toml,
        best="SELECT client AS idx, since AS day, "
        "max(score) OVER (PARTITION BY client ORDER BY since) AS top FROM activity",
    )

    clients.build()

    assert clients.rows("SELECT idx, top::double precision FROM training_set ORDER BY 1") == [
        (1, 2.5), (2, None), (3, 5.25),
    ]  # fmt: skip
    assert clients.rows("SELECT idx, top::double precision FROM feature_store ORDER BY 1") == [
        (1, 3.5), (2, None), (3, 5.25), (4, None), (5, 8.0),
    ]  # fmt: skip


def test_building_before_loading_says_what_to_do(shop):
    shop.declare(CLIENTS)

    with pytest.raises(
        BuildError, match=r"clients was never loaded\. Run `gristmill load clients`"
    ):
        shop.build()


days = st.dates(date(2020, 1, 1), date(2020, 1, 12))


@given(
    activity=st.dictionaries(st.tuples(st.integers(1, 4), days), st.integers(0, 9), max_size=14),
    labels=st.dictionaries(
        st.integers(1, 4), st.tuples(st.sampled_from([0, 1, None]), days), min_size=1
    ),
    now=days,
)
@settings(max_examples=12, suppress_health_check=list(HealthCheck))
def test_no_feature_is_of_another_time_than_a_plain_search_finds(shop, activity, labels, now):
    shop.declare(CLIENTS)
    shop.moment = datetime(now.year, now.month, now.day, tzinfo=UTC)
    fill(
        shop,
        [(idx, "x") for idx in range(1, 5)],
        [(idx, day, value, value) for (idx, day), value in activity.items()] or [(4, now, 0, 0)],
        [(idx, label, day) for idx, (label, day) in labels.items()],
    )
    activity = activity or {(4, now): 0}
    shop.load()
    shop.build()

    def valid(idx, moment):
        known = [(day, value) for (who, day), value in activity.items() if who == idx]
        return max((one for one in known if one[0] <= moment), default=(None, None))[1]

    assert shop.rows('SELECT idx, "rate %", label FROM feature_store ORDER BY 1') == [
        (idx, valid(idx, now), labels.get(idx, (None,))[0]) for idx in range(1, 5)
    ]
    assert shop.rows('SELECT idx, "rate %", label, as_of FROM training_set ORDER BY 1') == [
        (idx, valid(idx, day), label, day)
        for idx, (label, day) in sorted(labels.items())
        if label is not None
    ]
