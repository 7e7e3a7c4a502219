"""What changed between two loads of a period, and going back to the one before."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from gristmill.errors import LoadError
from gristmill.loading import contract, ledger
from gristmill.loading.ledger import queries
from gristmill.project.table import ALL
from gristmill.warehouse.sql import SQL, Composed, Identifier

if TYPE_CHECKING:
    from gristmill.loading.ledger import CurrentLoad, FormerLoad
    from gristmill.project.table import Table
    from gristmill.warehouse.connection import Transaction, Warehouse

    Change = Literal["added", "removed", "changed"]

EXAMPLES = 10
"""How many rows of each kind are shown."""


@dataclass(frozen=True, kw_only=True)
class Example:
    """A row that differs."""

    change: Change
    line: int
    """Where it stands in its file; a removed one in the old file."""
    values: dict[str, Any]
    """Its columns; of a changed row the new values."""
    old: dict[str, Any]
    """Of a changed row, the old values of the columns that differ."""


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
    not_compared: tuple[str, ...]
    """The columns that only one of the two has, or each with another type."""
    examples: list[Example]
    used_by: list[dict[str, Any]]
    """The builds and model versions that were made of the old load."""


@dataclass(frozen=True, kw_only=True)
class _Comparison:
    """Two loads, and the columns by which their rows are compared."""

    table: Table
    old: int
    new: int
    key: tuple[str, ...]
    """What makes two rows the same: the key; without one all columns."""
    values: tuple[str, ...]
    """The other columns that both have."""
    not_compared: tuple[str, ...]
    unique: bool
    """Whether no two rows of either have the same key."""

    @property
    def columns(self) -> tuple[str, ...]:
        """What is compared, the key first."""
        return (*self.key, *self.values)

    @property
    def numbers_of_values(self) -> range:
        """Where in `columns` the values are."""
        return range(len(self.key), len(self.columns))


def difference(table: Table, period: str | None, warehouse: Warehouse) -> list[Difference]:
    """What the current loads changed against those they replaced, period by period.

    Raises LoadError where a period that was asked for has nothing to compare with.
    """
    name = _named(table, period)
    with warehouse.transaction() as transaction:
        found = []
        for load in _chosen(transaction, table, name):
            old = ledger.before(transaction, table, load)
            if old is not None and old.is_kept:
                found.append(_compare(transaction, table, load, old))
            elif name is not None:
                raise LoadError(
                    f"{table.name}: load {load.load} is the first of {load.period}; "
                    "there is nothing to compare it with."
                    if old is None
                    else f"{table.name}: load {old.load}, which load {load.load} of {load.period} "
                    "replaced, is no longer kept; there is nothing to compare it with."
                )
        return found


def undo(table: Table, period: str | None, warehouse: Warehouse) -> tuple[int, int | None]:
    """Go back to the load before the current one; the load undone, and the one shown now.

    Without one before, the period is shown no more. An undone file is not loaded again by itself.
    Raises LoadError where it is not clear which period is meant, nothing is loaded, or the load
    before is no longer kept or has other columns; then nothing changes.
    """
    name = _named(table, period)
    if table.period and name is None:
        raise LoadError(f"{table.name} has many periods: name one, as in --period 2020-01.")
    with warehouse.transaction() as transaction:
        ledger.share_shape(transaction, table)
        ledger.lock(transaction, table, name or ALL)
        (load,) = _chosen(transaction, table, name)
        old = ledger.before(transaction, table, load)
        transaction.execute(queries.undo, {"load": load.load})
        if old is None:
            transaction.execute(queries.unmark, {"table": table.name, "period": load.period})
            contract.tell(transaction, "raw", table.name, "_load")
            return load.load, None
        _require_shown(transaction, table, load, old)
        _show_again(transaction, table, load.period, old.load)
        return load.load, old.load


def _require_shown(
    transaction: Transaction, table: Table, load: CurrentLoad, old: FormerLoad
) -> None:
    """Raise LoadError where the view could not show an old load again."""
    if not old.is_kept:
        raise LoadError(
            f"{table.name}: load {old.load}, which load {load.load} of {load.period} replaced, is "
            "no longer kept, so it cannot be shown again. Put the right file into the bucket and "
            "load it."
        )
    parent, former = f'raw."{table.name}"', f'raw."{contract.load_name(table, old.load)}"'
    if _shape(transaction, former) != _shape(transaction, parent):
        raise LoadError(
            f"{table.name}: load {old.load} of {load.period} has other columns than the contract "
            "now; change the project file back and load again."
        )


def _named(table: Table, period: str | None) -> str | None:
    """The name of the period that a person wrote."""
    if period is None:
        return None
    if table.period is None:
        raise LoadError(f"{table.name} has no periods; leave --period out.")
    try:
        return table.period.parse(period)
    except ValueError as error:
        raise LoadError(f"{table.name}: {error}.") from error


def _show_again(transaction: Transaction, table: Table, period: str, load: int) -> None:
    """Make a superseded load current, attached again where it was tidied away."""
    relation = f'raw."{contract.load_name(table, load)}"'
    if transaction.value(queries.parent, {"relation": relation}) is None:
        transaction.execute(contract.attach_load(table, load))
    transaction.execute(queries.forget_readers, {"load": load})
    ledger.mark(transaction, table, load=load, period=period)


def _chosen(transaction: Transaction, table: Table, period: str | None) -> list[CurrentLoad]:
    current = ledger.current_loads(transaction, table)
    chosen = [load for load in current.values() if period in (None, load.period)]
    if not chosen:
        place = f" for {period}" if period else ""
        raise LoadError(f"{table.name}: nothing is loaded{place}.")
    return chosen


def _compare(
    transaction: Transaction, table: Table, load: CurrentLoad, old: FormerLoad
) -> Difference:
    comparison = _comparison(transaction, table, load, old)
    joined = _joined(comparison)
    counts = transaction.row(_counts(comparison, joined)) or {}
    return Difference(
        table=table.name,
        period=load.period,
        old=old.load,
        new=load.load,
        added=counts["added"],
        removed=counts["removed"],
        changed=counts["changed"],
        columns={
            comparison.columns[number]: counts[f"changed_{number}"]
            for number in comparison.numbers_of_values
            if counts[f"changed_{number}"]
        },
        not_compared=comparison.not_compared,
        examples=_examples(transaction, comparison, joined),
        used_by=transaction.rows(queries.users_of, {"load": old.load}),
    )


def _comparison(
    transaction: Transaction, table: Table, load: CurrentLoad, old: FormerLoad
) -> _Comparison:
    before, now = (
        {name: kind for name, kind, _ in _shape(transaction, f'raw."{relation}"')}
        for relation in (contract.load_name(table, one) for one in (old.load, load.load))
    )
    common = tuple(name for name, kind in now.items() if before.get(name) == kind)
    keyed = bool(table.key) and set(table.key) <= set(common)
    return _Comparison(
        table=table,
        old=old.load,
        new=load.load,
        key=table.key if keyed else common,
        values=tuple(name for name in common if name not in table.key) if keyed else (),
        not_compared=tuple(name for name in {**now, **before} if name not in common),
        # Another contract may have had another key.
        unique=keyed and {old.contract, load.contract} == {contract.digest(table)},
    )


def _shape(transaction: Transaction, relation: str) -> list[tuple[str, str, bool]]:
    rows = transaction.rows(queries.shape, {"relation": relation})
    return [(row["name"], row["type"], row["not_null"]) for row in rows]


def _counts(comparison: _Comparison, joined: Composed) -> Composed:
    """One row: `added`, `removed`, `changed`, and `changed_0`, … of the columns that differ."""
    counts = [
        SQL("count(*) FILTER (WHERE change = {}) AS {}").format(change, Identifier(change))
        for change in ("added", "removed", "changed")
    ]
    counts += [
        SQL(
            "count(*) FILTER (WHERE change = 'changed' AND old_{0} IS DISTINCT FROM new_{0}) "
            "AS changed_{0}"
        ).format(number)
        for number in comparison.numbers_of_values
    ]
    return SQL("SELECT {} FROM ({}) AS rows").format(SQL(", ").join(counts), joined)


def _examples(transaction: Transaction, comparison: _Comparison, joined: Composed) -> list[Example]:
    examples = []
    for change in ("added", "removed", "changed"):
        rows = transaction.rows(
            SQL("SELECT * FROM ({}) AS rows WHERE change = {} ORDER BY line LIMIT {}").format(
                joined, change, EXAMPLES
            )
        )
        examples += [_example(comparison, row) for row in rows]
    return examples


def _example(comparison: _Comparison, row: dict[str, Any]) -> Example:
    old, new = (
        {name: row[f"{side}_{number}"] for number, name in enumerate(comparison.columns)}
        for side in ("old", "new")
    )
    differ = [name for name in comparison.values if old[name] != new[name]]
    return Example(
        change=row["change"],
        line=row["line"],
        values=old if row["change"] == "removed" else new,
        old={name: old[name] for name in differ} if row["change"] == "changed" else {},
    )


def _joined(comparison: _Comparison) -> Composed:
    """The rows that differ: `change`, `line`, and `old_0`, `new_0`, … of the columns.

    Columns go by their numbers, for a file may name one as it likes.
    """
    both = [
        SQL("{0}.column_{1} AS {0}_{1}").format(SQL(side), number)
        for number in range(len(comparison.columns))
        for side in ("old", "new")
    ]
    differ = [
        SQL("old.column_{0} IS DISTINCT FROM new.column_{0}").format(number)
        for number in comparison.numbers_of_values
    ]
    return SQL(
        "SELECT CASE WHEN old.line IS NULL THEN 'added' WHEN new.line IS NULL THEN 'removed' "
        "ELSE 'changed' END AS change, {columns} FROM ({old}) AS old FULL JOIN ({new}) AS new "
        "ON old.same = new.same AND old.copy = new.copy WHERE {differ}"
    ).format(
        columns=SQL(", ").join([SQL("coalesce(new.line, old.line) AS line"), *both]),
        old=_rows(comparison, comparison.old),
        new=_rows(comparison, comparison.new),
        differ=SQL(" OR ").join([SQL("old.line IS NULL OR new.line IS NULL"), *differ]),
    )


def _rows(comparison: _Comparison, load: int) -> Composed:
    """A load's rows with what makes them the same; equal ones are told apart by their number."""
    same = SQL("ROW({})::text").format(contract.names(comparison.key))
    copy = SQL("row_number() OVER (PARTITION BY {} ORDER BY _line)").format(same)
    columns = [
        SQL("{} AS column_{}").format(Identifier(name), number)
        for number, name in enumerate(comparison.columns)
    ]
    return SQL("SELECT {columns}, {same} AS same, {copy} AS copy FROM raw.{name}").format(
        columns=SQL(", ").join([SQL("_line AS line"), *columns]),
        same=same,
        copy=SQL("1") if comparison.unique else copy,
        name=Identifier(contract.load_name(comparison.table, load)),
    )
