"""What changed between two loads, against a brute-force comparison; and going back."""

from collections import Counter
from datetime import date

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gristmill.errors import LoadError
from gristmill.loading.difference import EXAMPLES, Example, difference, undo

KEYED = """
[tables.clients]
path = "clients.csv"
key = ["idx"]
[tables.clients.columns]
idx = "integer"
name = "text?"
score = "number?"
"""
BAG = """
[tables.events]
path = "events.csv"
[tables.events.columns]
what = "text?"
day = "date?"
count = "integer?"
"""
SALES = """
[tables.sales]
path = "sales/{period:%Y-%m}.csv"
period = { every = "month", column = "date" }
columns = { date = "date", value = "number?" }
"""


def diff(shop, name, period=None):
    return difference(shop.context.project.tables[name], period, shop.warehouse)


def take_back(shop, name, period=None):
    return undo(shop.context.project.tables[name], period, shop.warehouse)


def load(shop, path, content):
    shop.put(path, content)
    return shop.load()


def marks(shop):
    return shop.rows("SELECT table_name, period, load FROM gristmill.current_loads ORDER BY 1, 2")


@pytest.fixture
def clients(shop):
    """One load of clients, and a second one that adds 5, removes 1 and changes 2 and 3."""
    shop.declare(KEYED)
    load(shop, "clients.csv", 'idx,name,score\n1,Ann,0.5\n2,Bob,1\n3,,2\n4,"",3\n')
    load(shop, "clients.csv", 'idx,name,score\n5,Eve,\n4,"",3.0\n3,"",2\n2,Rob,\n')
    return shop


def test_rows_of_the_same_key_are_added_removed_or_changed_column_by_column(clients):
    (found,) = diff(clients, "clients")

    assert (found.table, found.period, found.old, found.new) == ("clients", "all", 1, 2)
    assert (found.added, found.removed, found.changed) == (1, 1, 2)
    assert found.columns == {"name": 2, "score": 1}
    assert found.not_compared == ()
    assert found.examples == [
        Example(change="added", line=2, values={"idx": 5, "name": "Eve", "score": None}, old={}),
        Example(change="removed", line=2, values={"idx": 1, "name": "Ann", "score": 0.5}, old={}),
        Example(
            change="changed", line=4, values={"idx": 3, "name": "", "score": 2}, old={"name": None}
        ),
        Example(
            change="changed", line=5, values={"idx": 2, "name": "Rob", "score": None},
            old={"name": "Bob", "score": 1.0},
        ),
    ]  # fmt: skip


def test_the_same_rows_in_another_order_are_no_difference(shop):
    shop.declare(KEYED)
    load(shop, "clients.csv", "idx,name,score\n1,a,1\n2,b,2\n")
    load(shop, "clients.csv", "score,name,idx\n2.0,b,2\n1e0,a,1\n")

    (found,) = diff(shop, "clients")

    assert (found.added, found.removed, found.changed) == (0, 0, 0)
    assert (found.columns, found.examples) == ({}, [])


def test_of_many_rows_that_differ_the_first_of_each_kind_are_shown(shop):
    shop.declare(KEYED)
    load(shop, "clients.csv", "idx,name,score\n" + "".join(f"{n},a,1\n" for n in range(40)))
    load(shop, "clients.csv", "idx,name,score\n" + "".join(f"{n},b,1\n" for n in range(20, 60)))

    (found,) = diff(shop, "clients")

    assert (found.added, found.removed, found.changed) == (20, 20, 20)
    shown = [(one.change, one.line, one.values["idx"]) for one in found.examples]
    assert shown == [
        *(("added", 22 + n, 40 + n) for n in range(EXAMPLES)),
        *(("removed", 2 + n, n) for n in range(EXAMPLES)),
        *(("changed", 2 + n, 20 + n) for n in range(EXAMPLES)),
    ]


