"""The project file: read into exactly what it says, and every mistake told with its key."""

import shutil
import textwrap
from pathlib import Path

import pytest

from gristmill.errors import ProjectError
from gristmill.project.features import ColumnReference, Features
from gristmill.project.model import Gate, Model
from gristmill.project.project import Database, User, Workflow
from gristmill.project.read import read_project
from gristmill.project.serving import Serving
from gristmill.project.table import Column, Dialect, Period, Reference, Table

EXAMPLES = Path(__file__).parents[3] / "examples"

BASE = """
[project]
name = "clients"
source = "data"

[tables.clients]
path = "clients.csv"
key = ["idx"]
columns = { idx = "integer", attr = "text", grown = "date?" }

[tables.activity]
path = "activity.csv"
key = ["idx", "since"]
valid = ["since", "until"]
columns = { idx = "integer", since = "date", until = "date?", score = "number" }

[tables.labels]
path = "labels.csv"
key = ["idx"]
columns = { idx = "integer", label = "integer", seen = "date" }

[tables.sales]
path = "sales/{period:%Y-%m}.csv"
period = { every = "month", column = "day" }
columns = { idx = "integer", day = "date", value = "number" }

[derived.totals]
sql = "totals.sql"
from = ["sales", "clients"]
period = "sales"

[features]
entity = "clients.idx"
features = ["clients.attr", "activity.score"]
label = "labels.label"

[model]
"""


@pytest.fixture
def write(tmp_path):
    """Writes a project file with one place changed; its path."""

    def written(old="", new="", *, base=BASE):
        assert old in base, "the test changes what is not there"
        (tmp_path / "totals.sql").write_text("SELECT 1 AS one;\n")
        path = tmp_path / "gristmill.toml"
        path.write_text(base.replace(old, new, 1) if old else base + new)
        return path

    return written


def problems_of(path):
    with pytest.raises(ProjectError) as raised:
        read_project(path)
    return str(raised.value)


def test_the_example_of_the_design_is_read_as_it_stands():
    project = read_project(EXAMPLES / "clients")

    assert (project.name, project.source) == ("clients", "s3://daredata-technical-challenge-data")
    assert project.root == EXAMPLES / "clients"
    assert dict(project.tables) == {
        "customer_profiles": Table(
            name="customer_profiles",
            path="customer_profiles.csv",
            key=("idx",),
            columns=(
                Column(name="idx", type="integer"),
                Column(name="attr_a", type="integer"),
                Column(name="attr_b", type="text"),
            ),
        ),
        "customer_activity": Table(
            name="customer_activity",
            path="customer_activity.csv",
            key=("idx", "valid_from"),
            valid=("valid_from", "valid_to"),
            columns=(
                Column(name="idx", type="integer"),
                Column(name="valid_from", type="date"),
                Column(name="valid_to", type="date", nullable=True),
                Column(name="scd_a", type="number"),
                Column(name="scd_b", type="integer"),
            ),
        ),
        "labels": Table(
            name="labels",
            path="labels.csv",
            key=("idx",),
            columns=(
                Column(name="idx", type="integer"),
                Column(name="label", type="integer", allowed=(0, 1)),
            ),
        ),
        "stores": Table(
            name="stores",
            path="stores.csv",
            key=("idx",),
            columns=(Column(name="idx", type="integer"), Column(name="location", type="text")),
        ),
        "sales": Table(
            name="sales",
            path="sales/{period:%Y-%m-%d}/sales.csv",
            period=Period(every="month", column="date"),
            references=(Reference(column="store_idx", table="stores", to_column="idx"),),
            columns=(
                Column(name="store_idx", type="integer"),
                Column(name="date", type="date"),
                Column(name="value", type="number"),
            ),
        ),
    }
    assert {
        name: (one.sources, one.period, one.key, one.valid, one.file)
        for name, one in project.derived.items()
    } == {
        "monthly_sales": (
            ("sales", "stores"),
            "sales",
            ("store_idx", "sale_month"),
            (),
            "sql/monthly_sales.sql",
        ),
        "customer_activity_ranked": (
            ("customer_activity",),
            None,
            (),
            (),
            "sql/customer_activity_ranked.sql",
        ),
        "sales_statistics": (("sales",), None, (), (), "sql/sales_statistics.sql"),
    }
    assert "GROUP BY" in project.derived["monthly_sales"].sql
    assert project.features == Features(
        table="feature_store",
        entity=ColumnReference(table="customer_profiles", column="idx"),
        features=(
            ColumnReference(table="customer_profiles", column="attr_a"),
            ColumnReference(table="customer_profiles", column="attr_b"),
            ColumnReference(table="customer_activity", column="scd_a"),
            ColumnReference(table="customer_activity", column="scd_b"),
        ),
        label=ColumnReference(table="labels", column="label"),
    )
    assert project.model == Model(
        candidates=("logistic", "gradient_boosting"),
        metric="roc_auc",
        holdout=0.2,
        gate=Gate(no_signal="refuse"),
    )
    assert project.database == Database(
        name="companydata",
        owner="admin",
        users=(
            User(name="ds_user", role="ds_user_role", may="read"),
            User(name="mle_user", role="mle_user_role", may="write"),
            User(name="analyst", may="write"),
        ),
    )
    assert dict(project.workflows) == {
        "load_client_data": Workflow(
            name="load_client_data",
            steps=("load",),
            tables=("customer_profiles", "customer_activity", "labels"),
            schedule="@daily",
        ),
        "load_sales_data": Workflow(
            name="load_sales_data",
            steps=("load",),
            tables=("stores", "sales"),
            schedule="@monthly",
        ),
        "process_data": Workflow(
            name="process_data", steps=("build",), after=("load_client_data", "load_sales_data")
        ),
        "train_model": Workflow(name="train_model", steps=("train",), after=("process_data",)),
        "sales_statistics": Workflow(name="sales_statistics", steps=("show sales_statistics",)),
    }


