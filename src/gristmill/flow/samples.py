"""Bytes of a file nobody has declared yet → its texts by column, as a load would read them.

It reads no more than it was allowed to, whatever the file's size.
"""

from __future__ import annotations

import codecs
import re
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pyarrow as pa

from gristmill.errors import LoadError
from gristmill.loading import records as csv_records
from gristmill.loading.parse import Parser
from gristmill.project.infer import FileSample, declarable
from gristmill.project.table import Column, Dialect, Table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gristmill.bucket.bucket import Bucket, BucketObject
    from gristmill.loading.parse import Reject

DELIMITERS = (",", ";", "\t", "|")
SNIFFED_BYTES = 256 * 1024
"""How much is looked at to find the delimiter."""
SNIFFED_RECORDS = 200
TOLERATED = 0.5
"""The share of records that have to be as long as the header for a file to be a CSV."""


@dataclass(frozen=True, kw_only=True)
class Opened:
    """The beginning of one file, in UTF-8, cut after a whole record."""

    path: str
    data: bytes
    whole: bool
    dialect: Dialect
    """The delimiter and encoding that the bytes show."""
    header: tuple[str, ...]
    doubts: tuple[str, ...] = ()


def open_sample(bucket: Bucket, item: BucketObject, *, limit: int) -> Opened:
    """Read at most about `limit` bytes of a file, unpacked, and find how it is written.

    Raises LoadError where it is no CSV with a header, BucketError where it cannot be read.
    """
    raw, whole = _beginning(bucket, item, limit)
    encoding, doubt = _encoding(raw)
    data = _as_utf8(raw, encoding, whole=whole, path=item.path)
    if not data.strip():
        raise LoadError("it is empty")
    if not whole:
        data = data[: _last_whole_record(data)]
    delimiter, header = _delimiter(data)
    dialect = Dialect(delimiter=delimiter, encoding=encoding)
    return Opened(
        path=item.path, data=data, whole=whole, dialect=dialect, header=tuple(header),
        doubts=(doubt,) if doubt else (),
    )  # fmt: skip


def read_sample(opened: Opened, dialect: Dialect) -> FileSample:
    """Its declarable columns as texts, read in a dialect by the load's own parser."""
    names, _ = declarable(list(opened.header))
    if not names:
        raise LoadError("no column of it has a name that can be declared")
    columns = tuple(Column(name=name, type="text", nullable=True) for name in names)
    table = Table(name="sample", path=opened.path, columns=columns, dialect=dialect)
    batches = [batch for batch, _ in _parsed(table, opened)]
    texts = {
        name: pa.chunked_array([batch.column(name) for batch in batches], pa.string())
        for name in names
    }
    return FileSample(
        path=opened.path,
        columns={name: chunked.combine_chunks() for name, chunked in texts.items()},
        whole=opened.whole,
    )


def rejected(table: Table, opened: Opened) -> tuple[int, Counter[str], list[Reject]]:
    """What a load of the sample by the table's contract would come to: rows, rejects, examples."""
    rows, counts = 0, Counter[str]()
    examples: list[Reject] = []
    for batch, rejects in _parsed(table, opened):
        rows += batch.num_rows
        counts.update(reject.rule for reject in rejects)
        examples += rejects[: 3 - len(examples)]
    return rows, counts, examples


def _parsed(table: Table, opened: Opened) -> Iterator[tuple[pa.RecordBatch, list[Reject]]]:
    # What is parsed here is UTF-8 already.
    table = replace(table, dialect=replace(table.dialect, encoding="utf-8"))
    name = table.period_of(opened.path) if table.period else None
    bounds = table.period.bounds(name) if table.period and name else None
    path = re.sub(r"\.gz$", "", opened.path)
    for parsed in Parser(table, path, bounds).parse([opened.data]):
        yield parsed.batch, parsed.rejects