def test_columns_may_have_any_name(shop):
    shop.declare("""
    [tables.t]
    path = "t.csv"
    key = ["rate %"]
    [tables.t.columns]
    "rate %" = "integer"
    change = "text"
    "old change" = "text"
    added = "integer"
    line = "integer"
    _same = "integer"
    copy = "integer"
    aaaaaaaaaabbbbbbbbbbccccccccccddddddddddeeeeeeeeeeffffffffff123 = "integer"
    aaaaaaaaaabbbbbbbbbbccccccccccddddddddddeeeeeeeeeeffffffffff124 = "integer"
    """)
    long = "aaaaaaaaaabbbbbbbbbbccccccccccddddddddddeeeeeeeeeeffffffffff12"
    header = f"rate %,change,old change,added,line,_same,copy,{long}3,{long}4\n"
    load(shop, "t.csv", header + "1,a,b,1,2,3,4,5,6\n2,a,b,1,2,3,4,5,6\n")
    load(shop, "t.csv", header + "1,x,b,0,0,0,0,5,0\n3,a,b,1,2,3,4,5,6\n")

    (found,) = diff(shop, "t")

    assert (found.added, found.removed, found.changed) == (1, 1, 1)
    assert found.columns == dict.fromkeys(
        ["change", "added", "line", "_same", "copy", f"{long}4"], 1
    )
    assert found.examples[-1].old == {
        "change": "a", "added": 1, "line": 2, "_same": 3, "copy": 4, f"{long}4": 6,
    }  # fmt: skip


WORDS = st.sampled_from(["", "a", "b", "(,)", '"', "a,b", "null", " "])
ROWS = st.lists(
    st.tuples(
        st.none() | WORDS,
        st.none() | st.sampled_from([date(2020, 1, 31), date(1999, 12, 1)]),
        st.none() | st.integers(-2, 2),
    ),
    min_size=1,
    max_size=12,
)


def as_csv(rows):
    """A null is an empty field and an empty text a quoted one, which csv.writer does not tell."""
    lines = ["what,day,count"]
    for what, day, count in rows:
        text = "" if what is None else '"' + what.replace('"', '""') + '"'
        lines.append(f"{text},{day or ''},{'' if count is None else count}")
    return "\n".join(lines) + "\n"


@pytest.fixture
def events(shop):
    """A table without a key that is loaded once, and what was loaded last."""
    shop.declare(BAG)
    load(shop, "events.csv", as_csv([(None, None, 1)]))
    return shop, [(None, None, 1)]


@settings(max_examples=20, suppress_health_check=list(HealthCheck))
@given(new=ROWS)
def test_without_a_key_rows_differ_as_often_as_they_occur(events, new):
    shop, old = events
    load(shop, "events.csv", as_csv(new))
    added, removed = Counter(new) - Counter(old), Counter(old) - Counter(new)

    (found,) = diff(shop, "events")

    assert (found.added, found.removed, found.changed) == (added.total(), removed.total(), 0)
    shown = {
        change: Counter(
            tuple(one.values.values()) for one in found.examples if one.change == change
        )
        for change in ("added", "removed")
    }
    for change, expected in (("added", added), ("removed", removed)):
        assert shown[change] <= expected
        assert shown[change].total() == min(EXAMPLES, expected.total())
    old[:] = new


def test_across_a_changed_contract_what_both_have_is_compared(shop):
    shop.declare(KEYED)
    load(shop, "clients.csv", "idx,name,score,city\n1,Ann,1,Faro\n2,Bob,2,Faro\n")
    shop.declare("""
    [tables.clients]
    path = "clients.csv"
    key = ["idx"]
    columns = { idx = "integer", city = "text", name = "text?", score = "integer" }
    """)
    load(shop, "clients.csv", "idx,name,score,city\n1,Anna,1,Faro\n2,Bob,7,Faro\n")

    (found,) = diff(shop, "clients")

    assert (found.added, found.removed, found.changed) == (0, 0, 1)
    assert found.columns == {"name": 1}
    assert found.not_compared == ("city", "score")


def test_a_key_that_the_old_load_did_not_keep_is_compared_row_by_row(shop):
    shop.declare(KEYED.replace('["idx"]', '["idx", "name"]').replace('"text?"', '"text"'))
    load(shop, "clients.csv", "idx,name,score\n1,a,1\n1,b,1\n2,a,1\n")
    shop.declare(KEYED.replace('"text?"', '"text"'))
    load(shop, "clients.csv", "idx,name,score\n1,a,1\n2,c,1\n")

    (found,) = diff(shop, "clients")

    assert (found.added, found.removed, found.changed) == (0, 1, 1)
    assert found.examples[0].values == {"idx": 1, "name": "b", "score": 1.0}


def test_without_any_column_in_common_only_the_number_of_rows_differs(shop):
    shop.declare('[tables.t]\npath = "t.csv"\ncolumns = { a = "integer" }')
    load(shop, "t.csv", "a,b\n1,1\n2,2\n")
    shop.declare('[tables.t]\npath = "t.csv"\ncolumns = { b = "integer" }')
    load(shop, "t.csv", "a,b\n1,1\n2,2\n3,3\n")

    (found,) = diff(shop, "t")

    assert (found.added, found.removed, found.changed) == (1, 0, 0)
    assert found.not_compared == ("b", "a")


