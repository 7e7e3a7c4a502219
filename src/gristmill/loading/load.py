"""One file into its table: copy, check, attach, record, in one transaction.

A kill at any moment leaves exactly the state before or the state after.
"""

from __future__ import annotations

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pgpq

from gristmill.errors import LoadError, LoadRefused, StatementFailed
from gristmill.loading import contract, ledger
from gristmill.loading import rejects as rejecting
from gristmill.loading.intervals import Intervals
from gristmill.loading.parse import LINE, Parser, Reject
from gristmill.warehouse.sql import SQL, Identifier

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gristmill.bucket.bucket import Bucket, BucketObject
    from gristmill.project.table import Table
    from gristmill.warehouse.connection import Transaction, Warehouse
    from gristmill.warehouse.sql import Composed

    Progress = Callable[[int], None]
    """Told how many more bytes of the file were read."""

UNIQUE_VIOLATION = "23505"
DEPENDENT_OBJECTS = "2BP01"
DUPLICATE_TABLE = "42P07"


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """One period that was loaded."""

    table: str
    period: str
    load: int
    file: str
    rows: int
    rejected: int
    extra_columns: tuple[str, ...]
    """The file's columns that the project does not name, left out."""
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Pending:
    """A file that is new or changed, so its period is to be loaded."""

    table: Table
    period: str
    item: BucketObject


@dataclass(kw_only=True)
class _Copied:
    intervals: Intervals
    rows: int = 0
    tally: rejecting.Tally = field(default_factory=rejecting.Tally)
    extra_columns: tuple[str, ...] = ()


class _TooManyRejects(Exception):
    """Ends the transaction of a load that will be refused."""

    def __init__(self, pending: Pending, load: int, copied: _Copied, seconds: float) -> None:
        self.pending = pending
        self.load = load
        self.copied = copied
        self.seconds = seconds


def shape_changed(table: Table, warehouse: Warehouse) -> bool:
    """Whether the contract now has other columns than the loads that are in."""
    with warehouse.transaction() as transaction:
        found = _shape(transaction, table)
    return bool(found) and found != contract.shape(table)


def load_files(
    pendings: list[Pending],
    bucket: Bucket,
    warehouse: Warehouse,
    *,
    again: bool,
    progress: Progress,
) -> list[Loaded]:
    """Load files in one transaction; without those that another process has just loaded.

    Raises LoadRefused where too many rows broke the contract, LoadError where a file as a whole
    cannot be read by it; what was there before then stays, and the refusal is on record.
    """
    try:
        with warehouse.transaction() as transaction:
            done = []
            for pending in pendings:
                loaded = _load(transaction, pending, bucket, again=again, progress=progress)
                done += [loaded] if loaded else []
            return done
    except _TooManyRejects as refused:
        _record_refusal(warehouse, refused)
        raise LoadRefused(_refusal(refused)) from None


def _load(
    transaction: Transaction, pending: Pending, bucket: Bucket, *, again: bool, progress: Progress
) -> Loaded | None:
    table, period, item = pending.table, pending.period, pending.item
    started = time.monotonic()
    _ensure_parent(transaction, table)
    ledger.lock(transaction, table, period)
    current = ledger.current_loads(transaction, table).get(period)
    if current and current.covers(item, table) and not again:
        return None
    load = ledger.next_load(transaction)
    transaction.execute(contract.create_load(table, load, period))
    copied = _copy(transaction, pending, load, bucket, progress)
    _check_whole(transaction, pending, load, bucket, copied)
    seconds = time.monotonic() - started
    _judge(pending, load, copied, seconds)
    transaction.execute(contract.attach_load(table, load))
    rejected = copied.tally.total
    ledger.record(
        transaction, table, load=load, period=period, item=item,
        status="loaded", rows=copied.rows, rules=copied.tally.counts, seconds=seconds,
    )  # fmt: skip
    rejecting.record_rejects(transaction, load=load, file=item.path, rejects=copied.tally.kept)
    ledger.mark(transaction, table, load=load, period=period)
    return Loaded(
        table=table.name,
        period=period,
        load=load,
        file=item.path,
        rows=copied.rows,
        rejected=rejected,
        extra_columns=copied.extra_columns,
        seconds=seconds,
    )


