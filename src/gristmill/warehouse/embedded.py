"""The embedded PostgreSQL server of a project: initialises, starts, finds and stops it.

It believes no pid and no leftover file: a server runs if it answers as the one of this data folder.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import psycopg

from gristmill.errors import EmbeddedServerError
from gristmill.warehouse.connect import url_from
from gristmill.warehouse.connection import Warehouse
from gristmill.warehouse.credentials import ensure_passwords, read_passwords
from gristmill.warehouse.databases import (
    SET_CONFIG,
    close_settings,
    provide_database,
    provide_user,
)
from gristmill.warehouse.files import locked, open_private, sync_folder
from gristmill.warehouse.orphans import has_crashed, note_files, remove_orphans
from gristmill.warehouse.place import (
    SHARED,
    Place,
    make_shared,
    new_place,
    prepare,
    read_place,
    write_place,
)
from gristmill.warehouse.programs import Programs, copied, find_programs
from gristmill.warehouse.server_settings import settings

if TYPE_CHECKING:
    from collections.abc import Iterator

SUPERUSER = "postgres"
"""The database user who may do everything; only this module connects as it."""
DEFAULT_PORT = 5432
_HOST = "127.0.0.1"
_RECOVERY = 600.0
"""Seconds that a server may take to answer: after a crash it first replays its log."""
_SHUTDOWN = 300.0
"""Seconds that a server may take to stop: it first writes what it holds in memory."""
_PAUSE = 0.02
_LOG_LIMIT = 10 * 1024 * 1024
"""Bytes after which a start begins a new log and keeps the old one beside it."""
_RESERVED = {SUPERUSER, "template0", "template1"}


@dataclass(frozen=True, kw_only=True)
class Server:
    """A server that answers."""

    pid: int
    """The process whose end ends it."""
    port: int
    """Where it listens on 127.0.0.1."""
    socket: Path
    """The folder of its socket."""
    data: Path
    """Its data folder."""


def start(home: Path, *, database: str, owner: str, port: int | None = None) -> Warehouse:
    """Find the running server of a project's home, or start it; the warehouse of its owner.

    Initialises what is missing: the data folder, the owner (LOGIN CREATEROLE, a random password in
    `credentials.json`) and the database. Without a port it takes the last one, else 5432, else any
    that is free. Two at once end with the same server. The server outlives the caller.
    Raises EmbeddedServerError, with the last lines of the server's log where it has any.
    """
    if owner in _RESERVED or database in _RESERVED:
        raise EmbeddedServerError(
            f"PostgreSQL keeps the names {', '.join(sorted(_RESERVED))} for itself: choose another "
            "name and owner in [database]."
        )
    with _translated(home, "start"):
        home = _made(home)
        with locked(home / "postgres.lock"):
            place = prepare(read_place(home) or new_place(home))
            write_place(place)
            server = _settled(place) or _started(place, port)
            if _note(place).exists():
                _remove_orphans(server, place)
            if port not in (None, server.port):
                raise EmbeddedServerError(
                    f"Port {port} was asked for, but the database of {home} already runs on port "
                    f"{server.port}. Run `gristmill down`, then retry."
                )
            return _provide(server, place, database, owner)


def find(home: Path) -> Server | None:
    """The running server of a project's home; None where none answers."""
    with _translated(home, "find"):
        place = read_place(home.resolve())
        return _answering(place) if place else None


def stop(home: Path) -> bool:
    """End the server of a project's home, open transactions rolled back; False where none ran."""
    home = home.resolve()
    if not home.exists():
        return False
    with _translated(home, "stop"), locked(home / "postgres.lock"):
        place = read_place(home)
        pid = _recorded_pid(place.data) if place else None
        if place is None or pid is None:
            return False
        if pid not in _processes(place.data) and not _answering(place):
            return False
        os.kill(pid, signal.SIGINT)
        deadline = time.monotonic() + _SHUTDOWN
        while not _is_free(place.lock) or pid in _processes(place.data):
            if time.monotonic() > deadline:
                raise EmbeddedServerError(
                    f"The server (process {pid}) did not stop within {_SHUTDOWN:.0f} s; its log is "
                    f"{place.log}."
                )
            time.sleep(_PAUSE)
        return True


def _made(home: Path) -> Path:
    """The home, resolved, made where it is missing: closed to others, as it will hold passwords.

    Root's is one that the server's own user can pass through, not list.
    """
    home.mkdir(mode=0o711 if os.geteuid() == 0 else 0o700, parents=True, exist_ok=True)
    return home.resolve()


# --- Is it alive? ---------------------------------------------------------------------------------