def test_the_source_can_be_overridden(write):
    assert read_project(write(), source="s3://other").source == "s3://other"


def test_what_is_not_said_has_the_defaults_of_the_design(write):
    project = read_project(write())

    assert project.database == Database(name="clients", owner="gristmill")
    assert project.tables["clients"].dialect == Dialect(
        delimiter=",", encoding="utf-8", nulls=(), decimal="."
    )
    assert project.tables["clients"].max_rejects == 0.01
    assert project.features is not None
    assert project.features.table == "feature_store"
    assert project.derived["totals"].sql == "SELECT 1 AS one"


def test_rules_types_and_the_dialect_are_read(write):
    path = write(
        new=textwrap.dedent("""
        [tables.other]
        path = "other.csv.gz"
        max_rejects = 1
        csv = { delimiter = "\\t", encoding = "latin-1", nulls = ["NA", "-"], decimal = "," }
        [tables.other.columns]
        day = { type = "date", min = 2020-01-01, max = "2020-12-31" }
        at = { type = "timestamp?", min = 2020-01-01T12:00:00Z }
        price = { type = "decimal( 10 , 2 )?", min = 0.25, in = [1, 2.5] }
        code = { type = "text", matches = "[A-Z]+" }
        yes = { type = "boolean", in = [true] }
        """),
    )

    table = read_project(path).tables["other"]

    assert table.dialect == Dialect(
        delimiter="\t", encoding="latin-1", nulls=("NA", "-"), decimal=","
    )
    assert table.max_rejects == 1
    assert table.columns == (
        Column(name="day", type="date", minimum="2020-01-01", maximum="2020-12-31"),
        Column(name="at", type="timestamp", nullable=True, minimum="2020-01-01T12:00:00+00:00"),
        Column(
            name="price",
            type="decimal",
            precision=10,
            scale=2,
            nullable=True,
            minimum=0.25,
            allowed=(1, 2.5),
        ),
        Column(name="code", type="text", matches="[A-Z]+"),
        Column(name="yes", type="boolean", allowed=(True,)),
    )


