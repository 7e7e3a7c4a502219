import gzip
import shutil
import tempfile
from datetime import date, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from gristmill.bucket.bucket import open_bucket
from gristmill.errors import BucketError, ProjectError
from gristmill.flow import init
from gristmill.flow.init import draft_project
from gristmill.flow.report import Silence
from gristmill.loading.parse import Parser
from gristmill.project.table import Period


@pytest.fixture
def draft(tmp_path):
    """Drafts a project from files given as texts or bytes, by path."""

    def write_and_draft(files):
        bucket = tmp_path / "shop"
        for path, content in files.items():
            file = bucket / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content if isinstance(content, bytes) else content.encode())
        place = tmp_path / "project"
        place.mkdir()
        return draft_project(place, str(bucket), Silence())

    return write_and_draft


def said(drafted):
    return {doubt.at: doubt.message for doubt in drafted.doubts}


def test_a_project_that_is_there_is_not_written_over(tmp_path):
    (tmp_path / "t.csv").write_text("a,b\n1,2\n")
    file = tmp_path / "gristmill.toml"
    file.write_text("mine")
    with pytest.raises(ProjectError, match="exists already"):
        draft_project(tmp_path, ".", Silence())
    assert file.read_text() == "mine"
    assert sorted(one.name for one in tmp_path.iterdir()) == ["gristmill.toml", "t.csv"]


def test_a_bucket_may_be_the_project_s_own_folder(tmp_path):
    (tmp_path / "t.csv").write_text("a,b\n1,2\n")
    drafted = draft_project(tmp_path, ".", Silence())
    assert list(drafted.project.tables) == ["t"]
    assert drafted.left_out == ()
    assert sorted(one.name for one in tmp_path.iterdir()) == ["gristmill.toml", "t.csv"]


def test_a_folder_is_named_as_seen_from_the_project(tmp_path):
    (tmp_path / "work" / "files").mkdir(parents=True)
    (tmp_path / "work" / "files" / "t.csv").write_text("a,b\n1,2\n")
    (tmp_path / "project").mkdir()
    place = tmp_path / "project"
    drafted = draft_project(place, "files", Silence(), relative_to=tmp_path / "work")
    assert drafted.project.source == "../work/files"
    assert open_bucket(drafted.project.source, root=drafted.project.root).stat("t.csv").size == 8


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({}, "empty"),
        ({"notes.txt": "hello"}, "no CSV file .* notes.txt"),
        ({"t.csv": "a,b\n"}, "a header and no row"),
        ({"t.csv": "1,2.5\n2,3.5\n3,4.5\n"}, "no header: its first line is '1,2.5'"),
        ({"t.csv": ""}, "empty"),
        ({"t.csv": "x,x\n1,2\n"}, "no column of it has a name"),
    ],
)
def test_where_nothing_can_be_a_table_it_says_why(tmp_path, files, told):
    (tmp_path / "shop").mkdir()
    for path, content in files.items():
        (tmp_path / "shop" / path).write_text(content)
    with pytest.raises(ProjectError, match=told):
        draft_project(tmp_path, "shop", Silence())
    assert not (tmp_path / "gristmill.toml").exists()


def test_a_bucket_that_is_not_there_is_an_error_of_the_bucket(tmp_path):
    with pytest.raises(BucketError, match="no such folder"):
        draft_project(tmp_path, "nowhere", Silence())


def test_a_place_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ProjectError, match="There is no folder"):
        draft_project(tmp_path / "new" / "gristmill.toml", ".", Silence())


def test_duplicate_and_nameless_columns_are_left_out(draft):
    drafted = draft({"t.csv": ",id,x,x\n1,1,2,3\n2,2,4,5\n"})
    assert [one.name for one in drafted.project.tables["t"].columns] == ["id"]
    text = drafted.file.read_text()
    assert "# unsure: left out: a column without a name" in text
    assert "'x', which stands there 2 times" in text


def test_one_bad_file_does_not_keep_the_others_out(draft):
    drafted = draft({
        "good.csv": "id,n\n1,2\n", "bad.csv": "1,2\n3,4\n", "empty.csv": "",
        "broken.csv.gz": gzip.compress(b"a,b\n1,2\n")[:-9],
    })  # fmt: skip
    assert list(drafted.project.tables) == ["good"]
    assert {path for path, _ in drafted.left_out} == {"bad.csv", "empty.csv", "broken.csv.gz"}
    assert "#   empty.csv: it is empty" in drafted.file.read_text()


def test_many_files_that_are_no_tables_are_counted(draft):
    drafted = draft({"t.csv": "id,n\n1,2\n"} | {f"{n}.jpg": b"\xff" for n in range(30)})
    assert len(drafted.left_out) == 5
    assert drafted.left_out[-1][0] == "and 26 more"


