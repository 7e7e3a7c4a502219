"""What ran, when, with what result."""

from __future__ import annotations

from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from gristmill.errors import GristmillError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gristmill.warehouse.connection import Warehouse


@contextmanager
def recorded(warehouse: Warehouse, step: str) -> Iterator[None]:
    """Put a step on record in `gristmill.runs`, whether it succeeds or fails."""
    started = datetime.now(UTC)
    try:
        yield
    except GristmillError as error:
        _record(warehouse, step, started, outcome="failed", message=str(error))
        raise
    _record(warehouse, step, started, outcome="done", message="")


def _record(
    warehouse: Warehouse, step: str, started: datetime, *, outcome: str, message: str
) -> None:
    with warehouse.transaction() as transaction:
        transaction.execute(
            "INSERT INTO gristmill.runs (step, started_at, finished_at, outcome, message) "
            "VALUES (%s, %s, clock_timestamp(), %s, %s)",
            [step, started, outcome, message],
        )
