"""What the service puts its answers on record with: requests that wait together share one commit.

It belongs to one event loop. It refuses to let an answer out before its record is on disk, unless
the project says that the answer matters more; then it counts what is not on record.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal, NamedTuple, ParamSpec, TypeVar

from gristmill.errors import SpoolError
from gristmill.predictions.once import Remembered, RememberedAnswers
from gristmill.predictions.ship import Shipper
from gristmill.predictions.spool import open_spool

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from concurrent.futures import Future
    from pathlib import Path

    from gristmill.predictions.prediction import Prediction
    from gristmill.predictions.ship import ShippingState
    from gristmill.warehouse.connection import Warehouse

logger = logging.getLogger(__name__)

MOST_TOGETHER = 10_000
"""Predictions in one commit, where no single request brings more."""
STALLED = 5.0
"""Seconds after which a disk that has not answered counts as one that refuses."""
TICK = 1.0
"""Seconds between two looks at whether the disk stalls, or takes writes again."""
QUICK = 0.005
"""Seconds that the event loop itself waits for a commit, where the one before took no longer.

Two threads that both have work hand the interpreter over every five milliseconds; a disk that is
quick has answered many times by then. What comes meanwhile is written together by the next commit.
"""

Told = Callable[[SpoolError | None], None]
"""Called in the event loop: what was asked for is on disk, or why it is not."""

_Given = ParamSpec("_Given")
_Found = TypeVar("_Found")


@dataclass(frozen=True, kw_only=True)
class LogStatus:
    """How the record of this process stands."""

    depth: int
    """Predictions that are on record here and not in the warehouse yet."""
    oldest_seconds: float
    """The age of the oldest of them."""
    state: Literal["writing", "failing"]
    """Whether the disk takes what is written."""
    unlogged: int
    """Answers given without a record since the process began: none where the log is durable."""
    shipping: ShippingState
    """Whether the way to the warehouse is open; `off` where there is none."""
    problem: str | None
    """Why predictions wait, where the last try to ship them failed."""


class _Waiting(NamedTuple):
    """Records that are to be written, and who waits for it."""

    records: bytes
    """JSON objects with commas between them."""
    size: int
    """How many they are."""
    told: Told


def _tell_nobody(_: SpoolError | None) -> None:
    """Nobody waits any more."""


_NOBODY = _Waiting(b"", 0, _tell_nobody)


class PredictionLog:
    """The record of one process's predictions, on its way to the warehouse."""

    def __init__(
        self, folder: Path, warehouse: Warehouse | None = None, *, best_effort: bool = False
    ) -> None:
        """Open a spool in the folder; nothing is shipped before `start`.

        With `best_effort` answers go on while the disk refuses. Raises SpoolError where the folder
        cannot be written.
        """
        # A package of the extra `serve`: the command line does without.
        from msgspec.json import Encoder

        self._encode: Callable[[object], bytes] = Encoder().encode
        self._best_effort = best_effort
        self._spool = open_spool(folder)
        self._shipper = Shipper(self._spool, warehouse)
        self._answers = RememberedAnswers(folder)
        self._thread = ThreadPoolExecutor(1, "gristmill-answers")
        self._waiting: list[_Waiting] = []
        self._writing: list[_Waiting] = []
        self._writing_since = 0.0
        self._quick = True
        self._scheduled = False
        self._stalled = False
        self._failing = False
        self._unlogged = 0
        self._closed = False

    @property
    def status(self) -> LogStatus:
        """How the record stands."""
        shipping = self._shipper.shipping
        return LogStatus(
            depth=self._spool.count + shipping.adopted,
            oldest_seconds=shipping.oldest_seconds,
            state="failing" if self._failing else "writing",
            unlogged=self._unlogged,
            shipping=shipping.state,
            problem=shipping.problem,
        )

    def start(self) -> None:
        """Begin to ship, and to watch the disk, from the event loop that will append."""
        self._shipper.start()
        asyncio.get_running_loop().call_later(TICK, self._tick)

    def close(self) -> None:
        """Ship what waits, once more, and let the spool go; takes some seconds, so in a thread."""
        self._closed = True
        self._shipper.stop()
        self._thread.submit(self._answers.close).result()
        self._thread.shutdown()
        self._spool.close()

    async def append(self, predictions: Sequence[Prediction]) -> None:
        """Put predictions on record, all or none; returns once they are on disk.

        Raises SpoolError where the disk does not take them, unless the log is best effort.
        """
        await self._append(self._encode(predictions)[1:-1], len(predictions))

    def append_soon(self, predictions: Sequence[Prediction], told: Told) -> None:
        """The same, from the event loop, which tells how it went: a refusal too if best effort."""
        self._append_soon(self._encode(predictions)[1:-1], len(predictions), told)

    @asynccontextmanager
    async def once(self, key: str, digest: bytes) -> AsyncIterator[Once]:
        """Answer a request that carries an Idempotency-Key; see `Once`.

        `digest` is the same for requests that are the same. Raises KeyReused where the key came
        with another one, KeyInUse where its first request is not answered yet, SpoolError.
        """
        found = await self._in_thread(self._answers.claim, key, digest)
        once = Once(self, key)
        try:
            if found is not None:
                await self._bring_on_record(key, found)
                once.answer = found.answer
            yield once
        finally:
            if once.answer is None:
                with suppress(SpoolError):
                    await self._in_thread(self._answers.release, key)

    async def remember(self, key: str, answer: bytes, predictions: Sequence[Prediction]) -> None:
        """Keep the answer to a key, then put its predictions on record; see `Once.append`."""
        records = self._encode(predictions)[1:-1]
        found = Remembered(answer=answer, records=records, count=len(predictions))
        await self._in_thread(self._answers.remember, key, found)
        await self._bring_on_record(key, found)

    async def check(self) -> None:
        """Return once a write has gone through to the disk; raises SpoolError."""
        try:
            done = asyncio.wrap_future(self._spool.check_soon())
            await asyncio.wait_for(done, STALLED)
        except TimeoutError:
            raise _no_answer() from None
        except SpoolError as error:
            self._note(error)
            raise
        self._note(None)

    async def _append(self, records: bytes, count: int) -> bool:
        """Whether they are on record; only a log of best effort says that they are not."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        try:
            self._append_soon(records, count, partial(_tell, done))
            await done
        except SpoolError:
            if not self._best_effort:
                raise
            self._unlogged += count
            return False
        return True

    def _append_soon(self, records: bytes, count: int, told: Told) -> None:
        if self._stalled:
            told(_no_answer())
            return
        self._waiting.append(_Waiting(records, count, told))
        if not self._writing and not self._scheduled:
            # Not at once: the requests that came together are written together.
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._write)

    def _write(self) -> None:
        """Have the writing thread commit what waits, unless it has something to do."""
        self._scheduled = False
        while self._waiting and not self._writing:
            batch = self._writing = self._next()
            self._writing_since = time.monotonic()
            records = b"[%b]" % b",".join([waiting.records for waiting in batch])
            count = sum([waiting.size for waiting in batch])
            try:
                done = self._spool.append_soon(records, count)
                done.result(QUICK if self._quick else 0)
            except SpoolError as error:
                self._written(error)
            except TimeoutError:
                done.add_done_callback(self._when_told(asyncio.get_running_loop()))
            else:
                self._written(None)

    def _next(self) -> list[_Waiting]:
        """All that waits, within reason."""
        count = 0
        for place, waiting in enumerate(self._waiting):
            count += waiting.size
            if place and count > MOST_TOGETHER:
                batch, self._waiting = self._waiting[:place], self._waiting[place:]
                return batch
        batch, self._waiting = self._waiting, []
        return batch

    def _when_told(self, loop: asyncio.AbstractEventLoop) -> Callable[[Future[None]], None]:
        """What the writing thread calls, to have it told in the event loop."""

        def written(done: Future[None]) -> None:
            try:
                done.result()
            except SpoolError as error:
                self._written(error)
            else:
                self._written(None)
            self._write()

        def told(done: Future[None]) -> None:
            # A loop that is closed has nobody left to tell.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(written, done)

        return told

    def _written(self, error: SpoolError | None) -> None:
        """Tell who waited for a commit."""
        batch, self._writing = self._writing, []
        self._quick = time.monotonic() - self._writing_since < QUICK
        self._stalled = False
        self._note(error)
        _settle(batch, error)

    def _tick(self) -> None:
        """Let nobody wait for a disk that does not answer; find out when it does again."""
        if self._closed:
            return
        asyncio.get_running_loop().call_later(TICK, self._tick)
        if self._writing:
            if time.monotonic() - self._writing_since > STALLED:
                self._stalled = True
                self._note(_no_answer())
                waiting = [*self._writing, *self._waiting]
                # The work goes on, for nobody: who is told now must not be told again by its end.
                self._writing, self._waiting = [_NOBODY], []
                _settle(waiting, _no_answer())
        elif self._failing:
            self._checking = asyncio.create_task(self._look())

    async def _look(self) -> None:
        # It may fail again, and the spool may just have been closed.
        with suppress(SpoolError):
            await self.check()

    def _note(self, error: SpoolError | None) -> None:
        if error and not self._failing:
            logger.error("Predictions cannot be put on record: %s", error)
        elif self._failing and not error:
            logger.warning("Predictions are put on record again.")
        self._failing = error is not None

    async def _bring_on_record(self, key: str, found: Remembered) -> None:
        """Again where nobody knows whether it was: the warehouse takes each prediction once."""
        if found.records is not None and await self._append(found.records, found.count):
            await self._in_thread(self._answers.forget_records, key)

    async def _in_thread(
        self,
        function: Callable[_Given, _Found],
        *args: _Given.args,
        **kwargs: _Given.kwargs,
    ) -> _Found:
        done = self._thread.submit(function, *args, **kwargs)
        return await asyncio.wrap_future(done)


class Once:
    """A request that is answered once, however often it comes.

    async with log.once(key, digest) as once:
        if once.answer is None:
            …
            await once.append(predictions, answer)
        return once.answer
    """

    def __init__(self, log: PredictionLog, key: str) -> None:
        self.answer: bytes | None = None
        """The first answer; None where the request is the first."""
        self._log = log
        self._key = key

    async def append(self, predictions: Sequence[Prediction], answer: bytes) -> None:
        """Put predictions on record, and the answer that they make; as `PredictionLog.append`."""
        await self._log.remember(self._key, answer, predictions)
        self.answer = answer


def _settle(batch: Sequence[_Waiting], error: SpoolError | None) -> None:
    for waiting in batch:
        waiting.told(error)


def _tell(done: asyncio.Future[None], error: SpoolError | None) -> None:
    if done.done():
        return
    if error is None:
        done.set_result(None)
    else:
        done.set_exception(error)


def _no_answer() -> SpoolError:
    return SpoolError(
        f"The disk has not answered for {STALLED:g} seconds. No answer is given without its record."
    )