def _shape(transaction: Transaction, table: Table) -> list[tuple[str, str, bool]]:
    rows = transaction.rows(ledger.queries.shape, {"relation": f'raw."{table.name}"'})
    return [(row["name"], row["type"], row["not_null"]) for row in rows]


def _ensure_parent(transaction: Transaction, table: Table) -> None:
    """The parent table and the view, as the contract wants them, and so until the commit.

    Comes before the lock of a period, so that no two loads wait for each other.
    """
    if _shape(transaction, table) == contract.shape(table):
        transaction.execute(ledger.queries.share_shape, {"table": table.name})
        if _shape(transaction, table) == contract.shape(table):
            return
    transaction.execute(ledger.queries.lock_shape, {"table": table.name})
    found = _shape(transaction, table)
    if found == contract.shape(table):
        return
    if found:
        _retire_parent(transaction, table)
    transaction.execute(contract.create_parent(table))
    try:
        transaction.execute(contract.create_view(table))
    except StatementFailed as error:
        if error.sqlstate != DUPLICATE_TABLE:
            raise
        raise LoadError(
            f"public.{table.name} exists already and is not Gristmill's. "
            "Rename or drop it, or give the table another name in the project file."
        ) from error


def _retire_parent(transaction: Transaction, table: Table) -> None:
    """Put the loads of the former shape aside, together with the view on them."""
    relation = f'public."{table.name}"'
    dependents = transaction.rows(ledger.queries.dependents, {"relation": relation})
    if dependents:
        readers = ", ".join(row["name"] for row in dependents)
        raise LoadError(
            f"{table.name}: its columns changed, and {readers} reads it as it was. "
            "Drop what depends on it, load again, and create it anew."
        )
    transaction.execute("SET LOCAL lock_timeout = '10s'")
    try:
        transaction.execute(SQL("DROP VIEW public.{}").format(Identifier(table.name)))
    except StatementFailed as error:
        if error.sqlstate != DEPENDENT_OBJECTS:
            raise
        raise LoadError(
            f"{table.name}: its columns changed, and something reads it as it was: {error.detail}. "
            "Drop what depends on it, load again, and create it anew."
        ) from error
    retired = f"{table.name}_until_{ledger.next_load(transaction)}"
    transaction.execute(
        SQL("ALTER TABLE raw.{} RENAME TO {}").format(Identifier(table.name), Identifier(retired))
    )
    transaction.execute("DELETE FROM gristmill.current_loads WHERE table_name = %s", [table.name])


def _copy(
    transaction: Transaction, pending: Pending, load: int, bucket: Bucket, progress: Progress
) -> _Copied:
    """Stream the file through the parser into the load's table."""
    table, period = pending.table, pending.period
    bounds = table.period.bounds(period) if table.period else None
    parser = Parser(table, pending.item.path, bounds)
    copied = _Copied(intervals=Intervals(table))
    statement = SQL("COPY raw.{name} ({columns}) FROM STDIN (FORMAT binary, FREEZE)").format(
        name=Identifier(contract.load_name(table, load)),
        columns=contract.names([*(column.name for column in table.columns), LINE]),
    )
    stream = _counted(bucket.stream(pending.item), progress)
    with transaction.copy_in(statement) as copy:
        for encoded in _one_ahead(_encoded(parser, stream, table, copied)):
            copy.write(encoded)
    if transaction.copied != copied.rows:
        raise LoadError(
            f"{pending.item.path}: {copied.rows:,} good rows were sent, and the database took "
            f"{transaction.copied:,}. Nothing changed. This should not be: please report it, with "
            "the file."
        )
    copied.extra_columns = tuple(parser.extra_columns)
    return copied


def _encoded(
    parser: Parser, stream: Iterator[memoryview], table: Table, copied: _Copied
) -> Iterator[bytes]:
    """The good rows in COPY's binary format; rows and rejects are counted on the way."""
    encoder = pgpq.ArrowToPostgresBinaryEncoder(parser.schema)
    yield encoder.write_header()
    for parsed in parser.parse(stream):
        copied.rows += parsed.batch.num_rows
        copied.intervals.add(parsed.batch)
        copied.tally.add(parsed.rejects)
        _limit_evidence(copied, table.max_rejects)
        yield encoder.write_batch(parsed.batch)
    yield encoder.finish()


