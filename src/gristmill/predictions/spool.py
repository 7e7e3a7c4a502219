"""Holds predictions durably, on this machine, from before they are given until they are shipped.

One SQLite file per process, written by one thread: requests that wait together share one commit.
A lock file held means that the spool's owner lives; a spool without one is adopted by whoever finds
it. It refuses to confirm what is not on disk.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import sqlite3
import threading
from concurrent.futures import Future
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, NamedTuple
from uuid import uuid4

from gristmill.errors import SpoolError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from gristmill.predictions.prediction import Prediction

_SUFFIX = ".spool"
_LOCK_SUFFIX = ".lock"

_CREATE = """\
CREATE TABLE IF NOT EXISTS predictions (
    place    INTEGER PRIMARY KEY,
    failures INTEGER NOT NULL DEFAULT 0,
    record   TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS predictions_least_failed ON predictions (failures);
CREATE TABLE IF NOT EXISTS checks (place INTEGER PRIMARY KEY, room TEXT NOT NULL)"""
_INSERT = "INSERT INTO predictions (record) VALUES (?)"
_OLDEST = """\
SELECT place, failures, record
FROM predictions
WHERE failures = (SELECT min(failures) FROM predictions)
ORDER BY place
LIMIT ?"""
_WAITING = """\
SELECT (SELECT count(*) FROM predictions),
       (SELECT record FROM predictions ORDER BY place LIMIT 1)"""
_FORGET = "DELETE FROM predictions WHERE place IN (SELECT value FROM json_each(?))"
_BLAME = """\
UPDATE predictions SET failures = failures + 1
WHERE place IN (SELECT value FROM json_each(?))"""
_CHECK = "INSERT OR REPLACE INTO checks (place, room) VALUES (1, ?)"
_ROOM = "." * 16_384
"""What a check writes: more than a prediction takes, or it could pass where that fails."""

# Made once: json.dumps makes a new one at each call, which takes longer than the encoding.
_encode = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode

MOST_TOGETHER = 500
"""Predictions that one statement writes: one for every waiting request, within reason."""


class Spooled(NamedTuple):
    """A prediction that waits to be shipped."""

    place: int
    """Where it stands in its spool."""
    failures: int
    """How often the warehouse refused a batch that held it."""
    record: str
    """The prediction as JSON; see `as_record`."""


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """How much waits to be shipped."""

    count: int
    oldest_seconds: float
    """The age of the oldest one; 0 where none waits."""


class Adopted(NamedTuple):
    """Spools that were taken over, and what kept others from it."""

    spools: list[Spool]
    problem: SpoolError | None


Done = Future[None] | asyncio.Future[None]


class _Work(NamedTuple):
    """A statement with its one parameter, which one who waits wants on disk."""

    sql: str
    parameter: str
    done: Done


def as_record(prediction: Prediction) -> str:
    """A prediction as the JSON object that the warehouse reads: its columns by name."""
    return _encode(
        {
            "prediction_id": str(prediction.prediction_id),
            "entity": prediction.entity,
            "features": prediction.features,
            "probability": prediction.probability,
            "label": prediction.label,
            "model_version": prediction.model_version,
            "predicted_at": prediction.predicted_at.isoformat(),
            "latency_ms": prediction.latency_ms,
        }
    )


class Spool:
    """One process's file of predictions, with the thread that writes it.

    Made by `open_spool`. What writes raises SpoolError where the disk does not take it.
    """

    def __init__(self, path: Path, lock: int) -> None:
        """Take a spool file whose lock this process holds, and start its thread."""
        self.path = path
        self._lock = lock
        self._queue: SimpleQueue[_Work | None] = SimpleQueue()
        self._closed = False
        opened: Future[None] = Future()
        self._writer = threading.Thread(
            target=self._write, args=(opened,), name="gristmill-spool", daemon=True
        )
        self._writer.start()
        opened.result()

    def append(self, predictions: Sequence[Prediction]) -> None:
        """Put predictions on record; returns once they are on disk."""
        written: list[Future[None]] = []
        for prediction in predictions:
            done: Future[None] = Future()
            self._submit(_Work(_INSERT, as_record(prediction), done))
            written.append(done)
        for done in written:
            done.result()

    async def append_soon(self, prediction: Prediction) -> None:
        """The same for one, without holding up the event loop."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._submit(_Work(_INSERT, as_record(prediction), done))
        await done

    async def check(self) -> None:
        """Return once a write has gone through to the disk."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._submit(_Work(_CHECK, _ROOM, done))
        await done

    def oldest(self, count: int) -> list[Spooled]:
        """Up to so many waiting predictions: those that failed least, oldest first."""
        with self._reading() as connection:
            found = connection.execute(_OLDEST, (count,)).fetchall()
        return [Spooled(*row) for row in found]

    def waiting(self) -> Waiting:
        """How many predictions wait, and for how long."""
        with self._reading() as connection:
            count, oldest = connection.execute(_WAITING).fetchone()
        if not count:
            return Waiting(count=0, oldest_seconds=0.0)
        age = datetime.now(UTC) - datetime.fromisoformat(json.loads(oldest)["predicted_at"])
        return Waiting(count=count, oldest_seconds=max(age.total_seconds(), 0.0))

    def forget(self, spooled: Sequence[Spooled]) -> None:
        """Drop what has been shipped; returns once that is on disk."""
        self._run(_FORGET, spooled)

    def blame(self, spooled: Sequence[Spooled]) -> None:
        """Note that the warehouse refused these, so that others go before them."""
        self._run(_BLAME, spooled)

    def close(self) -> None:
        """Finish what was begun and let the spool go; an empty one is removed."""
        self._closed = True
        self._queue.put(None)
        self._writer.join()
        try:
            if self.waiting().count == 0:
                _remove(self.path)
        finally:
            os.close(self._lock)

    def _run(self, sql: str, spooled: Sequence[Spooled]) -> None:
        done: Future[None] = Future()
        self._submit(_Work(sql, json.dumps([each.place for each in spooled]), done))
        done.result()

    def _submit(self, work: _Work) -> None:
        if self._closed:
            raise SpoolError("The spool is closed: the server is stopping.")
        self._queue.put(work)

    def _write(self, opened: Future[None]) -> None:
        """The writing thread: takes all that waits, writes it at once, tells who waited."""
        try:
            connection = _connect(self.path)
        except (sqlite3.Error, OSError) as error:
            opened.set_exception(_unwritable(self.path, error))
            return
        opened.set_result(None)
        with closing(connection):
            while batch := _next_batch(self._queue):
                self._execute(connection, [work for work in batch if work.sql is _INSERT])
                for work in batch:
                    if work.sql is not _INSERT:
                        self._execute(connection, [work])

    def _execute(self, connection: sqlite3.Connection, works: Sequence[_Work]) -> None:
        """Insertions as one statement, or one other: one commit, and all who waited are told.

        Several statements would each give the interpreter away and wait for it again, which under
        load costs more than the disk.
        """
        if not works:
            return
        sql = works[0].sql + ", (?)" * (len(works) - 1)
        error = None
        try:
            connection.execute(sql, [work.parameter for work in works])
        except (sqlite3.Error, ValueError, OverflowError) as caught:
            error = _unwritable(self.path, caught)
        _settle([work.done for work in works], error)

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        try:
            # mode=rw: a spool that was shipped and removed must not appear again, empty.
            address = f"{self.path.absolute().as_uri()}?mode=rw"
            with closing(sqlite3.connect(address, timeout=10, uri=True)) as connection:
                yield connection
        except sqlite3.Error as error:
            raise _unwritable(self.path, error) from error


def open_spool(folder: Path) -> Spool:
    """A new spool in a folder, which is made where it is missing, for its owner's eyes only."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        while True:
            path = folder / f"{uuid4()}{_SUFFIX}"
            lock = _lock(path, create=True)
            if lock is not None:
                return _spool(path, lock)
    except OSError as error:
        raise _unwritable(folder, error) from error


def adopt_spools(folder: Path) -> Adopted:
    """The spools in a folder whose owners are dead, now this process's to ship and to close."""
    spools = []
    problem = None
    for path in sorted(folder.glob(f"*{_LOCK_SUFFIX}")):
        try:
            lock = _lock(path.with_suffix(_SUFFIX), create=False)
            if lock is not None:
                spools.append(_spool(path.with_suffix(_SUFFIX), lock))
        except OSError as error:
            problem = _unwritable(path, error)
        except SpoolError as error:
            problem = error
    return Adopted(spools=spools, problem=problem)


def _spool(path: Path, lock: int) -> Spool:
    try:
        return Spool(path, lock)
    except SpoolError:
        os.close(lock)
        raise


def _lock(path: Path, *, create: bool) -> int | None:
    """The held lock of a spool; None where another process holds it or has just removed it."""
    lock_path = path.with_suffix(_LOCK_SUFFIX)
    flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT | os.O_EXCL if create else 0)
    try:
        lock = os.open(lock_path, flags, 0o600)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Between our opening and our locking it, another may have shipped and removed it.
        if os.fstat(lock).st_ino == lock_path.stat().st_ino:
            return lock
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(lock)
    return None


