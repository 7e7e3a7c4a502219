"""What was read of a table's files → its contract, and what is not sure about it.

It goes by our own grammar, so that every row it has seen loads; where a choice would lose
something (a leading zero, a value that is no number), the column stays text.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from gristmill.project import names
from gristmill.project.check import RESERVED, SYSTEM_COLUMNS
from gristmill.project.grammar import FORMS, parse_timestamp, value_of
from gristmill.project.table import Column, ColumnType, Dialect, Period, Table

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from datetime import datetime

    from gristmill.project.families import Family

NULL_WORDS = ("NA", "N/A", "n/a", "NULL", "null", "None", "NaN", "nan", "\\N", "-", "?", ".")
"""Words that mean null where the other values of their column are numbers or dates."""
SURE_NULL_WORDS = ("NA", "N/A", "NULL", "null", "NaN", "\\N")
"""Those that mean null among texts too, unless these are codes of two letters."""
FEW_ROWS = 30
"""In a table of fewer rows anything may be unique by chance."""
FIRST_ROWS = 1_000
"""As many rows tell whether the line above them is a header."""
LONGEST_KEY_TEXT = 64
MOST_KEY_COLUMNS = 8
"""How many columns of a table are tried in keys of several columns."""


@dataclass(frozen=True, kw_only=True)
class FileSample:
    """What was read of one file."""

    path: str
    columns: Mapping[str, pa.Array]
    """The texts (n) of each column that can be declared; null where the file has null."""
    whole: bool
    """Whether the file was read to its end."""

    @property
    def rows(self) -> int:
        """How many rows were read."""
        return max((len(texts) for texts in self.columns.values()), default=0)


@dataclass(frozen=True, kw_only=True)
class Doubt:
    """Something that a person should look at."""

    at: str
    """The key of the project file, such as `tables.sales.key`."""
    message: str


@dataclass(frozen=True, kw_only=True)
class InferredTable:
    """A table to be declared, and what is not sure about it."""

    table: Table
    samples: tuple[FileSample, ...]
    """One for each file that was read, the earliest period first."""
    whole: bool
    """Whether all of all its files was read."""
    doubts: tuple[Doubt, ...] = ()
    notes: Mapping[str, str] = field(default_factory=dict)
    """Things worth a comment though they are sure, by the key of the project file."""

    @property
    def rows(self) -> int:
        """How many rows were read."""
        return sum(sample.rows for sample in self.samples)

    def distinct(self, column: str) -> set[str]:
        """The different values of a column, as texts, without null."""
        return set(distinct(sample.columns[column] for sample in self.samples))


def declarable(header: list[str]) -> tuple[list[str], dict[str, str]]:
    """The columns of a header that a project can name, and why it cannot name the others."""
    refused: dict[str, str] = {}
    for name in header:
        if not name:
            refused[name] = "a column without a name"
        elif header.count(name) > 1:
            refused[name] = f"the column {name!r}, which stands there {header.count(name)} times"
        elif len(name.encode()) > 63 or "\0" in name or "�" in name:
            refused[name] = f"the column {name[:70]!r}, whose name PostgreSQL cannot hold"
        elif name in RESERVED | SYSTEM_COLUMNS:
            refused[name] = f"the column {name!r}, a name that PostgreSQL or Gristmill needs"
    return [name for name in header if name not in refused], refused


def header_is_data(header: list[str], columns: Mapping[str, pa.Array]) -> bool:
    """Whether the first line looks like a row, so that the file has no header.

    It does where a number or date stands above numbers or dates, unless these are years in order.
    """
    votes = 0
    for name, texts in columns.items():
        kind = _narrowest(distinct([texts.slice(0, FIRST_ROWS)]))
        if kind in ("text", None):
            votes += _narrowest([name]) not in ("text", None)
        else:
            votes += 1 if _narrowest([name]) not in ("text", None) else -1
    numbers = [int(name) for name in header if re.fullmatch(r"(1[5-9]|20)[0-9]{2}", name)]
    years = len(numbers) > 1 and all(
        after > before for before, after in itertools.pairwise(numbers)
    )
    return votes > 0 and not years


def infer_dialect(samples: Iterable[FileSample], dialect: Dialect) -> tuple[Dialect, list[str]]:
    """The words for null and the decimal mark that the values show, and what is not sure there."""
    nulls: list[str] = []
    commas, points = [], []
    taken: dict[tuple[str, str], list[str]] = {}
    listed = list(samples)
    for name in listed[0].columns:
        values = distinct(sample.columns[name] for sample in listed if name in sample.columns)
        present = [word for word in NULL_WORDS if word in values]
        others = [value for value in values if value not in NULL_WORDS]
        kind = _narrowest(others)
        if kind == "text" and _are_comma_numbers(others):
            commas.append(name)
            nulls += present
        elif kind != "text":
            nulls += [word for word in present if others or word in SURE_NULL_WORDS]
            points += [name] if kind == "number" else []
        else:
            sure = [word for word in present if word in SURE_NULL_WORDS]
            codes = all(re.fullmatch("[A-Z]{2}", value) for value in others)
            nulls += [] if codes else sure
            for word in sure:
                taken.setdefault((word, "text" if codes else "null"), []).append(name)
    decimal = "," if commas and dialect.delimiter != "," and len(commas) >= len(points) else "."
    doubts = [
        f"{word!r} is taken for {what} in {', '.join(of)}" for (word, what), of in taken.items()
    ]
    if decimal == "," and points:
        doubts.append(f"numbers have a decimal comma in {commas} and a point in {points}")
    found = replace(
        dialect, nulls=tuple(dict.fromkeys(nulls)), decimal="," if decimal == "," else "."
    )
    return found, doubts


def infer_table(
    family: Family, samples: Iterable[FileSample], dialect: Dialect, *, whole: bool
) -> InferredTable:
    """The contract of a table, from what was read of its files with that dialect."""
    read = tuple(samples)
    at = f"tables.{family.name}"
    doubts = [Doubt(at=at, message=message) for message in family.doubts]
    common = [name for name in read[0].columns if all(name in sample.columns for sample in read)]
    missing = {name for sample in read for name in sample.columns} - set(common)
    if missing:
        told = f"left out, for not every file has them: {', '.join(sorted(missing))}"
        doubts.append(Doubt(at=f"{at}.columns", message=told))
    columns = []
    for name in common:
        column, message = _column(name, [sample.columns[name] for sample in read], dialect)
        columns.append(column)
        if message:
            doubts.append(Doubt(at=f"{at}.columns.{name}", message=message))
    table = Table(name=family.name, path=family.path, columns=tuple(columns), dialect=dialect)
    if family.every:
        table, message = _with_period(table, family, read)
        doubts += [Doubt(at=f"{at}.period", message=message)] if message else []
    table, messages = _with_validity(table, read)
    if not table.valid:
        table, key_messages = _with_key(table, read)
        messages += key_messages
    if not whole and table.key:
        messages.append(("key", "not all of it was read, so the key may not be unique in the rest"))
    doubts += [Doubt(at=f"{at}.{part}", message=message) for part, message in messages]
    return InferredTable(table=table, samples=read, whole=whole, doubts=tuple(doubts))


def distinct(arrays: Iterable[pa.Array]) -> list[str]:
    """The different texts of some arrays, without null."""
    chunks = pa.chunked_array(list(arrays), pa.string())
    return [text for text in pc.unique(chunks).to_pylist() if text is not None]


def _column(name: str, texts: list[pa.Array], dialect: Dialect) -> tuple[Column, str | None]:
    values = distinct(texts)
    nullable = any(array.null_count for array in texts)
    if not values:
        return Column(name=name, type="text", nullable=True), "no value was seen"
    if dialect.decimal == ",":
        values = _with_points(values)
    kind = _narrowest(values)
    column = Column(name=name, type=kind or "text", nullable=nullable)
    return column, _doubt_of_text(values) if column.type == "text" else None


def _with_points(values: list[str]) -> list[str]:
    """Numbers with a decimal comma as numbers with a point; what has a point, as no number."""
    if _narrowest(values) in ("integer", "date", "timestamp", "boolean"):
        return values
    return [value.replace(".", "?").replace(",", ".") for value in values]


def _are_comma_numbers(values: list[str]) -> bool:
    return any("," in value for value in values) and _narrowest(_with_points(values)) in (
        "integer",
        "number",
    )


_ORDER: tuple[ColumnType, ...] = ("integer", "boolean", "date", "timestamp", "number")


def _narrowest(values: list[str]) -> ColumnType | None:
    """The narrowest type that all values have and that loses nothing; None without a value."""
    if not values:
        return None
    texts = pa.array(values, pa.string())
    for kind in _ORDER:
        if _all_match(texts, FORMS[kind]) and _are_values(texts, kind):
            return "text" if _would_lose(texts, kind) else kind
    return "text"


def _all_match(texts: pa.Array, form: str) -> bool:
    return bool(pc.all(pc.match_substring_regex(texts, form)).as_py())


def _are_values(texts: pa.Array, kind: str) -> bool:
    """Whether texts of a type's form are values of it: a day there is, an integer of 64 bits."""
    if kind == "integer" and _as_integers(texts) is not None:
        return True
    return all(value_of(text, kind) is not None for text in texts.to_pylist())


