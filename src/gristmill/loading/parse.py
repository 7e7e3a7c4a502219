"""CSV blocks → typed batches and rejects: a fast pass for clean blocks, an exact one for others.

Both give the same answer. The fast pass lets a vectorised parser convert the whole block, and
believes it only where nothing in the block could be read more loosely than the contract allows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as arrow_csv

from gristmill.errors import LoadError
from gristmill.loading import records as csv_records
from gristmill.loading.values import (
    arrow_type,
    as_mask,
    broken_rules,
    meant,
    out_of_range,
    typed,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from datetime import date

    from numpy.typing import NDArray

    from gristmill.loading.values import Mask
    from gristmill.project.table import Column, Table

LINE = "_line"
MAX_RAW_CHARACTERS = 10_000


@dataclass(frozen=True, kw_only=True)
class Reject:
    """A row that broke a rule."""

    line: int
    rule: str
    reason: str
    raw: str


@dataclass(frozen=True, kw_only=True)
class Parsed:
    """What one block held."""

    batch: pa.RecordBatch
    """The good rows: the table's columns and `_line`."""
    rejects: list[Reject]


@dataclass(frozen=True, kw_only=True)
class _Texts:
    """A block's rows as texts, column by column, with where each came from."""

    columns: dict[str, pa.Array]
    lines: NDArray[np.int32]
    raws: _Raws | list[bytes]


