"""The profile of the data before any model: what is loaded and built now, as one page."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from gristmill.errors import GristmillError
from gristmill.features import builds, profile, sources
from gristmill.features.sources import Source
from gristmill.loading import ledger
from gristmill.project.check import join_column
from gristmill.project.table import ALL
from gristmill.training.report.data import (
    Explored,
    PeriodFound,
    StoreFound,
    TableFound,
    data_report,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from gristmill.flow.context import Context
    from gristmill.flow.report import Report
    from gristmill.project.table import Table
    from gristmill.warehouse.connection import Transaction

PAGE = "explore.html"


def explore(context: Context, report: Report) -> Path:
    """Look at every table and the feature store, and write the page into the project's home.

    Only its owner reads it, for it shows values of the data. Nothing is loaded or built for it.
    """
    found = _explored(context, report)
    path = context.home.path / PAGE
    beside = path.with_name(f"{PAGE}.{os.getpid()}")
    try:
        beside.touch(mode=0o600)
        beside.write_text(data_report(found), encoding="utf-8")
        beside.rename(path)
    except OSError as error:
        raise GristmillError(f"The page cannot be written to {path}: {error.strerror}.") from error
    finally:
        beside.unlink(missing_ok=True)
    return path


def _explored(context: Context, report: Report) -> Explored:
    project = context.project
    absent: list[str] = []
    tables: list[TableFound] = []
    for name in [*project.tables, *project.derived]:
        report.begin(f"looking at {name}", 0)
        one = _table(context, name)
        if one is None:
            absent.append(name)
            report.done(f"{name}: not there yet")
        else:
            tables.append(one)
            report.done(f"{name}: {one.profile.rows:,} rows")
    return Explored(
        project=project.name,
        made_at=context.now(),
        entity=project.features.entity.column if project.features else None,
        store=_store(context, report, absent),
        tables=tuple(tables),
        absent=tuple(absent),
    )


def _table(context: Context, name: str) -> TableFound | None:
    """One table or derived table; None where it was never loaded or built."""
    project = context.project
    # Pinned: what is loaded meanwhile changes neither the counts nor the sample.
    with context.warehouse.transaction() as transaction:
        source = _source(context, transaction, name)
        if source is None:
            return None
        declared = project.tables.get(name) or project.derived[name]
        table = project.tables.get(name)
        current = ledger.current_loads(transaction, table) if table else {}
        without_row, of_nobody = _coverage(context, transaction, source)
        return TableFound(
            profile=profile.profile(transaction, source),
            origin=_origin(source),
            history=profile.history(transaction, source, key=declared.key, valid=declared.valid)
            if declared.valid
            else None,
            periods=tuple(
                PeriodFound(name=period, rows=load.rows, rejected=load.rejected)
                for period, load in sorted(current.items())
                if period != ALL
            ),
            missing=tuple(_missing(table, current)),
            rejects=profile.reject_counts(transaction, name) if table else None,
            without_row=without_row,
            of_nobody=of_nobody,
        )


def _missing(table: Table | None, current: dict[str, ledger.CurrentLoad]) -> Iterator[str]:
    if table and table.period and current:
        yield from table.period.gaps(current)


def _source(context: Context, transaction: Transaction, name: str) -> Source | None:
    """What is current of a table or build, whatever else would stop a build of it."""
    table = context.project.tables.get(name)
    if table:
        loads = tuple(sources.loads_by_period(transaction, name).values())
        columns = tuple(column.name for column in table.columns)
        return Source(name=name, columns=columns, loads=loads) if loads else None
    current = builds.current_builds(transaction, name)
    if not current:
        return None
    relation = {"relation": f'builds."{name}"'}
    rows = transaction.rows(sources.queries.columns, relation)
    return Source(
        name=name,
        columns=tuple(row["name"] for row in rows),
        builds=tuple(build.build for build in current.values()),
    )


def _origin(source: Source) -> str:
    numbers = source.loads or source.builds
    what = "load" if source.loads else "build"
    if len(numbers) == 1:
        return f"{what} {numbers[0]}"
    return f"{len(numbers)} {what}s, {min(numbers)} to {max(numbers)}"


def _coverage(context: Context, transaction: Transaction, source: Source) -> tuple[int | None, int]:
    """Entities without a row in a source of the features, and its rows of nobody."""
    features = context.project.features
    if features is None or source.name not in features.sources:
        return None, 0
    entities = _source(context, transaction, features.entity.table)
    column = join_column(source.name, features, context.project)
    if entities is None or column is None or source.name == features.entity.table:
        return None, 0
    return profile.coverage(transaction, entities, features.entity.column, source, column)


def _store(context: Context, report: Report, absent: list[str]) -> StoreFound | None:
    features = context.project.features
    if features is None:
        return None
    name = features.table
    report.begin(f"looking at {name}", 0)
    with context.warehouse.transaction() as transaction:
        source = _source(context, transaction, name)
        if source is None:
            absent.append(name)
            report.done(f"{name}: not there yet")
            return None
        label = features.label.column if features.label else None
        label = label if label in source.columns else None
        labelled, ones = profile.label_counts(transaction, source, label) if label else (0, 0)
        found = StoreFound(
            profile=profile.profile(transaction, source),
            features=tuple(one.column for one in features.features),
            as_of=builds.current_builds(transaction, name)[ALL].as_of,
            label=label,
            labelled=labelled,
            ones=ones,
        )
    report.done(f"{name}: {found.profile.rows:,} rows")
    return found