def _as_integers(texts: pa.Array) -> pa.Array | None:
    """Texts (n) of the form of integers as such (n), all at once; None where one is too large."""
    try:
        return pc.replace_substring_regex(texts, r"^\+", "").cast(pa.int64())
    except pa.ArrowInvalid:
        return None


def _would_lose(texts: pa.Array, kind: str) -> bool:
    """Whether digits are names, not amounts: leading zeros, all signs, more than a double holds."""
    if kind not in ("integer", "number"):
        return False
    zeros = pc.any(pc.match_substring_regex(texts, "^[+-]?0[0-9]")).as_py()
    return bool(zeros) or _all_match(texts, r"^\+" if kind == "integer" else "^[+-]?[0-9]+$")


def _doubt_of_text(values: list[str]) -> str | None:
    """What a column of texts would have been but for a few values, or in another notation."""
    if all(re.fullmatch("[+-]?[0-9]+", value) for value in values):
        return "digits that are kept as text, for as numbers some would lose leading zeros or size"
    if all(re.fullmatch(r"[0-9]{1,4}[/.-][0-9]{1,2}[/.-][0-9]{1,4}", value) for value in values):
        return f"dates such as {values[0]!r} are kept as text; a date is read as 2020-01-31"
    if {value.lower() for value in values} <= {"yes", "no", "y", "n", "true", "false", "t", "f"}:
        return f"kept as text; as a label or boolean, write {values[0]!r} as true, false, 1 or 0"
    for kind in ("integer", "number", "date", "timestamp"):
        others = [value for value in values if value_of(value, kind) is None]
        if len(values) >= FEW_ROWS and len(others) <= len(values) // 20:
            shown = ", ".join(repr(value[:40]) for value in others[:3])
            return f"{kind}, but for {len(others)} values such as {shown}; kept as text"
    return None