class Parser:
    """Reads one file of a table: its header first, then block after block."""

    def __init__(self, table: Table, path: str, bounds: tuple[date, date] | None) -> None:
        self._table = table
        self._path = path
        self._bounds = bounds
        self._delimiter = table.dialect.delimiter.encode()
        self._nulls = ["", *table.dialect.nulls]
        self._header: list[str] = []
        self._schema = pa.schema(
            [*((column.name, arrow_type(column)) for column in table.columns), (LINE, pa.int32())]
        )

    @property
    def schema(self) -> pa.Schema:
        """The columns of every batch: the table's, then `_line`."""
        return self._schema

    @property
    def extra_columns(self) -> list[str]:
        """The file's columns that the project does not name, once the header was read."""
        known = {column.name for column in self._table.columns}
        return [name for name in self._header if name not in known]

    def parse(self, chunks: Iterable[bytes | memoryview]) -> Iterator[Parsed]:
        """Read the file; a batch and its rejects for each block, in the file's order.

        Raises LoadError where the file has no header, no row or lacks a column.
        """
        stream = csv_records.decoded(chunks, path=self._path, encoding=self._table.dialect.encoding)
        for block in csv_records.blocks(stream, self._delimiter, path=self._path):
            rest = block if self._header else self._take_header(block)
            if rest.data:
                yield self._parse_block(rest)
        if not self._header:
            raise LoadError(f"{self._path} is empty: it has not even a header.")

    def take_header(self, chunks: Iterable[bytes | memoryview]) -> None:
        """Read the header alone. Raises LoadError where it is not that of the table."""
        stream = csv_records.decoded(chunks, path=self._path, encoding=self._table.dialect.encoding)
        block = next(csv_records.blocks(stream, self._delimiter, path=self._path), None)
        if block is None:
            raise LoadError(f"{self._path} is empty: it has not even a header.")
        self._take_header(block)

    def _take_header(self, block: csv_records.Block) -> csv_records.Block:
        header = next(csv_records.records(block, self._delimiter), None)
        if header is None:
            raise LoadError(f"{self._path} is empty: it has not even a header.")
        names = [text.decode("utf-8", "replace") for text, _ in header.fields]
        if header.problem:
            raise LoadError(f"{self._path}, line {header.line}: in the header {header.problem}.")
        self._check_header(names, header.line)
        self._header = names
        end = block.data.find(header.raw) + len(header.raw)
        line_end = block.data.find(b"\n", end)
        end = len(block.data) if line_end < 0 else line_end + 1
        return csv_records.Block(
            data=block.data[end:],
            line=block.line + block.data.count(b"\n", 0, end),
            strict=block.strict,
        )

    def _check_header(self, names: list[str], line: int) -> None:
        wanted = [column.name for column in self._table.columns]
        missing = [name for name in wanted if name not in names]
        twice = [name for name in wanted if names.count(name) > 1]
        if twice:
            raise LoadError(
                f"{self._path}, line {line}: the column {twice[0]!r} stands there twice."
            )
        if not missing:
            return
        hint = ""
        for other, word in ((",", ","), (";", ";"), ("\t", "\\t"), ("|", "|")):
            if len(names) == 1 and other != self._table.dialect.delimiter and other in names[0]:
                hint = (
                    f" Its fields seem to be separated by {word!r}: declare "
                    f'csv = {{ delimiter = "{word}" }} for tables.{self._table.name}.'
                )
        raise LoadError(
            f"{self._path}, line {line}: the header lacks {', '.join(map(repr, missing))}; "
            f"it has {', '.join(map(repr, names))}.{hint}"
        )

    def _parse_block(self, block: csv_records.Block) -> Parsed:
        lines = csv_records.record_lines(block) if block.strict else np.empty(0, dtype=np.int32)
        columns = self._fast(block, len(lines))
        if columns is not None:
            problems = _Problems(len(lines))
            self._check_columns(columns, problems)
            return self._result(columns, lines, _Raws(block, lines), problems, [])
        texts, rejects = self._exact(block, lines)
        problems = _Problems(len(texts.lines))
        columns = []
        for column in self._table.columns:
            values, wrong = typed(texts.columns[column.name], column)
            problems.add("type", wrong, f"{column.name} is not {meant(column)}")
            columns.append(values)
        self._check_columns(columns, problems)
        return self._result(columns, texts.lines, texts.raws, problems, rejects)

    def _fast(self, block: csv_records.Block, count: int) -> list[pa.Array] | None:
        """The whole block converted at once; None where the exact pass has to decide."""
        if not self._is_plain(block) or self._could_mislead(block.data):
            return None
        kinds = {column.name: self._fast_type(column) for column in self._table.columns}
        table = self._read(block.data, kinds)
        if table is None or table.num_rows != count:
            return None
        columns = [table.column(column.name).combine_chunks() for column in self._table.columns]
        for index, column in enumerate(self._table.columns):
            if column.type == "timestamp":
                columns[index], wrong = typed(columns[index], column)
                if wrong.any():
                    return None
            elif out_of_range(columns[index], column):
                return None
        return columns

    def _fast_type(self, column: Column) -> pa.DataType:
        # The fast parser knows more forms of a time than the grammar does.
        return pa.string() if column.type == "timestamp" else arrow_type(column)

    def _is_plain(self, block: csv_records.Block) -> bool:
        """Whether the fast parser finds the same records and fields as the exact one."""
        data = block.data
        if not block.strict or b"\0" in data or data.count(b"\r") != data.count(b"\r\n"):
            return False
        # A blank line is a row of nulls to it, where the exact one passes over it.
        return not (data.startswith((b"\n", b"\r\n")) or b"\n\n" in data or b"\n\r\n" in data)

    def _could_mislead(self, data: bytes) -> bool:
        """Whether the fast parser might accept a value that the grammar does not.

        It trims white space around what is not text, reads hexadecimal integers, rounds decimals.
        """
        if any(column.type == "decimal" for column in self._table.columns):
            return True
        if b"0x" in data or b"0X" in data:
            return True
        blanks = [blank for blank in b" \t" if blank != self._delimiter[0] and blank in data]
        if not blanks:
            return False
        array = np.frombuffer(data, dtype=np.uint8)
        spaces = np.flatnonzero(np.isin(array, blanks))
        edges = np.zeros(256, dtype=bool)
        edges[[self._delimiter[0], *b'\r\n" \t']] = True
        before = array[np.maximum(spaces - 1, 0)]
        after = array[np.minimum(spaces + 1, len(array) - 1)]
        return bool(
            np.any(edges[before] | edges[after]) or spaces[0] == 0 or spaces[-1] == len(array) - 1
        )

    def _read(self, data: bytes, kinds: dict[str, pa.DataType]) -> pa.Table | None:
        """The block by the vectorised parser; None where it refuses."""
        decimal = self._table.dialect.decimal
        if data and not data.endswith(b"\n"):
            data += b"\n"  # where a file ends, it takes an empty field for one in quotes
        try:
            return arrow_csv.read_csv(
                pa.BufferReader(data),
                read_options=arrow_csv.ReadOptions(
                    column_names=self._header, block_size=len(data) + 1, use_threads=False
                ),
                parse_options=arrow_csv.ParseOptions(
                    delimiter=self._table.dialect.delimiter,
                    newlines_in_values=b'"' in data,
                    ignore_empty_lines=False,
                ),
                convert_options=arrow_csv.ConvertOptions(
                    column_types=kinds,
                    include_columns=list(kinds),
                    null_values=self._nulls,
                    strings_can_be_null=True,
                    quoted_strings_can_be_null=False,
                    true_values=["true", "1"],
                    false_values=["false", "0"],
                    decimal_point=decimal,
                ),
            )
        except (pa.ArrowInvalid, pa.ArrowKeyError):
            return None

    def _exact(
        self, block: csv_records.Block, lines: NDArray[np.int32]
    ) -> tuple[_Texts, list[Reject]]:
        """The block's rows as texts: vectorised where the records are regular, else one by one."""
        kinds = {column.name: pa.string() for column in self._table.columns}
        table = self._read(block.data, kinds) if self._is_plain(block) else None
        if table is None or table.num_rows != len(lines):
            return self._one_by_one(block)
        columns = {name: table.column(name).combine_chunks() for name in kinds}
        raws = _Raws(block, lines)
        return _Texts(columns=self._with_points(columns), lines=lines, raws=raws), []

    def _one_by_one(self, block: csv_records.Block) -> tuple[_Texts, list[Reject]]:
        wanted = [self._header.index(column.name) for column in self._table.columns]
        nulls = {word.encode() for word in self._nulls}
        rejects, lines, raws = [], [], []
        values: list[list[str | None]] = [[] for _ in wanted]
        for record in csv_records.records(block, self._delimiter):
            problem = record.problem or self._problem(record, wanted)
            if problem:
                rejects.append(
                    Reject(line=record.line, rule="record", reason=problem, raw=shown(record.raw))
                )
                continue
            lines.append(record.line)
            raws.append(record.raw)
            for texts, index in zip(values, wanted, strict=True):
                text, quoted = record.fields[index]
                texts.append(None if not quoted and text in nulls else text.decode())
        columns = {
            column.name: pa.array(texts, pa.string())
            for column, texts in zip(self._table.columns, values, strict=True)
        }
        return _Texts(
            columns=self._with_points(columns), lines=np.array(lines, dtype=np.int32), raws=raws
        ), rejects

    def _problem(self, record: csv_records.Record, wanted: list[int]) -> str | None:
        """What is wrong with a record's shape, or with the bytes of its wanted fields."""
        if len(record.fields) != len(self._header):
            return f"it has {len(record.fields)} fields where the header has {len(self._header)}"
        for index in wanted:
            text = record.fields[index][0]
            if b"\0" in text:
                return f"{self._header[index]} holds a NUL byte, which PostgreSQL cannot store"
            try:
                text.decode()
            except UnicodeDecodeError:
                return (
                    f"{self._header[index]} has bytes that are not {self._table.dialect.encoding}"
                )
        return None

    def _with_points(self, columns: dict[str, pa.Array]) -> dict[str, pa.Array]:
        """Numbers written with a decimal comma, with a point; one with a point is not a number."""
        if self._table.dialect.decimal == ".":
            return columns
        for column in self._table.columns:
            if column.type in ("number", "decimal"):
                texts = pc.replace_substring(columns[column.name], ".", "?")
                columns[column.name] = pc.replace_substring(texts, ",", ".")
        return columns

    def _check_columns(self, columns: list[pa.Array], problems: _Problems) -> None:
        for values, column in zip(columns, self._table.columns, strict=True):
            for rule, broken, reason in broken_rules(values, column):
                problems.add(rule, broken, reason)
        self._check_validity(columns, problems)
        self._check_period(columns, problems)

    def _check_validity(self, columns: list[pa.Array], problems: _Problems) -> None:
        """An interval reaches from `valid_from` up to, not including, `valid_to`."""
        if len(self._table.valid) < 2:
            return
        names = [column.name for column in self._table.columns]
        begin, end = (columns[names.index(name)] for name in self._table.valid)
        if begin.type != end.type:
            begin, end = begin.cast(pa.timestamp("us")), end.cast(pa.timestamp("us"))
        first, last = self._table.valid
        problems.add("inverted", as_mask(pc.greater(begin, end)), f"{last} lies before {first}")
        problems.add("empty", as_mask(pc.equal(begin, end)), f"{last} is the same as {first}")

    def _check_period(self, columns: list[pa.Array], problems: _Problems) -> None:
        period = self._table.period
        if self._bounds is None or period is None or period.column is None:
            return
        first, after = self._bounds
        names = [column.name for column in self._table.columns]
        days = columns[names.index(period.column)].cast(pa.date32())
        outside = pc.or_(pc.less(days, pa.scalar(first)), pc.greater_equal(days, pa.scalar(after)))
        problems.add(
            "period",
            as_mask(outside),
            f"{period.column} lies outside the file's {period.every}, {period.name(first)}",
        )

    def _result(
        self,
        columns: list[pa.Array],
        lines: NDArray[np.int32],
        raws: _Raws | list[bytes],
        problems: _Problems,
        rejects: list[Reject],
    ) -> Parsed:
        for row, rule, reason in problems.found():
            rejects.append(
                Reject(line=int(lines[row]), rule=rule, reason=reason, raw=shown(raws[row]))
            )
        batch = pa.RecordBatch.from_arrays(
            [*columns, pa.array(lines, pa.int32())], schema=self._schema
        )
        if problems.any:
            batch = batch.filter(pa.array(problems.good))
        return Parsed(batch=batch, rejects=sorted(rejects, key=lambda reject: reject.line))


