"""Features → SQL: for each entity at a moment, the row of each source that was valid then.

Of a history the row counts that has the greatest `valid_from` not after the moment: the same
statement serves training (the moment is the label's) and answering (the moment is now).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gristmill.project.check import join_column
from gristmill.project.features import AS_OF
from gristmill.warehouse.sql import SQL, Composed, Identifier, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from gristmill.features.sources import Source
    from gristmill.project.features import ColumnReference, Features
    from gristmill.project.project import Project


def feature_store(
    features: Features, project: Project, pinned: Mapping[str, Source], now: datetime
) -> Composed:
    """One row per entity: entity, features as of now, and the label where it is known."""
    entities = SQL("SELECT {entity} AS entity, {now} AS moment FROM ({rows}) AS entities").format(
        entity=Identifier(features.entity.column),
        now=Literal(now),
        rows=pinned[features.entity.table].rows,
    )
    return _joined(features, project, pinned, entities, moments=[])


def training_set(
    features: Features,
    label: ColumnReference,
    as_of: ColumnReference,
    project: Project,
    pinned: Mapping[str, Source],
) -> Composed:
    """One row per label: entity, features as of the label's moment, the label, the moment."""
    entities = SQL(
        "SELECT labels.{entity} AS entity, labels.{as_of} AS moment FROM ({labels}) AS labels "
        "WHERE labels.{label} IS NOT NULL "
        "AND labels.{entity} IN (SELECT {key} FROM ({entities}) AS entities)"
    ).format(
        entity=Identifier(join_column(label.table, features, project) or features.entity.column),
        as_of=Identifier(as_of.column),
        labels=pinned[label.table].rows,
        label=Identifier(label.column),
        key=Identifier(features.entity.column),
        entities=pinned[features.entity.table].rows,
    )
    moment = SQL("entities.moment AS {}").format(Identifier(AS_OF))
    return _joined(features, project, pinned, entities, moments=[moment])


def labelled_features(features: Features, label: ColumnReference, store: Source) -> Composed:
    """One row per label without a moment of its own: the feature store's rows that have one."""
    columns = [features.entity.column, *(one.column for one in features.features), label.column]
    return SQL("SELECT {columns} FROM ({rows}) AS store WHERE {label} IS NOT NULL").format(
        columns=SQL(", ").join(Identifier(column) for column in columns),
        rows=store.rows,
        label=Identifier(label.column),
    )


def _joined(
    features: Features,
    project: Project,
    pinned: Mapping[str, Source],
    entities: Composed,
    *,
    moments: list[Composed],
) -> Composed:
    """Who gets a row (entity, moment), with the features that were valid then."""
    wanted = [*features.features, *([features.label] if features.label else [])]
    used = tuple(dict.fromkeys(reference.table for reference in wanted))
    aliases = {table: f"source_{number}" for number, table in enumerate(used)}
    columns = [SQL("entities.entity AS {}").format(Identifier(features.entity.column))]
    columns += [_column(reference, aliases) for reference in wanted]
    joins = [
        SQL("LEFT JOIN ({valid}) AS {alias} ON {alias}._entity = entities.entity").format(
            valid=_valid(table, features, project, pinned, entities), alias=Identifier(alias)
        )
        for table, alias in aliases.items()
    ]
    return SQL("SELECT {columns} FROM ({entities}) AS entities {joins}").format(
        columns=SQL(", ").join([*columns, *moments]),
        entities=entities,
        joins=SQL(" ").join(joins),
    )


def _column(reference: ColumnReference, aliases: Mapping[str, str]) -> Composed:
    return SQL("{}.{}").format(Identifier(aliases[reference.table]), Identifier(reference.column))


def _valid(
    table: str,
    features: Features,
    project: Project,
    pinned: Mapping[str, Source],
    entities: Composed,
) -> Composed:
    """At most one row of a source for each entity, `_entity` beside its columns."""
    column = Identifier(join_column(table, features, project) or features.entity.column)
    declared = project.tables.get(table) or project.derived[table]
    if not declared.valid:
        return SQL("SELECT {column} AS _entity, rows.* FROM ({rows}) AS rows").format(
            column=column, rows=pinned[table].rows
        )
    return SQL(
        "SELECT DISTINCT ON (moments.entity) moments.entity AS _entity, history.* "
        "FROM ({entities}) AS moments JOIN ({rows}) AS history "
        "ON history.{column} = moments.entity AND history.{valid_from} <= moments.moment "
        "ORDER BY moments.entity, history.{valid_from} DESC"
    ).format(
        entities=entities,
        rows=pinned[table].rows,
        column=column,
        valid_from=Identifier(declared.valid[0]),
    )
