"""The users of the database and what they may do; drops no one, and tells no password.

All rights hang on two groups of the database, its readers and its writers: a user's own role, or
the role that the project names for them, is a member of one. Derived SQL runs as a third, limited
role.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from gristmill.errors import StatementFailed, WarehouseError
from gristmill.warehouse import sql
from gristmill.warehouse.credentials import ensure_passwords, read_passwords, scram_verifier
from gristmill.warehouse.queries import load_queries

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from gristmill.warehouse.connection import Transaction, Warehouse

_queries = load_queries("gristmill.warehouse", "roles.sql")
_LOCK = 6018462
"""The advisory lock that lets one process change roles at a time."""
_INSUFFICIENT_PRIVILEGE = "42501"
_LONGEST_NAME = 63
"""Bytes of a name in PostgreSQL; longer ones are cut, and two could become one."""


class DeclaredUser(Protocol):
    """What the project says of a user; `gristmill.project.project.User` is one."""

    @property
    def name(self) -> str:
        """Whom they log in as."""

    @property
    def role(self) -> str | None:
        """The role that holds their rights, which others may share; None for their own."""

    @property
    def may(self) -> Literal["read", "write"]:
        """What they may do."""


@dataclass(frozen=True, kw_only=True)
class AppliedUsers:
    """What applying the project's users came to."""

    created: tuple[str, ...]
    """Users that are new; their passwords are in the credentials file."""
    without_password: tuple[str, ...]
    """Users that were in the database before, and whose passwords are not kept here."""
    undeclared: tuple[str, ...]
    """Users made here once that the project no longer declares; they still have their rights."""


def readers_role(database: str) -> str:
    """The group that reads what people query and what Gristmill records."""
    return f"{database}_read"


def writers_role(database: str) -> str:
    """The group that also makes objects of its own beside what people query."""
    return f"{database}_write"


def derived_role(database: str) -> str:
    """The limited role that derived SQL runs as."""
    return f"{database}_derived"


def apply_users(
    warehouse: Warehouse, users: Iterable[DeclaredUser], credentials: Path
) -> AppliedUsers:
    """Bring the database's users and their rights to what the project declares, in one transaction.

    Needs the migrated schemas. A second time changes nothing. Raises WarehouseError where names
    collide, or where the owner may not do it, with the statement that an administrator must run.
    """
    users = tuple(users)
    with warehouse.transaction() as transaction:
        transaction.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])
        ourselves = transaction.row(_queries.ourselves)
        assert ourselves is not None  # Whoever is connected has a role.
        work = _Work(transaction, database=ourselves["database"], owner=ourselves["owner"])
        _check_names(users, work)
        try:
            work.groups(may_create=ourselves["may_create"], users=users)
            work.rights()
            created = work.users(users, credentials)
        except StatementFailed as error:
            if error.sqlstate != _INSUFFICIENT_PRIVILEGE:
                raise
            raise _forbidden(work, str(error)) from error
        known = read_passwords(credentials)
        undeclared = set(known) - {user.name for user in users} - {work.owner, "postgres"}
        return AppliedUsers(
            created=created,
            without_password=tuple(user.name for user in users if user.name not in known),
            undeclared=tuple(sorted(work.existing(undeclared))),
        )


