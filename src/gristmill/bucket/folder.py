"""A folder as a bucket. Refuses links that lead out of it, and files that change while read."""

from __future__ import annotations

import errno
import os
import stat
import time
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from gristmill.bucket.objects import CHUNK_SIZE, BucketObject, checked_path, folder_prefix
from gristmill.errors import BucketError, ObjectChanged, ObjectNotFound

if TYPE_CHECKING:
    from collections.abc import Iterator

# The kernel stamps files with a clock that ticks every 1 to 10 ms. A file written within the
# last tick could be written once more without its times changing, so it is given time to settle.
SETTLED_NANOSECONDS = 20_000_000


@dataclass(frozen=True, kw_only=True)
class Folder:
    """A bucket that is a folder of this machine.

    An etag is made of inode, size, time of modification and time of change, in nanoseconds. The
    last cannot be set back, so a file rewritten with its old size and date still differs; the
    price is that a file whose owner or mode changed counts as changed too.
    """

    root: Path
    """The folder, absolute and without symbolic links."""

    @property
    def url(self) -> str:
        """The folder's path."""
        return str(self.root)

    def list(self, prefix: str = "") -> list[BucketObject]:
        """See Bucket.list. Leaves out what is not a file and names that are not UTF-8."""
        self._require_root()
        start = folder_prefix(prefix)
        with self._translated(start):
            found = [self._describe(path) for path in self._walk(start) if _is_unicode(path)]
        return sorted((item for item in found if item is not None), key=lambda item: item.path)

    def stat(self, path: str) -> BucketObject:
        """See Bucket.stat."""
        with self._translated(path):
            item = self._describe(checked_path(path))
        if item is None:
            self._require_root()
            raise ObjectNotFound(f"There is no file {path!r} in the folder {self.root}.")
        return item

    def stream(self, item: BucketObject, *, chunk_size: int = CHUNK_SIZE) -> Iterator[memoryview]:
        """See Bucket.stream. A file that is rewritten in place while it is read is noticed."""
        with self._translated(item.path), self._open(item.path) as file:
            before = os.fstat(file.fileno())
            if _etag(before) != item.etag:
                raise _changed(self.root, item)
            received = 0
            while chunk := file.read(chunk_size):
                received += len(chunk)
                if received <= item.size:
                    yield memoryview(chunk)
            after = os.fstat(file.fileno())
            # Not the time of change: replacing the file by a new one touches that, and the old
            # one, which is open here, is still the version that was asked for.
            if received != item.size or after.st_mtime_ns != before.st_mtime_ns:
                raise _changed(self.root, item)

    def _walk(self, start: str) -> Iterator[str]:
        """Paths of everything under a folder that is not a folder, relative to the root."""
        waiting = [start]
        while waiting:
            folder = waiting.pop()
            try:
                entries = list(os.scandir(self.root / folder))
            except (FileNotFoundError, NotADirectoryError):
                continue
            for entry in entries:
                path = f"{folder}/{entry.name}" if folder else entry.name
                if not _is_folder(entry):
                    yield path
                elif not entry.is_symlink() or self._leads_on(path):
                    waiting.append(path)

    def _leads_on(self, path: str) -> bool:
        """Whether a linked folder is not one of those it lies in, which would never end."""
        target = self._inside(path)
        return not (self.root / path).parent.resolve().is_relative_to(target)

    def _inside(self, path: str) -> Path:
        """The real place of a path; raises BucketError where that is outside of the bucket."""
        real = Path(os.path.realpath(self.root / path))  # Path.resolve fails on a link to itself
        if not real.is_relative_to(self.root):
            raise BucketError(
                f"{path!r} in the folder {self.root} is a link that leads out of it, to {real}. "
                "Put a copy in its place, or name a folder that holds both as the source."
            )
        return real

    def _describe(self, path: str) -> BucketObject | None:
        real = self._inside(path)
        try:
            status = _settled_status(real)
        except OSError as error:
            if error.errno in {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}:
                return None
            raise
        if not stat.S_ISREG(status.st_mode):
            return None
        return BucketObject(
            path=path,
            etag=_etag(status),
            size=status.st_size,
            modified_at=datetime.fromtimestamp(status.st_mtime_ns / 1e9, tz=UTC),
        )

    def _open(self, path: str) -> BinaryIO:
        try:
            return self._inside(checked_path(path)).open("rb", buffering=0)
        except FileNotFoundError as error:
            raise ObjectNotFound(
                f"The file {path!r} has gone from the folder {self.root} since it was listed."
            ) from error

    def _require_root(self) -> None:
        if not self.root.is_dir():
            found = "It is not a folder" if self.root.exists() else "There is no such folder"
            raise BucketError(
                f"The bucket should be the folder {self.root}. {found}: create it, or correct "
                "`source` in the project file (or GRISTMILL_SOURCE)."
            )

    @contextmanager
    def _translated(self, path: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise BucketError(
                f"Cannot read {path or 'the files'!r} in the folder {self.root}: "
                f"{error.strerror or error}."
            ) from error


def _etag(status: os.stat_result) -> str:
    parts = (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    return f'"{"-".join(f"{part:x}" for part in parts)}"'


def _settled_status(path: Path) -> os.stat_result:
    status = path.stat()
    for _ in range(5):
        age = time.time_ns() - status.st_ctime_ns
        if not 0 <= age < SETTLED_NANOSECONDS:
            break
        time.sleep((SETTLED_NANOSECONDS - age) / 1e9)
        status = path.stat()
    return status


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def _changed(root: Path, item: BucketObject) -> ObjectChanged:
    return ObjectChanged(
        f"The file {item.path!r} in the folder {root} is no longer the one of "
        f"{item.modified_at:%Y-%m-%d %H:%M:%S} UTC, {item.size:,} bytes, that was to be read. "
        "Load it again once nobody is writing it."
    )


def _is_unicode(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True
