"""What waits to be done, by the ledger and the bucket, and the steps that run only where needed.

A scheduler calls these, which cannot know whether what woke it changed anything.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gristmill.errors import ObjectNotFound
from gristmill.features.stale import stale
from gristmill.flow import steps
from gristmill.loading import contract, ledger
from gristmill.loading.tables import find_files, pending_files

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gristmill.bucket.bucket import BucketObject
    from gristmill.flow.context import Context
    from gristmill.flow.report import Report
    from gristmill.project.table import Table

NOTHING_TO_DO = 99
"""The exit code of a command that was to run only if needed, and was not: Airflow's for a skip."""


@dataclass(frozen=True, kw_only=True)
class PendingFile:
    """A file that a load would take in."""

    table: str
    period: str
    file: str
    version: str
    """Changes with the file and with the table's contract."""
    refused: bool
    """Whether this very file was refused before."""


@dataclass(frozen=True, kw_only=True)
class Pending:
    """How far the warehouse is behind the bucket."""

    files: list[PendingFile]
    lacking: list[str]
    """What a load cannot bring, in words: refused and missing files."""
    vanished: list[str]
    """Loaded files that the bucket no longer has, in words; their rows stay."""

    @property
    def awaited(self) -> list[PendingFile]:
        """The files that the next load will bring, as far as is known."""
        return [one for one in self.files if not one.refused]


def pending(context: Context) -> Pending:
    """Compare every table's files with the ledger. Raises BucketError, LoadError."""
    found = Pending(files=[], lacking=[], vanished=[])
    for table in context.project.tables.values():
        try:
            files = find_files(table, context.bucket)
        except ObjectNotFound:
            files = {}
        _compare(context, table, files, found)
    return found


def _compare(
    context: Context, table: Table, files: dict[str, BucketObject], found: Pending
) -> None:
    with context.warehouse.transaction() as transaction:
        loaded = ledger.current_loads(transaction, table)
        refusals = ledger.refusals(transaction, table)
    refused = {
        period for period, one in refusals.items()
        if period in files and (one.file, one.etag) == (files[period].path, files[period].etag)
    }  # fmt: skip
    for one in pending_files(table, files, context.warehouse, again=False):
        if one.period in refused and refusals[one.period].still_holds(one.item, table):
            continue
        found.files.append(
            PendingFile(
                table=table.name,
                period=one.period,
                file=one.item.path,
                version=_version(one.item, table),
                refused=one.period in refused,
            )
        )
    found.lacking.extend(f"{files[period].path} was refused" for period in sorted(refused))
    known = {*files, *loaded}
    gaps = table.period.gaps(known) if table.period else []
    found.lacking.extend(f"{table.path_of(period)} is missing" for period in gaps)
    if not known:
        found.lacking.append(f"{table.path} is missing")
    found.vanished.extend(
        f"{loaded[period].file} is gone, its rows stay"
        for period in sorted(loaded.keys() - files.keys())
    )


def _version(item: BucketObject, table: Table) -> str:
    text = f"{item.path} {item.etag} {contract.digest(table)}"
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def build_if_needed(context: Context, report: Report, names: Sequence[str] = ()) -> bool:
    """Build what is stale, unless files wait to be loaded; whether anything was built."""
    awaited = pending(context).awaited
    if awaited:
        report.done(f"build: waits until {_counted(awaited)} loaded")
        return False
    return bool(steps.build(context, report, names))


def train_if_needed(context: Context, report: Report) -> bool:
    """Train where the data is whole and the training set or the model changed; whether it did.

    Whole is what has every file of every table in, as it lies in the bucket, nothing refused, and
    everything built of it.
    """
    found = pending(context)
    if found.awaited:
        report.done(f"train: waits until {_counted(found.awaited)} loaded")
        return False
    if found.lacking:
        report.done(f"train: waits, for the data is not whole: {'; '.join(found.lacking)}")
        return False
    unbuilt = stale(context.project, context.warehouse, now=context.now())
    if unbuilt:
        report.done(f"train: waits for what is not built yet: {', '.join(unbuilt)}")
        return False
    return steps.train_if_changed(context, report)


def _counted(files: list[PendingFile]) -> str:
    first = files[0].file
    return f"{first} is" if len(files) == 1 else f"{first} and {len(files) - 1} more are"
