"""Builds: immutable copies of what a SELECT gave, swapped in by moving the ledger's mark."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gristmill.errors import BuildError, StatementFailed
from gristmill.features.limited import limited
from gristmill.features.sources import queries
from gristmill.loading.contract import tell
from gristmill.project.table import ALL
from gristmill.warehouse.sql import SQL, Composed, Identifier

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from gristmill.features.sources import Source
    from gristmill.warehouse.connection import Transaction

UNIQUE_VIOLATION = "23505"
NOT_NULL_VIOLATION = "23502"
DUPLICATE_TABLE = "42P07"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What a build is made of; two equal recipes give the same rows."""

    name: str
    period: str = ALL
    definition: str
    """A digest of the SELECT and of what is declared beside it."""
    sources: tuple[Source, ...]
    query: Composed
    key: tuple[str, ...] = ()
    role: str | None = None
    """The limited role that runs the query, where a user wrote it."""
    as_of: datetime
    """The moment that counts as now in it."""

    @property
    def loads(self) -> list[int]:
        """The loads it reads, in order."""
        return sorted(load for source in self.sources for load in source.loads)

    @property
    def builds(self) -> list[int]:
        """The builds it reads, in order."""
        return sorted(build for source in self.sources for build in source.builds)


@dataclass(frozen=True, kw_only=True)
class Built:
    """One build that was made."""

    name: str
    period: str
    build: int
    rows: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class CurrentBuild:
    """The build of a period that the views show."""

    build: int
    period: str
    definition: str
    loads: list[int]
    builds: list[int]
    as_of: datetime
    rows: int
    built_at: datetime

    def is_of(self, recipe: Recipe) -> bool:
        """Whether it was made by this very recipe from these very rows."""
        return (self.definition, self.loads, self.builds) == (
            recipe.definition,
            recipe.loads,
            recipe.builds,
        )


def lock(transaction: Transaction, name: str) -> None:
    """Wait until no other process builds this name; held to the transaction's end."""
    transaction.execute(queries.lock, {"name": name, "period": ""})


def current_builds(transaction: Transaction, name: str) -> dict[str, CurrentBuild]:
    """What is built under a name, by period."""
    rows = transaction.rows(queries.current, {"name": name})
    return {row["period"]: CurrentBuild(**row) for row in rows}


def loads_of(transaction: Transaction, build: int) -> list[dict[str, Any]]:
    """Every load that a build was made of: load, table_name, period, file, etag."""
    return transaction.rows(queries.lineage, {"build": build})


def builds_of(transaction: Transaction, build: int) -> list[int]:
    """A build and every build that it read, by way of others too."""
    return [row["build"] for row in transaction.rows(queries.builds_of, {"build": build})]


def make(transaction: Transaction, recipe: Recipe) -> Built:
    """Run a recipe and make its result the current build of its period.

    Raises BuildError where the query fails or its rows do not keep the declared key.
    """
    started = time.monotonic()
    build = int(transaction.value(queries.next_build))
    rows = _create(transaction, recipe, build)
    _add_key(transaction, recipe, build)
    transaction.execute(
        SQL(
            "ALTER TABLE builds.{name} ALTER _build SET NOT NULL, ADD CHECK (_build = {build})"
        ).format(name=_relation(recipe.name, build), build=build)
    )
    transaction.execute(SQL("ANALYZE builds.{}").format(_relation(recipe.name, build)))
    _ensure_parent(transaction, recipe, build)
    transaction.execute(
        SQL("ALTER TABLE builds.{parent} ATTACH PARTITION builds.{name} FOR VALUES IN ({build})")
        .format(parent=Identifier(recipe.name), name=_relation(recipe.name, build), build=build)
    )  # fmt: skip
    seconds = time.monotonic() - started
    transaction.execute(
        queries.record,
        {
            "build": build,
            "name": recipe.name,
            "period": recipe.period,
            "definition": recipe.definition,
            "loads": recipe.loads,
            "builds": recipe.builds,
            "as_of": recipe.as_of,
            "rows": rows,
            "seconds": seconds,
        },
    )
    parameters = {"name": recipe.name, "period": recipe.period, "build": build}
    transaction.execute(queries.hold, parameters)
    transaction.execute(queries.mark, parameters)
    tell(transaction, "builds", recipe.name, "_build")
    return Built(name=recipe.name, period=recipe.period, build=build, rows=rows, seconds=seconds)


def forget_other_periods(transaction: Transaction, name: str, periods: Iterable[str]) -> None:
    """Take the mark from the periods of a name that its source no longer has."""
    transaction.execute(queries.unmark, {"name": name, "periods": list(periods)})
    tell(transaction, "builds", name, "_build")


def _relation(name: str, build: int) -> Identifier:
    return Identifier(f"{name}_{build}")


