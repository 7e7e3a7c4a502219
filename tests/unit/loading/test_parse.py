"""The fast pass and the exact pass give one answer: what was written, less what is broken."""

from datetime import UTC, date, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gristmill.errors import LoadError
from gristmill.loading import records as csv_records
from gristmill.loading.parse import Parser, read_header
from gristmill.project.table import Column, Dialect, Period, Table

COLUMNS = (
    Column(name="id", type="integer"),
    Column(name="amount", type="number", nullable=True),
    Column(name="name", type="text", nullable=True),
    Column(name="day", type="date", nullable=True),
    Column(name="at", type="timestamp", nullable=True),
    Column(name="ok", type="boolean", nullable=True, allowed=(True,)),
)


def table(columns=COLUMNS, **options):
    return Table(name="things", path="things.csv", columns=columns, **options)


def parse(contract, data, *, block_bytes=1 << 22, chunk=1 << 20, bounds=None):
    """The good rows with their lines, and line and rule of the rejects."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(csv_records, "BLOCK_BYTES", block_bytes)
        parser = Parser(contract, "things.csv", bounds)
        chunks = [data[start : start + chunk] for start in range(0, len(data), chunk)]
        rows, rejects = [], []
        for parsed in parser.parse(chunks):
            rows += parsed.batch.to_pylist()
            rejects += parsed.rejects
    return rows, rejects


def one(text, declared, **dialect):
    """What a text is read as, in a column between two others; the rule where it is refused."""
    columns = (
        Column(name="a", type="integer"),
        Column(name="b", type=declared, nullable=True),
        Column(name="c", type="integer"),
    )
    found = Dialect(**dialect)
    line = found.delimiter.join(["1", text, "2"])
    data = f"{found.delimiter.join('abc')}\n{line}\n".encode()
    rows, rejects = parse(table(columns, dialect=found), data)
    return rows[0]["b"] if rows else rejects[0].rule


@pytest.mark.parametrize(
    ("text", "declared", "dialect", "expected"),
    [
        ("", "integer", {}, None),
        ('""', "integer", {}, "type"),
        ('""', "text", {}, ""),
        ("", "text", {}, None),
        ('"12"', "integer", {}, 12),
        ('" 12"', "integer", {}, "type"),
        (" 12", "integer", {}, "type"),
        ("12\t", "integer", {}, "type"),
        (" 12 ", "text", {}, " 12 "),
        ("0x1F", "integer", {}, "type"),
        ("0x1F", "text", {}, "0x1F"),
        ("007", "integer", {}, 7),
        ("007", "text", {}, "007"),
        ("+5", "integer", {}, 5),
        ("9223372036854775808", "integer", {}, "type"),
        ("NaN", "number", {}, "type"),
        ("inf", "number", {}, "type"),
        ("1e400", "number", {}, "type"),
        (".5", "number", {}, 0.5),
        ("1 000", "number", {}, "type"),
        ("true", "boolean", {}, True),
        ("True", "boolean", {}, "type"),
        ("2020-01-31T12", "timestamp", {}, "type"),
        ("2020-01-31", "timestamp", {}, datetime(2020, 1, 31, tzinfo=UTC)),
        ("2020-01-31T12:00Z", "timestamp", {}, datetime(2020, 1, 31, 12, tzinfo=UTC)),
        ("0000-01-01", "date", {}, "type"),
        ("0001-01-01", "date", {}, date(1, 1, 1)),
        ("a\0b", "text", {}, "record"),
        ("NA", "integer", {"nulls": ("NA",)}, None),
        ("NA", "text", {"nulls": ("NA",)}, None),
        ('"NA"', "text", {"nulls": ("NA",)}, "NA"),
        ('"NA"', "integer", {"nulls": ("NA",)}, "type"),
        ("NA", "text", {}, "NA"),
        ("na", "text", {"nulls": ("NA",)}, "na"),
        ("NULL", "text", {}, "NULL"),
        ("1,5", "number", {"decimal": ",", "delimiter": ";"}, 1.5),
        ("1.5", "number", {"decimal": ",", "delimiter": ";"}, "type"),
        ("1,5", "text", {"decimal": ",", "delimiter": ";"}, "1,5"),
        ("1,5", "integer", {"decimal": ",", "delimiter": ";"}, "type"),
        ("x y", "text", {"delimiter": "\t"}, "x y"),
        ("", "integer", {"delimiter": "\t"}, None),
        (" 5", "integer", {"delimiter": "\t"}, "type"),
        ("5", "integer", {"delimiter": " "}, 5),
        ('"a\nb"', "text", {}, "a\nb"),
        ('"a""b"', "text", {}, 'a"b'),
        ('a"b', "text", {}, "record"),
        ("a\rb", "text", {}, "record"),
        ('"a\rb"', "text", {}, "a\rb"),
        ("\\N", "text", {}, "\\N"),
    ],
)
def test_what_a_field_is_read_as(text, declared, dialect, expected):
    assert one(text, declared, **dialect) == expected


# How each type's values are written, and texts that are none of them.
values = {
    "integer": st.integers(-(2**63), 2**63 - 1),
    "number": st.floats(allow_nan=False, allow_infinity=False),
    "text": st.text(
        st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]), max_size=6
    ).filter(lambda text: text not in ("NA", "-")),
    "date": st.dates(),
    "timestamp": st.datetimes(
        datetime(2, 1, 1), datetime(9998, 1, 1), timezones=st.sampled_from([None, UTC])
    ),
    "boolean": st.just(True),
}
broken = {
    "integer": st.sampled_from(["1.0", "x", " 1", "0x1", "1_0", '""', str(2**63)]),
    "number": st.sampled_from(["NaN", "inf", "1e999", " 1", "1 ", "0x1", '""', "1,0.0"]),
    "date": st.sampled_from(["2020-02-30", "20200101", "today", "0000-01-01", " 2020-01-01"]),
    "timestamp": st.sampled_from(["2020-01-01T12", "2020-01-01T25:00", "now", "2020-01-01 "]),
    "boolean": st.sampled_from(["True", "yes", "t", " 1"]),
}
dialects = st.builds(
    Dialect,
    delimiter=st.sampled_from([",", ";", "\t", "|"]),
    nulls=st.sampled_from([(), ("NA",), ("NA", "-")]),
    decimal=st.sampled_from([".", ","]),
).filter(lambda dialect: dialect.delimiter != dialect.decimal)


def written(value, dialect, ending):
    """A value as a file in the dialect has it."""
    if value is None:
        return dialect.nulls[0] if dialect.nulls else ""
    if isinstance(value, bool):
        return "true" if value else "0"
    if isinstance(value, float):
        return repr(value).replace(".", dialect.decimal)
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, int):
        return str(value)
    special = {dialect.delimiter, '"', "\n", "\r"}
    if value and not special & set(value):
        return value
    return '"' + value.replace('"', '""') + '"'


@st.composite
def files(draw):
    """A file of random rows with planted violations: its bytes, its rows, its rejects, by line."""
    dialect = draw(dialects)
    order = draw(st.permutations([*(column.name for column in COLUMNS), "extra"]))
    ending = draw(st.sampled_from(["\n", "\r\n"]))
    clean = draw(st.booleans())
    kinds = {column.name: column for column in COLUMNS}
    text = draw(st.sampled_from(["", "\ufeff"])) + dialect.delimiter.join(order) + ending
    line, rows, rejects = 2, [], {}
    for number in range(draw(st.integers(1, 8))):
        row = {
            name: draw(
                values[column.type] if name == "id" else st.one_of(st.none(), values[column.type])
            )
            for name, column in kinds.items()
        }
        fields = {name: written(row[name], dialect, ending) for name in row} | {"extra": "é"}
        fault = (
            None if clean else draw(st.sampled_from([None, None, "type", "null", "in", "record"]))
        )
        if fault == "type":
            name = draw(st.sampled_from([name for name in kinds if kinds[name].type in broken]))
            bad = draw(broken[kinds[name].type])
            fields[name] = f'"{bad}"' if dialect.delimiter in bad else bad
        elif fault == "null":
            fields["id"] = dialect.nulls[-1] if dialect.nulls else ""
        elif fault == "in":
            fields["ok"] = "false"
        record = dialect.delimiter.join(fields[name] for name in order)
        if fault == "record":
            record = (
                draw(
                    st.sampled_from(
                        [record + dialect.delimiter, "x", f'x"{record}', f'""x{dialect.delimiter}1']
                    )
                )
                .replace("\n", " ")
                .replace("\r", " ")
            )
        if fault:
            rejects[line] = fault
        else:
            rows.append(row | {"_line": line})
        last = draw(st.booleans()) and number == 7
        text += record + ("" if last else ending)
        line += record.count("\n") + 1
    return dialect, text.encode(), rows, rejects


def plain(rows):
    """Rows with times in UTC, as the columns keep them."""
    return [
        row | {"at": row["at"] and row["at"].replace(tzinfo=row["at"].tzinfo or UTC)}
        for row in rows
    ]


@given(
    file=files(),
    block_bytes=st.sampled_from([1, 16, 64, 1 << 22]),
    chunk=st.sampled_from([1, 7, 1 << 20]),
)
def test_what_was_written_is_read_less_exactly_what_was_broken(file, block_bytes, chunk):
    dialect, data, expected, planted = file

    rows, rejects = parse(table(dialect=dialect), data, block_bytes=block_bytes, chunk=chunk)

    assert rows == plain(expected)
    assert {reject.line: reject.rule for reject in rejects} == planted
    assert len(rejects) == len(planted)


@given(file=files(), block_bytes=st.sampled_from([1, 16, 64]))
def test_a_rejects_raw_text_is_the_files_own(file, block_bytes):
    dialect, data, _, _ = file

    _, rejects = parse(table(dialect=dialect), data, block_bytes=block_bytes)

    lines = data.decode().removeprefix("\ufeff").split("\n")
    for reject in rejects:
        assert "\n".join(lines[reject.line - 1 :]).startswith(reject.raw)
        assert reject.raw


fields = st.sampled_from(
    ["1", "", '""', '"', "x", " ", "\r", "\n", "\r\n", "0x1", "é", "NA", '"NA"', "2020-01-01", "1 "]
)


@given(
    soup=st.lists(st.lists(fields, max_size=4).map(",".join), max_size=8).map("\n".join),
    kind=st.sampled_from(["integer", "number", "text", "date", "boolean", "timestamp"]),
    width=st.integers(1, 3),
)
def test_both_passes_read_any_soup_alike(soup, kind, width):
    columns = tuple(Column(name=f"c{one}", type=kind, nullable=True) for one in range(width))
    contract = table(columns, dialect=Dialect(nulls=("NA",)))
    header = ",".join(column.name for column in columns) + "\n"
    data = (header + soup + "\n").encode()

    fast = parse(contract, data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Parser, "_fast", lambda *_: None)
        vectorised = parse(contract, data)
        patch.setattr(Parser, "_is_plain", lambda *_: False)
        one_by_one = parse(contract, data)

    assert fast == vectorised == one_by_one
    assert parse(contract, data, block_bytes=1, chunk=1) == one_by_one


def test_rules_of_the_whole_row_come_in_the_order_of_the_contract():
    contract = table(
        (
            Column(name="a", type="integer", minimum=0),
            Column(name="b", type="text", matches="[a-z]"),
        )
    )

    rows, rejects = parse(contract, b"b,a\nx,-1\nX,1\nX,-1\nX,y\n,5\nz,0\n")

    assert rows == [{"a": 0, "b": "z", "_line": 7}]
    assert [(reject.line, reject.rule) for reject in rejects] == [
        (2, "min"), (3, "matches"), (4, "min"), (5, "type"), (6, "null"),
    ]  # fmt: skip
    assert rejects[3].reason == "a is not an integer such as 42 (64 bits)"
    assert rejects[3].raw == "X,y"


@pytest.mark.parametrize("kind", ["date", "timestamp"])
def test_a_row_lies_in_the_period_of_its_file(kind):
    period = Period(every="month", column="d")
    contract = table((Column(name="d", type=kind, nullable=True),), period=period)

    rows, rejects = parse(
        contract,
        b'd\n2020-01-31\n2020-02-01\n2019-12-31\n2020-01-01\n""\n',
        bounds=period.bounds("2020-01"),
    )

    assert [row["_line"] for row in rows] == [2, 5]
    assert [(reject.line, reject.rule) for reject in rejects] == [
        (3, "period"), (4, "period"), (6, "type"),
    ]  # fmt: skip
    assert rejects[0].reason == "d lies outside the file's month, 2020-01"


def test_bytes_that_are_no_text_are_a_record_of_their_own_whatever_else_the_block_holds():
    contract = table((Column(name="a", type="integer"), Column(name="b", type="text")))
    data = b"a,b,c\n1,x,\xff\n2,\xff,y\n3,z,\0\n"

    for block_bytes in (1, 1 << 22):
        rows, rejects = parse(contract, data, block_bytes=block_bytes)

        assert [row["a"] for row in rows] == [1, 3]
        assert [(reject.line, reject.rule, reject.raw) for reject in rejects] == [
            (3, "record", "2,\\xff,y")
        ]


def test_a_quoted_newline_moves_the_lines_below_it():
    rows, rejects = parse(
        table((Column(name="a", type="integer"), Column(name="b", type="text"))),
        b'\n\na,b\n1,"x\ny\n"\n2,z\n?,"1\n2"\n3,\n',
    )

    assert [(row["a"], row["_line"]) for row in rows] == [(1, 4), (2, 7)]
    assert [(reject.line, reject.raw) for reject in rejects] == [(8, '?,"1\n2"'), (10, "3,")]


@pytest.mark.parametrize("ending", ["", "\n", "\r\n"])
@pytest.mark.parametrize("declared", ["text", "boolean"])
def test_an_empty_field_at_the_end_of_the_file_is_null(declared, ending):
    columns = (
        Column(name="a", type="text"),
        Column(name="b", type=declared, nullable=True),
    )
    assert parse(table(columns), f'a,b\n"x",{ending}'.encode()) == (
        [{"a": "x", "b": None, "_line": 2}],
        [],
    )


def test_columns_that_the_project_does_not_name_are_told():
    parser = Parser(table((Column(name="b", type="text"),)), "things.csv", None)

    rows = [row for parsed in parser.parse([b"x,b,y,y\n1,2,3,4\n"]) for row in parsed.batch["b"]]

    assert parser.extra_columns == ["x", "y", "y"]
    assert [str(row) for row in rows] == ["2"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "things.csv is empty: it has not even a header"),
        (b"\n\n", "things.csv is empty: it has not even a header"),
        (b"\xef\xbb\xbf", "things.csv is empty: it has not even a header"),
        (b"a,d\n1,2\n", r"things.csv, line 1: the header lacks 'b'; it has 'a', 'd'\.$"),
        (b"a,A\n1,2\n", "the header lacks 'b'"),
        (b"a, b\n1,2\n", "the header lacks 'b'; it has 'a', ' b'"),
        (b"a,b,a\n1,2,3\n", "the column 'a' stands there twice"),
        (
            b"a;b\n1;2\n",
            r'separated by \';\': declare csv = \{ delimiter = ";" \} for tables.things',
        ),
        (b"a\tb\n1\t2\n", r'declare csv = \{ delimiter = "\\t" \}'),
        (b'a,"b\n1,2\n', "line 1: in the header a quote is opened and never closed"),
        (b'a,b"\n1,2\n', "line 1: in the header a quote stands inside an unquoted field"),
    ],
)
def test_a_file_that_is_not_the_tables_is_refused_by_its_header(data, message):
    contract = table((Column(name="a", type="text"), Column(name="b", type="text")))

    for chunk in (1, 100):
        with pytest.raises(LoadError, match=message):
            parse(contract, data, chunk=chunk)
    with pytest.raises(LoadError, match=message):
        read_header(contract, "things.csv", [data])


def test_the_header_alone_is_read_from_a_large_file():
    contract = table((Column(name="a", type="text"),))

    def chunks():
        yield b"a,b\n"
        yield b"x,1\n" * csv_records.BLOCK_BYTES
        raise AssertionError("it read on")

    assert read_header(contract, "things.csv", chunks()) == ["b"]


def test_a_very_long_raw_text_is_cut():
    rows, (reject,) = parse(
        table((Column(name="a", type="integer"),)), b"a\n" + b"x" * 50_000 + b"\n"
    )

    assert rows == []
    assert reject.raw == "x" * 10_000
