import tomllib

from hypothesis import given
from hypothesis import strategies as st

from gristmill.project.draft import Draft, key, render, string
from gristmill.project.features import ColumnReference, Features
from gristmill.project.infer import Doubt
from gristmill.project.read import read_project
from gristmill.project.table import Column, Dialect, Period, Reference, Table

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)

TABLES = (
    Table(
        name="customers",
        path="customers.csv",
        columns=(
            Column(name="id", type="integer"),
            Column(name='a "quoted" name', type="text", nullable=True),
            Column(name="churned", type="integer", allowed=(0, 1)),
            Column(name="from", type="date"),
            Column(name="to", type="date", nullable=True),
            *(Column(name=f"a_rather_long_name_{n}", type="number") for n in range(9)),
        ),
        key=("id", "from"),
        valid=("from", "to"),
        dialect=Dialect(delimiter="\t", encoding="cp1252", nulls=("NA", "\\N"), decimal=","),
        max_rejects=0.05,
    ),
    Table(name="who", path="who.csv", columns=(Column(name="id", type="integer"),), key=("id",)),
    Table(
        name="sales",
        path="s/{period:%Y-%m}.csv",
        columns=(Column(name="id", type="integer"), Column(name="day", type="timestamp")),
        period=Period(every="month", column="day"),
        references=(Reference(column="id", table="who", to_column="id"),),
    ),
)
FEATURES = Features(
    table="feature_store",
    entity=ColumnReference(table="who", column="id"),
    features=tuple(
        ColumnReference(table="customers", column=f"a_rather_long_name_{n}") for n in range(9)
    ),
    label=ColumnReference(table="customers", column="churned"),
)


def draft(**changes):
    given = {
        "name": "p", "source": "data", "tables": TABLES, "features": FEATURES, "as_of": None,
        "doubts": (), "left_out": (),
    }  # fmt: skip
    return Draft(**given | changes)


def test_what_is_read_back_is_what_was_drafted(tmp_path):
    file = tmp_path / "gristmill.toml"
    file.write_text(render(draft()), encoding="utf-8")
    project = read_project(file)
    assert tuple(project.tables.values()) == TABLES
    assert project.features == FEATURES
    assert project.database.users == ()
    assert project.model is not None


def test_lines_are_not_long():
    assert max(map(len, render(draft()).splitlines())) <= 100


def test_without_features_they_stand_there_as_comments(tmp_path):
    file = tmp_path / "gristmill.toml"
    file.write_text(render(draft(features=None)), encoding="utf-8")
    project = read_project(file)
    assert project.features is None
    assert project.model is None
    assert "# [features]" in file.read_text()


PLACES = ["tables.customers", "tables.customers.key", "tables.customers.columns.churned",
          "tables.sales.key", "tables.sales.columns", "features.label", "features.features",
          "features", "tables.customers.columns.a \"quoted\" name", "nowhere.known"]  # fmt: skip


@given(st.lists(st.tuples(st.sampled_from(PLACES), text), max_size=8), st.booleans())
def test_every_doubt_is_in_the_text_and_none_breaks_it(said, with_features):
    doubts = tuple(Doubt(at=at, message=f"{n}: {message}") for n, (at, message) in enumerate(said))
    features = FEATURES if with_features else None
    written = render(draft(doubts=doubts, features=features))
    assert tomllib.loads(written) == tomllib.loads(render(draft(features=features)))
    comments = [line for line in written.split("\n") if line.startswith("# unsure: ")]
    assert len(comments) == len(doubts)


def test_a_doubt_stands_above_its_line():
    doubt = Doubt(at="tables.customers.columns.churned", message="is it?")
    lines = render(draft(doubts=(doubt,))).splitlines()
    place = lines.index("# unsure: is it?")
    assert lines[place + 1].startswith("churned")


@given(text, text)
def test_any_text_is_quoted_rightly(name, value):
    assert tomllib.loads(f"{key(name)} = {string(value)}\n") == {name: value}


@given(st.lists(st.tuples(text, text), max_size=4))
def test_what_was_left_out_cannot_break_the_file(left_out):
    written = render(draft(left_out=tuple(left_out)))
    assert tomllib.loads(written) == tomllib.loads(render(draft()))
