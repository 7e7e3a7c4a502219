"""What is in a table or build: exact counts over all rows, and a sample of them to look at.

Memory is bounded: the database counts, and of its rows no more than a sample leaves it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from gristmill.features.read import FEATURE_TYPES, read_csv
from gristmill.features.sources import Source, queries
from gristmill.project.features import Feature
from gristmill.warehouse.queries import load_queries
from gristmill.warehouse.sql import SQL, Composed, Identifier, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gristmill.project.features import FeatureType
    from gristmill.warehouse.connection import Transaction

SAMPLED = 100_000
"""About so many rows are looked at; of a smaller table all."""
LONGEST_TEXT = 200
"""Characters of a text that are looked at."""

_queries = load_queries("gristmill.features", "profile.sql")


@dataclass(frozen=True, kw_only=True)
class ColumnProfile:
    """One column, over all rows."""

    feature: Feature
    """Its name, and its type as a model would see it; what no model takes is looked at as text."""
    type: str
    """PostgreSQL's."""
    nulls: int
    extremes: tuple[float, float] | None
    """Of a number the least and the greatest (dates as days, times as seconds since 1970)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Profile:
    """One table or build."""

    name: str
    rows: int
    columns: tuple[ColumnProfile, ...]
    sample: pa.Table
    """Some rows, or all: every column, as the features' types."""

    @property
    def is_sampled(self) -> bool:
        """Whether the sample is less than all rows."""
        return bool(self.sample.num_rows < self.rows)


@dataclass(frozen=True, kw_only=True)
class History:
    """How a table with `valid` follows its things over time."""

    things: int
    """How many different ones: clients, for example."""
    rows_each: Mapping[int, int]
    """How many things have so many rows."""
    open_rows: int | None
    """Rows that are still valid; None where no end is declared."""
    gaps: int
    """Rows that begin more than a day after the one before them has ended.

    A day between is none: an end may be the last day that is valid.
    """
    median_gap: float | None
    """Days."""
    longest_gap: float | None
    """Days."""
    starts: Mapping[str, int]
    """Rows that begin in each month."""


def profile(transaction: Transaction, source: Source) -> Profile:
    """Count every row of a source and look at a sample of them."""
    schema = "raw" if source.loads else "builds"
    found = transaction.rows(queries.columns, {"relation": f'{schema}."{source.name}"'})
    types = {row["name"]: row["type"] for row in found}
    kinds = {name: _kind(types[name]) for name in source.columns if name in types}
    source = Source(
        name=source.name, columns=tuple(kinds), loads=source.loads, builds=source.builds
    )
    counted = transaction.row(_counting(source, kinds))
    assert counted is not None  # an aggregate has one row
    rows = int(counted["rows"])
    return Profile(
        name=source.name,
        rows=rows,
        columns=tuple(
            ColumnProfile(
                feature=Feature(name=name, type=kind),
                type=types[name],
                nulls=rows - int(counted[f"known {place}"]),
                extremes=_extremes(counted, place),
            )
            for place, (name, kind) in enumerate(kinds.items())
        ),
        sample=_sample(transaction, source, kinds, rows),
    )


def label_counts(transaction: Transaction, source: Source, label: str) -> tuple[int, int]:
    """How many rows of a source have a label, and how many of those have 1, or true."""
    row = transaction.row(
        SQL(
            "SELECT count({label}) AS labelled, "
            "count(*) FILTER (WHERE {label}::text ~ '^(true|1([.]0*)?)$') AS ones "
            "FROM ({rows}) AS rows"
        ).format(label=Identifier(label), rows=source.rows)
    )
    assert row is not None  # an aggregate has one row
    return int(row["labelled"]), int(row["ones"])


def coverage(
    transaction: Transaction, entities: Source, key: str, source: Source, column: str
) -> tuple[int, int]:
    """How many entities have no row in a source, and how many rows of it are of no entity."""
    statement = SQL(
        "SELECT (SELECT count(*) FROM ({entities}) AS entities WHERE NOT EXISTS "
        "(SELECT FROM ({rows}) AS rows WHERE rows.{column} = entities.{key})) AS missing, "
        "(SELECT count(*) FROM ({rows}) AS rows WHERE NOT EXISTS "
        "(SELECT FROM ({entities}) AS entities WHERE entities.{key} = rows.{column})) AS unknown"
    ).format(
        entities=entities.rows,
        rows=source.rows,
        column=Identifier(column),
        key=Identifier(key),
    )
    row = transaction.row(statement)
    assert row is not None  # it selects two numbers
    return int(row["missing"]), int(row["unknown"])


def history(
    transaction: Transaction, source: Source, *, key: tuple[str, ...], valid: tuple[str, ...]
) -> History:
    """Follow the things of a history: those that its key names beside the beginning."""
    others = [column for column in key if column not in valid]
    things = SQL(", ").join(map(Identifier, others)) if others else SQL("true")
    counted = transaction.rows(
        SQL(
            "SELECT rows, count(*) AS things FROM (SELECT count(*) AS rows FROM ({rows}) AS rows "
            "GROUP BY {things}) AS each GROUP BY rows ORDER BY rows"
        ).format(rows=source.rows, things=things)
    )
    begins = Identifier(valid[0])
    starts = transaction.rows(
        SQL(
            "SELECT to_char(date_trunc('month', {begins}), 'YYYY-MM') AS month, count(*) AS rows "
            "FROM ({rows}) AS rows WHERE isfinite({begins}) GROUP BY 1 ORDER BY 1"
        ).format(begins=begins, rows=source.rows)
    )
    gaps = _gaps(transaction, source, things, valid) if len(valid) > 1 else {}
    return History(
        things=sum(row["things"] for row in counted),
        rows_each={row["rows"]: row["things"] for row in counted},
        open_rows=gaps.get("open_rows"),
        gaps=gaps.get("gaps", 0),
        median_gap=gaps.get("median"),
        longest_gap=gaps.get("longest"),
        starts={row["month"]: row["rows"] for row in starts},
    )


