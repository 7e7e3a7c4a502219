"""What turned out to be true, told by a request or a file, and recorded all or nothing.

Told twice is recorded once; told otherwise for the same entity and time, it corrects what was
there. It refuses a file with a wrong line, and names each.
"""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from gristmill.errors import InvalidFeatures, InvalidOutcome, OutcomesRefused
from gristmill.predictions.prediction import entity_key_from_text
from gristmill.warehouse.queries import load_queries

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from gristmill.registry.bundle import Entity
    from gristmill.warehouse.connection import Transaction, Warehouse
    from gristmill.warehouse.sql import SQL

COLUMNS = ("outcome", "observed_at")
"""What is told beside the entity's key."""
MOST_PROBLEMS = 20
"""Wrong lines of a file that are named."""
AHEAD = timedelta(days=1)
"""How far ahead of ours another clock may be."""

_queries = load_queries("gristmill.predictions", "outcomes.sql")


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What turned out to be true of one entity."""

    entity: str
    """Who it is about: the key as text."""
    outcome: int
    """The label it turned out to have: 0 or 1."""
    observed_at: datetime
    """Since when that is known, in UTC."""


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """What recording outcomes came to."""

    added: int
    corrected: int
    """They were there with the other outcome."""
    known: int
    """They were there already."""


def outcome_of(key: int | str, outcome: object, observed_at: object, *, now: datetime) -> Outcome:
    """An outcome from a request's JSON values; `key` is one that was checked.

    A time without a zone is UTC, a day is its beginning. Raises InvalidOutcome, naming the field.
    """
    if type(outcome) is not int or outcome not in (0, 1):
        raise InvalidOutcome("outcome must be 0 or 1.", field="outcome")
    return Outcome(entity=str(key), outcome=outcome, observed_at=_moment(observed_at, now))


def contradiction(outcomes: Sequence[Outcome]) -> int | None:
    """The place of the first outcome that says otherwise than an earlier one; None where none does.

    Both are of the same entity and time: which of them is true, nobody could tell.
    """
    told: dict[tuple[str, datetime], int] = {}
    for place, one in enumerate(outcomes):
        if told.setdefault((one.entity, one.observed_at), one.outcome) != one.outcome:
            return place
    return None


def record_outcomes(warehouse: Warehouse, outcomes: Sequence[Outcome]) -> Recorded:
    """Put outcomes that do not contradict each other on record; returns once it is committed."""
    records = [
        {
            "entity": one.entity,
            "outcome": one.outcome,
            "observed_at": one.observed_at.isoformat(),
        }
        for one in outcomes
    ]
    with warehouse.transaction() as transaction:
        return _record(transaction, _queries.given_rows, {"records": json.dumps(records)})


def record_outcomes_file(
    warehouse: Warehouse, path: Path, entity: Entity, *, now: datetime
) -> Recorded:
    """Put the outcomes of a CSV file on record, all or none.

    Its header names the entity's key, `outcome` and `observed_at`, in any order. Raises
    OutcomesRefused, which names the wrong lines.
    """
    problems: list[str] = []
    with warehouse.transaction() as transaction:
        transaction.execute(_queries.make_given)
        with transaction.copy_in(_queries.copy_given) as copy:
            for line, outcome in _read(path, entity, now, problems):
                copy.write_row((line, outcome.entity, outcome.outcome, outcome.observed_at))
        problems += (
            f"line {row['line']}: says otherwise than an earlier line of the same {entity.name} "
            "and observed_at"
            for row in transaction.rows(_queries.contradictions, {"limit": MOST_PROBLEMS + 1})
        )
        if problems:
            raise _refused(path, problems)
        return _record(transaction, _queries.given_file)


def _record(
    transaction: Transaction, given: SQL, parameters: dict[str, object] | None = None
) -> Recorded:
    row = transaction.row(_queries.record_outcomes.format(given=given), parameters)
    assert row is not None  # An aggregate gives a row.
    return Recorded(**row)


def _read(
    path: Path, entity: Entity, now: datetime, problems: list[str]
) -> Iterator[tuple[int, Outcome]]:
    """The outcomes of a file by the line they begin at; what is wrong goes to `problems`."""
    rows = _rows(path)
    _, header = next(rows, (1, []))
    places = _places(path, header, entity)
    for line, row in rows:
        try:
            yield line, _outcome(row, places, entity, now)
        except (InvalidOutcome, InvalidFeatures) as error:
            problems.append(f"line {line}: {error}")
            if len(problems) > MOST_PROBLEMS:
                raise _refused(path, problems) from error


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The rows of a CSV file that are not empty, by the line they begin at."""
    ended = 0
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            for row in reader:
                if row:
                    yield ended + 1, row
                ended = reader.line_num
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise OutcomesRefused(
            f"{path} cannot be read as CSV in UTF-8, from line {ended + 1} on: {error}"
        ) from error


def _places(path: Path, header: list[str], entity: Entity) -> tuple[int, ...]:
    """Where each column stands."""
    wanted = (entity.name, *COLUMNS)
    if sorted(header) != sorted(wanted):
        raise OutcomesRefused(
            f"{path} has the columns {', '.join(header) or '(none)'}; it has to have "
            f"{', '.join(wanted)}, and no other."
        )
    return tuple(header.index(name) for name in wanted)


def _outcome(row: list[str], places: tuple[int, ...], entity: Entity, now: datetime) -> Outcome:
    if len(row) != len(places):
        raise InvalidOutcome(f"it has {len(row)} values instead of {len(places)}")
    key, outcome, observed_at = (row[place] for place in places)
    return outcome_of(
        entity_key_from_text(key, entity),
        {"0": 0, "1": 1}.get(outcome, outcome),
        observed_at,
        now=now,
    )


def _moment(value: Any, now: datetime) -> datetime:
    wrong = InvalidOutcome(
        "observed_at must be a time such as 2026-01-31T12:00:00Z, or a day.", field="observed_at"
    )
    if type(value) is not str or len(value) > 40:
        raise wrong
    try:
        moment = datetime.fromisoformat(value)
        moment = moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise wrong from None
    if moment > now + AHEAD:
        raise InvalidOutcome("observed_at lies in the future.", field="observed_at")
    return moment


def _refused(path: Path, problems: list[str]) -> OutcomesRefused:
    named = [*problems[:MOST_PROBLEMS], *(["…"] if len(problems) > MOST_PROBLEMS else [])]
    return OutcomesRefused(
        f"{path} is refused, and nothing of it is recorded:\n" + "\n".join(named), lines=problems
    )
