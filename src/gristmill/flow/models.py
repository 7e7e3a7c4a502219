"""The model versions for people: which there are, who was champion when, what is lost of them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from gristmill.features import builds

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from gristmill.flow.context import Context
    from gristmill.registry.problems import Problem
    from gristmill.registry.version import ModelVersion, Promotion


@dataclass(frozen=True, kw_only=True)
class Tenure:
    """A time for which a version was champion."""

    since: datetime
    until: datetime | None
    """None where it still is."""
    by: str
    os_user: str | None
    database_user: str | None
    why: str
    rolled_back_to: bool
    """Whether it became champion because a later one was taken back."""


@dataclass(frozen=True, kw_only=True)
class VersionDetails:
    """Everything on record of one version."""

    version: ModelVersion
    tenures: list[Tenure]
    first_answer: datetime | None
    last_answer: datetime | None
    loads: list[dict[str, Any]]
    """What it was trained on: load, table_name, period, file, etag."""
    problems: list[Problem]

    def to_dict(self) -> dict[str, Any]:
        """The version's own fields, and what is known besides, as JSON has them."""
        beside = asdict(self)
        return {**beside.pop("version"), **beside}


def list_versions(context: Context) -> list[dict[str, Any]]:
    """Every version, the newest first: verdict, metric, and when it was champion."""
    promotions = context.registry.promotions()
    metric = context.project.model.metric if context.project.model else "roc_auc"
    return [
        {
            "version": version.version,
            "champion": _standing(tenures),
            "champion_since": tenures[-1].since if tenures else None,
            "champion_until": tenures[-1].until if tenures else None,
            "verdict": version.verdict,
            "no_signal": version.no_signal,
            "metric": metric,
            **_estimate(version.evaluation.get(metric)),
            "candidate": version.candidate,
            "registered_at": version.registered_at,
            "build": version.build,
            "reasons": list(version.reasons),
        }
        for version in reversed(context.registry.versions())
        for tenures in [tenures_of(version.version, promotions)]
    ]


def version_details(context: Context, number: str) -> VersionDetails:
    """Everything on record of one version; raises VersionNotFound."""
    version = context.registry.version(number)
    first, last = context.registry.answered(number)
    with context.warehouse.transaction() as transaction:
        loads = builds.loads_of(transaction, version.build)
    return VersionDetails(
        version=version,
        tenures=tenures_of(number, context.registry.promotions()),
        first_answer=first,
        last_answer=last,
        loads=loads,
        problems=[one for one in context.registry.problems() if one.version == number],
    )


def tenures_of(version: str, promotions: Sequence[Promotion]) -> list[Tenure]:
    """When a version was champion, the first time first."""
    begins = [promotion.promoted_at for promotion in promotions]
    ends = [*begins[1:], None] if begins else []
    return [
        Tenure(
            since=promotion.promoted_at,
            until=end,
            by=promotion.by,
            os_user=promotion.os_user,
            database_user=promotion.database_user,
            why=promotion.why,
            rolled_back_to=promotion.rolled_back,
        )
        for promotion, end in zip(promotions, ends, strict=True)
        if promotion.version == version
    ]


def _standing(tenures: Sequence[Tenure]) -> str:
    if not tenures:
        return "never"
    return "before" if tenures[-1].until else "now"


def _estimate(value: Any) -> dict[str, float | None]:
    """A number of the evaluation, with its interval where it has one."""
    found = value if isinstance(value, dict) else {"value": value}
    return {name: found.get(name) for name in ("value", "low", "high")}