def test_files_of_one_pattern_and_other_columns_are_tables_of_their_own(draft):
    drafted = draft({"s_2020.csv": "id,a\n1,2\n", "s_2021.csv": "key,b,c\n1,2,3\n"})
    assert list(drafted.project.tables) == ["s_2020", "s_2021"]


def test_ragged_rows_are_told_and_allowed_for(draft):
    rows = "".join(f"{number},{number}\n" for number in range(90))
    drafted = draft({"t.csv": f"id,n\n{rows}1,2,3\n1\n"})
    table = drafted.project.tables["t"]
    assert table.max_rejects >= 2 / 92
    assert "2 of 92 rows are rejected, line 92 first" in said(drafted)["tables.t"]


def test_of_a_large_file_the_beginning_is_read_and_that_is_said(draft, monkeypatch):
    monkeypatch.setattr(init, "MOST_OF_A_TABLE", 10_000)
    rows = "".join(f"{number},{number % 7}\n" for number in range(100_000))
    drafted = draft({"big.csv": f"id,n\n{rows}"})
    assert drafted.project.tables["big"].key == ("id",)
    assert "may not be unique in the rest" in said(drafted)["tables.big.key"]
    assert "may differ in the rest" in said(drafted)["tables.big"]


def test_of_many_files_the_first_the_last_and_some_between_are_read(draft, monkeypatch):
    monkeypatch.setattr(init, "MOST_FILES_OF_A_FAMILY", 3)
    files = {f"s/20{year:02}.csv": f"id,n\n1,{year}\n" for year in range(10, 20)}
    files["s/2019.csv"] = "id,n\n1,x\n"
    drafted = draft(files)
    assert drafted.project.tables["s"].column("n").type == "text"
    assert "3 of 10 files" in said(drafted)["tables.s"]


names = st.lists(
    st.from_regex(r"[a-z][a-zA-Z0-9_ ]{0,12}[a-z]", fullmatch=True), min_size=1, max_size=5,
    unique=True,
)  # fmt: skip
days = st.dates(date(1, 1, 1), date(9999, 12, 31))
VALUES = {
    "integer": st.integers(-(2**63), 2**63 - 1).map(str),
    "small": st.integers(0, 5).map(str),
    "id": st.integers(1, 10**6).map(str),
    "number": st.floats(allow_nan=False, allow_infinity=False).map(repr),
    "date": days.map(str),
    "timestamp": st.datetimes().map(datetime.isoformat),
    "boolean": st.sampled_from(["true", "false"]),
    "word": st.sampled_from(["NA", "null", "-", "x", "yes", "no", "007", "1e9", "1,5", " 1"]),
    "text": st.text(
        st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12
    ),
}  # fmt: skip


@st.composite
def csv_tables(draw):
    """Names, rows (None is null), which cells are in quotes, delimiter, encoding."""
    header = draw(names)
    kinds = [draw(st.sampled_from(sorted(VALUES))) for _ in header]
    nullable = [len(header) > 1 and draw(st.booleans()) for _ in header]
    cells = [
        st.none() | VALUES[kind] if null else VALUES[kind]
        for kind, null in zip(kinds, nullable, strict=True)
    ]
    rows = draw(st.lists(st.tuples(*cells), min_size=1, max_size=12))
    delimiter = draw(st.sampled_from(",;\t|"))
    quoted = draw(st.booleans())
    decimal = draw(st.sampled_from(".,")) if delimiter != "," else "."
    if decimal == ",":
        numbers = [index for index, kind in enumerate(kinds) if kind == "number"]
        rows = [
            tuple(
                cell.replace(".", ",") if cell and index in numbers else cell
                for index, cell in enumerate(row)
            )
            for row in rows
        ]
    return header, rows, delimiter, quoted, draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]))


def written(cell, delimiter, quoted):
    if cell is None:
        return ""
    special = cell == "" or any(mark in cell for mark in f'{delimiter}"\r\n')
    return '"' + cell.replace('"', '""') + '"' if quoted or special else cell


def as_csv(header, rows, delimiter, quoted, encoding):
    lines = [header, *([written(cell, delimiter, quoted) for cell in row] for row in rows)]
    return "".join(delimiter.join(line) + "\n" for line in lines).encode(encoding)


def expected(cell, column, table, quoted):
    """What a cell means by the declared type, without any of our parsers."""
    special = cell is not None and any(mark in cell for mark in '"\r\n' + table.dialect.delimiter)
    if cell is None or (cell in table.dialect.nulls and not quoted and not special):
        return None
    if column.type == "number":
        return float(cell.replace(",", ".") if table.dialect.decimal == "," else cell)
    if column.type == "timestamp":
        return datetime.fromisoformat(cell).replace(tzinfo=None)
    parse = {"text": str, "integer": int, "date": date.fromisoformat}
    return cell in ("true", "1") if column.type == "boolean" else parse[column.type](cell)


