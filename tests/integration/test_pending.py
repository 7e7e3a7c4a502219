"""What waits to be loaded, built and trained: nothing is done before its time, or twice."""

import threading

import pytest

from gristmill.errors import LoadError, LoadRefused, ObjectNotFound
from gristmill.flow.pending import build_if_needed, pending, train_if_needed
from gristmill.loading.difference import undo

TOML = """
[tables.clients]
path = "clients.csv"
key = ["idx"]
columns = { idx = "integer", value = "integer" }

[tables.labels]
path = "labels.csv"
key = ["idx"]
columns = { idx = "integer", label = { type = "integer", in = [0, 1] } }

[tables.sales]
path = "sales/{period:%Y-%m}.csv"
period = { every = "month", column = "date" }
columns = { date = "date", value = "integer" }

[derived.monthly]
sql = "monthly.sql"
from = ["sales"]
period = "sales"

[features]
entity = "clients.idx"
features = ["clients.value"]
label = "labels.label"

[model]
candidates = ["logistic"]
"""


class Said:
    """A report that keeps what it is told."""

    def __init__(self):
        self.lines = []

    def begin(self, what, total):
        pass

    def advance(self, amount):
        pass

    def done(self, line):
        self.lines.append(line)


def put_labels(shop, above):
    rows = [f"{number},{int(number % 7 > above)}\n" for number in range(400)]
    shop.put("labels.csv", f"idx,label\n{''.join(rows)}")


def put_month(shop, month, value=1):
    shop.put(f"sales/{month}.csv", f"date,value\n{month}-01,{value}\n")


@pytest.fixture
def shop(shop):
    shop.declare(TOML, monthly="SELECT count(*) AS number FROM sales")
    shop.put("clients.csv", "idx,value\n" + "".join(f"{n},{n % 7}\n" for n in range(400)))
    put_labels(shop, above=3)
    for month in ("2020-01", "2020-02"):
        put_month(shop, month)
    return shop


@pytest.fixture
def train(shop):
    """Trains if needed; whether anything was done, and the first line said of it."""

    def call():
        said = Said()
        done = train_if_needed(shop.context, said)
        return done, said.lines[-1 if done else 0]

    return call


def waiting(shop):
    return [(one.table, one.period, one.refused) for one in pending(shop.context).files]


def versions(shop):
    return shop.rows("SELECT count(*) FROM gristmill.model_versions")[0][0]


def test_at_first_everything_waits_and_then_nothing(shop):
    assert waiting(shop) == [
        ("clients", "all", False), ("labels", "all", False),
        ("sales", "2020-01", False), ("sales", "2020-02", False),
    ]  # fmt: skip
    shop.load()
    found = pending(shop.context)
    assert (found.files, found.lacking, found.vanished) == ([], [], [])


def test_a_rewritten_file_waits_under_another_version(shop):
    before = {one.period: one.version for one in pending(shop.context).files}
    shop.load()
    put_month(shop, "2020-01", 5)
    (one,) = pending(shop.context).files
    assert (one.file, one.period) == ("sales/2020-01.csv", "2020-01")
    assert one.version != before["2020-01"]


def test_a_changed_contract_makes_its_files_wait_under_another_version(shop):
    before = {one.version for one in pending(shop.context).files}
    shop.load()
    shop.declare(TOML.replace('"date", value = "integer"', '"date", value = "integer?"'))
    found = pending(shop.context).files
    assert [one.period for one in found] == ["2020-01", "2020-02"]
    assert before.isdisjoint(one.version for one in found)


def test_a_vanished_file_is_told_and_does_not_wait(shop):
    shop.load()
    shop.remove("sales/2020-02.csv")
    found = pending(shop.context)
    assert (found.files, found.lacking) == ([], [])
    assert found.vanished == ["sales/2020-02.csv is gone, its rows stay"]