def _with_period(
    table: Table, family: Family, samples: tuple[FileSample, ...]
) -> tuple[Table, str | None]:
    """The table with what one file covers, and the column whose values always lie in that."""
    moments = [column for column in table.columns if column.type in ("date", "timestamp")]
    for every in family.every:
        for column in moments:
            period = Period(every=every, column=column.name)
            candidate = replace(table, period=period)
            if not column.nullable and all(_lies_in(candidate, sample) for sample in samples):
                gaps = _gaps(candidate, family)
                return candidate, gaps
    candidate = replace(table, period=Period(every=family.every[0]))
    every = family.every[0]
    told = f"a file for each {every} by its path, but no column's dates lie in their file's {every}"
    said = [told if moments else None, _gaps(candidate, family)]
    return candidate, "; ".join(filter(None, said)) or None


def _gaps(table: Table, family: Family) -> str | None:
    """The periods between the first and the last that have no file, in words."""
    there = {name for file in family.files if (name := table.period_of(file))}
    gaps = table.period.gaps(there) if table.period else []
    if not gaps:
        return None
    return (
        f"no file for {len(gaps)} periods from {min(there)} to {max(there)}, {gaps[0]} the first; "
        "name them in `missing` where that is right"
    )


def _lies_in(table: Table, sample: FileSample) -> bool:
    period = table.period
    name = table.period_of(sample.path)
    if period is None or period.column is None or name is None:
        return False
    first, after = period.bounds(name)
    days = [parse_timestamp(text) for text in distinct([sample.columns[period.column]])]
    return all(day is not None and first <= day.date() < after for day in days)


