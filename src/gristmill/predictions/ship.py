"""Brings predictions from the spools into the warehouse, each exactly once, in the background.

A prediction leaves its spool only after the warehouse has committed it; one that is there already
is not added again. While the warehouse is away they wait, and it is asked less and less often; what
takes it too long is brought in halves.
"""

from __future__ import annotations

import json
import logging
import math
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from gristmill.errors import GristmillError, SpoolError, StatementFailed, WarehouseUnreachable
from gristmill.predictions.spool import adopt_spools, as_record
from gristmill.warehouse.queries import load_queries

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from gristmill.predictions.prediction import Prediction
    from gristmill.predictions.spool import Group, Spool
    from gristmill.warehouse.connection import Transaction, Warehouse

logger = logging.getLogger(__name__)

ShippingState = Literal["off", "up to date", "behind"]

BATCH = 5000
"""Predictions that one transaction brings, where they were not put on record together."""
MOST_REFUSED = 10
"""Predictions that the warehouse refused before, and that it is asked to take again at a time."""
AT_A_TIME = 2.0
"""Seconds that one spool is shipped before the others, and an order to stop, are looked at."""
PAUSE = 0.25
"""Seconds between two looks at the spools."""
LONGEST_PAUSE = 5.0
"""Seconds between two tries while the warehouse is away or refuses."""
ADOPT_EVERY = 5.0
"""Seconds between two looks for the spools of dead processes."""
LEAST_PATIENCE = 1.0
"""Seconds that a lost connection counts as having taken, however soon it was lost."""
LAST_TRY = 10.0
"""Seconds that a stopping process goes on shipping; what is left waits for the next one."""
BEHIND = 10.0
"""Seconds that a prediction may wait before shipping counts as behind."""

TOO_MUCH = ("57014", "25P04", "53200")
"""SQLSTATEs of what a smaller transaction may get through: it took too long, or too much memory."""
REFUSED_EVERY = 30.0
"""Seconds between two tries of what the warehouse refused."""

OF_A_ROW = ("22", "23", "54")
"""Classes of SQLSTATE that are a row's own fault: its data, a constraint, a limit of its size.

Anything else, a full disk or a missing table, is the same for all rows, and they wait together.
"""

_queries = load_queries("gristmill.predictions", "ship.sql")


@dataclass(frozen=True, kw_only=True)
class Shipping:
    """How shipping stood when it was last looked at."""

    adopted: int = 0
    """Predictions that wait in the spools of dead processes that this one took over."""
    oldest_seconds: float = 0.0
    """The age of the oldest prediction that is not in the warehouse yet."""
    problem: str | None = None
    """Why the last try failed; None where it did not."""
    state: ShippingState = "up to date"
    """Whether predictions wait for longer than they should; `off` without a warehouse."""


