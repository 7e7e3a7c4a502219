"""Builds the feature store and the training set, when what they read has changed."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from gristmill.features import builds, point_in_time, sources
from gristmill.features.builds import Built, Recipe
from gristmill.warehouse.sql import SQL, Identifier

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from gristmill.features.sources import Source
    from gristmill.project.features import Features
    from gristmill.project.project import Project
    from gristmill.warehouse.connection import Transaction, Warehouse

TRAINING_SET = "training_set"


def build_feature_store(
    project: Project, features: Features, warehouse: Warehouse, *, now: datetime
) -> Built | None:
    """Build the feature store as of now; None where the one that is there is still right."""
    with warehouse.transaction() as transaction:
        builds.lock(transaction, features.table)
        pinned = sources.pin(transaction, project, features.sources)
        recipe = Recipe(
            name=features.table,
            definition=_definition(features, project),
            sources=tuple(pinned.values()),
            query=point_in_time.feature_store(features, project, pinned, now),
            key=(features.entity.column,),
            as_of=now,
        )
        current = builds.current_builds(transaction, features.table).get(recipe.period)
        if current and current.is_of(recipe):
            since = current.as_of
            if not _something_began(transaction, project, pinned, since=since, now=now):
                return None
        return builds.make(transaction, recipe)


def build_training_set(
    project: Project, features: Features, warehouse: Warehouse, *, now: datetime
) -> Built | None:
    """Build the training set; None where the one that is there is still right.

    Without `as_of` its moment is that of the feature store, and it is built anew with it.
    """
    with warehouse.transaction() as transaction:
        builds.lock(transaction, TRAINING_SET)
        pinned = sources.pin(transaction, project, features.sources)
        moment = now
        if features.as_of is None:
            moment = builds.current_builds(transaction, features.table)["all"].as_of
        recipe = Recipe(
            name=TRAINING_SET,
            definition=_definition(features, project),
            sources=tuple(pinned.values()),
            query=point_in_time.training_set(features, project, pinned, moment),
            key=(features.entity.column,),
            as_of=moment,
        )
        current = builds.current_builds(transaction, TRAINING_SET).get(recipe.period)
        same_moment = features.as_of is not None or (current and current.as_of == moment)
        if current and current.is_of(recipe) and same_moment:
            return None
        return builds.make(transaction, recipe)


def _definition(features: Features, project: Project) -> str:
    """A digest of everything declared that decides the rows."""
    validity = {
        name: (project.tables.get(name) or project.derived[name]).valid for name in features.sources
    }
    text = json.dumps([asdict(features), validity], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _something_began(
    transaction: Transaction,
    project: Project,
    pinned: Mapping[str, Source],
    *,
    since: datetime,
    now: datetime,
) -> bool:
    """Whether a row of a history became valid between two moments: time alone made it stale."""
    for name, source in pinned.items():
        declared = project.tables.get(name) or project.derived[name]
        if declared.valid and transaction.value(
            SQL(
                "SELECT EXISTS (SELECT FROM ({rows}) AS history "
                "WHERE {begin} > %s AND {begin} <= %s)"
            ).format(rows=source.rows, begin=Identifier(declared.valid[0])),
            [since, now],
        ):
            return True
    return False