def _one_ahead(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The same chunks, the next one made while the last one is sent to the database."""
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="gristmill-parser") as parser:
        coming = parser.submit(next, chunks, None)
        while (chunk := coming.result()) is not None:
            coming = parser.submit(next, chunks, None)
            yield chunk


def _counted(stream: Iterator[memoryview], progress: Progress) -> Iterator[memoryview]:
    for chunk in stream:
        yield chunk
        progress(len(chunk))


def _limit_evidence(copied: _Copied, max_rejects: float) -> None:
    """Where nearly everything is rejected, keep examples only: memory must not grow."""
    tally = copied.tally
    hopeless = tally.total > rejecting.KEPT_PER_RULE * 100 and tally.total > copied.rows
    if hopeless and max_rejects < 1:
        tally.keep = rejecting.KEPT_PER_RULE


def _check_whole(
    transaction: Transaction, pending: Pending, load: int, bucket: Bucket, copied: _Copied
) -> None:
    """The rules that need the whole load: references, key, validity. Rows that break one go out."""
    table = pending.table
    for reference in table.references:
        _require_loaded(transaction, table, reference.table)
    broken = _without_reference(transaction, pending, load, copied)
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="gristmill-intervals") as beside:
        told = beside.submit(copied.intervals.overlap)
        if table.key and not _add_key(transaction, pending, load, copied):
            query = rejecting.duplicates_of_key(table, load)
            broken |= _taken_out(transaction, pending, load, query, copied)
            _add_key(transaction, pending, load, copied)
    name = Identifier(contract.load_name(table, load))
    transaction.execute(SQL("ANALYZE raw.{}").format(name))
    known = copied.intervals.are_known
    if told.result() if known else _overlap(transaction, table, load):
        query = rejecting.overlaps(table, load)
        broken |= _taken_out(transaction, pending, load, query, copied)
    if broken:
        stream = bucket.stream(pending.item)
        raws = rejecting.raws(stream, table, pending.item.path, set(broken))
        copied.tally.keep_more(
            Reject(line=line, rule=rule, reason=reason, raw=raws[line])
            for line, (rule, reason) in broken.items()
        )


def _without_reference(
    transaction: Transaction, pending: Pending, load: int, copied: _Copied
) -> dict[int, tuple[str, str]]:
    """Take out the rows whose references point at nothing, and those that refer to these."""
    table = pending.table
    refers_to_itself = any(reference.table == table.name for reference in table.references)
    bearable = table.bearable(copied.rows + copied.tally.total)
    broken: dict[int, tuple[str, str]] = {}
    while True:
        before = len(broken)
        for query in rejecting.broken_references(table, load, pending.period):
            broken |= _taken_out(transaction, pending, load, query, copied)
        if not refers_to_itself or len(broken) == before or copied.tally.total > bearable:
            return broken


def _overlap(transaction: Transaction, table: Table, load: int) -> bool:
    """Whether any intervals of a history overlap, as the database finds."""
    if len(table.valid) < len(("from", "to")):
        return False
    # The key's index holds all that is asked, in order: no sort is as fast.
    transaction.execute("SET LOCAL enable_sort = off")
    overlap = bool(transaction.value(rejecting.any_overlap(table, load)))
    transaction.execute("SET LOCAL enable_sort = on")
    return overlap


def _require_equal(pending: Pending, counted: int, gone: int) -> None:
    """Rows in are rows loaded and rows rejected, or the load fails."""
    if counted != gone:
        raise LoadError(
            f"{pending.item.path}: {counted:,} rows were found to break a rule, and {gone:,} were "
            "taken out. Nothing changed. This should not be: please report it, with the file."
        )


def _require_loaded(transaction: Transaction, table: Table, other: str) -> None:
    if other != table.name and not transaction.rows(
        ledger.queries.shape, {"relation": f'public."{other}"'}
    ):
        raise LoadError(
            f"{table.name} refers to {other}, which was never loaded. "
            f"Run `gristmill load {other}` first."
        )


def _taken_out(
    transaction: Transaction, pending: Pending, load: int, query: Composed, copied: _Copied
) -> dict[int, tuple[str, str]]:
    """Take out the rows that break a rule; rule and reason by line, examples if they are too many.

    `query` selects `_line`, `rule` and `reason` of every such row.
    """
    rows = copied.rows + copied.tally.total
    bearable = pending.table.bearable(rows)
    found = transaction.rows(
        SQL("{} ORDER BY _line LIMIT %s").format(query),
        [max(bearable + 1, rejecting.KEPT_PER_RULE)],
    )
    name = Identifier(contract.load_name(pending.table, load))
    counted = transaction.rows(
        SQL("SELECT rule, count(*) AS count FROM ({}) AS broken GROUP BY rule").format(query)
    ) if len(found) > bearable else []  # fmt: skip
    counts = {row["rule"]: row["count"] for row in counted} or Counter(row["rule"] for row in found)
    if found:
        gone = transaction.execute(
            SQL("DELETE FROM raw.{} WHERE _line IN (SELECT _line FROM ({}) AS broken)").format(
                name, query
            )
        )
        _require_equal(pending, sum(counts.values()), gone)
    copied.rows -= sum(counts.values())
    copied.tally.counts.update(counts)
    return {row["_line"]: (row["rule"], row["reason"]) for row in found}


def _add_key(transaction: Transaction, pending: Pending, load: int, copied: _Copied) -> bool:
    """Build the primary key; False where some rows share one.

    Where the database has to look for overlaps, a history's key carries `valid_to` too, so that
    the index alone tells them.
    """
    table = pending.table
    statement = SQL("ALTER TABLE raw.{name} ADD PRIMARY KEY ({key}){include}").format(
        name=Identifier(contract.load_name(table, load)),
        key=contract.names(table.key),
        include=SQL(" INCLUDE ({})").format(contract.names(table.valid[1:]))
        if table.valid[1:] and table.valid[1] not in table.key and not copied.intervals.are_known
        else SQL(""),
    )
    try:
        with transaction.savepoint():
            transaction.execute(statement)
    except StatementFailed as error:
        if error.sqlstate != UNIQUE_VIOLATION:
            raise
        return False
    return True


def _judge(pending: Pending, load: int, copied: _Copied, seconds: float) -> None:
    """Refuse a load that lost more rows than its table allows, or has none."""
    rejected = copied.tally.total
    if not copied.rows and not rejected:
        raise LoadError(
            f"{pending.item.path} has a header and no row. Nothing changed; "
            "write the file again, with its rows."
        )
    too_many = rejected > pending.table.bearable(copied.rows + rejected)
    if not copied.rows or too_many or copied.tally.keep is not None:
        raise _TooManyRejects(pending, load, copied, seconds)


def _record_refusal(warehouse: Warehouse, refused: _TooManyRejects) -> None:
    """Keep the evidence of a refused load: its ledger row, counts, and rejects of each rule."""
    evidence = rejecting.Tally(keep=rejecting.KEPT_PER_RULE)
    evidence.add(refused.copied.tally.kept)
    pending = refused.pending
    with warehouse.transaction() as transaction:
        ledger.record(
            transaction, pending.table, load=refused.load, period=pending.period,
            item=pending.item, status="refused", rows=refused.copied.rows,
            rules=refused.copied.tally.counts, seconds=refused.seconds,
        )  # fmt: skip
        rejecting.record_rejects(
            transaction, load=refused.load, file=pending.item.path, rejects=evidence.kept
        )


def _refusal(refused: _TooManyRejects) -> str:
    pending, copied = refused.pending, refused.copied
    rejected, total = copied.tally.total, copied.tally.total + copied.rows
    return (
        f"{pending.item.path} was refused: {rejected:,} of {total:,} rows break the contract of "
        f"{pending.table.name}, and max_rejects allows {pending.table.max_rejects:.2%}. "
        f"Nothing changed.\n{copied.tally.describe(pending.item.path)}\n"
        f"Mend the file, or see them all with `gristmill rejects {pending.table.name}`."
    )
