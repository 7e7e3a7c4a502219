"""API keys: who may ask, kept as hashes in one file beside the project, without a database.

A key is 256 random bits, so its SHA-256 tells nothing of it and nobody can guess it: a slow hash,
made for passwords that people choose, would only cost every request. The file alone decides, and
is read again within a second of a change; a revoked key stays listed, so that a service never
falls back to asking nobody.
"""

from __future__ import annotations

import fcntl
import hashlib
import ipaddress
import json
import logging
import os
import re
import secrets
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from gristmill.errors import ServingError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

logger = logging.getLogger(__name__)

LOOK_EVERY = 1.0
"""Seconds between two looks at the file."""
PREFIX = "gristmill_"
"""What a key begins with, so that scanners for leaked secrets can know one."""

SHORTEST = 32
"""Characters of a key that was made elsewhere, at the least."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_BEARER = re.compile(rb"bearer +([!-~]{1,200}) *", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Key:
    """One key, as the file has it."""

    name: str
    """Who uses it."""
    sha256: str
    created_at: str
    revoked_at: str | None = None
    """Since when it opens nothing; None while it does."""


def add_key(path: Path, name: str) -> str:
    """Make a key; the key itself, which is kept nowhere. Raises ServingError."""
    if not _NAME.fullmatch(name):
        raise ServingError(
            f"A key cannot be called {name!r}: use up to 64 letters, digits, '.', '_' and '-'."
        )
    with _changing(path) as keys:
        if any(key.name == name and key.revoked_at is None for key in keys):
            raise ServingError(
                f"There is a key {name!r} already. Choose another name, or revoke it first: "
                f"gristmill keys revoke {name}"
            )
        made = PREFIX + secrets.token_urlsafe(32)
        keys.append(Key(name=name, sha256=_digest(made.encode()), created_at=_now()))
    return made


def ensure_key(path: Path, name: str, made: str) -> None:
    """Let a key that was made elsewhere open the API, instead of the one of its name before.

    Raises ServingError where anybody could guess it.
    """
    if len(made) < SHORTEST or not _BEARER.fullmatch(b"bearer " + made.encode()):
        raise ServingError(
            f"The API key {name!r} is too easy to guess, or cannot be sent: give it {SHORTEST} to "
            "200 random visible ASCII characters, such as `openssl rand -hex 32` prints."
        )
    digest = _digest(made.encode())
    with _changing(path) as keys:
        if any(key.sha256 == digest and key.revoked_at is None for key in keys):
            return
        keys[:] = [
            replace(key, revoked_at=_now()) if key.name == name and not key.revoked_at else key
            for key in keys
        ]
        keys.append(Key(name=name, sha256=digest, created_at=_now()))


def revoke_key(path: Path, name: str) -> None:
    """Let a key open nothing from now on. Raises ServingError where there is none of that name."""
    with _changing(path) as keys:
        for place, key in enumerate(keys):
            if key.name == name and key.revoked_at is None:
                keys[place] = replace(key, revoked_at=_now())
                return
        valid = ", ".join(key.name for key in keys if key.revoked_at is None)
        raise ServingError(f"There is no valid key {name!r}. Those that are: {valid or 'none'}.")


def list_keys(path: Path) -> list[Key]:
    """All keys that there ever were, the oldest first. Raises ServingError."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return [Key(**key) for key in found["keys"]]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ServingError(f"The file of API keys {path} cannot be read: {error}") from error


@lru_cache(maxsize=64)
def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    if host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    # A socket for both families shows the older one's addresses so.
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


def require_key(path: Path | None, host: str) -> None:
    """Raise ServingError where a host that others reach would be served without a key."""
    if is_loopback(host) or (path and any(key.revoked_at is None for key in list_keys(path))):
        return
    raise ServingError(
        f"Others could reach {host}, and there is no API key that they would have to show. Make "
        "one with `gristmill keys add NAME`, or serve on 127.0.0.1."
    )


class KeyRing:
    """The keys that open a running service; it notices within a second what changed."""

    def __init__(self, path: Path | None) -> None:
        """Read the file; without one there are no keys."""
        self._path = path
        self._names: dict[str, str] = {}
        self._seen: object = None
        self._next_look = 0.0
        self.asks = False
        """Whether a key must be shown even by who comes from this machine."""

    def name_of(self, authorization: bytes | None) -> str | None:
        """Whose key it is that a header shows; None where it is no valid one."""
        if time.monotonic() >= self._next_look:
            self._look()
        if authorization is None:
            return None
        found = _BEARER.fullmatch(authorization)
        # What is looked up is a hash: how long it takes tells nothing of the key.
        return self._names.get(_digest(found[1])) if found else None

    def _look(self) -> None:
        self._next_look = time.monotonic() + LOOK_EVERY
        if self._path is None:
            return
        seen = _state(self._path)
        if seen == self._seen:
            return
        try:
            keys = list_keys(self._path)
        except ServingError as error:
            # A file that cannot be read opens nothing.
            logger.error("No key is valid: %s", error)  # noqa: TRY400 (the message says it)
            self._names, self.asks = {}, True
        else:
            self._names = {key.sha256: key.name for key in keys if key.revoked_at is None}
            self.asks = bool(keys)
        self._seen = seen


def _state(path: Path) -> object:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    except OSError as error:
        return error.errno
    return (found.st_ino, found.st_size, found.st_mtime_ns)


@contextmanager
def _changing(path: Path) -> Iterator[list[Key]]:
    """The keys to change; written back whole, and durable, unless something is raised."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with path.with_suffix(".lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        keys = list_keys(path)
        yield keys
        _write(path, {"keys": [asdict(key) for key in keys]})


def _write(path: Path, content: Mapping[str, Any]) -> None:
    beside = path.with_suffix(".new")
    beside.unlink(missing_ok=True)
    file = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(file, "w", encoding="utf-8") as opened:
        json.dump(content, opened, indent=1)
        opened.flush()
        os.fsync(opened.fileno())
    beside.replace(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _digest(key: bytes) -> str:
    return hashlib.sha256(key).hexdigest()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