def read_header(table: Table, path: str, chunks: Iterable[bytes | memoryview]) -> list[str]:
    """Check a file's header against the contract; the columns the project does not name.

    Reads no further than the first block. Raises LoadError.
    """
    parser = Parser(table, path, None)
    parser.take_header(chunks)
    return parser.extra_columns


class _Problems:
    """Which of n rows broke a rule: the first one that each broke."""

    def __init__(self, count: int) -> None:
        self._which = np.zeros(count, dtype=np.int32)
        self._rules: list[tuple[str, str]] = []

    def add(self, rule: str, broken: Mask, reason: str) -> None:
        if broken.any():
            self._rules.append((rule, reason))
            self._which[broken & (self._which == 0)] = len(self._rules)

    @property
    def any(self) -> bool:
        return bool(self._rules)

    @property
    def good(self) -> Mask:
        good: Mask = self._which == 0
        return good

    def found(self) -> Iterator[tuple[int, str, str]]:
        for row in np.flatnonzero(self._which):
            rule, reason = self._rules[self._which[row] - 1]
            yield int(row), rule, reason


class _Raws:
    """The raw records of a block by number, cut apart only when one is asked for."""

    def __init__(self, block: csv_records.Block, lines: NDArray[np.int32]) -> None:
        self._block = block
        self._starts = lines - block.line
        self._lines: list[bytes] = []

    def __getitem__(self, row: int) -> bytes:
        self._lines = self._lines or self._block.data.split(b"\n")
        after = self._starts[row + 1] if row + 1 < len(self._starts) else len(self._lines)
        return b"\n".join(self._lines[self._starts[row] : after]).rstrip(b"\r\n")


def shown(raw: bytes) -> str:
    """A record's raw bytes as text that the database can keep, cut to MAX_RAW_CHARACTERS."""
    text = raw[: MAX_RAW_CHARACTERS * 4].decode("utf-8", "backslashreplace")
    return text.replace("\0", "\\x00")[:MAX_RAW_CHARACTERS]
