"""Features → SQL: for each entity at a moment, the row of each source that was valid then.

Of a history the row counts that has the greatest `valid_from` not after the moment: the same
statement serves training (the moment is the label's) and answering (the moment is now).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gristmill.project.check import join_column
from gristmill.warehouse.sql import SQL, Composed, Identifier, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from gristmill.features.sources import Source
    from gristmill.project.features import ColumnReference, Features
    from gristmill.project.project import Project

AS_OF = "as_of"
"""The training set's column that holds the moment of each row."""


def feature_store(
    features: Features, project: Project, pinned: Mapping[str, Source], now: datetime
) -> Composed:
    """One row per entity: entity, features as of now, and the label where it is known."""
    entities = _entities(features, pinned, moment=Literal(now), labelled=False)
    return _joined(features, project, pinned, entities, with_moment=False)


def training_set(
    features: Features, project: Project, pinned: Mapping[str, Source], now: datetime
) -> Composed:
    """One row per label: entity, features as of the label's moment (or now), label, the moment."""
    as_of = SQL("labels.{}").format(Identifier(features.as_of.column)) if features.as_of else None
    entities = _entities(features, pinned, moment=as_of or Literal(now), labelled=True)
    return _joined(features, project, pinned, entities, with_moment=as_of is not None)


def _entities(
    features: Features,
    pinned: Mapping[str, Source],
    *,
    moment: Composed | Literal,
    labelled: bool,
) -> Composed:
    """Who gets a row, and the moment that counts for it."""
    entity = Identifier(features.entity.column)
    if labelled and features.label:
        return SQL(
            "SELECT labels.{entity} AS entity, {moment} AS moment FROM ({labels}) AS labels "
            "WHERE labels.{label} IS NOT NULL AND labels.{entity} IN "
            "(SELECT {entity} FROM ({entities}) AS entities)"
        ).format(
            entity=entity,
            moment=moment,
            labels=pinned[features.label.table].rows,
            label=Identifier(features.label.column),
            entities=pinned[features.entity.table].rows,
        )
    return SQL("SELECT {entity} AS entity, {moment} AS moment FROM ({rows}) AS entities").format(
        entity=entity, moment=moment, rows=pinned[features.entity.table].rows
    )


def _joined(
    features: Features,
    project: Project,
    pinned: Mapping[str, Source],
    entities: Composed,
    *,
    with_moment: bool,
) -> Composed:
    wanted = [*features.features, *([features.label] if features.label else [])]
    used = tuple(dict.fromkeys(reference.table for reference in wanted))
    aliases = {table: f"source_{number}" for number, table in enumerate(used)}
    columns = [SQL("entities.entity AS {}").format(Identifier(features.entity.column))]
    columns += [_column(reference, aliases) for reference in wanted]
    if with_moment:
        columns.append(SQL("entities.moment AS {}").format(Identifier(AS_OF)))
    joins = [_join(table, alias, features, project, pinned) for table, alias in aliases.items()]
    return SQL(
        "WITH entities AS MATERIALIZED ({entities}) SELECT {columns} FROM entities {joins}"
    ).format(entities=entities, columns=SQL(", ").join(columns), joins=SQL(" ").join(joins))


def _column(reference: ColumnReference, aliases: Mapping[str, str]) -> Composed:
    return SQL("{}.{}").format(Identifier(aliases[reference.table]), Identifier(reference.column))


def _join(
    table: str,
    alias: str,
    features: Features,
    project: Project,
    pinned: Mapping[str, Source],
) -> Composed:
    column = Identifier(join_column(table, features, project) or features.entity.column)
    declared = project.tables.get(table) or project.derived[table]
    if not declared.valid:
        return SQL("LEFT JOIN ({rows}) AS {alias} ON {alias}.{column} = entities.entity").format(
            rows=pinned[table].rows, alias=Identifier(alias), column=column
        )
    return SQL(
        "LEFT JOIN (SELECT history.{column} AS entity, max(history.{valid_from}) AS valid_from "
        "FROM entities JOIN ({rows}) AS history ON history.{column} = entities.entity "
        "AND history.{valid_from} <= entities.moment GROUP BY history.{column}) AS {latest} "
        "ON {latest}.entity = entities.entity "
        "LEFT JOIN ({rows}) AS {alias} ON {alias}.{column} = {latest}.entity "
        "AND {alias}.{valid_from} = {latest}.valid_from"
    ).format(
        rows=pinned[table].rows,
        alias=Identifier(alias),
        latest=Identifier(f"latest_{alias}"),
        column=column,
        valid_from=Identifier(declared.valid[0]),
    )
