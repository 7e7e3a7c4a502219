"""The only two ways out of the features: `training_set` for training, `latest…` for answering."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, LiteralString

from gristmill.errors import BuildError, EntityNotFound
from gristmill.features import builds
from gristmill.features.sources import queries
from gristmill.project.features import TRAINING_SET, Feature
from gristmill.project.table import ALL
from gristmill.warehouse.sql import SQL, Composed, Identifier, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from datetime import datetime

    import pyarrow as pa

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


@dataclass(frozen=True, kw_only=True)
class LatestBatch:
    """Some entities with their latest features, in the order of their keys."""

    keys: pa.ChunkedArray
    """The entities' keys as texts."""
    features: pa.Table
    """A column per feature, by its name."""
    records: pa.ChunkedArray
    """The features of each as a JSON object: NaN is null, dates and times are ISO 8601."""


FEATURE_TYPES: dict[str, FeatureType] = {
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
"""PostgreSQL's types that a feature may have, without their size."""
_POSTGRES_TYPES: dict[FeatureType, LiteralString] = {
    "integer": "bigint",
    "number": "numeric",
    "text": "text",
    "date": "date",
    "timestamp": "timestamptz",
    "boolean": "boolean",
}
# No column of a project has a blank in its name.
_PLACE, _RECORD = "the place", "the record"


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
    table = table.set_column(label, features.label.column, _as_integers(table.column(label)))
    return TrainingSet(
        entity=features.entity.column,
        features=tuple(
            Feature(name=one.column, type=types[one.column]) for one in features.features
        ),
        label=features.label.column,
        table=table,
        build=build.build,
    )


def _as_integers(labels: pa.ChunkedArray) -> pa.ChunkedArray:
    """Labels as 0 and 1; those that are no whole numbers as they are, for the split to refuse."""
    import pyarrow as pa

    try:
        return labels.cast(pa.int64())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return labels


def entity_type(features: Features, warehouse: Warehouse) -> FeatureType:
    """The type of the entity's key in the feature store."""
    with warehouse.transaction() as transaction:
        _current(transaction, features.table)
        return _types(transaction, features.table)[features.entity.column]


def latest(features: Features, warehouse: Warehouse, entity: object) -> LatestFeatures:
    """One entity's features as of the feature store's moment.

    Raises EntityNotFound, BuildError where there is no feature store yet.
    """
    return latest_of(features, warehouse, [entity])[0]


def latest_of(
    features: Features, warehouse: Warehouse, entities: Sequence[object]
) -> list[LatestFeatures]:
    """The same for some entities, in their order, by one query.

    Raises EntityNotFound for the first that is not there; then none is returned.
    """
    with warehouse.transaction() as transaction:
        build = _current(transaction, features.table)
        types = _types(transaction, features.table)
        key = features.entity.column
        rows = transaction.rows(
            SQL(
                "SELECT given.place AS {place}, {columns} "
                "FROM unnest({keys}::text[]) WITH ORDINALITY AS given (key, place) "
                "JOIN builds.{table} AS store "
                "ON store._build = {build} AND store.{key} = given.key::{type}"
            ).format(
                place=Identifier(_PLACE),
                columns=SQL(", ").join(
                    SQL("store.{0}{1} AS {0}").format(
                        Identifier(name),
                        SQL("::double precision" if types[name] == "number" else ""),
                    )
                    for name in _names(features, types)
                ),
                keys=Literal([str(entity) for entity in entities]),
                table=Identifier(features.table),
                build=build.build,
                key=Identifier(key),
                type=SQL(_POSTGRES_TYPES[types[key]]),
            )
        )
    found = {row.pop(_PLACE): row for row in rows}
    for place, entity in enumerate(entities, start=1):
        if place not in found:
            raise EntityNotFound(
                f"The feature store has no {key} {entity!r}. "
                f"It was built as of {build.as_of:%Y-%m-%d %H:%M} UTC."
            )
    return [
        LatestFeatures(features=found[place], as_of=build.as_of)
        for place in range(1, len(entities) + 1)
    ]


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


def feature_store_build(features: Features, transaction: Transaction) -> CurrentBuild:
    """The current build of the feature store; raises BuildError where there is none."""
    return _current(transaction, features.table)


def latest_batches(
    features: Features, transaction: Transaction, build: int, *, size: int
) -> Iterator[LatestBatch]:
    """Everyone in a build of the feature store, up to `size` of them at a time.

    No more than a batch is held, here and in the database. Raises BuildError where the feature
    store lacks a feature.
    """
    types = _types(transaction, features.table)
    names = _names(features, types)
    after: str | None = None
    while True:
        statement = _batch_statement(features, types, names, build, after=after, size=size)
        kinds: dict[str, FeatureType] = {_PLACE: "text", _RECORD: "text"}
        kinds |= {name: types[name] for name in names}
        table = read_csv(transaction, statement, _arrow_types(kinds))
        if table.num_rows:
            keys = table.column(_PLACE)
            yield LatestBatch(
                keys=keys, features=table.select(names), records=table.column(_RECORD)
            )
            after = keys[-1].as_py()
        if table.num_rows < size:
            return


def _batch_statement(
    features: Features,
    types: Mapping[str, FeatureType],
    names: Sequence[str],
    build: int,
    *,
    after: str | None,
    size: int,
) -> Composed:
    """A COPY of the next rows behind a key: key, record, features."""
    key = Identifier(features.entity.column)
    plain = SQL(", ").join(
        SQL("nullif({0}::double precision, 'NaN') AS {0}").format(Identifier(name))
        if types[name] == "number"
        else Identifier(name)
        for name in names
    )
    return SQL(
        # Its key by the table's name: ORDER BY would take the column of that name that is given
        # out, and texts have an order of their own.
        "COPY (SELECT store.{key}::text, "
        "(SELECT row_to_json(record) FROM (SELECT {plain}) AS record), {columns} "
        "FROM builds.{table} AS store WHERE _build = {build} {behind} "
        "ORDER BY store.{key} LIMIT {size}) "
        "TO STDOUT (FORMAT csv)"
    ).format(
        key=key,
        plain=plain,
        columns=SQL(", ").join(_as_csv(name, types[name]) for name in names),
        table=Identifier(features.table),
        build=build,
        # The text takes the key's own type, whatever that is.
        behind=SQL("AND store.{} > {}").format(key, Literal(after))
        if after is not None
        else SQL(""),
        size=size,
    )


def _names(features: Features, types: Mapping[str, FeatureType]) -> list[str]:
    """The features' columns; raises BuildError where the feature store lacks one."""
    names = [one.column for one in features.features]
    missing = [name for name in [features.entity.column, *names] if name not in types]
    if missing:
        raise BuildError(
            f"{features.table} has no {', '.join(missing)}, which is asked of it. It has "
            f"{', '.join(types)}: train a model of these, or declare the feature and build again."
        )
    return names


def _current(transaction: Transaction, name: str) -> CurrentBuild:
    found = builds.current_builds(transaction, name).get(ALL)
    if found is None:
        raise BuildError(f"{name} was never built. Run `gristmill build` first.")
    return found


def _types(transaction: Transaction, name: str) -> dict[str, FeatureType]:
    """The columns of a build as types of features."""
    types: dict[str, FeatureType] = {}
    for row in transaction.rows(queries.columns, {"relation": f'builds."{name}"'}):
        kind = FEATURE_TYPES.get(row["type"].split("(")[0])
        if kind is None:
            raise BuildError(
                f"{name}: the column {row['name']!r} is {row['type']}, which no model takes. "
                f"Cast it in the SELECT to one of: {', '.join(FEATURE_TYPES)}."
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
    statement = SQL(
        "COPY (SELECT {columns} FROM builds.{table} WHERE _build = {build} ORDER BY {order}) "
        "TO STDOUT (FORMAT csv)"
    ).format(
        columns=SQL(", ").join(_as_csv(column, kind) for column, kind in types.items()),
        table=Identifier(name),
        build=build.build,
        order=Identifier(order),
    )
    return read_csv(transaction, statement, _arrow_types(types))


def _arrow_types(kinds: Mapping[str, FeatureType]) -> dict[str, pa.DataType]:
    import pyarrow as pa

    types: dict[FeatureType, pa.DataType] = {
        "integer": pa.int64(),
        "number": pa.float64(),
        "text": pa.string(),
        "date": pa.date32(),
        "timestamp": pa.timestamp("us", tz="UTC"),
        "boolean": pa.bool_(),
    }
    return {name: types[kind] for name, kind in kinds.items()}


def _as_csv(column: str, kind: FeatureType) -> Composed:
    """A column as the reader takes it: a time is printed in UTC in the one form that it knows."""
    if kind == "timestamp":
        return SQL("to_char({} AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.USZ')").format(
            Identifier(column)
        )
    if kind == "number":
        return SQL("{}::double precision").format(Identifier(column))
    return SQL("{}").format(Identifier(column))


def read_csv(
    transaction: Transaction, statement: Composed, kinds: Mapping[str, pa.DataType]
) -> pa.Table:
    """What a COPY … TO STDOUT (FORMAT csv) gives, its columns as these types."""
    import pyarrow as pa
    import pyarrow.csv as arrow_csv

    content = b"".join(_bytes(transaction, statement))
    if not content:
        return pa.schema(list(kinds.items())).empty_table()
    return arrow_csv.read_csv(
        pa.BufferReader(content),
        read_options=arrow_csv.ReadOptions(column_names=list(kinds)),
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