class _Work:
    """The statements of one transaction that applies users."""

    def __init__(self, transaction: Transaction, *, database: str, owner: str) -> None:
        self._transaction = transaction
        self.database = database
        self.owner = owner
        self.readers = readers_role(database)
        self.writers = writers_role(database)
        self.derived = derived_role(database)

    def existing(self, names: Iterable[str]) -> set[str]:
        """Which of these roles exist."""
        rows = self._transaction.rows(_queries.existing, {"names": list(names)})
        return {row["name"] for row in rows}

    def groups(self, *, may_create: bool, users: Sequence[DeclaredUser]) -> None:
        """Make the groups that are missing; refuse early where we may make no role."""
        named = [user.role for user in users if user.role]
        groups = dict.fromkeys([self.readers, self.writers, self.derived, *named])
        missing = [name for name in groups if name not in self.existing(groups)]
        wanted = [user.name for user in users]
        missing_users = [name for name in wanted if name not in self.existing(wanted)]
        if (missing or missing_users) and not may_create:
            raise _forbidden(self, f"the roles {', '.join(missing + missing_users)} are missing")
        for name in missing:
            self._run("create_group", role=name)
        self._run("join_group", role=self.readers, member=self.writers)
        # The owner takes over what derived SQL made, and can become the limited role.
        self._run("join_group", role=self.derived, member=self.owner)

    def rights(self) -> None:
        """What each group may do; nothing of `raw` and `builds` but through views and derived."""
        self._run("close_database", database=self.database)
        self._run("close_public")
        self._run("enter", database=self.database, role=self.readers)
        self._run("make_temporary", database=self.database, role=self.writers)
        self._run("create_in_schema", schema="public", role=self.writers)
        self._run("create_in_schema", schema="builds", role=self.derived)
        for role, schemas in {
            self.readers: ("public", "gristmill"),
            self.writers: ("mlflow",),
            self.derived: ("raw", "builds"),
        }.items():
            for schema in schemas:
                self._run("use_schema", schema=schema, role=role)
                self._read(schema, role)
                self._run("read_future_tables", maker=self.owner, schema=schema, role=role)
        if self._transaction.value(_queries.lacks_settings, {"role": self.readers}):
            self._run("change_settings", role=self.readers)

    def users(self, users: Sequence[DeclaredUser], credentials: Path) -> tuple[str, ...]:
        """Make the users that are missing and set everyone's memberships; the new ones' names."""
        existing = self.existing(user.name for user in users)
        missing = tuple(user.name for user in users if user.name not in existing)
        # Kept first: a crash before the commit leaves a password that the next run will use.
        passwords = ensure_passwords(credentials, missing)
        for name in missing:
            verifier = sql.Literal(scram_verifier(passwords[name]))
            self._transaction.execute(
                _queries.create_user.format(role=sql.Identifier(name), verifier=verifier)
            )
        for user in users:
            self._memberships(user.role or user.name, self._group(user))
            if user.role:
                self._memberships(user.name, user.role)
            if user.may == "write":
                # Others read what a writer makes; only a member may say so on their behalf.
                self._run("join_group", role=user.name, member=self.owner)
                self._run("read_future_tables", maker=user.name, schema="public", role=self.readers)
        return missing

    def _group(self, user: DeclaredUser) -> str:
        return self.writers if user.may == "write" else self.readers

    def _memberships(self, member: str, group: str) -> None:
        """Make a role a member of this one group of ours, and of no other."""
        rows = self._transaction.rows(
            _queries.memberships,
            {"member": member, "groups": [self.readers, self.writers]},
        )
        present = {row["name"] for row in rows}
        for name in sorted(present - {group}):
            self._run("leave_group", role=name, member=member)
        if group not in present:
            self._run("join_group", role=group, member=member)

    def _read(self, schema: str, role: str) -> None:
        """Let a role read what it cannot yet; a grant that changes nothing could meet a load."""
        for row in self._transaction.rows(_queries.unreadable, {"schema": schema, "role": role}):
            self._run("read_table", schema=schema, table=row["name"], role=role)

    def _run(self, name: str, **identifiers: str) -> None:
        query: sql.SQL = getattr(_queries, name)
        self._transaction.execute(
            query.format(**{key: sql.Identifier(value) for key, value in identifiers.items()})
        )


def _check_names(users: Sequence[DeclaredUser], work: _Work) -> None:
    """Raise WarehouseError where names collide, are too long, or say two things at once."""
    kept = {work.owner, "postgres", work.readers, work.writers, work.derived}
    logins = {user.name for user in users}
    may: dict[str, str] = {}
    for user in users:
        for name in filter(None, (user.name, user.role)):
            if name in kept or len(name.encode()) > _LONGEST_NAME:
                raise WarehouseError(
                    f"[database.users] cannot have the name {name!r}: the names "
                    f"{', '.join(sorted(kept))} are taken, and {_LONGEST_NAME} bytes is the limit."
                )
        if user.role in logins:
            raise WarehouseError(
                f"[database.users] names {user.role!r} both as a user and as a role: choose two."
            )
        if user.role and may.setdefault(user.role, user.may) != user.may:
            raise WarehouseError(
                f"[database.users] gives the role {user.role!r} to users who may read and users "
                "who may write: its members share its rights, so they need two roles."
            )
    if len(work.derived.encode()) > _LONGEST_NAME:
        raise WarehouseError(
            f"The database's name {work.database!r} is too long: {work.derived!r} must fit in "
            f"{_LONGEST_NAME} bytes."
        )


def _forbidden(work: _Work, found: str) -> WarehouseError:
    return WarehouseError(
        f"{work.owner!r} may not set up the users of {work.database!r}: {found}.\n"
        "Let an administrator of the server run\n"
        f'  ALTER ROLE "{work.owner}" CREATEROLE;\n'
        f'  ALTER DATABASE "{work.database}" OWNER TO "{work.owner}";\n'
        "and then retry. A role that exists already also needs\n"
        f'  GRANT "that_role" TO "{work.owner}" WITH ADMIN OPTION;'
    )