def test_a_month_between_others_is_lacking_by_the_name_of_its_file(shop):
    put_month(shop, "2020-04")
    assert pending(shop.context).lacking == ["sales/2020-03.csv is missing"]


def test_a_table_without_any_file_is_lacking(shop):
    shop.remove("labels.csv")
    assert pending(shop.context).lacking == ["labels.csv is missing"]


def test_a_refused_file_waits_no_longer_and_is_lacking_until_it_is_mended(shop):
    shop.load()
    shop.put("sales/2020-02.csv", "date,value\n2020-02-01,many\n")
    with pytest.raises(LoadRefused):
        shop.load()
    found = pending(shop.context)
    assert (found.files, found.lacking) == ([], ["sales/2020-02.csv was refused"])
    put_month(shop, "2020-02", 3)
    assert (waiting(shop), pending(shop.context).lacking) == ([("sales", "2020-02", False)], [])


def test_what_was_undone_does_not_wait(shop):
    shop.load()
    context = shop.context
    undo(context.project.tables["sales"], "2020-02", context.warehouse)
    assert waiting(shop) == []


def test_a_build_waits_for_loads_and_is_made_once(shop):
    said = Said()
    assert not build_if_needed(shop.context, said)
    assert said.lines == ["build: waits until clients.csv and 3 more are loaded"]
    shop.load()
    assert build_if_needed(shop.context, Said())
    assert not build_if_needed(shop.context, Said())
    put_month(shop, "2020-03")
    shop.load()
    assert build_if_needed(shop.context, Said())
    assert shop.rows("SELECT count(*) FROM public.monthly") == [(3,)]


def test_training_waits_until_the_data_is_whole_and_runs_once_for_each_change(shop, train):
    put_month(shop, "2020-04")
    assert train() == (False, "train: waits until clients.csv and 4 more are loaded")
    shop.load()
    waits = "train: waits, for the data is not whole: sales/2020-03.csv is missing"
    assert train() == (False, waits)
    put_month(shop, "2020-03")
    assert train() == (False, "train: waits until sales/2020-03.csv is loaded")
    shop.load()
    assert not train()[0]
    shop.build()
    assert train()[0]
    assert versions(shop) == 1
    assert train() == (False, train()[1])

    put_month(shop, "2020-05")
    shop.load()
    assert train() == (False, "train: waits for what is not built yet: monthly")
    shop.build()
    assert not train()[0], "what no feature is made of changes no training set"

    put_labels(shop, above=4)
    shop.load()
    assert train() == (False, "train: waits for what is not built yet: feature_store")
    shop.build()
    assert train()[0]
    assert versions(shop) == 2


def test_a_month_that_features_are_made_of_trains_anew(shop, train):
    toml = TOML.replace("columns = { date", 'columns = { idx = "integer", date')
    toml = toml.replace('period = "sales"', 'key = ["idx"]')
    toml = toml.replace('["clients.value"]', '["clients.value", "monthly.number"]')
    shop.declare(toml, monthly="SELECT idx, count(*) AS number FROM sales GROUP BY idx")
    shop.remove("sales/2020-02.csv")
    for month in ("2020-01", "2020-02", "2020-03"):
        shop.put(f"sales/{month}.csv", f"idx,date,value\n7,{month}-01,1\n")
        shop.load()
        shop.build()
        assert train()[0]
    assert versions(shop) == 3


def test_two_trainings_at_once_are_one(shop):
    shop.load()
    shop.build()
    done = []
    threads = [
        threading.Thread(target=lambda: done.append(train_if_needed(shop.context, Said())))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(done) == [False, True]
    assert versions(shop) == 1


def test_a_period_without_a_file_is_told_by_the_file_that_it_would_have(shop):
    with pytest.raises(LoadError, match=r"no file for 2021-05 \(sales/2021-05\.csv\)"):
        shop.load("sales", period="2021-05")
    shop.remove("clients.csv")
    with pytest.raises(ObjectNotFound, match=r"clients\.csv"):
        shop.load("clients")