def _remove(path: Path) -> None:
    """Remove a spool's files, its lock last."""
    for suffix in (f"{_SUFFIX}-wal", f"{_SUFFIX}-shm", _SUFFIX, _LOCK_SUFFIX):
        path.with_suffix(suffix).unlink(missing_ok=True)


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, timeout=10)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.executescript(_CREATE)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return connection


def _next_batch(queue: SimpleQueue[_Work | None]) -> list[_Work]:
    """All that waits, once something does; empty once the spool is closed."""
    batch: list[_Work] = []
    work = queue.get()
    while work is not None:
        batch.append(work)
        if len(batch) == MOST_TOGETHER:
            return batch
        try:
            work = queue.get_nowait()
        except Empty:
            return batch
    if batch:
        queue.put(None)
    return batch


def _settle(waiting: Sequence[Done], error: SpoolError | None) -> None:
    """Tell all who waited for a statement; those of an event loop by one call into it."""
    awaited: list[asyncio.Future[None]] = []
    for done in waiting:
        if isinstance(done, Future):
            _tell(done, error)
        else:
            awaited.append(done)
    if awaited:
        # A loop that is closed has nobody left to tell.
        with suppress(RuntimeError):
            awaited[0].get_loop().call_soon_threadsafe(_tell_all, awaited, error)


def _tell_all(awaited: Sequence[asyncio.Future[None]], error: SpoolError | None) -> None:
    for done in awaited:
        if not done.done():
            _tell(done, error)


def _tell(done: Done, error: SpoolError | None) -> None:
    if error is None:
        done.set_result(None)
    else:
        done.set_exception(error)


def _unwritable(path: Path, error: Exception) -> SpoolError:
    return SpoolError(
        f"The predictions' spool {path} cannot be used: {error}. No answer is given without its "
        "record: free space on the disk, or let this user write there."
    )
