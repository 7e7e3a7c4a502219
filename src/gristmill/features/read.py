"""The only two ways out of the features: `training_set` for training, `latest` for answering."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.csv as arrow_csv

from gristmill.errors import BuildError, EntityNotFound
from gristmill.features import builds
from gristmill.features.sources import queries
from gristmill.project.features import TRAINING_SET, Feature
from gristmill.project.table import ALL
from gristmill.warehouse.sql import SQL, Composed, Identifier, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from datetime import datetime

    from gristmill.features.builds import CurrentBuild
    from gristmill.project.features import Features, FeatureType
    from gristmill.warehouse.connection import Transaction, Warehouse


@dataclass(frozen=True, kw_only=True)
class TrainingSet:
    """One row per label: the features as of the time the label was known."""

    entity: str
    """The name of the entity's column."""
    features: tuple[Feature, ...]
    """The model's inputs, in order."""
    label: str
    """The name of the label's column: integers 0 and 1, no null."""
    table: pa.Table
    """The columns entity, features…, label, and `as_of` where the project names one."""
    build: int
    """The build it was read from."""


@dataclass(frozen=True, kw_only=True)
class LatestFeatures:
    """One entity's features as the feature store has them."""

    features: dict[str, object]
    as_of: datetime
    """The moment that the feature store describes."""


_FEATURE_TYPES: dict[str, FeatureType] = {
    "smallint": "integer",
    "integer": "integer",
    "bigint": "integer",
    "real": "number",
    "double precision": "number",
    "numeric": "number",
    "text": "text",
    "character varying": "text",
    "date": "date",
    "timestamp with time zone": "timestamp",
    "boolean": "boolean",
}
_ARROW_TYPES: dict[FeatureType, pa.DataType] = {
    "integer": pa.int64(),
    "number": pa.float64(),
    "text": pa.string(),
    "date": pa.date32(),
    "timestamp": pa.timestamp("us", tz="UTC"),
    "boolean": pa.bool_(),
}


def training_set(features: Features, warehouse: Warehouse) -> TrainingSet:
    """The current training set, in the order of its entities.

    Raises BuildError where none was built, or a feature has a type that no model takes.
    """
    if features.label is None:
        raise BuildError("The project declares no label, so there is nothing to train on.")
    with warehouse.transaction() as transaction:
        build = _current(transaction, TRAINING_SET)
        types = _types(transaction, TRAINING_SET)
        table = _table(transaction, build, types, order=features.entity.column)
    label = table.column_names.index(features.label.column)
    table = table.set_column(label, features.label.column, table.column(label).cast(pa.int64()))
    return TrainingSet(
        entity=features.entity.column,
        features=tuple(
            Feature(name=one.column, type=types[one.column]) for one in features.features
        ),
        label=features.label.column,
        table=table,
        build=build.build,
    )


def entity_type(features: Features, warehouse: Warehouse) -> FeatureType:
    """The type of the entity's key in the feature store."""
    with warehouse.transaction() as transaction:
        _current(transaction, features.table)
        return _types(transaction, features.table)[features.entity.column]


def latest(features: Features, warehouse: Warehouse, entity: object) -> LatestFeatures:
    """One entity's features as of the feature store's moment.

    Raises EntityNotFound, BuildError where there is no feature store yet.
    """
    wanted = [one.column for one in features.features]
    with warehouse.transaction() as transaction:
        build = _current(transaction, features.table)
        types = _types(transaction, features.table)
        row = transaction.row(
            SQL(
                "SELECT {columns} FROM builds.{table} WHERE _build = {build} AND {key} = {entity}"
            ).format(
                columns=SQL(", ").join(
                    SQL("{column}::double precision AS {column}").format(column=Identifier(name))
                    if types[name] == "number"
                    else Identifier(name)
                    for name in wanted
                ),
                table=Identifier(features.table),
                build=build.build,
                key=Identifier(features.entity.column),
                entity=Literal(entity),
            )
        )
    if row is None:
        raise EntityNotFound(
            f"The feature store has no {features.entity.column} {entity!r}. Its rows are those of "
            f"{features.entity.table} as of {build.as_of:%Y-%m-%d %H:%M} UTC."
        )
    return LatestFeatures(features=row, as_of=build.as_of)