class Pace:
    """How many predictions one transaction brings: as many as the warehouse takes in its time.

    Predictions that were put on record together go together, until that was too much.
    """

    def __init__(self) -> None:
        self.most: float = math.inf
        self._patience = math.inf

    def slower(self, tried: int, seconds: float) -> bool:
        """So many were too much, after so long; whether fewer can be tried."""
        self.most = max(min(self.most, tried) // 2, 1)
        self._patience = seconds
        return tried > 1

    def faster(self, seconds: float) -> None:
        """They took so long: twice as many are tried where that leaves time to spare."""
        if seconds < self._patience / 4:
            self.most = self.most * 2 if self.most < BATCH else math.inf


def record(warehouse: Warehouse, predictions: Sequence[Prediction]) -> int:
    """Put predictions into the warehouse, all or none; how many were not there yet."""
    with warehouse.transaction() as transaction:
        return _insert(transaction, f"[{','.join(map(as_record, predictions))}]")


def ship(
    spool: Spool, warehouse: Warehouse, *, until: float = math.inf, pace: Pace | None = None
) -> int:
    """Bring all that waits in a spool by now into the warehouse; how many were brought.

    A row that the warehouse refuses holds up nobody: it is set aside, see `ship_refused`. What
    takes too long is brought in smaller parts; `pace` remembers how small. Ends early where
    `time.monotonic()` passes `until`. Raises WarehouseError and SpoolError where nothing more can
    be brought.
    """
    pace = pace or Pace()
    brought = 0
    # What comes meanwhile is the next call's: under load a spool is never empty.
    waiting = spool.count
    while (
        waiting > 0
        and time.monotonic() < until
        and (groups := spool.oldest(int(min(pace.most, BATCH))))
    ):
        size = sum(group.size for group in groups)
        if size > pace.most:
            refused = _bring_in_parts(warehouse, groups[0], pace, until)
        else:
            refused = _bring(warehouse, [group.records for group in groups], size, pace)
        if refused is None:
            continue
        spool.forget(groups, refused=refused)
        waiting -= size
        brought += size - len(refused)
    return brought


def _bring_in_parts(
    warehouse: Warehouse, group: Group, pace: Pace, until: float
) -> list[bytes] | None:
    """Bring one group by several transactions; as `_bring`.

    What has been brought of it when it ends early is brought again, and not added again. So it ends
    early only after a part that took too long: the next time all parts are smaller.
    """
    records = json.loads(group.records)
    refused = []
    while records:
        part = records[: int(min(pace.most, len(records)))]
        text = json.dumps(part, allow_nan=False).encode()
        found = _bring(warehouse, [text], len(part), pace)
        if found is not None:
            refused += found
            del records[: len(part)]
        elif time.monotonic() >= until:
            return None
    return refused


def _bring(
    warehouse: Warehouse, parts: Sequence[bytes], size: int, pace: Pace
) -> list[bytes] | None:
    """Bring arrays of records, `size` in all, by one transaction; the records that were refused.

    None where it was too much for one, and nothing was brought.
    """
    began = time.monotonic()
    refused: list[bytes] = []
    try:
        try:
            with warehouse.transaction() as transaction:
                # One statement for all: each by its own costs five times as much.
                records = b",".join([part[1:-1] for part in parts])
                _insert(transaction, f"[{records.decode()}]")
        except StatementFailed as error:
            if not error.sqlstate.startswith(OF_A_ROW):
                raise
            refused = _insert_each(warehouse, parts)
    except StatementFailed as error:
        if error.sqlstate not in TOO_MUCH or not pace.slower(size, time.monotonic() - began):
            raise
        logger.warning(
            "%d predictions at once were too much for the database (%s): it gets half as many.",
            size,
            error.sqlstate,
        )
        return None
    except WarehouseUnreachable:
        # A server may end what takes too long by ending the connection, without a word why.
        pace.slower(size, max(time.monotonic() - began, LEAST_PATIENCE))
        raise
    pace.faster(time.monotonic() - began)
    return refused


def ship_refused(spool: Spool, warehouse: Warehouse) -> str | None:
    """Try once more what the warehouse refused, least often first; why it still does.

    Raises WarehouseError and SpoolError where it is not a row's fault.
    """
    brought = []
    problem = None
    for refused in spool.refused(MOST_REFUSED):
        try:
            with warehouse.transaction() as transaction:
                _insert(transaction, f"[{refused.record.decode()}]")
        except StatementFailed as error:
            if not error.sqlstate.startswith(OF_A_ROW):
                raise
            spool.blame(refused)
            problem = f"A prediction is refused, and stays in {spool.path}: {_kind(error)}"
        else:
            brought.append(refused)
    if brought:
        spool.forget_refused(brought)
    return problem


def ship_left_behind(folder: Path, warehouse: Warehouse, *, until: float = math.inf) -> int:
    """Bring what dead processes left in a folder; how many predictions were brought.

    Ends early where `time.monotonic()` passes `until`. Raises WarehouseError and SpoolError where
    something could not be brought; what is left waits for the next one.
    """
    adopted = adopt_spools(folder)
    brought = 0
    try:
        for spool in adopted.spools:
            brought += ship(spool, warehouse, until=until)
    finally:
        for spool in adopted.spools:
            spool.close()
    if adopted.problem:
        raise adopted.problem
    return brought


def _kind(error: StatementFailed) -> str:
    """What is wrong with a row, for the log: what PostgreSQL says of it quotes its features."""
    return f"SQLSTATE {error.sqlstate} {error.constraint}".strip()


def _insert(transaction: Transaction, records: str) -> int:
    return transaction.execute(_queries.insert_predictions, {"records": records})


def _insert_each(warehouse: Warehouse, parts: Sequence[bytes]) -> list[bytes]:
    """Bring the records of arrays one by one; those that were refused."""
    records = [record for part in parts for record in json.loads(part)]
    refused = []
    with warehouse.transaction() as transaction:
        for each in records:
            text = json.dumps(each, allow_nan=False)
            try:
                with transaction.savepoint():
                    _insert(transaction, f"[{text}]")
            except StatementFailed as error:
                if not error.sqlstate.startswith(OF_A_ROW):
                    raise
                refused.append(text.encode())
    return refused


class Shipper:
    """The background thread that ships this process's spool, and those of dead processes."""

    def __init__(self, spool: Spool, warehouse: Warehouse | None) -> None:
        """Nothing is shipped until `start`; without a warehouse it only looks how much waits."""
        self.shipping = Shipping(state="up to date" if warehouse else "off")
        self._own = spool
        self._adopted: list[Spool] = []
        self._not_adopted: SpoolError | None = None
        self._adopt_at = 0.0
        self._refused: str | None = None
        self._refused_at = 0.0
        self._warehouse = warehouse
        self._pace = Pace()
        self._stopping = threading.Event()
        self._until = math.inf
        self._thread = threading.Thread(target=self._run, name="gristmill-shipper", daemon=True)

    def start(self) -> None:
        """Begin to ship."""
        self._thread.start()

    def stop(self) -> None:
        """Ship what waits, once more, and end; what cannot be shipped stays in its spool."""
        self._until = time.monotonic() + LAST_TRY
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        pause = PAUSE
        while not self._stopping.wait(pause):
            pause = PAUSE if self._try() else min(pause * 2, LONGEST_PAUSE)
        self._try()
        for spool in self._adopted:
            spool.close()

    def _try(self) -> bool:
        """Ship everything once; whether the warehouse and the spools did their part."""
        problem = None
        try:
            if self._warehouse:
                self._ship(self._warehouse)
        except GristmillError as error:
            problem = str(error)
        done = problem is None
        if problem is None:
            problem = self._refused or (str(self._not_adopted) if self._not_adopted else None)
        before, self.shipping = self.shipping.problem, self._look(problem)
        if self.shipping.problem and not before:
            logger.warning("Predictions wait in the spool: %s", self.shipping.problem)
        elif before and not self.shipping.problem:
            logger.warning("Predictions are shipped again.")
        return done

    def _ship(self, warehouse: Warehouse) -> None:
        now = time.monotonic()
        if now >= self._adopt_at:
            self._adopt_at = now + ADOPT_EVERY
            adopted = adopt_spools(self._own.path.parent)
            self._adopted += adopted.spools
            self._not_adopted = adopted.problem
        spools = [spool for spool in (self._own, *self._adopted) if spool.count]
        for spool in spools:
            until = self._until if self._stopping.is_set() else time.monotonic() + AT_A_TIME
            ship(spool, warehouse, until=until, pace=self._pace)
        if now >= self._refused_at:
            self._refused_at = now + REFUSED_EVERY
            problems = [ship_refused(spool, warehouse) for spool in spools if spool.count]
            self._refused = next(filter(None, problems), None)
        for spool in [spool for spool in self._adopted if not spool.count]:
            self._adopted.remove(spool)
            spool.close()

    def _look(self, problem: str | None) -> Shipping:
        spools = [spool for spool in (self._own, *self._adopted) if spool.count]
        try:
            oldest = max((spool.oldest_seconds() for spool in spools), default=0.0)
        except SpoolError as error:
            oldest, problem = self.shipping.oldest_seconds, problem or str(error)
        state: ShippingState = "behind" if oldest > BEHIND else "up to date"
        return Shipping(
            adopted=sum(spool.count for spool in self._adopted),
            oldest_seconds=oldest,
            problem=problem,
            state=state if self._warehouse else "off",
        )