def _create(transaction: Transaction, recipe: Recipe, build: int) -> int:
    statement = SQL(
        "CREATE TABLE builds.{name} AS SELECT made.*, {build}::integer AS _build "
        "FROM ({query}) AS made"
    ).format(name=_relation(recipe.name, build), build=build, query=recipe.query)
    try:
        with transaction.savepoint():
            if recipe.role is None:
                return transaction.execute(statement)
            with limited(transaction, recipe.role):
                rows = transaction.execute_alone(statement)
            transaction.execute(
                SQL("ALTER TABLE builds.{} OWNER TO CURRENT_USER").format(
                    _relation(recipe.name, build)
                )
            )
            return rows
    except StatementFailed as error:
        place = "" if recipe.period == ALL else f" for {recipe.period}"
        raise BuildError(f"The SELECT of {recipe.name} failed{place}: {error}") from error


def _add_key(transaction: Transaction, recipe: Recipe, build: int) -> None:
    if not recipe.key:
        return
    columns = _columns(transaction, f"{recipe.name}_{build}")
    missing = [name for name in recipe.key if name not in dict(columns)]
    if missing:
        raise BuildError(
            f"{recipe.name} declares the key {list(recipe.key)}, but its SELECT gives no column "
            f"{missing[0]!r} (columns: {', '.join(name for name, _ in columns)})."
        )
    try:
        transaction.execute(
            SQL("ALTER TABLE builds.{name} ADD PRIMARY KEY ({key})").format(
                name=_relation(recipe.name, build),
                key=SQL(", ").join(Identifier(column) for column in recipe.key),
            )
        )
    except StatementFailed as error:
        if error.sqlstate not in (UNIQUE_VIOLATION, NOT_NULL_VIOLATION):
            raise
        raise BuildError(
            f"The rows of {recipe.name} do not keep its key {list(recipe.key)}: "
            f"{error.detail or error}. Change the SELECT or the key."
        ) from error


def _columns(transaction: Transaction, table: str) -> list[tuple[str, str]]:
    rows = transaction.rows(queries.columns, {"relation": f'builds."{table}"'})
    return [(row["name"], row["type"]) for row in rows]


def _ensure_parent(transaction: Transaction, recipe: Recipe, build: int) -> None:
    """The parent table and the view, in the shape of the new build."""
    wanted = _columns(transaction, f"{recipe.name}_{build}")
    found = _columns(transaction, recipe.name)
    if found == wanted:
        return
    if found:
        _retire_parent(transaction, recipe.name, build)
    parent = Identifier(recipe.name)
    transaction.execute(
        SQL("CREATE TABLE builds.{parent} (LIKE builds.{name}) PARTITION BY LIST (_build)").format(
            parent=parent, name=_relation(recipe.name, build)
        )
    )
    _drop_not_null(transaction, recipe)
    try:
        transaction.execute(
            SQL(
                "CREATE VIEW public.{parent} AS SELECT {columns} FROM builds.{parent} "
                "WHERE _build = ANY (gristmill.shown_builds({literal}))"
            ).format(
                parent=parent, columns=_listed(name for name, _ in wanted), literal=recipe.name
            )
        )
    except StatementFailed as error:
        if error.sqlstate != DUPLICATE_TABLE:
            raise
        raise BuildError(
            f"public.{recipe.name} exists already and is not Gristmill's. "
            "Rename or drop it, or give it another name in the project file."
        ) from error


def _drop_not_null(transaction: Transaction, recipe: Recipe) -> None:
    """The parent asks nothing of its builds: a later one may declare another key."""
    for column in recipe.key:
        transaction.execute(
            SQL("ALTER TABLE builds.{} ALTER {} DROP NOT NULL").format(
                Identifier(recipe.name), Identifier(column)
            )
        )


def _retire_parent(transaction: Transaction, name: str, build: int) -> None:
    """Put the builds of the former shape aside, together with the view on them."""
    dependents = transaction.rows(queries.dependents, {"relation": f'public."{name}"'})
    if dependents:
        readers = ", ".join(row["name"] for row in dependents)
        raise BuildError(
            f"{name}: its columns changed, and {readers} reads it as it was. "
            "Drop what depends on it, build again, and create it anew."
        )
    transaction.execute("SET LOCAL lock_timeout = '10s'")
    transaction.execute(SQL("DROP VIEW public.{}").format(Identifier(name)))
    transaction.execute(
        SQL("ALTER TABLE builds.{} RENAME TO {}").format(
            Identifier(name), Identifier(f"{name}_until_{build}")
        )
    )
    transaction.execute("DELETE FROM gristmill.current_builds WHERE name = %s", [name])


def _listed(columns: Iterable[str] | Sequence[str]) -> Composed:
    return SQL(", ").join(Identifier(column) for column in columns)