def any_entity(features: Features, warehouse: Warehouse) -> object:
    """The key of one entity of the feature store, the same every time: for an example."""
    with warehouse.transaction() as transaction:
        build = _current(transaction, features.table)
        return transaction.value(
            SQL("SELECT {key} FROM builds.{table} WHERE _build = {build} ORDER BY {key} LIMIT 1")
            .format(
                key=Identifier(features.entity.column),
                table=Identifier(features.table),
                build=build.build,
            )
        )  # fmt: skip


def all_latest(features: Features, warehouse: Warehouse) -> pa.Table:
    """The whole feature store: entity and features, one row per entity, in the entities' order."""
    with warehouse.transaction() as transaction:
        build = _current(transaction, features.table)
        wanted = [features.entity.column, *(one.column for one in features.features)]
        types = _types(transaction, features.table)
        return _table(
            transaction,
            build,
            {name: types[name] for name in wanted},
            order=features.entity.column,
        )


def _current(transaction: Transaction, name: str) -> CurrentBuild:
    found = builds.current_builds(transaction, name).get(ALL)
    if found is None:
        raise BuildError(f"{name} was never built. Run `gristmill build` first.")
    return found


def _types(transaction: Transaction, name: str) -> dict[str, FeatureType]:
    """The columns of a build as types of features."""
    types: dict[str, FeatureType] = {}
    for row in transaction.rows(queries.columns, {"relation": f'builds."{name}"'}):
        kind = _FEATURE_TYPES.get(row["type"].split("(")[0])
        if kind is None:
            raise BuildError(
                f"{name}: the column {row['name']!r} is {row['type']}, which no model takes. "
                f"Cast it in the SELECT to one of: {', '.join(_FEATURE_TYPES)}."
            )
        types[row["name"]] = kind
    return types


def _table(
    transaction: Transaction,
    build: CurrentBuild,
    types: Mapping[str, FeatureType],
    *,
    order: str,
) -> pa.Table:
    """Columns of a build as an Arrow table, exactly: floats and nulls survive the way."""
    name = transaction.value("SELECT name FROM gristmill.builds WHERE build = %s", [build.build])
    # A time is printed in UTC in the one form that the reader knows.
    columns = SQL(", ").join(
        SQL("to_char({} AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.USZ')").format(
            Identifier(column)
        )
        if kind == "timestamp"
        else SQL("{}::double precision").format(Identifier(column))
        if kind == "number"
        else Identifier(column)
        for column, kind in types.items()
    )
    statement = SQL(
        "COPY (SELECT {columns} FROM builds.{table} WHERE _build = {build} ORDER BY {order}) "
        "TO STDOUT (FORMAT csv)"
    ).format(columns=columns, table=Identifier(name), build=build.build, order=Identifier(order))
    content = b"".join(_bytes(transaction, statement))
    kinds = {column: _ARROW_TYPES[kind] for column, kind in types.items()}
    if not content:
        return pa.schema(list(kinds.items())).empty_table()
    return arrow_csv.read_csv(
        pa.BufferReader(content),
        read_options=arrow_csv.ReadOptions(column_names=list(types)),
        parse_options=arrow_csv.ParseOptions(newlines_in_values=True, ignore_empty_lines=False),
        convert_options=arrow_csv.ConvertOptions(
            column_types=kinds,
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
            true_values=["t"],
            false_values=["f"],
        ),
    )


def _bytes(transaction: Transaction, statement: Composed) -> Iterator[bytes]:
    yield from map(bytes, transaction.copy_out(statement))