def test_periods_are_compared_each_with_its_own_load_before(shop):
    shop.declare(SALES)
    for month in ("2020-01", "2020-02", "2020-03"):
        shop.put(f"sales/{month}.csv", f"date,value\n{month}-01,1\n{month}-02,2\n")
    shop.load()
    assert diff(shop, "sales") == []

    load(shop, "sales/2020-02.csv", "date,value\n2020-02-01,1\n2020-02-02,2.5\n2020-02-03,\n")
    (found,) = diff(shop, "sales")

    assert (found.period, found.added, found.removed) == ("2020-02", 2, 1)
    assert diff(shop, "sales", "2020-02-17") == [found]
    with pytest.raises(LoadError, match="load 1 is the first of 2020-01"):
        diff(shop, "sales", "2020-01")
    with pytest.raises(LoadError, match="nothing is loaded for 2019-12"):
        diff(shop, "sales", "2019-12")
    for wrong in ("2020-13", "January", ""):
        with pytest.raises(LoadError, match="is not a month such as 2020-01"):
            diff(shop, "sales", wrong)


def test_it_names_the_builds_and_model_versions_made_of_the_old_load(clients):
    shop = clients
    shop.declare(
        KEYED + '[derived.names]\nsql = "names.sql"\nfrom = ["clients"]\n'
        '[derived.initials]\nsql = "initials.sql"\nfrom = ["names"]\n',
        names="SELECT name FROM clients",
        initials="SELECT left(name, 1) AS initial FROM names",
    )
    shop.build()
    load(shop, "clients.csv", "idx,name,score\n1,Ann,1\n")
    version_of(shop, build=2)

    (found,) = diff(shop, "clients")

    assert found.used_by == [
        {"build": 1, "name": "names", "period": "all", "version": None},
        {"build": 2, "name": "initials", "period": "all", "version": "7"},
    ]
    shop.build()
    load(shop, "clients.csv", "idx,name,score\n1,Ann,2\n")
    assert [one["build"] for one in diff(shop, "clients")[0].used_by] == [3, 4]


def version_of(shop, *, build, version="7"):
    """A model version on record that was trained from a build."""
    shop.rows(
        "INSERT INTO gristmill.model_versions (version, candidate, verdict, reasons, no_signal, "
        "evaluation, build, lineage, run_id, bundle, code_version, seed) VALUES "
        "(%s, 'logistic', 'promote', '[\"good\"]', false, '{}', %s, '{}', 'run', 'bundle', '1', 0)"
        " RETURNING version",
        version,
        build,
    )


def test_undo_shows_the_load_before_until_the_file_changes_or_is_asked_for(clients):
    assert take_back(clients, "clients") == (2, 1)

    assert clients.rows("SELECT idx FROM clients ORDER BY 1") == [(1,), (2,), (3,), (4,)]
    assert clients.load() == []
    assert clients.rows("SELECT count(*) FROM clients") == [(4,)]

    (again,) = clients.load(again=True)
    assert (again.load, again.rows) == (3, 4)
    assert clients.rows("SELECT min(idx) FROM clients") == [(2,)]
    assert take_back(clients, "clients") == (3, 1)

    (changed,) = load(clients, "clients.csv", "idx,name,score\n9,Zoe,1\n")
    assert changed.load == 4
    (found,) = diff(clients, "clients")
    assert (found.old, found.added, found.removed) == (1, 1, 4)


def test_a_file_asked_for_again_is_one_like_any_other(clients):
    take_back(clients, "clients")
    clients.load(again=True)

    clients.declare(KEYED.replace('"number?"', '{ type = "number?", max = 100 }'))
    assert [one.load for one in clients.load()] == [4]
    clients.declare(KEYED)
    assert [one.load for one in clients.load()] == [5]


def test_undo_goes_back_step_by_step_to_nothing(clients):
    assert take_back(clients, "clients") == (2, 1)
    assert take_back(clients, "clients") == (1, None)

    assert clients.rows("SELECT count(*) FROM clients") == [(0,)]
    assert clients.load() == []
    with pytest.raises(LoadError, match="clients: nothing is loaded"):
        take_back(clients, "clients")
    with pytest.raises(LoadError, match="clients: nothing is loaded"):
        diff(clients, "clients")
    assert [one.load for one in clients.load(again=True)] == [3]