def _answering(place: Place) -> Server | None:
    """The server of this place if it answers, over its socket or else over its port."""
    try:
        lines = (place.data / "postmaster.pid").read_text(encoding="utf-8").splitlines()
        pid, port = int(lines[0]), int(lines[3])
    except (FileNotFoundError, IndexError, ValueError):
        return None
    try:
        with _as_superuser(place, port) as connection:
            row = connection.execute("SHOW data_directory").fetchone()
    except psycopg.OperationalError:
        return None
    if row is None or not _is_same_folder(Path(row[0]), place.data):
        return None
    return Server(pid=pid, port=port, socket=place.socket, data=place.data)


def _as_superuser(
    place: Place, port: int, database: str = SUPERUSER
) -> psycopg.Connection[tuple[Any, ...]]:
    """A connection that commits each statement. An impostor on the port is not told the password:
    nothing but SCRAM is answered, and in it the server must prove that it knows it too."""
    passwords = read_passwords(place.credentials)
    if SUPERUSER not in passwords:
        raise EmbeddedServerError(
            f"{place.credentials} has no password of the database's user {SUPERUSER!r}, without "
            f"which the data in {place.data} cannot be reached. Restore that file from a copy."
        )
    return psycopg.connect(
        host=f"{place.socket},{_HOST}",
        port=f"{port},{port}",
        user=SUPERUSER,
        password=passwords[SUPERUSER],
        dbname=database,
        require_auth="scram-sha-256",
        connect_timeout=10,
        application_name="gristmill",
        autocommit=True,
    )


def _settled(place: Place) -> Server | None:
    """The server once it answers; None once no process of it is left, and no trace in the way.

    All its processes hold the place's lock, so that neither a pid taken by another program nor a
    zombie counts as alive. Processes that outlived their postmaster are killed: they would keep
    the data folder busy, and what they did not commit is lost either way.
    """
    deadline = time.monotonic() + _RECOVERY
    while True:
        if server := _answering(place):
            return server
        alive = _processes(place.data)
        if alive and _recorded_pid(place.data) not in alive:
            for pid in alive:
                _kill(pid)
        elif not alive and _is_free(place.lock):
            # PostgreSQL would believe these where their pid is another program's, or a zombie's.
            for trace in [place.data / "postmaster.pid", *place.socket.glob(".s.PGSQL.*")]:
                trace.unlink(missing_ok=True)
            return None
        if time.monotonic() > deadline:
            raise EmbeddedServerError(
                f"A server of {place.data} runs (processes {alive}) but has not answered for "
                f"{_RECOVERY:.0f} s. Its log is {place.log}; end it, then retry."
            )
        time.sleep(_PAUSE)


def _processes(data: Path) -> list[int]:
    """PostgreSQL's processes that work in a data folder, where the system can tell (Linux).

    Each of them has that folder as its working folder as long as it lives.
    """
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if (entry / "cwd").samefile(data) and _is_postgres(entry):
                found.append(int(entry.name))
        except OSError:
            continue  # It ended, belongs to someone else, or there is no data folder.
    return found


def _is_postgres(entry: Path) -> bool:
    return (entry / "comm").read_text(encoding="utf-8", errors="replace").startswith("postgres")


def _recorded_pid(data: Path) -> int | None:
    try:
        return int((data / "postmaster.pid").read_text(encoding="utf-8").splitlines()[0])
    except (FileNotFoundError, IndexError, ValueError):
        return None


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _is_free(lock: Path) -> bool:
    try:
        with locked(lock, wait=False):
            return True
    except BlockingIOError:
        return False
    except FileNotFoundError:
        return True


