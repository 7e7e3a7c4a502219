import gzip
from pathlib import Path

import pytest

from gristmill.bucket.bucket import open_bucket
from gristmill.errors import LoadError
from gristmill.flow.samples import open_sample, read_sample


@pytest.fixture
def opened(tmp_path):
    def write_and_open(content: bytes, *, name="t.csv", limit=1 << 20):
        Path(tmp_path / name).write_bytes(content)
        bucket = open_bucket(str(tmp_path), root=tmp_path)
        return open_sample(bucket, bucket.stat(name), limit=limit)

    return write_and_open


def texts(one):
    columns = read_sample(one, one.dialect).columns
    return {name: values.to_pylist() for name, values in columns.items()}


@pytest.mark.parametrize(
    ("content", "delimiter"),
    [
        ("a,b\n1,2\n", ","),
        ("a;b\n1,5;2,5\n", ";"),
        ("a\tb\n1,5\t2\n", "\t"),
        ("a|b|c\n1|2|3\n", "|"),
        ('"a,b";c\n"1,2";3\n', ";"),
        ("a,b;c\n1,2;3\n4,5;6\n", ","),  # both fit; the first
        ("a\n1\n2\n", ","),
        ('"a,b"\n1\n', ","),
    ],
)
def test_the_delimiter_is_the_one_by_which_records_are_alike(opened, content, delimiter):
    assert opened(content.encode()).dialect.delimiter == delimiter


@pytest.mark.parametrize(
    ("encoding", "found"),
    [
        ("utf-8", "utf-8"),
        ("utf-8-sig", "utf-8"),
        ("latin-1", "latin-1"),
        ("cp1252", "cp1252"),
        ("utf-16", "utf-16"),
        ("utf-16-le", "utf-16-le"),
    ],
)
def test_the_encoding_is_seen_in_the_bytes(opened, encoding, found):
    word = "Köln 5 €" if encoding in ("utf-8", "cp1252", "utf-16") else "Köln"
    one = opened(f"city,n\n{word},1\n".encode(encoding))
    assert one.dialect.encoding == found
    assert one.header == ("city", "n")
    assert texts(one) == {"city": [word], "n": ["1"]}
    assert bool(one.doubts) == (found in ("latin-1", "cp1252"))


def test_a_few_strange_bytes_among_many_characters_leave_it_utf_8(opened):
    one = opened(b"city,n\n" + "Köln,1\n".encode() * 9 + b"K\xf6ln,2\n")
    assert one.dialect.encoding == "utf-8"
    assert "1 bytes are not UTF-8" in one.doubts[0]


def test_gzip_is_undone(opened):
    one = opened(gzip.compress(b"a,b\n1,2\n"), name="t.csv.gz")
    assert texts(one) == {"a": ["1"], "b": ["2"]}


@pytest.mark.parametrize("limit", range(15, 60))
def test_a_cut_falls_between_records(opened, limit):
    content = 'a,b\n1,"x\ny"\n2,"é;\n"\n3,z\n4,"w"\n5,v\n6,u\n7,t\n8,s\n9,r\n'.encode()
    one = opened(content, limit=limit)
    assert not one.whole or limit >= len(content)
    rows = list(zip(*texts(one).values(), strict=True))
    whole = [("1", "x\ny"), ("2", "é;\n"), ("3", "z"), ("4", "w"), ("5", "v"), ("6", "u"),
             ("7", "t"), ("8", "s"), ("9", "r")]  # fmt: skip
    assert rows == whole[: len(rows)]
    assert len(one.data) <= limit


def test_null_and_the_empty_text_differ(opened):
    assert texts(opened(b'a,b\n1,\n2,""\n')) == {"a": ["1", "2"], "b": [None, ""]}


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "empty"),
        (b"\n\n", "empty"),
        (b'a"b,c\n1,2\n', "header"),
        (b"569,30,malignant\n1,2,3,4,5\n2,3,4,5,6\n", "3 fields"),
        (b"PK\x03\x04,\n" + b"\x00,,,\n" * 9, "fields"),
    ],
)
def test_what_is_no_csv_is_said_to_be_none(opened, content, told):
    with pytest.raises(LoadError, match=told):
        opened(content)


def test_a_broken_gzip_file_is_said_to_be_one(opened):
    with pytest.raises(LoadError, match="gzip"):
        opened(gzip.compress(b"a,b\n1,2\n" * 99)[:-20], name="t.csv.gz")