def reject_counts(transaction: Transaction, table: str) -> dict[str, int]:
    """How many rows the newest load of each period refused, by rule."""
    rows = transaction.rows(_queries.reject_counts, {"table": table})
    return {row["rule"]: int(row["rows"]) for row in rows}


def _gaps(
    transaction: Transaction, source: Source, things: Composed | SQL, valid: tuple[str, ...]
) -> dict[str, Any]:
    begins, ends = map(Identifier, valid)
    row = transaction.row(
        SQL(
            "SELECT count(*) FILTER (WHERE ends IS NULL) AS open_rows, "
            "count(*) FILTER (WHERE days > 1) AS gaps, "
            "percentile_cont(0.5) WITHIN GROUP (ORDER BY days) FILTER (WHERE days > 1) AS median, "
            "max(days) AS longest FROM (SELECT {ends} AS ends, "
            "(extract(epoch FROM {begins}::timestamp) - extract(epoch FROM lag({ends}::timestamp) "
            "OVER (PARTITION BY {things} ORDER BY {begins})))::double precision / 86400 AS days "
            "FROM ({rows}) AS rows) AS followed"
        ).format(begins=begins, ends=ends, things=things, rows=source.rows)
    )
    return dict(row or {})


def _kind(kind: str) -> FeatureType:
    # A time may have its digits in the middle: timestamp(3) without time zone.
    if kind.startswith("timestamp"):
        return "timestamp"
    return FEATURE_TYPES.get(kind.split("(")[0], "text")


def _counting(source: Source, kinds: Mapping[str, FeatureType]) -> Composed:
    """One pass over all rows: how many, and of each column how many known, least and greatest."""
    parts: list[SQL | Composed] = [SQL("count(*) AS rows")]
    for place, (name, kind) in enumerate(kinds.items()):
        parts.append(SQL("count({}) AS {}").format(Identifier(name), Identifier(f"known {place}")))
        if kind in ("integer", "number", "date", "timestamp"):
            number = _as_number(name, kind)
            parts += [
                SQL("{}({}) AS {}").format(SQL(which), number, Identifier(f"{which} {place}"))
                for which in ("min", "max")
            ]
    return SQL("SELECT {} FROM ({}) AS rows").format(SQL(", ").join(parts), source.rows)


def _extremes(counted: Mapping[str, object], place: int) -> tuple[float, float] | None:
    low, high = counted.get(f"min {place}"), counted.get(f"max {place}")
    if not isinstance(low, (int, float)) or not isinstance(high, (int, float)):
        return None
    return float(low), float(high)


def _as_number(name: str, kind: FeatureType) -> Composed:
    """A column as the number that a model would see; what is not finite as null."""
    column = Identifier(name)
    if kind == "integer":
        return SQL("{}::double precision").format(column)
    if kind == "number":
        return SQL(
            "CASE WHEN {0}::double precision IN ('NaN', 'Infinity', '-Infinity') THEN NULL "
            "ELSE {0}::double precision END"
        ).format(column)
    whole = (
        SQL("({0} - date '1970-01-01')") if kind == "date" else SQL("extract(epoch FROM {0})")
    ).format(column)
    return SQL("CASE WHEN isfinite({}) THEN {}::double precision END").format(column, whole)


def _sample(
    transaction: Transaction, source: Source, kinds: Mapping[str, FeatureType], rows: int
) -> pa.Table:
    """About so many rows as are looked at, or all where there are no more."""
    transaction.execute(_queries.seed)
    chosen = (
        SQL("WHERE random() < {}").format(Literal(SAMPLED / rows)) if rows > SAMPLED else SQL("")
    )
    statement = SQL("COPY (SELECT {columns} FROM ({rows}) AS rows {chosen}) TO STDOUT (FORMAT csv)")
    table = read_csv(
        transaction,
        statement.format(
            columns=SQL(", ").join(_as_sampled(name, kind) for name, kind in kinds.items()),
            rows=source.rows,
            chosen=chosen,
        ),
        {name: _SAMPLE_TYPES[kind] for name, kind in kinds.items()},
    )
    for place, (name, kind) in enumerate(kinds.items()):
        if kind == "date":
            days = pc.cast(pc.cast(table.column(name), pa.int32()), pa.date32())
            table = table.set_column(place, name, days)
        elif kind == "timestamp":
            moment = pc.cast(table.column(name), pa.timestamp("us", tz="UTC"))
            table = table.set_column(place, name, moment)
    return table


_SAMPLE_TYPES: dict[FeatureType, pa.DataType] = {
    "integer": pa.int64(),
    "number": pa.float64(),
    "text": pa.string(),
    "date": pa.int64(),
    "timestamp": pa.int64(),
    "boolean": pa.bool_(),
}
"""Days and moments come as whole numbers: years that a reader of dates may not know."""


def _as_sampled(name: str, kind: FeatureType) -> Composed:
    column = Identifier(name)
    if kind == "text":
        return SQL("left({}::text, {})").format(column, LONGEST_TEXT)
    if kind == "date":
        return SQL("CASE WHEN isfinite({0}) THEN {0} - date '1970-01-01' END").format(column)
    if kind == "timestamp":
        return SQL(
            "CASE WHEN isfinite({0}) THEN (extract(epoch FROM {0}) * 1000000)::bigint END"
        ).format(column)
    return _as_number(name, kind) if kind == "number" else SQL("{}").format(column)
