"""Which files of a table are to be loaded, and the loading of all of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gristmill.errors import GristmillError, LoadError, LoadRefused, ObjectChanged
from gristmill.loading import ledger
from gristmill.loading.load import Loaded, Pending, load_files, shape_changed
from gristmill.project.table import ALL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from gristmill.bucket.bucket import Bucket, BucketObject
    from gristmill.project.project import Project
    from gristmill.project.table import Table
    from gristmill.warehouse.connection import Warehouse


@dataclass(frozen=True, kw_only=True)
class Span:
    """Which periods are meant, as a person wrote them; None where nothing narrows them."""

    period: str | None = None
    first: str | None = None
    last: str | None = None

    @property
    def is_open(self) -> bool:
        """Whether it means every period."""
        return self == Span()

    def choose(self, table: Table, files: dict[str, BucketObject]) -> dict[str, BucketObject]:
        """The files whose period is meant. Raises LoadError where none is."""
        if self.is_open or table.period is None:
            return files
        only, first, last = (
            self._parsed(table, text) for text in (self.period, self.first, self.last)
        )
        chosen = {
            period: item
            for period, item in files.items()
            if (not only or period == only)
            and (not first or period >= first)
            and (not last or period <= last)
        }
        if chosen:
            return chosen
        if only:
            meant, file = only, table.path_of(only)
        else:
            meant, file = f"{first or 'the first'} to {last or 'the last'}", table.path
        raise LoadError(
            f"{table.name}: the bucket has no file for {meant} ({file}); "
            f"it has {', '.join([min(files), '…', max(files)])}."
        )

    @staticmethod
    def _parsed(table: Table, text: str | None) -> str | None:
        try:
            return table.period.parse(text) if table.period and text else None
        except ValueError as error:
            raise LoadError(f"{table.name}: {error}.") from error


def find_files(table: Table, bucket: Bucket) -> dict[str, BucketObject]:
    """The table's files in the bucket, by period.

    Raises BucketError, or LoadError where a family has no file or two for a period.
    """
    if table.period is None:
        return {ALL: bucket.stat(table.path)}
    found: dict[str, BucketObject] = {}
    for item in bucket.list(table.prefix):
        period = table.period_of(item.path)
        if period is None:
            continue
        if period in found:
            raise LoadError(
                f"{table.name}: two files claim the period {period}: {found[period].path} and "
                f"{item.path}. Take one of them away, or narrow the table's path."
            )
        found[period] = item
    if not found:
        raise LoadError(
            f"{table.name}: no file in {bucket.url} matches {table.path!r}. "
            "Check the path in the project file, and the source."
        )
    return dict(sorted(found.items()))


def pending_files(
    table: Table, files: dict[str, BucketObject], warehouse: Warehouse, *, again: bool
) -> list[Pending]:
    """What of the files is new or changed, by the ledger; all of them with `again`.

    A file whose load was undone is not taken in again before it changes.
    """
    with warehouse.transaction() as transaction:
        current = ledger.current_loads(transaction, table)
        undone = ledger.undone(transaction, table)
    return [
        Pending(table=table, period=period, item=item)
        for period, item in files.items()
        if again
        or (
            (period not in current or not current[period].covers(item, table))
            and (period, item.path, item.etag) not in undone
        )
    ]


def noticed(
    table: Table,
    files: dict[str, BucketObject],
    before: dict[str, ledger.CurrentLoad],
    now: dict[str, ledger.CurrentLoad],
) -> list[str]:
    """What people would want to know of a table's files: gaps, late, rewritten, vanished ones."""
    notes = []
    last = max(before, default="")
    late = [period for period in now if period not in before and period < last]
    rewritten = [
        period
        for period, load in now.items()
        if period in before and before[period].etag != load.etag
    ]
    vanished = [period for period in now if period not in files]
    gaps = table.period.gaps(now) if table.period else []
    for word, periods in (
        ("came late", late),
        ("rewritten", rewritten),
        ("vanished from the bucket (its rows stay)", vanished),
        ("MISSING, so nothing is built of it", gaps),
    ):
        if periods:
            notes.append(f"{table.name}: {word}: {', '.join(periods)}")
    return notes


def load_pending(
    table: Table,
    pending: list[Pending],
    files: dict[str, BucketObject],
    bucket: Bucket,
    warehouse: Warehouse,
    *,
    again: bool,
    progress: Callable[[int], None],
    report: Callable[[Loaded], None],
) -> None:
    """Load files, each in its own transaction; all of the table's in one where its columns changed.

    A refused file does not keep the others from being loaded; raises LoadError for all that failed.
    """
    if shape_changed(table, warehouse):
        _require_all_files(table, files, warehouse)
        every = [Pending(table=table, period=period, item=item) for period, item in files.items()]
        batches = [every]
    else:
        batches = [[one] for one in pending]
    failures: list[GristmillError] = [] if again else _refused_before(table, batches, warehouse)
    for batch in batches:
        try:
            for loaded in load_files(batch, bucket, warehouse, again=again, progress=progress):
                report(loaded)
        except (LoadError, ObjectChanged) as error:
            failures.append(error)
    raise_all(failures)


def _refused_before(
    table: Table, batches: list[list[Pending]], warehouse: Warehouse
) -> list[GristmillError]:
    """Take out the files that were refused as they are; the errors that say so again."""
    with warehouse.transaction() as transaction:
        refusals = ledger.refusals(transaction, table)
    found: list[GristmillError] = []
    for batch in batches.copy():
        one = batch[0]
        refusal = refusals.get(one.period)
        if len(batch) == 1 and refusal and refusal.still_holds(one.item, table):
            batches.remove(batch)
            total = refusal.rows + refusal.rejected
            found.append(
                LoadRefused(
                    f"{one.item.path} is as it was when load {refusal.load} refused it: "
                    f"{refusal.rejected:,} of {total:,} rows break the contract of {table.name}. "
                    f"Mend it (`gristmill rejects {table.name}` shows them), or try again with "
                    "--again."
                )
            )
    return found


def raise_all(failures: Sequence[GristmillError]) -> None:
    """Raise what failed: one as it is, several as one LoadError that tells all."""
    if len(failures) == 1:
        raise failures[0]
    if failures:
        raise LoadError("\n".join(map(str, failures)))


def _require_all_files(table: Table, files: dict[str, BucketObject], warehouse: Warehouse) -> None:
    """Changed columns need every file again: refuse rather than lose a period."""
    with warehouse.transaction() as transaction:
        gone = sorted(ledger.current_loads(transaction, table).keys() - files.keys())
    if gone:
        raise LoadError(
            f"{table.name}: its columns changed, so every file has to be loaded again, and the "
            f"bucket no longer has that of {', '.join(gone)}. Nothing changed: put it back, or "
            f"take its rows out first with `gristmill undo {table.name} --period {gone[0]}`."
        )


def in_order(project: Project, names: Iterable[str], loaded: Iterable[str]) -> list[Table]:
    """Tables with those they refer to before them, and with those of these never loaded."""
    asked, there = set(names), set(loaded)
    order: list[Table] = []

    def visit(name: str, above: tuple[str, ...]) -> None:
        table = project.tables[name]
        if table in order or name in above:
            return
        for reference in table.references:
            if reference.table in asked or reference.table not in there:
                visit(reference.table, (*above, name))
        order.append(table)

    for name in project.tables:
        if name in asked:
            visit(name, ())
    return order
