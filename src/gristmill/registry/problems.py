"""What of the record is no longer whole: bundles, runs, what versions were made of, the alias.

It tells, and mends nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from gristmill.errors import BundleError
from gristmill.registry.bundle import verify_bundle
from gristmill.registry.tracking import ALIAS, bundle_copy
from gristmill.warehouse.queries import load_queries

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence
    from pathlib import Path

    from gristmill.registry.version import ModelVersion
    from gristmill.warehouse.connection import Transaction

    Part = Literal["bundle", "run", "training data", "alias", "answers"]

_queries = load_queries("gristmill.registry", "store.sql")


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One thing that a version, or a prediction, refers to and that is not there as it was."""

    version: str
    part: Part
    message: str
    expected: bool = False
    """Whether it is so by design, as with what is no longer needed and was tidied away."""


def bundle_problems(
    versions: Sequence[ModelVersion], *, artifacts: Path, name: str
) -> Iterator[Problem]:
    """The bundles that are missing, damaged or another's; `artifacts` holds MLflow's copies."""
    for version in versions:
        try:
            verify_bundle(version.bundle, digest=version.bundle_digest)
        except BundleError as error:
            found = " ".join(str(error).splitlines()[:3])
            copy = bundle_copy(artifacts, name, version.run_id)
            try:
                verify_bundle(copy, digest=version.bundle_digest)
                remedy = f"A whole copy is in {copy}: put it in its place."
            except BundleError:
                remedy = "There is no whole copy of it with its run: train again."
            yield Problem(
                version=version.version,
                part="bundle",
                message=f"the bundle is not what was registered. {found} {remedy}",
            )


def mirror_problems(
    transaction: Transaction,
    versions: Sequence[ModelVersion],
    *,
    champion: ModelVersion | None,
    name: str,
) -> Iterator[Problem]:
    """What MLflow no longer shows, read from its tables without importing it."""
    if not versions:
        return
    if not transaction.value(_queries.mirror_exists):
        yield Problem(
            version=versions[-1].version,
            part="run",
            message="MLflow's tables are gone, and with them the runs of all versions; "
            "what the versions need to answer is not kept there.",
        )
        return
    run_ids = [version.run_id for version in versions]
    rows = transaction.rows(_queries.mirrored_runs, {"run_ids": run_ids})
    shown = {row["run_id"] for row in rows}
    for version in versions:
        if version.run_id not in shown:
            yield Problem(
                version=version.version,
                part="run",
                message=f"MLflow's run {version.run_id} was deleted there: its parameters, "
                "metrics and log are no longer shown. In the pages of `gristmill mlflow` it can be "
                "restored, until MLflow has purged it.",
            )
    if champion and mirrored_champion(transaction, name) != champion.run_id:
        yield Problem(
            version=champion.version,
            part="alias",
            message=f"MLflow's alias {ALIAS!r} does not point at the champion; `gristmill models` "
            "mends it.",
        )


def mirrored_champion(transaction: Transaction, name: str) -> str | None:
    """The run that MLflow's alias points at; None where it points at none."""
    if not transaction.value(_queries.mirror_exists):
        return None
    found = transaction.value(_queries.mirrored_champion, {"name": name, "alias": ALIAS})
    return str(found) if found else None


def data_problems(
    transaction: Transaction, versions: Sequence[ModelVersion], *, in_use: Collection[str]
) -> Iterator[Problem]:
    """The versions whose training set, or what it was made of, is no longer kept."""
    numbers = [version.version for version in versions]
    for row in transaction.rows(_queries.dropped, {"versions": numbers}):
        expected = row["version"] not in in_use
        why = (
            "for the version is neither the champion, the one before it nor the newest; the "
            "ledger still tells which files they were."
            if expected
            else "though the version is in use: its answers cannot be traced to files and lines."
        )
        yield Problem(
            version=row["version"],
            part="training data",
            message=f"what it was trained on was tidied away on {row['since']:%Y-%m-%d} "
            f"(builds: {row['builds']}, loads: {row['loads']}), {why}",
            expected=expected,
        )


def answer_problems(transaction: Transaction) -> Iterator[Problem]:
    """The versions that gave answers on record and are not on record themselves."""
    for row in transaction.rows(_queries.answered_without_record):
        yield Problem(
            version=row["version"],
            part="answers",
            message=f"predictions name it (the last of {row['last']:%Y-%m-%d %H:%M} UTC), and it "
            "is not on record here: a bundle from elsewhere answered, or somebody deleted it.",
        )
