"""Where the embedded server's files lie and whom they belong to; widens no permission."""

from __future__ import annotations

import hashlib
import json
import os
import pwd
import re
import secrets
import shutil
import stat
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gristmill.errors import EmbeddedServerError
from gristmill.warehouse.files import write_private

USER = "gristmill"
"""The operating system's user that the server runs as, where root starts it."""
SHARED = Path("/var/lib/gristmill")
"""Holds what lies under root's home and the server's own user could not reach there."""
_LONGEST_SOCKET = 107 - len("/.s.PGSQL.65535")
"""Bytes that a socket's folder may have, so that the whole path fits a socket's address."""


@dataclass(frozen=True, kw_only=True)
class SystemUser:
    """A user of the operating system, other than ourselves."""

    uid: int
    gid: int

    def identity(self) -> dict[str, Any]:
        """What `subprocess` takes to run a program as this user."""
        return {"user": self.uid, "group": self.gid, "extra_groups": []}


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where one project's server lives; kept in `postgres.json` in its home."""

    home: Path
    """The project's `.gristmill` folder, resolved."""
    folder: Path
    """Holds the data; belongs to the server's user alone."""
    socket: Path
    """The folder of the server's socket; belongs to the server's user alone."""
    port: int | None
    """The port used last."""
    user: SystemUser | None
    """Whom the server runs as; None for ourselves."""

    @property
    def data(self) -> Path:
        """PostgreSQL's data folder."""
        return self.folder / "data"

    @property
    def lock(self) -> Path:
        """The server and all its processes hold this file's lock as long as one of them lives."""
        return self.folder / "alive.lock"

    @property
    def log(self) -> Path:
        """What the server says."""
        return self.home / "log" / "postgres.log"

    @property
    def credentials(self) -> Path:
        """The passwords of the database's users."""
        return self.home / "credentials.json"

    @property
    def uid(self) -> int:
        """The user id whom folder and socket must belong to."""
        return self.user.uid if self.user else os.geteuid()

    def identity(self) -> dict[str, Any]:
        """What `subprocess` takes to run a program as the server's user."""
        return self.user.identity() if self.user else {}


