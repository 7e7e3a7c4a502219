"""Removes the files of tables that a killed server never committed: no catalog entry means them.

Touches no file that came into being after the server was started, and none where anything is in
doubt: a file too many costs space, a file too few costs data.
"""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gristmill.warehouse.files import write_private

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    import psycopg

    Connect = Callable[[str], psycopg.Connection[Any]]
    """Opens a connection as the superuser to a database of the server, by name."""
    Files = dict[str, int]
    """The inode of each file of relations in a database's folder, by name."""

_FILE = re.compile(r"([1-9][0-9]*)(?:_(?:fsm|vm|init))?(?:\.[1-9][0-9]*)?", re.ASCII)
_CRASHED = {"starting up", "shutting down", "in crash recovery", "in production"}
_DATABASES = """
SELECT database.oid::text, database.datname
FROM pg_catalog.pg_database AS database
JOIN pg_catalog.pg_tablespace AS place ON place.oid = database.dattablespace
WHERE database.datallowconn AND database.datconnlimit <> -2 AND place.spcname = 'pg_default'
ORDER BY database.oid
"""
# Both what this snapshot sees and what is in force: either keeps a file. System catalogs such as
# pg_class have no number of their own, only in the file that pg_relation_filenode() looks into.
_USED = """
SELECT pg_catalog.pg_relation_filenode(oid)::text, relfilenode::text,
       reltablespace = 0 AND relpersistence <> 't' AS is_here
FROM pg_catalog.pg_class
WHERE relfilenode <> 0 OR pg_catalog.pg_relation_filenode(oid) IS NOT NULL
"""


@dataclass(frozen=True, kw_only=True)
class Removed:
    """What was taken away."""

    files: int
    bytes: int
    is_complete: bool
    """Whether every database could be looked at; else the note is kept for the next start."""


def has_crashed(data: Path, pg_controldata: Path, identity: Mapping[str, Any]) -> bool:
    """Whether the server that used a data folder last did not stop in order.

    `identity` is what `subprocess` takes to run a program as the server's user.
    """
    done: subprocess.CompletedProcess[str] = subprocess.run(
        [pg_controldata, data],
        cwd="/",
        env={"LC_ALL": "C"},
        capture_output=True,
        text=True,
        check=False,  # The server itself will say what is wrong.
        **identity,
    )
    state = re.search(r"^Database cluster state: +(.+)$", done.stdout, re.MULTILINE)
    return state is not None and state[1] in _CRASHED


def note_files(note: Path, data: Path) -> None:
    """Put on record which files there are, while no server runs: only these may be removed later.

    Durable before the server starts, so that whoever finds it running can finish the work.
    """
    found = {}
    for folder in (data / "base").iterdir():
        if folder.name.isascii() and folder.name.isdigit():
            with _opened(folder) as descriptor:
                found[folder.name] = _files(descriptor)
    write_private(note, json.dumps(found))


def remove_orphans(note: Path, data: Path, connect: Connect) -> Removed:
    """Remove the noted files that no relation of a running, recovered server has; forget the note.

    Other sessions may be at work. A file noted before the start is either that of a committed
    relation, which every snapshot shows until it is rewritten or dropped for good, or it is
    nobody's. Numbers of new files are never those of files that are there.
    Raises psycopg.OperationalError where the server does not answer; the note is then kept.
    """
    noted: dict[str, Files] = json.loads(note.read_text(encoding="utf-8"))
    count = size = 0
    with connect("postgres") as connection:
        row = connection.execute(
            "SELECT pg_catalog.pg_is_in_recovery() OR EXISTS"
            " (SELECT FROM pg_catalog.pg_prepared_xacts)"
        ).fetchone()
        if row != (False,):  # A prepared transaction's tables are in no catalog that we see.
            return Removed(files=0, bytes=0, is_complete=False)
        databases = connection.execute(_DATABASES).fetchall()
    is_complete = True
    for number, name in databases:
        if number not in noted:
            continue
        with connect(name) as connection, _opened(data / "base" / number) as folder:
            orphans = _orphans(connection, folder, noted[number])
            if orphans is None:
                is_complete = False
                continue
            for file in orphans:
                size += os.stat(file, dir_fd=folder, follow_symlinks=False).st_size
                os.unlink(file, dir_fd=folder)
                count += 1
    if is_complete:
        note.unlink()
    return Removed(files=count, bytes=size, is_complete=is_complete)


def _orphans(
    connection: psycopg.Connection[Any], folder: int, noted: Mapping[str, int]
) -> list[str] | None:
    """A database's orphan files in the order in which to remove them; None where in doubt."""
    used, expected = set(), set()
    for in_force, recorded, is_here in connection.execute(_USED):
        used |= {in_force, recorded}
        if is_here and in_force:
            expected.add(in_force)
    present = _files(folder)
    if not expected or not expected <= present.keys():
        return None  # Not the folder of this database, or a table was dropped this moment.
    groups: dict[str, list[str]] = {}
    for name in present:
        groups.setdefault(_number(name), []).append(name)
    orphans = []
    for number, names in groups.items():
        is_old = all(noted.get(name) == present[name] for name in names)
        if number not in used and number in names and is_old:
            # The main file last: while it is there PostgreSQL gives its number to no new table.
            orphans += [name for name in names if name != number] + [number]
    return orphans


def _number(name: str) -> str:
    match = _FILE.fullmatch(name)
    assert match is not None  # _files lists no other names
    return match[1]


@contextmanager
def _opened(folder: Path) -> Iterator[int]:
    """A folder's descriptor; a symbolic link in its place is refused."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _files(folder: int) -> Files:
    with os.scandir(folder) as entries:
        found = ((entry.name, entry.stat(follow_symlinks=False)) for entry in entries)
        return {
            name: status.st_ino
            for name, status in found
            if _FILE.fullmatch(name) and stat.S_ISREG(status.st_mode)
        }
