"""What a bucket holds: one record, and the rule for what a path inside a bucket may be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from gristmill.errors import BucketError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

CHUNK_SIZE = 1 << 20


@dataclass(frozen=True, kw_only=True)
class BucketObject:
    """One version of one file in a bucket."""

    path: str
    """Where it lies, relative to the bucket, with `/` between folders."""
    etag: str
    """Names this very content: another content at the same path has another etag."""
    size: int
    """Bytes, as stored (a `.gz` is counted compressed)."""
    modified_at: datetime
    """When it was last written, in UTC."""


class Bucket(Protocol):
    """Where files lie. Reads only."""

    @property
    def url(self) -> str:
        """How people name this bucket, without credentials."""

    def list(self, prefix: str = "") -> list[BucketObject]:
        """Every object under a folder of the bucket ("" for all), sorted by path.

        Raises BucketError where the bucket is missing, refuses or does not answer.
        """

    def stat(self, path: str) -> BucketObject:
        """The object at a path as it is now. Raises ObjectNotFound, else BucketError."""

    def stream(self, item: BucketObject, *, chunk_size: int = CHUNK_SIZE) -> Iterator[memoryview]:
        """The bytes of exactly this version, about `chunk_size` of them at a time.

        Memory does not grow with the file. Ends only after `item.size` bytes: raises
        ObjectChanged where another version took its place, BucketError where reading stopped
        half-way.
        """


def checked_path(path: str) -> str:
    """The path itself, if it names something inside a bucket; else raises BucketError."""
    parts = path.split("/")
    if "\0" in path or any(part in {"", ".", ".."} for part in parts):
        raise BucketError(
            f"{path!r} is not a path inside a bucket: write folders and a name, such as "
            "'sales/2020-01.csv', without a leading '/', '.' or '..'."
        )
    return path


def folder_prefix(prefix: str) -> str:
    """The prefix of a listing without slashes at its ends; raises BucketError as checked_path."""
    stripped = prefix.strip("/")
    return checked_path(stripped) if stripped else ""
