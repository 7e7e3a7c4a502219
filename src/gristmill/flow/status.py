"""How things stand: the ledger beside what lies in the bucket now."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from gristmill.errors import BucketError, LoadError, ObjectNotFound
from gristmill.features import builds
from gristmill.loading import contract, ledger
from gristmill.loading.tables import find_files
from gristmill.project.features import TRAINING_SET

if TYPE_CHECKING:
    from datetime import datetime

    from gristmill.bucket.bucket import BucketObject
    from gristmill.flow.context import Context
    from gristmill.loading.ledger import CurrentLoad
    from gristmill.project.table import Table

State = Literal[
    "loaded",
    "new",
    "changed",
    "contract changed",
    "refused",
    "undone",
    "vanished",
    "missing",
    "unknown",
]


@dataclass(frozen=True, kw_only=True)
class PeriodStatus:
    """One period of one table."""

    table: str
    period: str
    state: State
    """`loaded` is in as it lies in the bucket; all others want attention or a `load`.

    `unknown` is in, and the table's files could not be looked at.
    """
    rows: int | None
    rejected: int | None
    load: int | None
    loaded_at: datetime | None
    file: str


@dataclass(frozen=True, kw_only=True)
class BuildStatus:
    """What is built under one name."""

    name: str
    periods: int
    rows: int
    built_at: datetime | None


@dataclass(frozen=True, kw_only=True)
class Status:
    """How a project stands."""

    periods: list[PeriodStatus]
    builds: list[BuildStatus]
    champion: str | None
    """The version that answers."""
    problems: list[str]
    """What could not be looked at, and why; what is lost of the record of models."""


def status(context: Context) -> Status:
    """Look at every table, build and the champion; what cannot be reached is told, not raised."""
    periods: list[PeriodStatus] = []
    problems: list[str] = []
    for table in context.project.tables.values():
        files: dict[str, BucketObject] | None = None
        try:
            files = find_files(table, context.bucket)
        except ObjectNotFound as error:
            problems.append(f"{table.name}: {error}")
            files = {}
        except (BucketError, LoadError) as error:
            problems.append(str(error))
        periods += _periods(context, table, files)
    champion = context.registry.champion()
    problems += [
        f"model version {one.version}: {one.message}"
        for one in context.registry.problems()
        if not one.expected
    ]
    return Status(
        periods=periods,
        builds=_builds(context),
        champion=champion.version if champion else None,
        problems=problems,
    )


def _periods(
    context: Context, table: Table, files: dict[str, BucketObject] | None
) -> list[PeriodStatus]:
    with context.warehouse.transaction() as transaction:
        current = ledger.current_loads(transaction, table)
        refused = ledger.refusals(transaction, table)
        undone = ledger.undone(transaction, table)
    seen = files or {}
    gaps = table.period.gaps({*current, *seen}) if table.period else []
    found = []
    for period in sorted({*current, *seen, *gaps}):
        load, item = current.get(period), seen.get(period)
        state = _state(table, load, item) if files is not None or not load else "unknown"
        if item and state != "loaded":
            if period in refused and refused[period].etag == item.etag:
                state = "refused"
            if (period, item.path, item.etag) in undone:
                state = "undone"
        found.append(
            PeriodStatus(
                table=table.name,
                period=period,
                state=state,
                rows=load.rows if load else None,
                rejected=load.rejected if load else None,
                load=load.load if load else None,
                loaded_at=load.loaded_at if load else None,
                file=item.path if item else load.file if load else "",
            )
        )
    return found


def _state(table: Table, load: CurrentLoad | None, item: BucketObject | None) -> State:
    """How a period's load stands to the file that lies in the bucket now."""
    if load is None:
        return "new" if item else "missing"
    if item is None:
        return "vanished"
    if load.covers(item, table):
        return "loaded"
    return "contract changed" if load.contract != contract.digest(table) else "changed"


def _builds(context: Context) -> list[BuildStatus]:
    project = context.project
    names = list(project.derived)
    if project.features:
        names += [project.features.table] + ([TRAINING_SET] if project.features.label else [])
    found = []
    with context.warehouse.transaction() as transaction:
        for name in names:
            current = builds.current_builds(transaction, name).values()
            found.append(
                BuildStatus(
                    name=name,
                    periods=len(current),
                    rows=sum(build.rows for build in current),
                    built_at=max((build.built_at for build in current), default=None),
                )
            )
    return found