MISTAKES = {
    "misspelt section": ("[model]", "[modle]", "modle: unknown key; did you mean 'model'?"),
    "misspelt key": (
        'path = "clients.csv"',
        'paht = "clients.csv"',
        "tables.clients.paht: unknown key; did you mean 'path'?",
    ),
    "key of nowhere": (
        "[model]",
        "[model]\nxyzzy = 1",
        "model.xyzzy: unknown key (known here: candidates, metric,",
    ),
    "misspelt key of a column": (
        'attr = "text"',
        'attr = { type = "text", mtaches = "x" }',
        "tables.clients.columns.attr.mtaches: unknown key; did you mean 'matches'?",
    ),
    "missing key": ('path = "clients.csv"', "", "tables.clients.path: missing"),
    "list for a text": (
        'path = "clients.csv"',
        "path = []",
        "tables.clients.path: it has to be a text.",
    ),
    "text for a list": ('key = ["idx"]', 'key = "idx"', "tables.clients.key: it has to be a list."),
    "number in a list": (
        'key = ["idx"]',
        "key = [1]",
        "tables.clients.key.1: it has to be a text.",
    ),
    "number for a column": (
        'attr = "text"',
        "attr = 5",
        "tables.clients.columns.attr: it has to be a text or a section.",
    ),
    "number for a type": (
        'attr = "text"',
        "attr = { type = 5 }",
        "tables.clients.columns.attr.type: it has to be a text.",
    ),
    "list for a minimum": (
        'attr = "text"',
        'attr = { type = "text", min = [1] }',
        "tables.clients.columns.attr.min: it has to be a text or an integer or a number or true",
    ),
    "type of SQL": ('"integer"', '"int"', "tables.clients.columns.idx: 'int' is no type; did you"),
    "type in capitals": ('"text"', '"TEXT"', "'TEXT' is no type"),
    "decimal without size": ('"text"', '"decimal"', "'decimal' is no type; did you mean 'dec"),
    "decimal with too large a scale": ('"text"', '"decimal(2,3)"', "at most the precision"),
    "decimal too long": ('"text"', '"decimal(39,2)"', "which is 1 to 38"),
    "decimal of nothing": ('"text"', '"decimal(0,0)"', "which is 1 to 38"),
    "period every week": ('"month"', '"week"', "tables.sales.period.every: it should be 'day', 'm"),
    "no column of that key": (
        'key = ["idx"]',
        'key = ["id"]',
        "tables.clients.key: there is no column 'id' (columns: idx, attr, grown).",
    ),
    "null in the key": ('key = ["idx"]', 'key = ["grown"]', "'grown' allows null, and a key does"),
    "no column of that validity": ('"since", "until"]\nc', '"from"]\nc', "no column 'from'"),
    "validity that is no time": (
        '"since", "until"]\nc',
        '"since", "score"]\nc',
        "not date or time",
    ),
    "validity outside the key": (
        'key = ["idx", "since"]',
        'key = ["idx"]',
        "tables.activity.valid: 'since' belongs into the key",
    ),
    "open beginning": ('since = "date"', 'since = "date?"', "a row begins at some time"),
    "period of no column": ('column = "day"', 'column = "dya"', "there is no column 'dya'"),
    "period of a number": (
        'column = "day"',
        'column = "value"',
        "tables.sales.period.column: 'value' is number, not date or timestamp.",
    ),
    "path without its period": (
        "sales/{period:%Y-%m}.csv",
        "sales.csv",
        "tables.sales.path: 'sales.csv': the table has a period every month, so the path needs",
    ),
    "path with a period too many": (
        '"clients.csv"',
        '"{period:%Y}.csv"',
        "tables.clients.path: '{period:%Y}.csv': it names a {period:…}, but the table declares no",
    ),
    "reference without a dot": (
        "[tables.labels]",
        '[tables.labels]\nreferences = { idx = "clients" }',
        'tables.labels.references.idx: write it as "table.column".',
    ),
    "reference to no table": (
        "[tables.labels]",
        '[tables.labels]\nreferences = { idx = "nobody.idx" }',
        "tables.labels.references.idx: there is no table 'nobody' (known: activity, clients,",
    ),
    "reference to no column": (
        "[tables.labels]",
        '[tables.labels]\nreferences = { idx = "clients.id" }',
        "'clients' has no column 'id'",
    ),
    "reference from no column": (
        "[tables.labels]",
        '[tables.labels]\nreferences = { id = "clients.idx" }',
        "tables.labels.references: there is no column 'id'",
    ),
    "reference to another type": (
        "[tables.labels]",
        '[tables.labels]\nreferences = { idx = "clients.attr" }',
        "tables.labels.references.idx: 'idx' is integer, and clients.attr is text.",
    ),
    "references in a circle": (
        "[tables.labels]",
        '[tables.clients.references]\nidx = "labels.idx"\n'
        '[tables.labels]\nreferences = { idx = "clients.idx" }',
        "tables.clients.references: they lead back to it: clients → labels → clients.",
    ),
    "delimiter of two characters": (
        "[tables.labels]",
        '[tables.labels]\ncsv = { delimiter = "||" }',
        "tables.labels.csv.delimiter: string should have at most 1 character.",
    ),
    "delimiter that is a quote": (
        "[tables.labels]",
        "[tables.labels]\ncsv = { delimiter = '\"' }",
        "tables.labels.csv.delimiter: '\"': it has to be one ASCII character",
    ),
    "delimiter of two bytes": (
        "[tables.labels]",
        '[tables.labels]\ncsv = { delimiter = "¦" }',
        "tables.labels.csv.delimiter: '¦': it has to be one ASCII character",
    ),
    "delimiter and decimal alike": (
        "[tables.labels]",
        '[tables.labels]\ncsv = { decimal = "," }',
        "delimiter and decimal are the same character",
    ),
    "unknown encoding": (
        "[tables.labels]",
        '[tables.labels]\ncsv = { encoding = "utf-9" }',
        "tables.labels.csv.encoding: 'utf-9' is no encoding of text that Python knows.",
    ),
    "encoding of bytes": (
        "[tables.labels]",
        '[tables.labels]\ncsv = { encoding = "base64" }',
        "tables.labels.csv.encoding: 'base64' is no encoding of text",
    ),
    "max_rejects in per cent": (
        "[tables.labels]",
        "[tables.labels]\nmax_rejects = 5",
        "tables.labels.max_rejects: it should be less than or equal to 1.",
    ),
    "text in a number's rule": (
        '"number"',
        '{ type = "number", min = "0" }',
        "tables.activity.columns.score: `min` has '0', which is no number.",
    ),
    "not a number": ('"number"', '{ type = "number", min = nan }', "which is no number"),
    "true in an integer's rule": (
        'label = "integer"',
        'label = { type = "integer", in = [0, true] }',
        "tables.labels.columns.label: `in` has True, which is no integer.",
    ),
    "an integer of 65 bits": (
        'label = "integer"',
        'label = { type = "integer", max = 9223372036854775808 }',
        "`max` has 9223372036854775808, which is no integer",
    ),
    "no date in a date's rule": (
        '"date?"',
        '{ type = "date?", max = "today" }',
        "tables.clients.columns.grown: `max` has 'today', which is no date.",
    ),
    "too fine a decimal in a rule": (
        '"number"',
        '{ type = "decimal(4,2)", min = 0.125 }',
        "`min` has 0.125, which is no decimal(4,2).",
    ),
    "too large a decimal in a rule": (
        '"number"',
        '{ type = "decimal(4,2)", max = 100 }',
        "`max` has 100, which is no decimal(4,2).",
    ),
    "expression for a number": (
        '"number"',
        '{ type = "number", matches = "x" }',
        "`matches` is a rule for text, and this is number.",
    ),
    "broken expression": (
        'attr = "text"',
        'attr = { type = "text", matches = "(" }',
        "`matches` is no regular expression",
    ),
    "column of ours": ('attr = "text"', '_line = "integer"', "kept for Gristmill's own columns"),
    "column of PostgreSQL's": ('attr = "text"', 'xmin = "integer"', "every table of PostgreSQL"),
    "column without a name": ('attr = "text"', '"" = "integer"', "has 1 to 63 bytes"),
    "table with a dash": (
        "[tables.labels]",
        '[tables."our-labels"]',
        "tables.our-labels: a name is letters, digits and _",
    ),
    "no table": (BASE[BASE.index("[tables.clients]") :], "", "tables: missing"),
    "SQL that is not there": (
        '"totals.sql"',
        '"total.sql"',
        "derived.totals.sql: total.sql cannot be read: No such file or directory.",
    ),
    "derived from nothing known": (
        'from = ["sales", "clients"]',
        'from = ["sales", "client"]',
        "derived.totals.from: there is no table 'client' (known: activity, clients,",
    ),
    "derived by a period that is none": (
        'period = "sales"\n',
        'period = "clients"\n',
        "derived.totals.period: 'clients' is no table with a period.",
    ),
    "derived by a period it does not read": (
        'from = ["sales", "clients"]',
        'from = ["clients"]',
        "derived.totals.period: 'sales' is not in `from`.",
    ),
    "derived from itself": (
        'from = ["sales", "clients"]',
        'from = ["sales", "totals"]',
        "derived.totals.from: it reads itself: totals → totals.",
    ),
    "derived in a circle": (
        'from = ["sales", "clients"]\nperiod = "sales"',
        'from = ["more"]\n[derived.more]\nsql = "totals.sql"\nfrom = ["totals"]',
        "derived.totals.from: it reads itself: totals → more → totals.",
    ),
    "derived named like a table": (
        "[derived.totals]",
        "[derived.labels]",
        "derived.labels: 'labels' is taken by tables.labels already.",
    ),
    "feature store named like a table": (
        "[features]",
        '[features]\ntable = "totals"',
        "features.table: 'totals' is taken by derived.totals already.",
    ),
    "table named like the training set": (
        "[tables.sales]",
        '[tables.training_set]\npath = "x.csv"\ncolumns = { a = "text" }\n[tables.sales]',
        "features.label: the training set's name is taken by tables.training_set already.",
    ),
    "table named like a load": (
        "[tables.sales]",
        '[tables.sales_17]\npath = "x.csv"\ncolumns = { a = "text" }\n[tables.sales]',
        "tables.sales_17: 'sales_17' could be the name of one load or build of 'sales'",
    ),
    "table named like a former shape": (
        "[tables.sales]",
        '[tables.sales_until_17]\npath = "x.csv"\ncolumns = { a = "text" }\n[tables.sales]',
        "tables.sales_until_17: 'sales_until_17' could be the name",
    ),
    "derived named like a build": (
        "[features]",
        '[derived.feature_store_2]\nsql = "totals.sql"\nfrom = ["sales"]\n[features]',
        "derived.feature_store_2: 'feature_store_2' could be the name",
    ),
    "entity that is not the key": (
        'entity = "clients.idx"',
        'entity = "clients.attr"',
        "features.entity: clients.attr has to be the whole key of its table.",
    ),
    "entity in no table": ('"clients.idx"', '"client.idx"', "there is no table 'client' (known:"),
    "entity that is derived": ('"clients.idx"', '"totals.idx"', "entities come from a table"),
    "feature in no column": ('"clients.attr"', '"clients.atr"', "there is no column 'atr'"),
    "feature twice": (
        '"clients.attr", "activity.score"',
        '"clients.attr", "clients.attr"',
        "two columns of the feature store would be named 'attr'",
    ),
    "feature named like the entity": ('"clients.attr"', '"clients.idx"', "would be named 'idx'"),
    "feature of a periodic table": (
        '"clients.attr"',
        '"sales.value"',
        "sales.value: a table with a period feeds features through a derived table.",
    ),
    "feature without a key": (
        'key = ["idx", "since"]\nvalid = ["since", "until"]',
        "",
        "features: 'activity' needs a `key` to feed features.",
    ),
    "feature of many rows": (
        'key = ["idx", "since"]',
        'key = ["idx", "since", "score"]',
        "the key of 'activity' has to be ['idx', 'since']",
    ),
    "feature that cannot be joined": (
        'columns = { idx = "integer", since',
        'columns = { client = "integer", since',
        "'activity' has neither a column 'idx' nor a reference to clients.idx",
    ),
    "as_of of another table": (
        'label = "labels.label"',
        'label = "labels.label"\nas_of = "clients.grown"',
        "features.as_of: it has to be a column of the label's table.",
    ),
    "as_of that is no time": (
        'label = "labels.label"',
        'label = "labels.label"\nas_of = "labels.idx"',
        "features.as_of: labels.idx is integer, not date or timestamp.",
    ),
    "model without a label": ('label = "labels.label"', "", "model: a model needs [features] with"),
    "label that is text": ('label = "integer"', 'label = "text"', "a label is 0 or 1"),
    "candidate of nobody": (
        "[model]",
        '[model]\ncandidates = ["forest"]',
        "model.candidates: 'forest' is none of logistic, gradient_boosting, blend, nor written as",
    ),
    "metric of nobody": (
        "[model]",
        '[model]\nmetric = "accuracy"',
        "model.metric: it should be 'r",
    ),
    "threshold of nobody": (
        "[model]",
        '[model]\nthreshold = "accuracy"',
        "model.threshold: it should be 'balanced_accuracy' or 'f1'.",
    ),
    "cost of one mistake only": (
        "[model]",
        "[model]\nthreshold = { false_positive = 1.0 }",
        "model.threshold.false_negative: missing",
    ),
    "a mistake for nothing": (
        "[model]",
        "[model]\nthreshold = { false_positive = 1.0, false_negative = 0.0 }",
        "model.threshold.false_negative: it should be greater than 0.",
    ),
    "misspelt mistake": (
        "[model]",
        "[model]\nthreshold = { false_positiv = 1.0, false_negative = 5 }",
        "model.threshold.false_positiv: unknown key; did you mean 'false_positive'?",
    ),
    "no minutes": (
        "[model]",
        "[model]\nminutes = 0",
        "model.minutes: it should be greater than 0.",
    ),
    "no trials": (
        "[model]",
        "[model]\ntrials = 0",
        "model.trials: it should be greater than or equal to 1.",
    ),
    "holdout of everyone": (
        "[model]",
        "[model]\nholdout = 1.0",
        "model.holdout: it should be less than 1.",
    ),
    "user named like the owner": (
        "[model]",
        '[database]\nowner = "admin"\nusers = { admin = {} }\n[model]',
        "database.users.admin: this name is the owner's or a role's.",
    ),
    "step of nobody": (
        "[model]",
        '[workflows.daily]\nsteps = ["laod"]\n[model]',
        "workflows.daily.steps: 'laod' is no step (known: build, load,",
    ),
    "workflow of no table": (
        "[model]",
        '[workflows.daily]\nsteps = ["load"]\ntables = ["client"]\n[model]',
        "workflows.daily.tables: there is no table 'client' (known: activity,",
    ),
    "workflow after nothing": (
        "[model]",
        '[workflows.daily]\nsteps = ["load"]\nafter = ["night"]\n[model]',
        "workflows.daily.after: there is no workflow 'night' (known: daily).",
    ),
    "workflow after itself": (
        "[model]",
        '[workflows.daily]\nsteps = ["load"]\nafter = ["daily"]\n[model]',
        "workflows.daily.after: it waits for itself: daily → daily.",
    ),
    "schedule of nobody": (
        "[model]",
        '[workflows.daily]\nsteps = ["load"]\nschedule = "every day"\n[model]',
        "workflows.daily.schedule: 'every day' is none of @hourly, @daily,",
    ),
    "noticing by hand": (
        "[model]",
        '[workflows.look]\nsteps = ["notice"]\n[model]',
        "workflows.look.steps: `notice` stands alone, with a schedule.",
    ),
    "tables in a step": (
        "[model]",
        '[workflows.daily]\nsteps = ["load clients"]\n[model]',
        "workflows.daily.steps: 'load clients': which tables it loads stands in `tables`.",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_with_file_key_and_hint(write, mistake):
    old, new, message = MISTAKES[mistake]

    told = problems_of(write(old, new))

    assert all(line.startswith("gristmill.toml: ") for line in told.splitlines())
    assert message in told
    for leaked in ("Section", "Input", "pydantic", "function-", "Traceback", "[type="):
        assert leaked not in told


def test_every_mistake_is_told_at_once(write):
    path = write('key = ["idx"]', 'key = ["id"]')
    path.write_text(path.read_text().replace("clients.attr", "clients.atr"))

    keys = {line.split(": ")[1] for line in problems_of(path).splitlines()}

    assert keys == {"tables.clients.key", "features.features", "features.entity", "features"}


def test_an_unknown_key_is_told_without_what_it_was_meant_to_be(write):
    told = problems_of(write('path = "clients.csv"', 'paht = "clients.csv"'))

    assert told.count("\n") == 0


def test_a_byte_order_mark_is_no_mistake(write):
    path = write()
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())

    assert read_project(path).name == "clients"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"# nothing yet\n", "the file is empty"),
        (b"[project\n", "not TOML"),
        (b"[project]\nname = 'a'\nname = 'b'\n", "not TOML"),
        (b"[project]\nname = 'caf\xe9'\n", "not UTF-8 at byte 21"),
        (b"project = 5\n", "project: it has to be a section."),
        (b"tables = []\n[project]\nname='a'\nsource='b'\n", "tables: it has to be a section."),
    ],
)
def test_a_file_that_is_no_project_is_an_error_that_names_it(tmp_path, content, message):
    path = tmp_path / "gristmill.toml"
    path.write_bytes(content)

    told = problems_of(path)

    assert "gristmill.toml" in told
    assert message in told


