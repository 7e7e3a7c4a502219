"""Derived tables: the user's SELECT over pinned sources, run by a role that may do little."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

from gristmill.features import builds, sources
from gristmill.features.builds import Built, Recipe
from gristmill.features.limited import check_reads
from gristmill.project.table import ALL
from gristmill.warehouse.roles import derived_role
from gristmill.warehouse.sql import SQL, Composed, Identifier

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from datetime import datetime

    from gristmill.features.sources import Source
    from gristmill.project.project import Derived, Project
    from gristmill.warehouse.connection import Transaction, Warehouse


def build_derived(
    derived: Derived,
    project: Project,
    warehouse: Warehouse,
    *,
    now: datetime,
    report: Callable[[Built], None],
) -> list[Built]:
    """Build what is new or stale of a derived table; the rest is not touched.

    Period by period, each in its own transaction; where the definition or the columns changed, in
    one transaction for all periods, so that no reader sees half of each. Raises BuildError.
    """
    made: list[Built] = []
    while True:
        with warehouse.transaction() as transaction:
            builds.lock(transaction, derived.name)
            stale, redefined = stale_recipes(transaction, derived, project, now=now)
            if stale and not made:
                _check_reads(transaction, derived, project)
            batch = _made(transaction, derived, stale, together=redefined)
        for built in batch:
            report(built)
        made += batch
        if len(batch) == len(stale):
            return made


def _made(
    transaction: Transaction, derived: Derived, stale: list[Recipe], *, together: bool
) -> list[Built]:
    """The first of the stale builds; all of them where one alone would leave the others unseen."""
    before = set(builds.current_builds(transaction, derived.name))
    made: list[Built] = []
    for recipe in stale:
        if (
            made
            and not together
            and before <= set(builds.current_builds(transaction, derived.name))
        ):
            break
        made.append(builds.make(transaction, recipe))
    return made


def definition(derived: Derived) -> str:
    """A digest of everything declared that decides the rows of a derived table."""
    declared = [derived.sql, derived.sources, derived.period, derived.key]
    return hashlib.sha256(json.dumps(declared).encode()).hexdigest()[:16]


def stale_recipes(
    transaction: Transaction, derived: Derived, project: Project, *, now: datetime
) -> tuple[list[Recipe], bool]:
    """The recipes whose build is missing or made of something else; whether the SELECT changed."""
    recipes = _recipes(transaction, derived, project, now=now)
    current = builds.current_builds(transaction, derived.name)
    if any(build.period not in recipes for build in current.values()):
        builds.forget_other_periods(transaction, derived.name, recipes)
    stale = [
        recipe
        for period, recipe in recipes.items()
        if period not in current or not current[period].is_of(recipe)
    ]
    redefined = any(build.definition != definition(derived) for build in current.values())
    return stale, redefined


def _recipes(
    transaction: Transaction, derived: Derived, project: Project, *, now: datetime
) -> dict[str, Recipe]:
    pinned = sources.pin(transaction, project, derived.sources)
    role = derived_role(transaction.value("SELECT current_database()"))

    def recipe(period: str, used: dict[str, Source]) -> Recipe:
        return Recipe(
            name=derived.name,
            period=period,
            definition=definition(derived),
            sources=tuple(used.values()),
            query=_query(derived, used.values()),
            key=derived.key,
            role=role,
            as_of=now,
        )

    if derived.period is None:
        return {ALL: recipe(ALL, pinned)}
    periodic = pinned[derived.period]
    return {
        period: recipe(period, {**pinned, periodic.name: sources.only_period(periodic, load)})
        for period, load in sources.loads_by_period(transaction, derived.period).items()
    }


def _check_reads(transaction: Transaction, derived: Derived, project: Project) -> None:
    """Raise BuildError where the SELECT reads more than what it declares in `from`."""
    pinned = sources.pin(transaction, project, derived.sources)
    empty = {source.name: sources.without_rows(transaction, source) for source in pinned.values()}
    role = derived_role(transaction.value("SELECT current_database()"))
    check_reads(transaction, derived.name, _named(derived, empty), role)


def _query(derived: Derived, used: Iterable[Source]) -> Composed:
    """The user's SELECT, in which the sources' names stand for their pinned rows."""
    return _named(derived, {source.name: source.rows for source in used})


def _named(derived: Derived, rows: Mapping[str, Composed]) -> Composed:
    """The user's SELECT, in which the sources' names stand for these rows."""
    named = SQL(", ").join(
        SQL("{} AS NOT MATERIALIZED ({})").format(Identifier(name), select)
        for name, select in rows.items()
    )
    return SQL("WITH {} SELECT * FROM (\n{}\n) AS derived").format(named, SQL(derived.sql))