def test_undo_goes_back_no_further_than_what_is_kept(clients):
    load(clients, "clients.csv", "idx,name,score\n9,Zoe,1\n")
    assert take_back(clients, "clients") == (3, 2)
    before = clients.rows("SELECT * FROM gristmill.loads ORDER BY load"), marks(clients)

    with pytest.raises(LoadError, match="load 1, which load 2 of all replaced, is no longer kept"):
        take_back(clients, "clients")
    assert diff(clients, "clients") == []
    assert before == (clients.rows("SELECT * FROM gristmill.loads ORDER BY load"), marks(clients))
    assert clients.rows("SELECT count(*) FROM clients") == [(4,)]


def test_undo_of_a_period_is_that_of_no_other(shop):
    shop.declare(SALES)
    for month in ("2020-01", "2020-02"):
        shop.put(f"sales/{month}.csv", f"date,value\n{month}-01,1\n")
    shop.load()
    load(shop, "sales/2020-02.csv", "date,value\n2020-02-01,5\n")
    before = marks(shop)

    for wrong, message in (
        (None, "sales has many periods: name one"),
        ("2020-03", "nothing is loaded for 2020-03"),
        ("soon", "'soon' is not a month such as 2020-01"),
    ):
        with pytest.raises(LoadError, match=message):
            take_back(shop, "sales", wrong)
        assert marks(shop) == before

    assert take_back(shop, "sales", "2020-02") == (3, 2)
    assert shop.rows("SELECT date::text, value FROM sales ORDER BY 1") == [
        ("2020-01-01", 1), ("2020-02-01", 1),
    ]  # fmt: skip
    assert take_back(shop, "sales", "2020-01") == (1, None)
    assert marks(shop) == [("sales", "2020-02", 2)]


def test_a_table_without_periods_knows_none(clients):
    with pytest.raises(LoadError, match="clients has no periods"):
        take_back(clients, "clients", "2020-01")
    with pytest.raises(LoadError, match="clients has no periods"):
        diff(clients, "clients", "2020-01")


@pytest.mark.parametrize("now", ['"text"', '"integer?"'])
def test_undo_across_a_changed_contract_is_refused(shop, now):
    declared = '[tables.t]\npath = "t.csv"\ncolumns = {{ idx = "integer", other = {} }}'
    shop.declare(declared.format('"integer"'))
    load(shop, "t.csv", "idx,other\n1,1\n")
    shop.declare(declared.format(now))
    load(shop, "t.csv", "idx,other\n1,1\n")
    rows, before = shop.rows("SELECT * FROM t"), marks(shop)

    with pytest.raises(LoadError, match="load 1 of all has other columns than the contract now"):
        take_back(shop, "t")

    assert (shop.rows("SELECT * FROM t"), marks(shop)) == (rows, before)
    assert shop.rows("SELECT count(*) FROM gristmill.loads WHERE undone_at IS NOT NULL") == [(0,)]


def test_undo_across_a_changed_rule_is_as_any_other(clients):
    clients.declare(KEYED.replace('"number?"', '{ type = "number?", max = 100 }'))
    clients.load()

    assert take_back(clients, "clients") == (3, 2)
    assert [one.load for one in clients.load()] == []


def test_what_was_made_of_an_undone_load_is_made_anew(clients):
    clients.declare(
        KEYED + '[derived.total]\nsql = "total.sql"\nfrom = ["clients"]\n',
        total="SELECT sum(score) AS total FROM clients",
    )
    clients.build()
    assert clients.rows("SELECT total FROM total") == [(5,)]

    take_back(clients, "clients")
    clients.build()

    assert clients.rows("SELECT total FROM total") == [(6.5,)]
    assert clients.build() == []


def test_a_rate_in_percent_is_a_key_like_any_other(shop):
    shop.declare("""
    [tables.rates]
    path = "rates.csv"
    key = ["rate %", "valid from"]
    valid = ["valid from", "valid %s"]
    max_rejects = 0.5
    columns = { "rate %" = "integer", "valid from" = "date", "valid %s" = "date?" }
    """)
    (loaded,) = load(
        shop, "rates.csv",
        "rate %,valid from,valid %s\n1,2020-01-01,\n1,2020-01-01,\n1,2020-02-01,\n2,2020-01-01,\n",
    )  # fmt: skip

    assert (loaded.rows, loaded.rejected) == (2, 2)
