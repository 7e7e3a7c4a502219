"""Holds predictions durably, on this machine, from before they are given until they are shipped.

One SQLite file per process, written by one thread; a row is what was committed together. A lock
file held means that the spool's owner lives; a spool without one is adopted by whoever finds it.
It refuses to confirm what is not on disk.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import sqlite3
import threading
import time
from concurrent.futures import Future
from contextlib import closing, contextmanager, suppress
from queue import SimpleQueue
from typing import TYPE_CHECKING, NamedTuple
from uuid import uuid4

from gristmill.errors import SpoolError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path
    from uuid import UUID

    from gristmill.predictions.prediction import Prediction

_SUFFIX = ".spool"
_LOCK_SUFFIX = ".lock"

_CREATE = """\
CREATE TABLE IF NOT EXISTS groups (
    place    INTEGER PRIMARY KEY,
    count    INTEGER NOT NULL,
    oldest   REAL NOT NULL,
    records  BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS refused (
    place    INTEGER PRIMARY KEY,
    failures INTEGER NOT NULL,
    oldest   REAL NOT NULL,
    record   BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS checks (place INTEGER PRIMARY KEY, room TEXT NOT NULL)"""
_INSERT = "INSERT INTO groups (count, oldest, records) VALUES (?, ?, ?)"
_OLDEST = "SELECT place, count, oldest, records FROM groups ORDER BY place"
_REFUSED = """\
SELECT place, failures, oldest, record FROM refused ORDER BY failures, place LIMIT ?"""
_COUNT = """\
SELECT (SELECT ifnull(sum(count), 0) FROM groups) + (SELECT count(*) FROM refused)"""
_AGE = """\
SELECT oldest FROM (SELECT oldest FROM groups ORDER BY place LIMIT 1)
UNION ALL SELECT min(oldest) FROM refused"""
_FORGET = "DELETE FROM groups WHERE place IN (SELECT value FROM json_each(?))"
_FORGET_REFUSED = "DELETE FROM refused WHERE place IN (SELECT value FROM json_each(?))"
_SET_ASIDE = "INSERT INTO refused (failures, oldest, record) VALUES (1, ?, ?)"
_BLAME = "UPDATE refused SET failures = failures + 1 WHERE place = ?"
_HOLDS = """\
SELECT 0 FROM groups WHERE instr(records, ?)
UNION ALL SELECT failures FROM refused WHERE instr(record, ?)
LIMIT 1"""
_CHECK = "INSERT OR REPLACE INTO checks (place, room) VALUES (1, ?)"
_ROOM = "." * 16_384
"""What a check writes: more than a prediction takes, or it could pass where that fails."""

RESERVE = 16 << 20
"""Bytes of the disk that are left alone: what has been shipped cannot be dropped without any."""
CHECKPOINT_PAGES = 256
"""Pages after which what was committed moves from the write-ahead log into the file.

Fewer keep the pause short that this takes; and a small log, written over again and again, is synced
faster than a growing one.
"""

# Made once: json.dumps makes a new one at each call, which takes longer than the encoding.
_encode = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode


class Group(NamedTuple):
    """Predictions that were committed together and wait to be shipped."""

    place: int
    """Where it stands in its spool."""
    size: int
    """How many predictions it holds."""
    oldest: float
    """When its first one was put on record, in seconds since 1970."""
    records: bytes
    """A JSON array of the predictions' records; see `as_record`."""


class Refused(NamedTuple):
    """A prediction that the warehouse refused."""

    place: int
    failures: int
    """How often it did."""
    oldest: float
    """When it was put on record, in seconds since 1970."""
    record: bytes
    """The prediction's record; see `as_record`."""


class Waiting(NamedTuple):
    """Where a prediction waits to be shipped."""

    path: Path
    failures: int
    """How often the warehouse refused it; 0 where it has not been tried or was not reached."""


class Adopted(NamedTuple):
    """Spools that were taken over, and what kept others from it."""

    spools: list[Spool]
    problem: SpoolError | None


class _Work(NamedTuple):
    """Statements that are one transaction, and who waits for it."""

    statements: Sequence[tuple[str, Sequence[object]]]
    change: int
    """By how much the number of waiting predictions changes."""
    octets: int
    """What it adds to the disk; 0 where it gives room back."""
    done: Future[None]


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
        self.count = 0
        """How many predictions wait to be shipped."""
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
        """Put predictions on record, all or none; returns once they are on disk."""
        records = f"[{','.join(map(as_record, predictions))}]".encode()
        self.append_soon(records, len(predictions)).result()

    def append_soon(self, records: bytes, count: int) -> Future[None]:
        """The same for a JSON array of so many records; done once they are on disk."""
        insert = (_INSERT, (count, time.time(), records))
        return self._submit([insert], count, len(records))

    def check_soon(self) -> Future[None]:
        """Try a write; done once it is on disk."""
        return self._submit([(_CHECK, (_ROOM,))], 0, len(_ROOM))

    def oldest(self, most: int) -> list[Group]:
        """The oldest groups: those that hold up to so many predictions together, at least one."""
        found: list[Group] = []
        with self._reading() as connection:
            total = 0
            for row in connection.execute(_OLDEST):
                total += row[1]
                if found and total > most:
                    break
                found.append(Group(*row))
        return found

    def refused(self, most: int) -> list[Refused]:
        """What the warehouse refused and what therefore waits for better times."""
        with self._reading() as connection:
            return [Refused(*row) for row in connection.execute(_REFUSED, (most,))]

    def oldest_seconds(self) -> float:
        """The age of the oldest prediction that waits; 0 where none does."""
        with self._reading() as connection:
            oldest = [moment for (moment,) in connection.execute(_AGE) if moment is not None]
        return max(time.time() - min(oldest), 0.0) if oldest else 0.0

    def forget(self, groups: Sequence[Group], *, refused: Sequence[bytes] = ()) -> None:
        """Drop what has been shipped, but for records that were refused; returns once on disk."""
        oldest = min(group.oldest for group in groups)
        self._submit(
            [
                (_FORGET, (json.dumps([group.place for group in groups]),)),
                *((_SET_ASIDE, (oldest, record)) for record in refused),
            ],
            len(refused) - sum(group.size for group in groups),
        ).result()

    def forget_refused(self, refused: Sequence[Refused]) -> None:
        """Drop what has been shipped after all; returns once that is on disk."""
        places = json.dumps([each.place for each in refused])
        self._submit([(_FORGET_REFUSED, (places,))], -len(refused)).result()

    def blame(self, refused: Refused) -> None:
        """Note that it was refused again, so that others go before it."""
        self._submit([(_BLAME, (refused.place,))], 0).result()

    def close(self) -> None:
        """Finish what was begun and let the spool go; an empty one is removed."""
        if self._closed:
            return
        self._closed = True
        self._queue.put(None)
        self._writer.join()
        try:
            if self.count == 0:
                _remove(self.path)
        finally:
            os.close(self._lock)

    def _submit(
        self, statements: Sequence[tuple[str, Sequence[object]]], change: int, octets: int = 0
    ) -> Future[None]:
        if self._closed:
            raise SpoolError("The spool is closed: the server is stopping.")
        work = _Work(statements, change, octets, Future())
        self._queue.put(work)
        return work.done

    def _write(self, opened: Future[None]) -> None:
        """The writing thread: one transaction after the other."""
        try:
            connection = _connect(self.path)
            self.count = connection.execute(_COUNT).fetchone()[0]
        except (sqlite3.Error, OSError) as error:
            opened.set_exception(_unwritable(self.path, error))
            return
        opened.set_result(None)
        with closing(connection):
            while work := self._queue.get():
                # From here on it cannot be cancelled by who has tired of waiting.
                if not work.done.set_running_or_notify_cancel():
                    continue
                refusal = self._execute(connection, work)
                if refusal is None:
                    work.done.set_result(None)
                else:
                    work.done.set_exception(refusal)

    def _execute(self, connection: sqlite3.Connection, work: _Work) -> SpoolError | None:
        """One statement commits by itself: more would give the interpreter away and back."""
        try:
            if work.octets:
                require_room(self.path.parent, work.octets)
            if len(work.statements) == 1:
                connection.execute(*work.statements[0])
            else:
                with connection:
                    connection.execute("BEGIN IMMEDIATE")
                    for statement in work.statements:
                        connection.execute(*statement)
        except (sqlite3.Error, OSError, ValueError, OverflowError) as error:
            return _unwritable(self.path, error)
        self.count += work.change
        if work.change < 0 and not self.count and not _has_room(self.path.parent, 0):
            # The file would keep the room of what was dropped from it.
            with suppress(sqlite3.Error):
                connection.execute("VACUUM")
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return None

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
            lock = hold(path.with_suffix(_LOCK_SUFFIX), create=True)
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
            lock = hold(path, create=False)
            if lock is not None:
                spools.append(_spool(path.with_suffix(_SUFFIX), lock))
        except OSError as error:
            problem = _unwritable(path, error)
        except SpoolError as error:
            problem = error
    return Adopted(spools=spools, problem=problem)


def find_waiting(folder: Path, prediction_id: UUID) -> Waiting | None:
    """Where a prediction waits among a folder's spools; None where it waits in none.

    Only reads, so that the spools of living processes may be asked too.
    """
    wanted = str(prediction_id).encode()
    for path in sorted(folder.glob(f"*{_SUFFIX}")):
        try:
            address = f"{path.absolute().as_uri()}?mode=rw"
            with closing(sqlite3.connect(address, timeout=10, uri=True)) as connection:
                found = connection.execute(_HOLDS, (wanted, wanted)).fetchone()
        except sqlite3.Error as error:
            if path.exists():
                raise _unwritable(path, error) from error
            continue  # shipped and removed meanwhile
        if found is not None:
            return Waiting(path, found[0])
    return None


def hold(path: Path, *, create: bool) -> int | None:
    """A lock file, held until its descriptor is closed or this process is dead.

    None where another process holds it or has just removed it.
    """
    flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT | os.O_EXCL if create else 0)
    try:
        lock = os.open(path, flags, 0o600)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Between our opening and our locking it, another may have removed it.
        if os.fstat(lock).st_ino == path.stat().st_ino:
            return lock
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(lock)
    return None


def require_room(folder: Path, octets: int) -> None:
    """Raise OSError where a folder's disk has no room for so many bytes, beside the reserve."""
    if not _has_room(folder, octets):
        raise OSError(errno.ENOSPC, f"the disk has less than {RESERVE >> 20} MiB left")


def _has_room(folder: Path, octets: int) -> bool:
    disk = os.statvfs(folder)
    # Twice: in the write-ahead log, then in the file. Not every file system says how large it is.
    return not disk.f_blocks or disk.f_bavail * disk.f_frsize >= RESERVE + 2 * octets


def _spool(path: Path, lock: int) -> Spool:
    try:
        return Spool(path, lock)
    except SpoolError:
        os.close(lock)
        raise


def _remove(path: Path) -> None:
    """Remove a spool's files, its lock last."""
    for suffix in (f"{_SUFFIX}-wal", f"{_SUFFIX}-shm", _SUFFIX, _LOCK_SUFFIX):
        path.with_suffix(suffix).unlink(missing_ok=True)


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, timeout=10)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
    # Some builds write noughts over what is deleted, which doubles the work; the file itself goes.
    connection.execute("PRAGMA secure_delete = OFF")
    connection.executescript(_CREATE)
    # The file has to be found again too, and its folder.
    for folder in (path.parent, path.parent.parent):
        _synchronise(folder)
    return connection


def _synchronise(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unwritable(path: Path, error: Exception) -> SpoolError:
    return SpoolError(
        f"The predictions' spool {path} cannot be used: {error}. No answer is given without its "
        "record: free space on the disk, or let this user write there."
    )
