"""What was refused and why: the rules that need the whole load, and the record of every reject."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gristmill.loading import records as csv_records
from gristmill.loading.contract import load_name, names
from gristmill.loading.parse import Reject, shown
from gristmill.warehouse.sql import SQL, Identifier, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from gristmill.project.table import Table
    from gristmill.warehouse.connection import Transaction
    from gristmill.warehouse.sql import Composed

KEPT_PER_RULE = 1_000
"""How many rejects of each rule a refused load keeps as evidence."""


@dataclass(kw_only=True)
class Tally:
    """The rejects of one load: all are counted, and no more kept than will be recorded."""

    keep: int | None = None
    """How many to keep of each rule; None keeps all."""
    counts: Counter[str] = field(default_factory=Counter)
    kept: list[Reject] = field(default_factory=list)

    def add(self, rejects: Iterable[Reject]) -> None:
        """Count rejects, and keep them as far as they will be recorded."""
        for reject in rejects:
            self.counts[reject.rule] += 1
            if self.keep is None or self.counts[reject.rule] <= self.keep:
                self.kept.append(reject)

    def keep_more(self, rejects: Iterable[Reject]) -> None:
        """Keep rejects that were counted before."""
        self.kept += rejects

    @property
    def total(self) -> int:
        """How many rows were rejected: each breaks one rule, the first found."""
        return self.counts.total()

    def describe(self, file: str) -> str:
        """The counts by rule, and the first examples with file and line."""
        ordered = sorted(self.kept, key=lambda reject: reject.line)
        lines = [f"  {rule}: {count:,} rows" for rule, count in self.counts.most_common()]
        for reject in ordered[:5]:
            lines.append(f"  {file}, line {reject.line}: {reject.rule}: {reject.reason}")
            lines.append(f"    {reject.raw[:200]}")
        return "\n".join(lines)


def record_rejects(
    transaction: Transaction, *, load: int, file: str, rejects: Iterable[Reject]
) -> None:
    """Put rejects on record, with their load."""
    statement = "COPY gristmill.rejects (load, file, line, rule, reason, raw) FROM STDIN"
    with transaction.copy_in(statement) as copy:
        for reject in rejects:
            copy.write_row((load, file, reject.line, reject.rule, reject.reason, reject.raw))


def duplicates_of_key(table: Table, load: int) -> Composed:
    """The rows whose key stands on an earlier line already: `_line`, `rule`, `reason`."""
    return SQL(
        "SELECT _line, 'key' AS rule, {reason} AS reason FROM (SELECT _line, row_number() OVER "
        "(PARTITION BY {key} ORDER BY _line) AS occurrence FROM raw.{name}) AS numbered "
        "WHERE occurrence > 1"
    ).format(
        reason=Literal(f"{', '.join(table.key)} stands on an earlier line already"),
        key=names(table.key),
        name=Identifier(load_name(table, load)),
    )


def broken_references(table: Table, load: int, period: str) -> Iterator[Composed]:
    """For each reference the rows whose value the other table does not have.

    A table that refers to itself has what the views show of its other periods, and this load.
    """
    own = Identifier(load_name(table, load))
    for reference in table.references:
        column, to_column = Identifier(reference.column), Identifier(reference.to_column)
        referred = SQL("SELECT {} FROM public.{}").format(to_column, Identifier(reference.table))
        if reference.table == table.name:  # the view shows the load that this one replaces
            referred = SQL(
                "SELECT {column} FROM raw.{table} "
                "WHERE _load = ANY (gristmill.shown_loads({name})) "
                "AND _load IS DISTINCT FROM (SELECT load FROM gristmill.current_loads "
                "WHERE table_name = {name} AND period = {period}) "
                "UNION ALL SELECT {column} FROM raw.{own}"
            ).format(
                column=to_column,
                table=Identifier(table.name),
                name=Literal(table.name),
                period=Literal(period),
                own=own,
            )
        yield SQL(
            "SELECT _line, 'reference' AS rule, {reason} AS reason FROM raw.{own} AS referring "
            "WHERE {column} IS NOT NULL AND NOT EXISTS (SELECT FROM ({referred}) AS referred "
            "WHERE referred.{to_column} = referring.{column})"
        ).format(
            reason=Literal(f"{reference.column} is not in {reference.table}.{reference.to_column}"),
            own=own,
            column=column,
            referred=referred,
            to_column=to_column,
        )


def overlaps(table: Table, load: int) -> Composed:
    """The rows of a history that begin before an earlier one of the same key has ended.

    An interval reaches from `valid_from` up to, not including, `valid_to`; an open one never ends.
    """
    valid_from, valid_to = table.valid
    others = [column for column in table.key if column not in table.valid]
    # The columns are renamed before they are compared: they may have any name, `until` too.
    return SQL(
        "SELECT _line, CASE WHEN ends IS NULL AND until = 'infinity' THEN 'two_open' "
        "ELSE 'overlap' END AS rule, CASE WHEN ends IS NULL AND until = 'infinity' "
        "THEN {two_open} ELSE {overlap} END AS reason FROM (SELECT _line, {valid_from} AS begins, "
        "{valid_to} AS ends, max(coalesce({valid_to}, 'infinity')) OVER ({partition} "
        "ORDER BY {valid_from}, _line ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS until "
        "FROM raw.{name}) AS ordered WHERE until > begins"
    ).format(
        valid_from=Identifier(valid_from),
        valid_to=Identifier(valid_to),
        two_open=Literal(f"an earlier row of the same key has no {valid_to} either"),
        overlap=Literal(f"{valid_from} lies before the {valid_to} of an earlier row of the key"),
        # Without another column in its key, the whole table is the history of one thing.
        partition=SQL("PARTITION BY {}").format(names(others)) if others else SQL(""),
        name=Identifier(load_name(table, load)),
    )


def any_overlap(table: Table, load: int) -> Composed:
    """Whether any row begins before the one that began last has ended, by the key's index alone."""
    valid_from, valid_to = table.valid
    others = [column for column in table.key if column not in table.valid]
    return SQL(
        "SELECT EXISTS (SELECT FROM (SELECT {valid_from} AS begins, "
        "lag(coalesce({valid_to}, 'infinity')) OVER ({partition} ORDER BY {valid_from}) AS until "
        "FROM raw.{name}) AS ordered WHERE until > begins)"
    ).format(
        valid_from=Identifier(valid_from),
        valid_to=Identifier(valid_to),
        partition=SQL("PARTITION BY {}").format(names(others)) if others else SQL(""),
        name=Identifier(load_name(table, load)),
    )


def raws(
    stream: Iterable[bytes | memoryview], table: Table, path: str, lines: set[int]
) -> dict[int, str]:
    """The raw records that begin on some lines of a file, read again."""
    found: dict[int, str] = {}
    delimiter = table.dialect.delimiter.encode()
    chunks = csv_records.decoded(stream, path=path, encoding=table.dialect.encoding)
    for block in csv_records.blocks(chunks, delimiter, path=path):
        last = block.line + block.data.count(b"\n")
        if any(block.line <= line <= last for line in lines - found.keys()):
            for record in csv_records.records(block, delimiter):
                if record.line in lines:
                    found[record.line] = shown(record.raw)
    return found