def loaded(drafted, table, bucket):
    """Every row that the load's own parser lets in, by file; no reject."""
    rows = {}
    for item in bucket.list():
        period = table.period_of(item.path)
        if period is None:
            continue
        bounds = table.period.bounds(period) if table.period else None
        rows[item.path] = []
        for parsed in Parser(table, item.path, bounds).parse(bucket.stream(item)):
            assert parsed.rejects == []
            rows[item.path] += parsed.batch.to_pylist()
    return rows


def plain(value):
    return value.replace(tzinfo=None) if isinstance(value, datetime) else value


@hypothesis_settings(max_examples=60)
@given(csv_tables(), st.booleans())
def test_every_row_of_any_table_loads_by_its_draft_and_means_what_it_said(table_of, periodic):
    header, rows, _, quoted, _ = table_of
    # Not tmp_path, which would be the same folder for every example.
    folder = Path(tempfile.mkdtemp())
    try:
        bucket = folder / "shop"
        bucket.mkdir()
        files = ["s_2020-01.csv", "s_2020-02.csv"] if periodic else ["s.csv"]
        for name in files:
            (bucket / name).write_bytes(as_csv(*table_of))
        drafted = draft_project(folder, "shop", Silence())
        (table,) = drafted.project.tables.values()
        assert drafted.left_out == ()
        found = loaded(drafted, table, open_bucket(str(bucket), root=folder))
        assert sorted(found) == files
        for given_rows in found.values():
            assert len(given_rows) == len(rows)
            for row, was in zip(given_rows, rows, strict=True):
                for name, cell in zip(header, was, strict=True):
                    assert plain(row[name]) == expected(cell, table.column(name), table, quoted)
            keys = [tuple(row[name] for name in table.key) for row in given_rows]
            assert not table.key or len(set(keys)) == len(keys)
    finally:
        shutil.rmtree(folder)


@hypothesis_settings(max_examples=15)
@given(
    st.integers(2, 40), st.integers(2, 5), st.integers(1, 60), st.booleans(), st.randoms(),
)  # fmt: skip
def test_a_declared_shop_is_found_again(customers, months, sales, history, random):
    """A random project of the usual shape: everything that was declared is inferred."""
    folder = Path(tempfile.mkdtemp())
    first = date(2019, 11, 1)
    begins = [(first + timedelta(days=31 * n)).replace(day=1) for n in range(months)]
    try:
        bucket = folder / "shop"
        (bucket / "sales").mkdir(parents=True)
        ids = random.sample(range(1000, 9999), customers)
        ones = [str(number % 2) for number in range(customers)]
        (bucket / "customers.csv").write_text(
            "customer_id,age\n" + "".join(f"{one},{random.randint(18, 90)}\n" for one in ids)
        )
        (bucket / "labels.csv").write_text(
            "customer_id,churned\n" + "".join(f"{i},{o}\n" for i, o in zip(ids, ones, strict=True))
        )
        if history:
            (bucket / "moves.csv").write_text(
                "customer_id,valid_from,valid_to,region\n"
                + "".join(f"{i},2019-01-01,2019-05-01,a\n{i},2019-05-01,,b\n" for i in ids)
            )
        for begin in begins:
            lines = [
                f"{random.choice(ids)},{begin + timedelta(days=random.randint(0, 27))},"
                f"{random.random():.2f}\n"
                for _ in range(sales)
            ]
            (bucket / "sales" / f"{begin:%Y-%m}.csv").write_text(
                "customer_id,date,value\n" + "".join(lines)
            )
        project = draft_project(folder, "shop", Silence()).project
        tables = project.tables
        assert tables["customers"].key == tables["labels"].key == ("customer_id",)
        assert str(project.features.entity) == "customers.customer_id"
        assert str(project.features.label) == "labels.churned"
        features = {str(one) for one in project.features.features}
        assert features == {"customers.age"} | ({"moves.region"} if history else set())
        if history:
            assert tables["moves"].valid == ("valid_from", "valid_to")
        assert tables["sales"].path == "sales/{period:%Y-%m}.csv"
        assert tables["sales"].period == Period(every="month", column="date")
        for name, table in tables.items():
            if name not in ("customers",):
                (reference,) = table.references
                assert (reference.column, reference.table) == ("customer_id", "customers")
            assert sum(map(len, loaded(None, table, open_bucket(str(bucket), root=folder))
                           .values())) > 0  # fmt: skip
    finally:
        shutil.rmtree(folder)
