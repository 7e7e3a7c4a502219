"""Looks at everything a project needs before anything is loaded, and says what is wrong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from gristmill.errors import BucketError, LoadError
from gristmill.loading.parse import read_header
from gristmill.loading.tables import find_files

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gristmill.flow.context import Context
    from gristmill.project.table import Table


@dataclass(frozen=True, kw_only=True)
class Checked:
    """One thing that was looked at."""

    level: Literal["ok", "warning", "wrong"]
    subject: str
    message: str


def check(context: Context) -> Iterator[Checked]:
    """What is right, doubtful and wrong with a project that could be read."""
    yield Checked(level="ok", subject="project", message=f"{context.project.name}: read")
    yield Checked(level="ok", subject="database", message="answers, and is up to date")
    yield from _check_users(context)
    for table in context.project.tables.values():
        yield from _check_table(context, table)
    yield from _check_time(context)
    yield from _check_models(context)


def _check_users(context: Context) -> Iterator[Checked]:
    for name in context.users.undeclared:
        yield Checked(
            level="warning",
            subject=f"database.users.{name}",
            message="is in the database and no longer in the project; drop it there if you want.",
        )
    for name in context.users.without_password:
        yield Checked(
            level="warning",
            subject=f"database.users.{name}",
            message="was there before, so its password is not known here.",
        )


def _check_table(context: Context, table: Table) -> Iterator[Checked]:
    """Whether the table's files are there, all of them, the newest with the contract's columns."""
    subject = f"tables.{table.name}"
    try:
        files = find_files(table, context.bucket)
        newest = files[max(files)]
        extra = read_header(table, newest.path, context.bucket.stream(newest))
    except (BucketError, LoadError) as error:
        yield Checked(level="wrong", subject=subject, message=str(error))
        return
    size = sum(item.size for item in files.values())
    periods = f"{len(files)} periods, {min(files)} to {max(files)}, " if table.period else ""
    message = f"{periods}{size:,} bytes"
    if extra:
        yield Checked(
            level="warning",
            subject=subject,
            message=f"{message}; columns the project does not name: {', '.join(extra)}",
        )
    else:
        yield Checked(level="ok", subject=subject, message=message)
    gaps = table.period.gaps(files) if table.period else []
    if gaps:
        yield Checked(
            level="warning",
            subject=f"{subject}.period.missing",
            message=f"there is no file for {', '.join(gaps)}, so nothing will be built of the "
            "others; where that is known, declare it here.",
        )


def _check_time(context: Context) -> Iterator[Checked]:
    """With `as_of`, a feature from a table without a history may know the future."""
    features = context.project.features
    if features is None or features.as_of is None:
        return
    for name in dict.fromkeys(one.table for one in features.features):
        declared = context.project.tables.get(name) or context.project.derived[name]
        if not declared.valid:
            yield Checked(
                level="warning",
                subject=f"features: {name}",
                message="has no history (`valid`), so as of a label it may know the future.",
            )


def _check_models(context: Context) -> Iterator[Checked]:
    """Whether what versions and predictions refer to is there as it was."""
    champion = context.registry.champion()
    found = [one for one in context.registry.problems() if not one.expected]
    for one in found:
        answers = champion is not None and one.version == champion.version
        yield Checked(
            level="wrong" if answers and one.part == "bundle" else "warning",
            subject=f"models.{one.version}",
            message=one.message,
        )
    if champion and not found:
        yield Checked(
            level="ok", subject="models", message=f"version {champion.version} is the champion"
        )
