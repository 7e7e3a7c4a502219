"""The rows of one entity that a build was made of, down to the file and the line.

It reads what the ledger says a build was made of, never what is shown now.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

from gristmill.errors import StatementFailed
from gristmill.project.check import join_column
from gristmill.project.features import AS_OF
from gristmill.warehouse.queries import load_queries
from gristmill.warehouse.sql import SQL, Composed, Identifier
from gristmill.warehouse.sql import Literal as SQLLiteral

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from gristmill.project.features import Features
    from gristmill.project.project import Project
    from gristmill.warehouse.connection import Transaction

MOST_ROWS = 1_000
"""How many of an entity's rows in one table are read; an entity rarely has more."""

_queries = load_queries("gristmill.predictions", "trace.sql")


@dataclass(frozen=True, kw_only=True)
class SourceRow:
    """One row of the entity in a table, or in a derived table."""

    load: int | None
    """The load that holds it; None of a derived table."""
    build: int | None
    """The build that holds it; None of a table."""
    file: str | None
    line: int | None
    """The physical line of the file, as it was loaded, on which the row begins."""
    values: dict[str, Any]
    """Its columns, as JSON has them."""
    counted: bool | None
    """Whether it is the row that was valid at the moment; None where that is not for us to say."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """What a build read of one table or derived table, as far as it concerns the entity."""

    name: str
    kind: Literal["table", "derived"]
    column: str | None
    """The column that holds the entity; None where there is none, so that no row can be told."""
    loads: tuple[int, ...]
    """Every load that the build read of it; of a derived table, none."""
    builds: tuple[int, ...]
    """Every build that it read of it; of a table, none."""
    rows: tuple[SourceRow, ...]
    more: bool
    """Whether there are more rows than are told."""
    dropped: tuple[int, ...]
    """Those loads or builds whose rows are no longer kept."""
    sources: tuple[Source, ...] = ()
    """What a derived table was made of itself."""


@dataclass(frozen=True, kw_only=True)
class TracedRow:
    """The entity's row in the feature store or in a training set, and where it comes from."""

    name: str
    build: int
    as_of: datetime | str | None
    """The moment whose features it holds; None where that is not known any more."""
    built_at: datetime
    is_current: bool
    """Whether it is the build that is shown now."""
    dropped_at: datetime | None
    """When its rows were tidied away; None where they are kept."""
    values: dict[str, Any] | None
    """The row; None where the build has none for the entity, or is no longer kept."""
    sources: tuple[Source, ...]

    def every_source(self) -> list[Source]:
        """Its sources, and theirs."""
        return _every(self.sources)


def _every(sources: Iterable[Source]) -> list[Source]:
    return [one for source in sources for one in (source, *_every(source.sources))]


Moment = datetime | str | None
"""Since when a row of a history has to have begun to count; without one nobody can say."""