def _with_validity(
    table: Table, samples: tuple[FileSample, ...]
) -> tuple[Table, list[tuple[str, str]]]:
    """The table as a history, where a pair of dates tells of each entity since when until when."""
    if table.period is not None:
        return table, []
    moments = [one for one in table.columns if one.type in ("date", "timestamp")]
    starts = [one.name for one in moments if not one.nullable]
    pairs = names.validity_pairs([one.name for one in moments])
    for valid_from, valid_to in pairs:
        if valid_from in starts:
            found = _history(table, samples, valid_from, valid_to)
            if found:
                return found
    for name in starts if not pairs else ():
        if "_".join(names.words(name)) in names.SINCE:
            for entity in _entities(table):
                if _is_unique(table, (entity, name), samples):
                    return replace(table, key=(entity, name), valid=(name,)), []
    return table, []


def _history(
    table: Table, samples: tuple[FileSample, ...], valid_from: str, valid_to: str
) -> tuple[Table, list[tuple[str, str]]] | None:
    """The table as a history by two columns, if some entity has no two rows from the same time."""
    said_so = valid_from == "valid_from"
    for entity in _entities(table):
        key = (entity, valid_from)
        once = not said_so and _is_unique(table, (entity,), samples)
        if once or not _is_unique(table, key, samples):
            continue
        bad = _overlaps(table, samples, entity, valid_from, valid_to)
        if bad:
            told = (
                f"{valid_from} and {valid_to} look like a history of {entity}, but {bad} rows "
                "overlap, or end before or as they begin"
            )
            return replace(table, key=key), [("valid", told)]
        history = replace(table, key=key, valid=(valid_from, valid_to))
        if said_so and names.is_identifier(entity):
            return history, []
        return history, [
            ("valid", f"{valid_from} and {valid_to} are taken for a history of {entity}")
        ]
    return None


def _entities(table: Table) -> list[str]:
    """The columns that may say whom a row of a history is about, the likeliest first."""
    usable = [
        column.name
        for column in table.columns
        if column.type in ("integer", "text") and not column.nullable
    ]
    return sorted(
        (name for name in usable if names.is_identifier(name) or name == usable[0]),
        key=lambda name: (not names.is_identifier(name), usable.index(name)),
    )


def _overlaps(
    table: Table, samples: tuple[FileSample, ...], entity: str, start: str, end: str
) -> int:
    """How many rows end before or as they begin, or begin before an earlier one of theirs ended."""
    rows: list[tuple[str, datetime, datetime | None]] = []
    for sample in samples:
        moments = {
            text: parse_timestamp(text)
            for text in distinct([sample.columns[start], sample.columns[end]])
        }
        entities = _comparable(table, entity, sample.columns[entity]).to_pylist()
        texts = (sample.columns[name].to_pylist() for name in (start, end))
        for who, first, last in zip(entities, *texts, strict=True):
            begun = moments[first]
            if begun is not None:
                rows.append((who, begun, moments.get(last)))
    rows.sort(key=lambda row: row[:2])
    bad, before, until = 0, None, None
    open_ended = False
    for who, begun, ended in rows:
        if who != before:
            before, until, open_ended = who, None, False
        if (ended and ended <= begun) or open_ended or (until and begun < until):
            bad += 1
        open_ended = open_ended or ended is None
        until = max(filter(None, (until, ended)), default=None)
    return bad