def read_place(home: Path) -> Place | None:
    """The place that a home has on record; None where no server was ever started.

    Raises EmbeddedServerError where the home is a copy of another, whose server it would share.
    """
    try:
        record = json.loads((home / "postgres.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    folder = Path(record["folder"]) if record["folder"] else home / "postgres"
    if record["folder"] and _belongs_elsewhere(home, record):
        raise EmbeddedServerError(
            f"{home} is a copy of {record['home']}: its database's files are {folder}, and they "
            f"belong to the original. Delete {home} to begin a database of its own."
        )
    return Place(
        home=home,
        folder=folder,
        socket=Path(record["socket"]) if record["socket"] else folder / "socket",
        port=record["port"],
        user=_server_user(home, folder),
    )


def write_place(place: Place) -> None:
    """Put a place on record; what lies within its home is kept relative, so that it can move."""
    record = {
        "home": str(place.home),
        "folder": None if place.folder == place.home / "postgres" else str(place.folder),
        "socket": None if place.socket == place.folder / "socket" else str(place.socket),
        "port": place.port,
    }
    write_private(place.home / "postgres.json", json.dumps(record, indent=2) + "\n")


def new_place(home: Path) -> Place:
    """A place for a home that has none: in the home, or outside where its user cannot reach it."""
    folder = home / "postgres"
    user = _server_user(home, folder)
    if user and not _reaches(user, home):
        # Random beside the digest: a home that was deleted leaves data whose passwords are gone.
        digest = hashlib.sha256(os.fsencode(home)).hexdigest()[:12]
        folder = SHARED / f"{digest}-{secrets.token_hex(4)}"
    return Place(home=home, folder=folder, socket=folder / "socket", port=None, user=user)


def prepare(place: Place) -> Place:
    """Make the folders of a place; the place, with another socket folder where it needs one.

    Raises EmbeddedServerError where its folder is not the server's own.
    """
    if place.folder.parent == SHARED:
        make_shared()
    _make_private(place.folder, place)
    if not _is_private(place.folder, place.uid):
        raise EmbeddedServerError(
            f"{place.folder} does not belong to the server's user alone (user id {place.uid}, "
            "mode 0700), so it is not used. Run the command as the user who made it, or remove it."
        )
    return Place(
        home=place.home,
        folder=place.folder,
        socket=_socket_folder(place),
        port=place.port,
        user=place.user,
    )


def make_shared() -> None:
    """Make the folder that every user of the machine may pass through."""
    if not SHARED.exists():
        SHARED.mkdir(parents=True, exist_ok=True)
        SHARED.chmod(0o755)  # Whatever the umask says.


def _socket_folder(place: Place) -> Path:
    """A folder with a short path that is the server's own.

    In /tmp its name cannot be guessed, and one that is not ours is left for another: whoever
    owns a socket's folder can put a server of their own there.
    """
    preferred = place.folder / "socket"
    if _fits(preferred):
        _make_private(preferred, place)
        return preferred
    if place.socket != preferred and _is_private(place.socket, place.uid):
        return place.socket
    folder = Path(tempfile.mkdtemp(prefix="gristmill-", dir="/tmp"))
    if place.user:
        os.chown(folder, place.user.uid, place.user.gid)
    return folder


def _fits(folder: Path) -> bool:
    """Whether a path is short enough, and has no character that a connection string would split."""
    path = os.fsencode(folder)
    return len(path) <= _LONGEST_SOCKET and re.fullmatch(rb"[A-Za-z0-9/._ -]+", path) is not None


def _make_private(folder: Path, place: Place) -> None:
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        return
    if place.user:
        os.chown(folder, place.user.uid, place.user.gid)


def _is_private(folder: Path, uid: int) -> bool:
    try:
        found = folder.lstat()
    except FileNotFoundError:
        return False
    return (
        stat.S_ISDIR(found.st_mode)
        and found.st_uid == uid
        and stat.S_IMODE(found.st_mode) & 0o077 == 0
    )


def _belongs_elsewhere(home: Path, record: dict[str, Any]) -> bool:
    """Whether the home that made a record is still there, with that record."""
    original = Path(record["home"])
    try:
        there = json.loads((original / "postgres.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return original != home and there["folder"] == record["folder"]


def _server_user(home: Path, folder: Path) -> SystemUser | None:
    """Whom the server runs as: for root the owner of what is there, or a user of its own."""
    if os.geteuid() != 0:
        return None
    for path in (folder, home):
        if path.exists() and (owner := path.stat().st_uid) != 0:
            try:
                return SystemUser(uid=owner, gid=pwd.getpwuid(owner).pw_gid)
            except KeyError:
                continue  # PostgreSQL refuses a user without a name.
    return _own_user()


def _own_user() -> SystemUser:
    """The user that root's servers run as, made where it is missing."""
    try:
        entry = pwd.getpwnam(USER)
    except KeyError:
        _add_user()
        entry = pwd.getpwnam(USER)
    return SystemUser(uid=entry.pw_uid, gid=entry.pw_gid)


def _add_user() -> None:
    program = shutil.which("useradd", path="/usr/sbin:/sbin:/usr/bin:/bin")
    problem = "there is no useradd"
    if program:
        options = ["--system", "--user-group", "--no-create-home", "--home-dir", "/nonexistent"]
        shell = shutil.which("nologin", path="/usr/sbin:/sbin:/usr/bin:/bin") or "/bin/false"
        done = subprocess.run(
            [program, *options, "--shell", shell, USER], capture_output=True, text=True, check=False
        )
        problem = done.stderr.strip()
    try:
        pwd.getpwnam(USER)  # Made by us, or at the same moment by another command.
    except KeyError:
        raise EmbeddedServerError(
            f"PostgreSQL does not run as root, and its own user {USER!r} cannot be made: "
            f"{problem}. Make that user, or run the command as an ordinary one."
        ) from None


def _reaches(user: SystemUser, folder: Path) -> bool:
    """Whether a user can enter a folder; tried, so that access lists and mounts count too."""
    done = subprocess.run(
        ["/bin/sh", "-c", 'cd -- "$1"', "sh", folder],
        cwd="/",
        env={},
        capture_output=True,
        check=False,
        **user.identity(),
    )
    return done.returncode == 0
