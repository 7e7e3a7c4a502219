"""Remembers the answers to requests that carried an Idempotency-Key, for all workers of a folder.

One small SQLite file, touched by such requests only. An answer is remembered before its predictions
are put on record: whoever dies in between leaves what is needed to put them there when the request
comes again. It refuses to answer one key in two ways.
"""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import uuid4

from gristmill.errors import KeyInUse, KeyReused, SpoolError
from gristmill.predictions.spool import hold, require_room

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

REMEMBERED_SECONDS = 24 * 3600
"""How long an answer is remembered."""
PRUNE_EVERY = 600.0
"""Seconds between two looks for what need not be remembered any more."""

_FILE = "answers.sqlite"
_OWNER_SUFFIX = ".owner"

_CREATE = """\
CREATE TABLE IF NOT EXISTS answers (
    key        TEXT PRIMARY KEY,
    digest     BLOB NOT NULL,
    owner      TEXT NOT NULL,
    claimed_at REAL NOT NULL,
    answer     BLOB,
    records    BLOB,
    count      INTEGER
);
CREATE INDEX IF NOT EXISTS answers_by_age ON answers (claimed_at)"""
_FIND = "SELECT digest, owner, answer, records, count FROM answers WHERE key = ? AND claimed_at > ?"
_CLAIM = "INSERT OR REPLACE INTO answers (key, digest, owner, claimed_at) VALUES (?, ?, ?, ?)"
_REMEMBER = "UPDATE answers SET answer = ?, records = ?, count = ? WHERE key = ? AND owner = ?"
_FORGET_RECORDS = "UPDATE answers SET records = NULL WHERE key = ?"
_RELEASE = "DELETE FROM answers WHERE key = ? AND owner = ? AND answer IS NULL"
_PRUNE = "DELETE FROM answers WHERE claimed_at <= ?"


@dataclass(frozen=True, kw_only=True)
class Remembered:
    """The answer to a key."""

    answer: bytes
    """The body that was given, or was about to be."""
    records: bytes | None
    """Its predictions, as JSON objects with commas between; None once they are on record."""
    count: int
    """How many predictions they are."""


class RememberedAnswers:
    """The answers of a folder; each worker has its own view of the one file.

    Nothing is opened before the first request that needs it. All methods raise SpoolError where the
    disk does not do its part; all but making it are called in one thread.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._connection: sqlite3.Connection | None = None
        self._owner = str(uuid4())
        self._lock: int | None = None
        self._claimed: set[str] = set()
        self._prune_at = 0.0

    def claim(self, key: str, digest: bytes) -> Remembered | None:
        """The answer to a key; where there is none, the caller is now the one to find it.

        Raises KeyReused where the key came with another digest, KeyInUse where another who lives
        is finding the answer.
        """
        now = time.time()
        with self._transaction(durable=False) as connection:
            if time.monotonic() >= self._prune_at:
                self._prune_at = time.monotonic() + PRUNE_EVERY
                connection.execute(_PRUNE, (now - REMEMBERED_SECONDS,))
                self._remove_dead_owners()
            row = connection.execute(_FIND, (key, now - REMEMBERED_SECONDS)).fetchone()
            if row is not None:
                known, owner, answer, records, count = row
                if known != digest:
                    raise KeyReused
                if answer is not None:
                    return Remembered(answer=answer, records=records, count=count)
                if self._is_finding(owner, key):
                    raise KeyInUse
            connection.execute(_CLAIM, (key, digest, self._owner, now))
        self._claimed.add(key)
        return None

    def remember(self, key: str, found: Remembered) -> None:
        """Keep the answer to a key that was claimed; returns once it is on disk."""
        with self._transaction(durable=True) as connection:
            require_room(self._folder, len(found.answer) + len(found.records or b""))
            values = (found.answer, found.records, found.count, key, self._owner)
            connection.execute(_REMEMBER, values)
        self._claimed.discard(key)

    def forget_records(self, key: str) -> None:
        """Note that the predictions of an answer are on record."""
        with self._transaction(durable=False) as connection:
            connection.execute(_FORGET_RECORDS, (key,))

    def release(self, key: str) -> None:
        """Let another find the answer, where there is none."""
        self._claimed.discard(key)
        with self._transaction(durable=False) as connection:
            connection.execute(_RELEASE, (key, self._owner))

    def close(self) -> None:
        """Let the file go."""
        if self._connection is not None:
            self._connection.close()
        if self._lock is not None:
            self._owner_path(self._owner).unlink(missing_ok=True)
            os.close(self._lock)

    def _is_finding(self, owner: str, key: str) -> bool:
        if owner == self._owner:
            return key in self._claimed
        with suppress(OSError):
            lock = hold(self._owner_path(owner), create=False)
            if lock is not None:
                os.close(lock)
                return False
        return self._owner_path(owner).exists()

    def _remove_dead_owners(self) -> None:
        for path in self._folder.glob(f"*{_OWNER_SUFFIX}"):
            with suppress(OSError):
                lock = hold(path, create=False)
                if lock is not None:
                    path.unlink(missing_ok=True)
                    os.close(lock)

    def _owner_path(self, owner: str) -> Path:
        return self._folder / f"{owner}{_OWNER_SUFFIX}"

    @contextmanager
    def _transaction(self, *, durable: bool) -> Iterator[sqlite3.Connection]:
        """One transaction; what is not durable outlives the process, not a power cut."""
        try:
            connection = self._opened()
            connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            connection.execute("BEGIN IMMEDIATE")
            with connection:
                yield connection
        except (sqlite3.Error, OSError) as error:
            raise SpoolError(
                f"The remembered answers in {self._folder} cannot be used: {error}. Free space on "
                "the disk, or let this user write there."
            ) from error

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            path = self._folder / _FILE
            connection = sqlite3.connect(
                path, isolation_level=None, timeout=10, check_same_thread=False
            )
            path.chmod(0o600)
            connection.execute("PRAGMA journal_mode = WAL")
            connection.executescript(_CREATE)
            if self._lock is None:
                self._lock = hold(self._owner_path(self._owner), create=True)
            self._connection = connection
        return self._connection
