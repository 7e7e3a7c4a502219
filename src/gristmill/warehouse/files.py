"""Files that only their owner reads, written whole or not at all, and locks on files."""

from __future__ import annotations

import fcntl
import os
import secrets
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def write_private(path: Path, text: str) -> None:
    """Replace a file by one that only the owner of its folder reads; durable when this returns."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with os.fdopen(_create(temporary), "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def open_private(path: Path) -> int:
    """Open a file for appending, made if missing; a descriptor. A symbolic link is refused."""
    try:
        return os.open(path, os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW)
    except FileNotFoundError:
        pass
    try:
        return _create(path)
    except FileExistsError:
        return os.open(path, os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW)


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[int]:
    """Hold a file's lock, which a holder that dies lets go; yields the descriptor.

    Raises BlockingIOError where another process holds it and `wait` is false.
    """
    descriptor = open_private(path)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield descriptor
    finally:
        os.close(descriptor)


def _create(path: Path) -> int:
    """Create a file with mode 0600; made by root, it belongs to the owner of its folder."""
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    descriptor = os.open(path, flags, 0o600)
    if os.geteuid() == 0:
        folder = path.parent.stat()
        os.fchown(descriptor, folder.st_uid, folder.st_gid)
    return descriptor
