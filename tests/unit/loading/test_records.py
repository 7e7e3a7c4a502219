"""Bytes to records: what a record is does not depend on how the bytes arrive."""

import csv
import gzip
import io

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from gristmill.errors import LoadError
from gristmill.loading import records as csv_records


def cut(data, size):
    return [data[start : start + size] for start in range(0, len(data), size)]


def read(data, *, block_bytes=1 << 22, chunk=1 << 20, delimiter=b",", path="a.csv"):
    """All records of some bytes, as line, raw, fields and problem."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(csv_records, "BLOCK_BYTES", block_bytes)
        found = list(csv_records.blocks(cut(data, chunk), delimiter, path=path))
    assert b"".join(block.data for block in found) == data
    return [
        (record.line, record.raw, record.fields, record.problem)
        for block in found
        for record in csv_records.records(block, delimiter)
    ]


def texts(data, **options):
    return [[text.decode() for text, _ in fields] for _, _, fields, _ in read(data, **options)]


pieces = st.sampled_from(["a", "1", ",", ";", '"', '""', "\n", "\r\n", "\r", " ", "é", "\n\n"])
strange = st.lists(pieces, max_size=40).map("".join).map(str.encode)


@given(data=strange, chunk=st.integers(1, 9), block_bytes=st.integers(1, 9))
@example(data=b'a,"b\n"\nc,d\n', chunk=1, block_bytes=1)
@example(data=b'a"b\nc,"d\ne"\n', chunk=3, block_bytes=3)
@example(data=b'"a""\n"\n"b"\r\n', chunk=2, block_bytes=2)
@example(data=b'1\n"a\n2\n', chunk=1, block_bytes=1)
def test_blocks_cut_anywhere_give_the_same_records(data, chunk, block_bytes):
    assert read(data, chunk=chunk, block_bytes=block_bytes) == read(data)


@given(data=strange, chunk=st.integers(1, 9), block_bytes=st.integers(1, 9))
def test_no_byte_is_lost_and_lines_are_physical(data, chunk, block_bytes):
    found = read(data, chunk=chunk, block_bytes=block_bytes)

    lines = data.split(b"\n")
    for line, raw, _, _ in found:
        assert b"\n".join(lines[line - 1 :]).startswith(raw)
    blank = data.replace(b"\r", b"").replace(b"\n", b"")
    assert b"".join(raw for _, raw, _, _ in found).replace(b"\r", b"").replace(b"\n", b"") == blank


rows = st.lists(
    st.lists(
        st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]), max_size=8),
        min_size=2,
        max_size=4,
    ),
    max_size=8,
)


@given(
    rows=rows,
    delimiter=st.sampled_from(",;\t|"),
    ending=st.sampled_from(["\n", "\r\n"]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    block_bytes=st.integers(1, 60),
)
def test_what_the_standard_library_writes_is_read_back(
    rows, delimiter, ending, quoting, block_bytes
):
    # Older versions of the writer leave a carriage return without quotes.
    assume(quoting == csv.QUOTE_ALL or not any("\r" in text for row in rows for text in row))
    file = io.StringIO()
    csv.writer(file, delimiter=delimiter, lineterminator=ending, quoting=quoting).writerows(rows)
    data = file.getvalue().encode()

    found = read(data, block_bytes=block_bytes, chunk=7, delimiter=delimiter.encode())

    assert [[text.decode() for text, _ in fields] for _, _, fields, _ in found] == rows
    assert not any(problem for _, _, _, problem in found)


@given(rows=rows, block_bytes=st.integers(1, 60))
def test_the_lines_of_strict_blocks_are_those_of_their_records(rows, block_bytes):
    file = io.StringIO()
    csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_ALL).writerows(rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(csv_records, "BLOCK_BYTES", block_bytes)
        found = list(csv_records.blocks(cut(file.getvalue().encode(), 5), b",", path="a.csv"))

    for block in found:
        assert block.strict
        assert list(csv_records.record_lines(block)) == [
            record.line for record in csv_records.records(block, b",")
        ]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"a,b\n", [["a", "b"]]),
        (b"a,b", [["a", "b"]]),
        (b"a,b\r\nc,d\r\n", [["a", "b"], ["c", "d"]]),
        (b"a,b\r", [["a", "b"]]),
        (b"a,\n,b\n,\n", [["a", ""], ["", "b"], ["", ""]]),
        (b'"a,b","c\nd","e""f",""\n', [["a,b", "c\nd", 'e"f', ""]]),
        (b'"""",""""""\n', [['"', '""']]),
        (b'"a\r\nb"\r\n', [["a\r\nb"]]),
        (b'"a\rb",c\n', [["a\rb", "c"]]),
        (b"a\n\n\nb\n\n", [["a"], ["b"]]),
        (b"a\r\n\r\nb\r\n\r\n", [["a"], ["b"]]),
        (b"\n\n", []),
        (b" a , b \n", [[" a ", " b "]]),
    ],
)
def test_records_by_hand(data, expected):
    found = read(data)

    assert [[text.decode() for text, _ in fields] for _, _, fields, _ in found] == expected
    assert not any(problem for _, _, _, problem in found)


def test_a_field_knows_whether_it_stood_in_quotes():
    ((_, _, fields, _),) = read(b'"",,"a",b\n')

    assert fields == ((b"", True), (b"", False), (b"a", True), (b"b", False))


@pytest.mark.parametrize(
    ("data", "broken", "problem"),
    [
        (b'a,b\n5" pipe,1\nc,d\n', {2: b'5" pipe,1'}, "a quote stands inside an unquoted field"),
        (b'a,b\n"x"y,1\nc,d\n', {2: b'"x"y,1'}, "text follows a closing quote"),
        (b'a,b\n"x" ,1\nc,d\n', {2: b'"x" ,1'}, "text follows a closing quote"),
        (
            b"a,b\nx\ry,1\nc,d\n",
            {2: b"x\ry,1"},
            "a carriage return stands inside an unquoted field",
        ),
        (b"a,b\nx,1\r\r\nc,d\n", {2: b"x,1"}, "a carriage return stands inside an unquoted field"),
        (b'a,b\n"x,1\nc,d\n', {2: b'"x,1'}, "a quote is opened and never closed"),
        (b'a,b\nx,"1', {2: b'x,"1'}, "a quote is opened and never closed"),
    ],
)
def test_a_broken_record_is_told_and_the_next_line_is_read(data, broken, problem):
    found = read(data)

    assert {line: raw for line, raw, _, told in found if told} == broken
    assert {told for _, _, _, told in found if told} == {problem}
    good = [fields for _, _, fields, told in found if not told]
    assert [text for text, _ in good[0]] == [b"a", b"b"]
    assert len(good) == 2 or b"c,d" not in data


def test_a_quote_that_closes_far_below_takes_the_lines_between_with_it():
    found = read(b'1,"a\n2,"b"\n3,c\n')

    assert [(line, raw, problem) for line, raw, _, problem in found] == [
        (1, b'1,"a\n2,"b"', "text follows a closing quote"),
        (3, b"3,c", None),
    ]


def test_a_record_beyond_the_limit_is_an_error_with_its_line(monkeypatch):
    monkeypatch.setattr(csv_records, "MAX_RECORD_BYTES", 1000)

    with pytest.raises(LoadError, match=r"big\.csv, line 3: .*never closed"):
        read(b'a,b\nc,d\n"' + b"x" * 3000, block_bytes=100, chunk=100, path="big.csv")


def test_a_record_below_the_limit_is_read_over_many_blocks(monkeypatch):
    monkeypatch.setattr(csv_records, "MAX_RECORD_BYTES", 5000)
    long = "x\n" * 2000

    assert texts(f'a,b\n"{long}",d\ne,f\n'.encode(), block_bytes=100, chunk=100) == [
        ["a", "b"],
        [long, "d"],
        ["e", "f"],
    ]


def decode(data, *, path="a.csv", encoding="utf-8", chunk=3):
    return b"".join(csv_records.decoded(cut(data, chunk), path=path, encoding=encoding))


@pytest.mark.parametrize("chunk", [1, 2, 3, 4, 100])
@pytest.mark.parametrize("text", ["", "a", "ab", "idx,é\n1,2\n"])
def test_a_byte_order_mark_is_taken_off(text, chunk):
    plain = text.encode()

    assert decode(plain, chunk=chunk) == plain
    assert decode(b"\xef\xbb\xbf" + plain, chunk=chunk) == plain
    assert decode(text.encode("utf-16"), encoding="utf-16", chunk=chunk) == plain
    assert decode("\ufeff".encode("utf-16-le"), encoding="utf-16-le", chunk=chunk) == b""


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "utf-16-be", "utf-8-sig", "shift_jis"])
def test_other_encodings_become_utf_8(encoding):
    text = "idx,attr\n1,ok\n" if encoding == "shift_jis" else "idx,attr\n1,café\n"

    assert decode(text.encode(encoding), encoding=encoding) == text.encode()


def test_a_byte_that_an_encoding_does_not_know_stays_to_be_found():
    assert decode(b"a\x81b", encoding="cp1252") == b"a\x81b"


@pytest.mark.parametrize("data", [b"a", b"\x00\xd8a\x00", b"a\x00b"])
def test_bytes_that_are_no_utf_16_are_an_error(data):
    with pytest.raises(LoadError, match=r"a\.csv is not utf-16-le"):
        decode(data, encoding="utf-16-le")


@given(members=st.lists(st.binary(max_size=30), max_size=4), chunk=st.integers(1, 50))
def test_gzip_of_any_number_of_members(members, chunk):
    data = b"".join(gzip.compress(member) for member in members)
    plain = b"".join(members).removeprefix(b"\xef\xbb\xbf")

    assert decode(data, path="a.csv.gz", chunk=chunk) == plain


def test_a_small_gzip_file_does_not_fill_the_memory():
    data = gzip.compress(bytes(40 * csv_records.BLOCK_BYTES))

    sizes = [len(piece) for piece in csv_records.decoded([data], path="a.csv.gz", encoding="utf-8")]

    assert sum(sizes) == 40 * csv_records.BLOCK_BYTES
    assert max(sizes) <= 2 * csv_records.BLOCK_BYTES


@pytest.mark.parametrize("kept", [1, 9, 15, -9, -1])
def test_a_truncated_gzip_file_is_an_error(kept):
    data = gzip.compress(b"idx,label\n1,0\n")[:kept]

    with pytest.raises(LoadError, match=r"a\.csv\.gz ends in the middle of its gzip stream"):
        decode(data, path="a.csv.gz")


def test_a_second_member_that_is_truncated_is_an_error():
    data = gzip.compress(b"idx\n") + gzip.compress(b"1\n")[:-3]

    with pytest.raises(LoadError, match="ends in the middle"):
        decode(data, path="a.csv.gz")


def test_what_is_no_gzip_is_an_error():
    with pytest.raises(LoadError, match=r"a\.csv\.gz is named \.gz but is no whole gzip file"):
        decode(b"idx,label\n", path="a.csv.gz")
