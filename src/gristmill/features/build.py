"""Builds the feature store and the training set, when what they read has changed."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from gristmill.features import builds, point_in_time, sources
from gristmill.features.builds import Built, Recipe
from gristmill.project.features import TRAINING_SET as TRAINING_SET  # part of this room's surface
from gristmill.warehouse.sql import SQL, Identifier, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from gristmill.features.sources import Source
    from gristmill.project.features import ColumnReference, Features
    from gristmill.project.project import Project
    from gristmill.warehouse.connection import Transaction, Warehouse


def build_feature_store(
    project: Project, features: Features, warehouse: Warehouse, *, now: datetime
) -> Built | None:
    """Build the feature store as of now; None where the one that is there is still right."""
    with warehouse.transaction() as transaction:
        builds.lock(transaction, features.table)
        recipe, pinned = feature_store_recipe(transaction, project, features, now=now)
        current = builds.current_builds(transaction, features.table).get(recipe.period)
        if current and current.is_of(recipe):
            since = current.as_of
            if not _something_began(transaction, project, pinned, since=since, now=now):
                return None
        _prefer_whole_tables(transaction)
        return builds.make(transaction, recipe)


def feature_store_recipe(
    transaction: Transaction, project: Project, features: Features, *, now: datetime
) -> tuple[Recipe, Mapping[str, Source]]:
    """What the feature store is made of as things are, and its sources."""
    pinned = sources.pin(transaction, project, features.sources)
    recipe = Recipe(
        name=features.table,
        definition=_definition(features, project),
        sources=tuple(pinned.values()),
        query=point_in_time.feature_store(features, project, pinned, now),
        key=(features.entity.column,),
        as_of=now,
    )
    return recipe, pinned


def build_training_set(
    project: Project, features: Features, warehouse: Warehouse, *, now: datetime
) -> Built | None:
    """Build the training set; None where the one that is there is still right, or without label.

    Without `as_of` its moment is that of the feature store, whose labelled rows it then holds.
    """
    if features.label is None:
        return None
    with warehouse.transaction() as transaction:
        builds.lock(transaction, TRAINING_SET)
        recipe = training_set_recipe(transaction, project, features, features.label, now=now)
        current = builds.current_builds(transaction, TRAINING_SET).get(recipe.period)
        if current and current.is_of(recipe):
            return None
        _prefer_whole_tables(transaction)
        return builds.make(transaction, recipe)


def training_set_recipe(
    transaction: Transaction,
    project: Project,
    features: Features,
    label: ColumnReference,
    *,
    now: datetime,
) -> Recipe:
    """What the training set is made of as things are."""
    if features.as_of is None:
        pinned = sources.pin(transaction, project, [features.table])
        query = point_in_time.labelled_features(features, label, pinned[features.table])
    else:
        pinned = sources.pin(transaction, project, features.sources)
        query = point_in_time.training_set(features, label, features.as_of, project, pinned)
    return Recipe(
        name=TRAINING_SET,
        definition=_definition(features, project),
        sources=tuple(pinned.values()),
        query=query,
        key=(features.entity.column,),
        as_of=now,
    )


def _prefer_whole_tables(transaction: Transaction) -> None:
    """Tell the planner that every row is wanted, which it misjudges behind the ledger's marks.

    Walking a history by its key took 3 to 5 times as long as hashing and sorting it (see
    docs/benchmarks.md).
    """
    for method in ("nestloop", "indexscan", "bitmapscan"):
        transaction.execute(SQL("SET LOCAL {} = off").format(Identifier(f"enable_{method}")))


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
                "WHERE {begin} > {since} AND {begin} <= {now})"
            ).format(
                rows=source.rows,
                begin=Identifier(declared.valid[0]),
                since=Literal(since),
                now=Literal(now),
            )
        ):
            return True
    return False