class Origins:
    """Finds one entity's rows in what builds were made of."""

    def __init__(
        self, transaction: Transaction, project: Project, features: Features, entity: str
    ) -> None:
        """`entity` is the key as text, as predictions hold it."""
        self._transaction = transaction
        self._project = project
        self._features = features
        self._entity = entity

    def row(self, number: int) -> TracedRow:
        """The entity's row in a build of the feature store or of the training set."""
        build = self._builds([number])[0]
        key = self._features.entity.column
        found, _ = self._read("builds", {f"{build['name']}_{number}": build}, key, None, None)
        values = found[0].values if found else None
        store = self._store_of(build)
        moment: Moment = store["as_of"] if store else (values or {}).get(AS_OF)
        return TracedRow(
            name=build["name"],
            build=number,
            as_of=moment,
            built_at=build["built_at"],
            is_current=build["is_current"],
            dropped_at=build["dropped_at"],
            values=values,
            sources=self._sources([store or build], moment),
        )

    def _store_of(self, build: dict[str, Any]) -> dict[str, Any] | None:
        """The feature store that a build is, or that the training set was read from."""
        if build["name"] == self._features.table:
            return build
        stores = [one for one in self._builds(build["builds"])
                  if one["name"] == self._features.table]  # fmt: skip
        return stores[0] if stores else None

    def _builds(self, numbers: Sequence[int]) -> list[dict[str, Any]]:
        return self._transaction.rows(_queries.builds, {"builds": list(numbers)})

    def _sources(self, of: Sequence[dict[str, Any]], at: Moment) -> tuple[Source, ...]:
        """What some builds read, tables first; `at` where the moment chose among the rows."""
        loads = sorted({load for build in of for load in build["loads"]})
        tables: dict[str, list[dict[str, Any]]] = {}
        for row in self._transaction.rows(_queries.loads, {"loads": loads}):
            tables.setdefault(row["table_name"], []).append(row)
        derived: dict[str, list[dict[str, Any]]] = {}
        for row in self._builds(sorted({one for build in of for one in build["builds"]})):
            derived.setdefault(row["name"], []).append(row)
        return (
            *(self._table(name, rows, at) for name, rows in tables.items()),
            *(self._derived(name, rows, at) for name, rows in derived.items()),
        )

    def _table(self, name: str, loads: list[dict[str, Any]], at: Moment) -> Source:
        relations = {f"{name}_{row['load']}": row for row in loads}
        column = self._column(name)
        rows, there = self._read("raw", relations, column, self._begin(name, at), at)
        return Source(
            name=name,
            kind="table",
            column=column if there else None,
            loads=tuple(row["load"] for row in loads),
            builds=(),
            rows=tuple(rows[:MOST_ROWS]),
            more=len(rows) > MOST_ROWS,
            dropped=tuple(row["load"] for row in loads if row["dropped_at"]),
        )

    def _derived(self, name: str, builds: list[dict[str, Any]], at: Moment) -> Source:
        relations = {f"{name}_{row['build']}": row for row in builds}
        column = self._column(name)
        rows, there = self._read("builds", relations, column, self._begin(name, at), at)
        return Source(
            name=name,
            kind="derived",
            column=column if there else None,
            loads=(),
            builds=tuple(row["build"] for row in builds),
            rows=tuple(rows[:MOST_ROWS]),
            more=len(rows) > MOST_ROWS,
            dropped=tuple(row["build"] for row in builds if row["dropped_at"]),
            # What its SELECT took of them is not for us to say.
            sources=self._sources(builds, None),
        )

    def _column(self, name: str) -> str:
        """The column that holds the entity in a table, if there is one by that name."""
        declared = join_column(name, self._features, self._project)
        return declared or self._features.entity.column

    def _begin(self, name: str, at: Moment) -> str | None:
        """The column since when a row of a history is valid, where the moment chose by it."""
        declared = self._project.tables.get(name) or self._project.derived.get(name)
        return declared.valid[0] if at and declared and declared.valid else None

    def _read(
        self,
        schema: Literal["raw", "builds"],
        relations: dict[str, dict[str, Any]],
        column: str,
        begin: str | None,
        at: Moment,
    ) -> tuple[list[SourceRow], bool]:
        """The entity's rows in some loads or builds; whether any has a column for the entity."""
        having = self._having(schema, relations, [column, *([begin] if begin else [])])
        ordered = sorted(relations, key=lambda name: relations[name]["period"])
        there = [name for name in ordered if column in having.get(name, ())]
        selects = [
            self._select(schema, name, place, column, begin if begin in having[name] else None, at)
            for place, name in enumerate(there)
        ]
        if not selects:
            return [], False
        rows = self._rows(
            SQL("SELECT * FROM ({}) AS found ORDER BY place, line LIMIT {}").format(
                SQL(" UNION ALL ").join(selects), MOST_ROWS + 1
            )
        )
        found = [self._source_row(schema, relations[there[row["place"]]], row, at) for row in rows]
        began = [row["begins"] for row in rows if row["begun"] and row["begins"] is not None]
        if began:
            last = max(began)
            found = [
                replace(one, counted=bool(row["begun"]) and row["begins"] == last)
                for one, row in zip(found, rows, strict=True)
            ]
        return found, True

    def _select(
        self, schema: str, name: str, place: int, column: str, begin: str | None, at: Moment
    ) -> Composed:
        """An entity's rows in one relation: `place`, `line`, `row`, `begins`, `begun`."""
        dated = begin is not None and at is not None
        return SQL(
            "SELECT {place} AS place, {line} AS line, row_to_json(kept) AS row, "
            "{begins} AS begins, {begun} AS begun "
            "FROM {schema}.{relation} AS kept WHERE kept.{column} = {entity}"
        ).format(
            place=SQLLiteral(place),
            line=SQL("kept._line" if schema == "raw" else "NULL::integer"),
            begins=SQL("kept.{}").format(Identifier(begin or "")) if dated else SQL("NULL::date"),
            begun=SQL("kept.{} <= {}").format(Identifier(begin or ""), SQLLiteral(at))
            if dated
            else SQL("NULL::boolean"),
            schema=Identifier(schema),
            relation=Identifier(name),
            column=Identifier(column),
            entity=SQLLiteral(self._entity),
        )

    def _source_row(
        self, schema: str, kept: dict[str, Any], row: dict[str, Any], at: Moment
    ) -> SourceRow:
        values = {
            name: value for name, value in row["row"].items()
            if name not in {"_load", "_line", "_build"}
        }  # fmt: skip
        return SourceRow(
            load=kept["load"] if schema == "raw" else None,
            build=kept["build"] if schema == "builds" else None,
            file=kept["file"] if schema == "raw" else None,
            line=row["line"],
            values=values,
            # Of a history only one of the rows that had begun; of any other table all there are.
            counted=None if at is None else row["begun"] is None,
        )

    def _having(
        self, schema: str, relations: Iterable[str], columns: Sequence[str]
    ) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        for row in self._transaction.rows(
            _queries.having,
            {"schema": schema, "relations": list(relations), "columns": list(columns)},
        ):
            found.setdefault(row["relation"], set()).add(row["column"])
        return found

    def _rows(self, query: Composed) -> list[dict[str, Any]]:
        """Run a query; no rows where the entity's key is none of the column's type any more."""
        try:
            with self._transaction.savepoint():
                return self._transaction.rows(query)
        except StatementFailed as error:
            if not error.sqlstate.startswith("22"):
                raise
            return []