def _is_same_folder(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except FileNotFoundError:
        return False


# --- Initialise and start -------------------------------------------------------------------------


def _started(place: Place, port: int | None) -> Server:
    """Start the server; where no port was asked for, on the first that it can have."""
    programs = _programs(place)
    if not place.data.exists():
        _initialise(place, programs)
    control = programs.path("pg_controldata")
    if has_crashed(place.data, control, place.identity()) or _note(place).exists():
        note_files(_note(place), place.data)
    for candidate in _ports(port, place.port):
        mark = _launch(place, programs, candidate)
        if server := _awaited(place):
            write_place(replace(place, port=server.port))
            return server
        said = _log_since(place.log, mark)
        if "could not create any TCP/IP sockets" not in said:
            raise EmbeddedServerError(
                f"PostgreSQL did not start. The end of its log, {place.log}:\n{said}"
            )
    raise _port_taken(port)


def _programs(place: Place) -> Programs:
    """PostgreSQL's programs of the data folder's version, where the server's user can run them."""
    version = place.data / "PG_VERSION"
    programs = find_programs(int(version.read_text(encoding="ascii")) if version.exists() else None)
    if place.user is None:
        return programs
    full = _output([programs.path("postgres"), "--version"]).split()[-1]
    try:
        _output([programs.path("postgres"), "--version"], **place.identity())
    except PermissionError:
        make_shared()
        return copied(programs, SHARED / f"postgresql-{full}")
    return programs


def _output(command: list[str | Path], **identity: Any) -> str:
    done: subprocess.CompletedProcess[str] = subprocess.run(
        command,
        cwd="/",
        env={"LC_ALL": "C"},
        capture_output=True,
        text=True,
        check=True,
        **identity,
    )
    return done.stdout


def _initialise(place: Place, programs: Programs) -> None:
    """Make the data folder beside its place and move it there as the last act.

    The lock is handed down, so that an initialisation whose command was killed is waited for.
    """
    fresh = place.folder / "initialising"
    if fresh.exists():
        shutil.rmtree(fresh)
    fresh.mkdir(mode=0o700)
    if place.user:
        os.chown(fresh, place.user.uid, place.user.gid)
    password = ensure_passwords(place.credentials, [SUPERUSER])[SUPERUSER]
    with os.fdopen(open_private(fresh / "password"), "w", encoding="utf-8") as file:
        file.write(password)
    command: list[str | Path] = [
        programs.path("initdb"),
        f"--pgdata={fresh / 'data'}",
        f"--username={SUPERUSER}",
        f"--pwfile={fresh / 'password'}",
        "--auth=scram-sha-256",
        "--encoding=UTF8",
        "--locale=C",
        "--locale-provider=builtin",
        "--builtin-locale=C.UTF-8",
        "--data-checksums",
        "--no-instructions",
    ]
    with locked(place.lock, wait=False) as descriptor:
        done = subprocess.run(
            command,
            cwd="/",
            env={"LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            start_new_session=True,
            pass_fds=[descriptor],
            **place.identity(),
        )
    if done.returncode != 0:
        raise EmbeddedServerError(
            f"The database's files cannot be made in {place.folder}:\n{_last_lines(done.stdout)}\n"
            "Check the disk's space and the folder's permissions, then retry: nothing is half-made."
        )
    (fresh / "data").rename(place.data)
    sync_folder(place.folder)
    shutil.rmtree(fresh)


def _launch(place: Place, programs: Programs, port: int) -> int:
    """Start the server in a session of its own; where in the log it begins to speak.

    A shell starts it and ends at once, so that the server is nobody's child here: it survives the
    command and its terminal, and leaves no zombie in a program that lives on.
    """
    arguments: list[str | Path] = [programs.path("postgres"), "-D", place.data]
    address = {
        "listen_addresses": _HOST,
        "port": str(port),
        "unix_socket_directories": str(place.socket),
        "unix_socket_permissions": "0700",
    }
    for name, value in (settings() | address).items():
        arguments += ["-c", f"{name}={value}"]
    log = _opened_log(place.log)
    try:
        mark = os.fstat(log).st_size
        with locked(place.lock, wait=False) as descriptor:
            subprocess.run(
                ["/bin/sh", "-c", '"$@" &', "sh", *arguments],
                cwd="/",
                env={"LC_ALL": "C"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                check=True,
                start_new_session=True,
                pass_fds=[descriptor],
                **place.identity(),
            )
    finally:
        os.close(log)
    return mark


def _awaited(place: Place) -> Server | None:
    """The server that was launched once it answers; None where it ended instead."""
    deadline = time.monotonic() + _RECOVERY
    while time.monotonic() < deadline:
        if server := _answering(place):
            return server
        if _is_free(place.lock):
            return None
        time.sleep(_PAUSE)
    raise EmbeddedServerError(
        f"PostgreSQL started but has not answered for {_RECOVERY:.0f} s; its log is {place.log}."
    )


def _ports(asked: int | None, last: int | None) -> Iterator[int]:
    """The ports to try, in order: the one asked for alone, or whatever is free."""
    if asked is not None:
        if not _is_port_free(asked):
            raise _port_taken(asked)
        yield asked
        return
    for port in dict.fromkeys([last or DEFAULT_PORT, DEFAULT_PORT]):
        if _is_port_free(port):
            yield port
    for _ in range(3):
        with socket.socket() as probe:
            probe.bind((_HOST, 0))
            port = probe.getsockname()[1]
        yield port


def _is_port_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_HOST, port))
        except OSError:
            return False
    return True


def _port_taken(port: int | None) -> EmbeddedServerError:
    return EmbeddedServerError(
        f"The database's port {port or DEFAULT_PORT} is taken by another program, or not ours to "
        "use. Choose another with GRISTMILL_DATABASE_PORT; without it a free one is taken."
    )


def provide_beside(home: Path, *, database: str, password: str) -> str:
    """A database of its own on the running server, for a program beside ours; its URL.

    Its owner has the same name and may log in, and nothing else. What is there already is left.
    Raises EmbeddedServerError where no server of this home answers.
    """
    with _translated(home, "reach"):
        place = read_place(home.resolve())
        server = _answering(place) if place else None
        if place is None or server is None:
            raise EmbeddedServerError(f"No database runs for {home}: `gristmill status` starts it.")
        with _as_superuser(place, server.port) as connection:
            provide_user(connection, database, password, makes_roles=False)
            provide_database(connection, database, database)
        return _url(database, password, port=server.port, database=database)


# --- What a crash left ----------------------------------------------------------------------------


def _note(place: Place) -> Path:
    """Lists the files there were when a crashed server was started, until they are gone through."""
    return place.folder / "crashed.json"


def _remove_orphans(server: Server, place: Place) -> None:
    """Remove the files of what was never committed, and say so in the server's log.

    A server too busy to be asked is none the worse for them: the next command tries again.
    """
    try:
        removed = remove_orphans(
            _note(place), place.data, lambda database: _as_superuser(place, server.port, database)
        )
    except psycopg.OperationalError:
        return
    if removed.files or not removed.is_complete:
        later = "" if removed.is_complete else "; some could not be judged yet"
        line = (
            f"gristmill: removed {removed.files} files, {removed.bytes} bytes, that a killed "
            f"server had left of what was never committed{later}\n"
        )
        with os.fdopen(_opened_log(place.log), "a", encoding="utf-8") as log:
            log.write(line)


# --- The owner and the database -------------------------------------------------------------------


def _provide(server: Server, place: Place, database: str, owner: str) -> Warehouse:
    """The owner's warehouse, made or mended where the owner cannot connect to it."""
    password = ensure_passwords(place.credentials, [owner])[owner]
    url = _url(owner, password, port=server.port, database=database)
    if not _is_provided(url):
        with _as_superuser(place, server.port) as connection:
            provide_user(connection, owner, password, makes_roles=True)
            provide_database(connection, database, owner, closed=(SUPERUSER, "template1"))
        with _as_superuser(place, server.port, database) as connection:
            close_settings(connection, owner)
    return Warehouse(url=url)


def _url(user: str, password: str, *, port: int, database: str) -> str:
    who = f"{quote(user, safe='')}:{quote(password, safe='')}"
    return url_from(who, {"host": _HOST, "port": str(port), "dbname": database})


def _is_provided(url: str) -> bool:
    """Whether the owner can connect, to a database that is closed as it should be."""
    try:
        with psycopg.connect(url, connect_timeout=10) as connection:
            row = connection.execute(
                f"SELECT pg_catalog.has_function_privilege('public', '{SET_CONFIG}', 'EXECUTE')"
            ).fetchone()
    except psycopg.OperationalError:
        return False
    return row == (False,)


# --- What it said ---------------------------------------------------------------------------------


def _opened_log(log: Path) -> int:
    log.parent.mkdir(mode=0o700, exist_ok=True)
    if log.exists() and log.stat().st_size > _LOG_LIMIT:
        log.rename(log.with_name(f"{log.name}.1"))
    return open_private(log)


def _log_since(log: Path, mark: int) -> str:
    with log.open("rb") as file:
        file.seek(mark)
        return _last_lines(file.read().decode("utf-8", errors="replace"))


def _last_lines(text: str) -> str:
    return "\n".join(text.strip().splitlines()[-15:])


@contextmanager
def _translated(home: Path, asked: str) -> Iterator[None]:
    """The system's and the driver's errors as ours."""
    what = f"Could not {asked} the embedded PostgreSQL server of {home}"
    try:
        yield
    except PermissionError as error:
        raise EmbeddedServerError(
            f"{what}: no permission for {error.filename or 'what it needs'}. It belongs to another "
            "user of this machine: run the command as that user."
        ) from error
    except OSError as error:
        place = f" ({error.filename})" if error.filename else ""
        raise EmbeddedServerError(f"{what}: {error.strerror or error}{place}.") from error
    except subprocess.CalledProcessError as error:
        raise EmbeddedServerError(f"{what}: {error.stderr or error}".strip()) from error
    except (json.JSONDecodeError, KeyError) as error:
        raise EmbeddedServerError(
            f"{what}: {home / 'postgres.json'} is not what was written there. Restore it."
        ) from error
    except psycopg.Error as error:
        reason = re.sub(r"\s+", " ", str(error)).strip()
        raise EmbeddedServerError(f"{what}: {reason}") from error