def _beginning(bucket: Bucket, item: BucketObject, limit: int) -> tuple[bytes, bool]:
    held, size = [], 0
    chunks = bucket.stream(item)
    # As UTF-8, which leaves bytes as they are, so that only gzip is undone.
    for chunk in csv_records.decoded(chunks, path=item.path, encoding="utf-8"):
        held.append(chunk)
        size += len(chunk)
        if size > limit:
            return b"".join(held)[:limit], False
    return b"".join(held), True


def _encoding(raw: bytes) -> tuple[str, str | None]:
    """The encoding of some bytes; with a doubt where they do not prove it."""
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16", None
    if raw[:1000].count(b"\0") > len(raw[:1000]) // 4:
        return ("utf-16-le" if raw[1:2] == b"\0" else "utf-16-be"), None
    text = raw.decode("utf-8", "surrogateescape")
    strange = len(re.findall("[\ud800-\udfff]", text))
    # The cut may have gone through a character.
    if strange == 0 or (strange <= 3 and not re.search("[\ud800-\udfff]", text[:-3])):
        return "utf-8", None
    foreign = len(re.findall("[^\x00-\x7f\ud800-\udfff]", text))
    if foreign > strange:
        return "utf-8", f"{strange} bytes are not UTF-8, as the rest is; their rows are rejected"
    if re.search(rb"[\x80-\x9f]", raw):
        try:
            raw.decode("cp1252")
        except UnicodeDecodeError:
            return "latin-1", "the bytes are not UTF-8, and may be in another encoding than latin-1"
        return "cp1252", "the bytes are not UTF-8; cp1252, Windows in the west, knows all of them"
    return "latin-1", "the bytes are not UTF-8; latin-1 knows all bytes, so it may be another"


def _as_utf8(raw: bytes, encoding: str, *, whole: bool, path: str) -> bytes:
    if not whole and encoding.startswith("utf-16"):
        raw = raw[: len(raw) // 2 * 2]
        text = raw.decode(encoding, "ignore")
        return text[: text.rfind("\n") + 1].encode()
    name = re.sub(r"\.gz$", "", path)
    return b"".join(csv_records.decoded([raw], path=name, encoding=encoding))


def _last_whole_record(data: bytes) -> int:
    """Where the last line ends that does not lie inside of quotes, as far as can be told."""
    end = data.rfind(b"\n")
    quotes = data.count(b'"', 0, end + 1)
    for _ in range(1000):
        if quotes % 2 == 0 or end < 0:
            return end + 1
        before = data.rfind(b"\n", 0, end)
        quotes -= data.count(b'"', before + 1, end + 1)
        end = before
    return data.rfind(b"\n") + 1


def _delimiter(data: bytes) -> tuple[str, list[str]]:
    """The delimiter by which most records are as long as the header, and the header."""
    start = data[:SNIFFED_BYTES]
    if len(data) > len(start):
        start = start[: _last_whole_record(start)] or data
    block = csv_records.Block(data=start, line=1, strict=False)
    headers: dict[str, list[str]] = {}
    agreeing: dict[str, float] = {}
    for delimiter in DELIMITERS:
        found = csv_records.records(block, delimiter.encode())
        header = next(found, None)
        if header is None or header.problem:
            continue
        lengths = [len(r.fields) for r, _ in zip(found, range(SNIFFED_RECORDS), strict=False)]
        headers[delimiter] = [text.decode("utf-8", "replace") for text, _ in header.fields]
        agreeing[delimiter] = lengths.count(len(header.fields)) / len(lengths) if lengths else 1
    if not headers:
        raise LoadError("its first line is no header: the quotes in it do not match")
    several = [delimiter for delimiter, names in headers.items() if len(names) > 1]
    if not several:
        delimiter = max(headers, key=agreeing.__getitem__)
        return delimiter, headers[delimiter]
    best = max(several, key=lambda one: (agreeing[one], len(headers[one])))
    if agreeing[best] < TOLERATED:
        raise LoadError(f"its rows do not have the {len(headers[best])} fields of its first line")
    return best, headers[best]