def test_a_file_that_is_not_there_says_how_to_get_one(tmp_path):
    assert "gristmill init" in problems_of(tmp_path / "gristmill.toml")
    assert str(tmp_path / "gristmill.toml") in problems_of(tmp_path)


def test_sql_is_read_beside_the_project_file_wherever_one_stands(tmp_path, monkeypatch):
    shutil.copytree(EXAMPLES / "clients", tmp_path / "clients")
    monkeypatch.chdir(tmp_path)

    project = read_project(Path("clients/gristmill.toml"))

    assert project.root == tmp_path / "clients"
    assert "FROM sales" in project.derived["monthly_sales"].sql


def test_sql_that_is_not_text_is_a_mistake(write, tmp_path):
    path = write()
    (tmp_path / "totals.sql").write_bytes(b"\xff")

    assert "derived.totals.sql: totals.sql cannot be read: it is not UTF-8." in problems_of(path)


# --- [serving] ------------------------------------------------------------------------------------


def test_the_record_comes_first_unless_the_project_says_otherwise(tmp_path):
    path = tmp_path / "gristmill.toml"
    (tmp_path / "totals.sql").write_text("SELECT 1")
    for said, log in (
        ("", "durable"),
        ('[serving]\nlog = "durable"', "durable"),
        ('[serving]\nlog = "best_effort"', "best_effort"),
    ):
        path.write_text(BASE + said)
        assert read_project(path).serving == Serving(log=log)
    for wrong in ('log = "sometimes"', 'logs = "durable"'):
        path.write_text(f"{BASE}[serving]\n{wrong}")
        with pytest.raises(ProjectError, match=rf"serving\.{wrong.split()[0]}: .*(durable|log)"):
            read_project(path)
