"""Brings predictions from the spools into the warehouse, each exactly once, in the background.

A prediction leaves its spool only after the warehouse has committed it; one that is there already
is not added again. While the warehouse is away they wait, and it is asked less and less often.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gristmill.errors import GristmillError, SpoolError, WarehouseError, WarehouseUnreachable
from gristmill.predictions.spool import adopt_spools, as_record
from gristmill.warehouse.queries import load_queries

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gristmill.predictions.prediction import Prediction
    from gristmill.predictions.spool import Spool
    from gristmill.warehouse.connection import Warehouse

logger = logging.getLogger(__name__)

BATCH = 1000
"""Predictions that one statement brings."""
MOST_REFUSED = 10
"""Single predictions that the warehouse may refuse before a try is given up."""
PAUSE = 0.25
"""Seconds between two looks at the spools."""
LONGEST_PAUSE = 5.0
"""Seconds between two tries while the warehouse is away or refuses."""
ADOPT_EVERY = 5.0
"""Seconds between two looks for the spools of dead processes."""
LAST_TRY = 10.0
"""Seconds that a stopping process goes on shipping; what is left waits for the next one."""
BEHIND = 10.0
"""Seconds that a prediction may wait before shipping counts as behind."""

_queries = load_queries("gristmill.predictions", "ship.sql")


@dataclass(frozen=True, kw_only=True)
class Shipping:
    """How shipping stood when it was last looked at."""

    waiting: int = 0
    """Predictions that are on record here and not in the warehouse yet."""
    oldest_seconds: float = 0.0
    """The age of the oldest of them."""
    problem: str | None = None
    """Why the last try failed; None where it did not."""

    @property
    def behind(self) -> bool:
        """Whether predictions wait for longer than they should."""
        return self.oldest_seconds > BEHIND


def record(warehouse: Warehouse, predictions: Sequence[Prediction]) -> int:
    """Put predictions into the warehouse, all or none; how many were not there yet."""
    return _insert(warehouse, [as_record(prediction) for prediction in predictions])


def ship(spool: Spool, warehouse: Warehouse, *, until: float = math.inf) -> int:
    """Bring all that waits in a spool into the warehouse; how many were brought.

    A batch that the warehouse refuses is tried again one by one, after all others, so that a bad
    row holds up nobody. Ends early where `time.monotonic()` passes `until`. Raises WarehouseError
    and SpoolError where something could not be brought.
    """
    brought = 0
    refused: set[int] = set()
    while time.monotonic() < until and (waiting := spool.oldest(BATCH)):
        batch = waiting if waiting[0].failures == 0 else waiting[:1]
        try:
            _insert(warehouse, [spooled.record for spooled in batch])
        except WarehouseUnreachable:
            raise
        except WarehouseError:
            spool.blame(batch)
            if len(batch) == 1:
                # The second time round nothing else waits; many in a row are not the rows' fault.
                if batch[0].place in refused or len(refused) == MOST_REFUSED:
                    raise
                refused.add(batch[0].place)
            continue
        spool.forget(batch)
        brought += len(batch)
    return brought


def _insert(warehouse: Warehouse, records: Sequence[str]) -> int:
    with warehouse.transaction() as transaction:
        return transaction.execute(
            _queries.insert_predictions, {"records": f"[{','.join(records)}]"}
        )


class Shipper:
    """The background thread that ships this process's spool, and those of dead processes."""

    def __init__(self, spool: Spool, warehouse: Warehouse) -> None:
        """Nothing is shipped until `start`."""
        self.shipping = Shipping()
        self._own = spool
        self._adopted: list[Spool] = []
        self._not_adopted: SpoolError | None = None
        self._adopt_at = 0.0
        self._warehouse = warehouse
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
        self._thread.join()

    def _run(self) -> None:
        pause = PAUSE
        while not self._stopping.wait(pause):
            pause = PAUSE if self._try() else min(pause * 2, LONGEST_PAUSE)
        self._try()
        for spool in self._adopted:
            spool.close()

    def _try(self) -> bool:
        """Ship everything once; whether all went well."""
        problem = None
        try:
            self._ship()
        except GristmillError as error:
            problem = str(error)
        if problem and not self.shipping.problem:
            logger.warning("Predictions wait in the spool: %s", problem)
        elif self.shipping.problem and not problem:
            logger.info("Predictions are shipped again.")
        self.shipping = self._look(problem)
        return problem is None

    def _ship(self) -> None:
        if time.monotonic() >= self._adopt_at:
            self._adopt_at = time.monotonic() + ADOPT_EVERY
            adopted = adopt_spools(self._own.path.parent)
            self._adopted += adopted.spools
            self._not_adopted = adopted.problem
        ship(self._own, self._warehouse, until=self._until)
        while self._adopted:
            ship(self._adopted[-1], self._warehouse, until=self._until)
            self._adopted.pop().close()
        if self._not_adopted is not None:
            raise self._not_adopted

    def _look(self, problem: str | None) -> Shipping:
        try:
            waiting = [spool.waiting() for spool in (self._own, *self._adopted)]
        except SpoolError as error:
            return Shipping(problem=problem or str(error))
        return Shipping(
            waiting=sum(each.count for each in waiting),
            oldest_seconds=max(each.oldest_seconds for each in waiting),
            problem=problem,
        )
