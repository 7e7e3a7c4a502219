"""What changed between two loads of a period, and going back to the one before."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gristmill.errors import LoadError
from gristmill.loading import contract, ledger
from gristmill.loading.ledger import queries
from gristmill.project.table import ALL
from gristmill.warehouse.sql import SQL, Composed, Identifier

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gristmill.loading.ledger import CurrentLoad
    from gristmill.project.table import Table
    from gristmill.warehouse.connection import Transaction, Warehouse

EXAMPLES = 10
"""How many rows of each kind are shown."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A period's current load beside the one that it replaced."""

    table: str
    period: str
    old: int
    """The load that was replaced."""
    new: int
    added: int
    removed: int
    changed: int
    """Rows of the same key with another value; without a key they count as removed and added."""
    columns: dict[str, int]
    """In how many of the changed rows each column differs."""
    examples: list[dict[str, Any]]
    """Some of the rows: `change`, `_line`, and the columns; of a changed one both values."""
    used_by: list[dict[str, Any]]
    """The builds and model versions that were made of the old load."""


def difference(table: Table, period: str | None, warehouse: Warehouse) -> list[Difference]:
    """What the current loads changed against those they replaced, period by period.

    Raises LoadError where a period that was asked for has nothing to compare with.
    """
    with warehouse.transaction() as transaction:
        current = ledger.current_loads(transaction, table)
        wanted = _chosen(table, period, current)
        found = []
        for load in wanted:
            old = _before(transaction, table, load)
            if old is not None:
                found.append(_compare(transaction, table, load, old))
            elif period is not None:
                raise LoadError(
                    f"{table.name}: load {load.load} is the first of {load.period} that is kept; "
                    "there is nothing to compare it with."
                )
        return found


def undo(table: Table, period: str | None, warehouse: Warehouse) -> tuple[int, int | None]:
    """Go back to the load before the current one; the load undone, and the one shown now.

    Without one before, the period is shown no more. An undone file is not loaded again by itself.
    Raises LoadError where it is not clear which period is meant, or nothing is loaded.
    """
    if table.period and period is None:
        raise LoadError(f"{table.name} has many periods: name one, as in --period 2020-01.")
    with warehouse.transaction() as transaction:
        name = table.period.parse(period) if table.period and period else ALL
        ledger.lock(transaction, table, name)
        (load,) = _chosen(table, period, ledger.current_loads(transaction, table))
        old = _before(transaction, table, load)
        transaction.execute(queries.undo, {"load": load.load})
        if old is None:
            transaction.execute(queries.unmark, {"table": table.name, "period": load.period})
        elif _columns(transaction, table, old) != _columns(transaction, table, load.load):
            raise LoadError(
                f"{table.name}: load {old} of {load.period} has other columns than the contract "
                "now; change the project file back and load again."
            )
        else:
            ledger.mark(transaction, table, load=old, period=load.period)
        return load.load, old


def _chosen(table: Table, period: str | None, current: dict[str, CurrentLoad]) -> list[CurrentLoad]:
    try:
        name = table.period.parse(period) if table.period and period else None
    except ValueError as error:
        raise LoadError(f"{table.name}: {error}.") from error
    chosen = [load for load in current.values() if name is None or load.period == name]
    if not chosen:
        raise LoadError(f"{table.name}: nothing is loaded{f' for {name}' if name else ''}.")
    return chosen


def _before(transaction: Transaction, table: Table, load: CurrentLoad) -> int | None:
    value = transaction.value(
        queries.before, {"table": table.name, "period": load.period, "load": load.load}
    )
    return None if value is None else int(value)


def _columns(transaction: Transaction, table: Table, load: int) -> list[tuple[str, str]]:
    relation = f'raw."{contract.load_name(table, load)}"'
    rows = transaction.rows(queries.shape, {"relation": relation})
    return [(row["name"], row["type"]) for row in rows]


def _compare(transaction: Transaction, table: Table, load: CurrentLoad, old: int) -> Difference:
    before = dict(_columns(transaction, table, old))
    now = dict(_columns(transaction, table, load.load))
    common = [name for name, kind in now.items() if before.get(name) == kind]
    query = _joined(table, common, old, load.load)
    values = [name for name in common if name not in _key(table, common)]
    counts = transaction.row(
        SQL("SELECT count(*) FILTER (WHERE change = 'added') AS added, "
            "count(*) FILTER (WHERE change = 'removed') AS removed, "
            "count(*) FILTER (WHERE change = 'changed') AS changed{columns} FROM ({query}) AS rows")
        .format(
            columns=SQL("").join(
                SQL(", count(*) FILTER (WHERE change = 'changed' AND {old} IS DISTINCT FROM {new}) "
                    "AS {new}").format(old=Identifier(f"old {name}"), new=Identifier(name))
                for name in values
            ),
            query=query,
        )
    ) or {}  # fmt: skip
    examples = [
        row
        for change in ("added", "removed", "changed")
        for row in transaction.rows(
            SQL("SELECT * FROM ({}) AS rows WHERE change = %s ORDER BY _line LIMIT %s").format(
                query
            ),
            [change, EXAMPLES],
        )
    ]
    return Difference(
        table=table.name,
        period=load.period,
        old=old,
        new=load.load,
        added=counts["added"],
        removed=counts["removed"],
        changed=counts["changed"],
        columns={name: counts[name] for name in values if counts[name]},
        examples=examples,
        used_by=transaction.rows(queries.users_of, {"load": old}),
    )


def _key(table: Table, common: Sequence[str]) -> Sequence[str]:
    """What makes two rows the same: the key; without one all columns."""
    return table.key if table.key and set(table.key) <= set(common) else common


def _joined(table: Table, common: Sequence[str], old: int, new: int) -> Composed:
    """The rows that differ: `change`, `_line`, each column, and its old value where it has one."""
    key = _key(table, common)
    values = [name for name in common if name not in key]
    differ = SQL("").join(
        SQL(" OR old.{0} IS DISTINCT FROM new.{0}").format(Identifier(name)) for name in values
    )
    columns = [
        SQL("CASE WHEN new._line IS NULL THEN old.{0} ELSE new.{0} END AS {0}").format(
            Identifier(name)
        )
        for name in common
    ]
    columns += [
        SQL("old.{} AS {}").format(Identifier(name), Identifier(f"old {name}")) for name in values
    ]
    return SQL(
        "SELECT CASE WHEN old._line IS NULL THEN 'added' WHEN new._line IS NULL THEN 'removed' "
        "ELSE 'changed' END AS change, coalesce(new._line, old._line) AS _line, {columns} "
        "FROM ({old}) AS old FULL JOIN ({new}) AS new "
        "ON old._same = new._same AND old._copy = new._copy "
        "WHERE old._line IS NULL OR new._line IS NULL{differ}"
    ).format(
        columns=SQL(", ").join(columns),
        old=_numbered(table, common, old),
        new=_numbered(table, common, new),
        differ=differ,
    )


def _numbered(table: Table, common: Sequence[str], load: int) -> Composed:
    """A load's rows with what makes them the same; equal ones are told apart by their number."""
    key = _key(table, common)
    same = SQL("ROW({})::text").format(contract.names(key))
    copy = SQL("1") if key is table.key else SQL("row_number() OVER (PARTITION BY {})").format(same)
    return SQL("SELECT {columns}, _line, {same} AS _same, {copy} AS _copy FROM raw.{name}").format(
        columns=contract.names(common),
        same=same,
        copy=copy,
        name=Identifier(contract.load_name(table, load)),
    )
