"""What became of loads and of the files they were taken from; the bucket is only looked at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from gristmill.errors import BucketError, ObjectNotFound

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    from gristmill.bucket.bucket import Bucket

    FileState = Literal["unchanged", "changed", "gone", "unknown"]

ONE_BY_ONE = 3
"""Up to so many files of a table are asked for one by one; more by a listing of their folder."""


@dataclass(frozen=True, kw_only=True)
class TracedLoad:
    """One load that was used, and what is so now."""

    load: int
    table_name: str
    period: str
    file: str
    etag: str
    """That of the file when it was loaded."""
    loaded_at: datetime
    undone_at: datetime | None
    dropped_at: datetime | None
    """When its rows were tidied away; the ledger's row stays."""
    shown: int | None
    """The load of its period that is shown now."""
    file_now: FileState
    etag_now: str | None

    @property
    def file_changed(self) -> bool:
        """Whether the bucket no longer has the file as it was loaded."""
        return self.file_now in ("changed", "gone")

    def notes(self) -> Iterator[str]:
        """What is no longer as it was, in sentences."""
        if self.file_now == "changed":
            yield (
                f"{self.file} has changed since load {self.load} took it: its lines are told as "
                "they were then, and the bucket has another version now."
            )
        if self.file_now == "gone":
            yield f"{self.file} is no longer in the bucket; load {self.load} still has its rows."
        if self.undone_at:
            yield f"Load {self.load} of {self.table_name} was undone on {self.undone_at:%Y-%m-%d}."
        elif self.shown != self.load:
            by = f"load {self.shown} is shown" if self.shown else "nothing of its period is shown"
            yield f"Load {self.load} of {self.table_name} was replaced since: {by} now."


def look_at_files(
    rows: Sequence[dict[str, Any]], bucket: Bucket
) -> tuple[tuple[TracedLoad, ...], list[str]]:
    """Ledger rows with the state of their files now; and what kept us from looking."""
    found: dict[str, str | None] = {}
    problems: list[str] = []
    for table in dict.fromkeys(row["table_name"] for row in rows):
        files = sorted({row["file"] for row in rows if row["table_name"] == table})
        try:
            found |= _etags(files, bucket)
        except BucketError as error:
            problems.append(f"Whether the files of {table} have changed is not known: {error}")
    return tuple(_traced(row, found) for row in rows), problems


def _traced(row: dict[str, Any], found: dict[str, str | None]) -> TracedLoad:
    etag = found.get(row["file"])
    state: FileState = "unknown"
    if row["file"] in found:
        state = "gone" if etag is None else "unchanged" if etag == row["etag"] else "changed"
    return TracedLoad(**row, file_now=state, etag_now=etag)


def _etags(files: Sequence[str], bucket: Bucket) -> dict[str, str | None]:
    """The files' etags as they are now; None of one that is not there."""
    if len(files) > ONE_BY_ONE:
        there = {item.path: item.etag for item in bucket.list(_folder(files))}
        return {file: there.get(file) for file in files}
    etags: dict[str, str | None] = {}
    for file in files:
        try:
            etags[file] = bucket.stat(file).etag
        except ObjectNotFound:
            etags[file] = None
    return etags


def _folder(files: Sequence[str]) -> str:
    """The innermost folder that holds all of some files."""
    parts = [file.split("/")[:-1] for file in files]
    shared = []
    for level in zip(*parts, strict=False):
        if len(set(level)) > 1:
            break
        shared.append(level[0])
    return "/".join(shared)