def _with_key(table: Table, samples: tuple[FileSample, ...]) -> tuple[Table, list[tuple[str, str]]]:
    """The table with the key that its values allow and its names suggest; without where none."""
    rows = sum(sample.rows for sample in samples)
    for column in _single_keys(table):
        if _is_unique(table, (column,), samples):
            doubts = []
            if not _names_a_row(table, column):
                told = f"{column!r} is unique over {rows:,} rows, though its name does not say so"
                doubts.append(("key", told))
            elif rows < FEW_ROWS and column != table.columns[0].name:
                doubts.append(("key", f"{column!r} is unique, but over {rows} rows only"))
            return replace(table, key=(column,)), doubts
    for key in _composite_keys(table):
        if _is_unique(table, key, samples):
            told = f"no two of the {rows:,} rows agree in {' and '.join(key)}"
            return replace(table, key=key), [("key", told)]
    return table, []


def _single_keys(table: Table) -> list[str]:
    """The columns that may be a key alone, the likeliest first."""
    about = names.entity_words(table.name)

    def rank(name: str) -> tuple[bool, bool, int]:
        return (
            not _names_a_row(table, name),
            not (about & names.entity_words(name) or not names.entity_words(name)),
            position[name],
        )

    position = {column.name: index for index, column in enumerate(table.columns)}
    usable = [
        column.name
        for column in table.columns
        if column.type in ("integer", "text", "date", "timestamp")
        and not column.nullable
        and (_names_a_row(table, column.name) or position[column.name] == 0)
    ]
    return sorted(usable, key=rank)


def _names_a_row(table: Table, column: str) -> bool:
    """Whether a column's name says that it tells rows apart: an id, or what the table is about."""
    about = names.entity_words(table.name)
    return names.is_identifier(column) or (bool(about) and names.entity_words(column) == about)


def _composite_keys(table: Table) -> Iterator[tuple[str, ...]]:
    """Two or three columns that may be a key together: identifiers, and parts of time."""
    position = {column.name: index for index, column in enumerate(table.columns)}
    usable = [
        column.name
        for column in table.columns
        if not column.nullable
        and (
            column.type in ("date", "timestamp")
            or (column.type in ("integer", "text") and _tells_apart(column, position))
        )
    ]
    usable.sort(key=lambda name: (not names.is_identifier(name), position[name]))
    for size in (2, 3):
        for key in itertools.combinations(usable[:MOST_KEY_COLUMNS], size):
            yield tuple(sorted(key, key=lambda name: position[name]))


def _tells_apart(column: Column, position: Mapping[str, int]) -> bool:
    named = names.is_identifier(column.name) or names.is_calendar(column.name)
    return named or (position[column.name] == 0)


def _is_unique(table: Table, key: tuple[str, ...], samples: tuple[FileSample, ...]) -> bool:
    """Whether no two rows of a file agree in the key; a load holds one file."""
    return all(_unique_in(table, key, sample) for sample in samples)


def _unique_in(table: Table, key: tuple[str, ...], sample: FileSample) -> bool:
    arrays = [_comparable(table, name, sample.columns[name]) for name in key]
    if any((pc.max(pc.binary_length(array)).as_py() or 0) > LONGEST_KEY_TEXT for array in arrays):
        return False
    counts = [pc.count_distinct(array).as_py() for array in arrays]
    if len(key) == 1:
        return bool(counts[0] == sample.rows)
    possible = 1
    for count in counts:
        possible *= count
    if possible < sample.rows:
        return False
    grouped = pa.table(arrays, names=[str(number) for number in range(len(key))])
    return bool(grouped.group_by(grouped.column_names).aggregate([]).num_rows == sample.rows)


def _comparable(table: Table, name: str, texts: pa.Array) -> pa.Array:
    """Texts such that equal values are equal texts: `+5` and `5`, `2020-01-01` and its midnight."""
    column = table.column(name)
    if column is None or column.type in ("text", "date"):
        return texts
    if column.type == "integer":
        integers = _as_integers(texts)
        if integers is not None:
            return integers.cast(pa.string())
    known = {text: str(value_of(text, column.type)) for text in distinct([texts])}
    return pa.array([known.get(text) for text in texts.to_pylist()], pa.string())
