"""Turns values into what a model sees: the one place, for training and for answering alike.

It refuses what a model could not tell apart (integers beyond 2**53) and what is not of the
feature's type; it never guesses. Who answers requests needs no Arrow: it is loaded for tables.
"""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from gristmill.errors import InvalidFeatures

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import pyarrow as pa
    from numpy.typing import NDArray

    from gristmill.project.features import Feature

    Inputs = dict[str, NDArray[Any]]

NULL_TEXT = "\x00null"
"""What stands for null among texts: neither Postgres nor a request can hold a NUL."""

LARGEST_INTEGER = 2**53
"""Doubles tell all integers apart up to here, and not beyond."""

_EPOCH_DAY = date(1970, 1, 1).toordinal()
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NAN = float("nan")


def encode_table(table: pa.Table, features: Sequence[Feature]) -> Inputs:
    """The features' columns of a table, as a model's inputs.

    Each is an array of shape (rows, 1). Numbers, booleans (0 or 1), dates (days since 1970-01-01)
    and timestamps (seconds since 1970-01-01 UTC) are float64 with NaN for null; texts are `str`
    objects with NULL_TEXT for null. Raises InvalidFeatures where a column holds what the model
    could not tell apart.
    """
    return {
        feature.name: _encode_column(table.column(feature.name), feature).reshape(-1, 1)
        for feature in features
    }


def encode_values(rows: Sequence[Mapping[str, object]], features: Sequence[Feature]) -> Inputs:
    """The same for a few rows of Python values, as a request or the database's driver gives them.

    Dates and timestamps may be ISO 8601 texts; a timestamp without a zone is UTC. None is null.
    Every row must hold every feature: a name that is missing is a KeyError, names that are too
    many are not looked at. Raises InvalidFeatures, naming the field, where a value is not of the
    feature's type: true is no integer, 3.0 is no integer, "3" is no number.
    """
    inputs: Inputs = {}
    shape = (len(rows), 1)
    for feature in features:
        name, kind = feature.name, feature.type
        encode = _VALUE_ENCODERS[kind]
        try:
            column = [encode(row[name]) for row in rows]
        except (TypeError, ValueError, OverflowError) as error:
            raise InvalidFeatures(
                f"{name} must be {_DESCRIPTIONS[kind]}, or null: {error}", field=name
            ) from error
        dtype = object if kind == "text" else np.float64
        inputs[name] = np.array(column, dtype=dtype).reshape(shape)
    return inputs


# Columns


def _encode_column(column: pa.ChunkedArray, feature: Feature) -> NDArray[Any]:
    import pyarrow as pa
    import pyarrow.compute as pc

    if feature.type == "text":
        texts = _checked_texts(pc.cast(column, pa.string()), feature)
        return cast("NDArray[Any]", texts.to_numpy())
    if pa.types.is_decimal(column.type):
        # By way of text: the only route that rounds as Python does, to the nearest double.
        column = pc.cast(column, pa.string())
    elif feature.type == "integer":
        _check_integers(column, feature)
    elif feature.type == "date":
        column = pc.cast(pc.cast(column, pa.date32()), pa.int32())
    elif feature.type == "timestamp":
        column = pc.cast(pc.cast(column, _timestamp_type(column.type), safe=False), pa.int64())
    numbers = np.array(pc.cast(column, pa.float64(), safe=False).to_numpy(), dtype=np.float64)
    if feature.type == "timestamp":
        numbers /= 1e6
    if np.isinf(numbers).any():
        raise InvalidFeatures(
            f"{feature.name} holds an infinite number; a feature must be finite or null. "
            "Mend the SQL or the file that it comes from.",
            field=feature.name,
        )
    return numbers


def _timestamp_type(kind: pa.DataType) -> pa.DataType:
    """Microseconds, as Postgres has them, in the zone that the column already names."""
    import pyarrow as pa

    return pa.timestamp("us", tz=kind.tz if pa.types.is_timestamp(kind) else None)


def _checked_texts(column: pa.ChunkedArray, feature: Feature) -> pa.ChunkedArray:
    import pyarrow.compute as pc

    if pc.any(pc.equal(column, NULL_TEXT)).as_py():
        raise InvalidFeatures(
            f"{feature.name} holds the text that stands for null among texts.", field=feature.name
        )
    return pc.fill_null(column, NULL_TEXT)


def _check_integers(column: pa.ChunkedArray, feature: Feature) -> None:
    import pyarrow.compute as pc

    extremes = pc.min_max(column)
    for extreme in (extremes["min"].as_py(), extremes["max"].as_py()):
        if extreme is not None and abs(extreme) > LARGEST_INTEGER:
            raise InvalidFeatures(
                f"{feature.name} holds {extreme}, beyond ±2**53: a model could not tell it from "
                "its neighbours. If it is an identifier, leave it out or declare it as text.",
                field=feature.name,
            )


# Values


def _integer(value: object) -> float:
    if value is None:
        return _NAN
    if type(value) is not int:
        raise TypeError(_found(value))
    if not -LARGEST_INTEGER <= value <= LARGEST_INTEGER:
        raise ValueError(f"{value} is beyond ±2**53, where a model cannot tell integers apart")
    return float(value)


def _number(value: object) -> float:
    if type(value) is float or type(value) is int or isinstance(value, Decimal):
        number = float(value)
        if number in (float("inf"), float("-inf")):
            raise ValueError("found an infinite number")
        return number
    if value is None:
        return _NAN
    raise TypeError(_found(value))


def _boolean(value: object) -> float:
    if value is None:
        return _NAN
    if type(value) is not bool:
        raise TypeError(_found(value))
    return float(value)


def _text(value: object) -> str:
    if value is None:
        return NULL_TEXT
    if type(value) is not str:
        raise TypeError(_found(value))
    if "\x00" in value:
        raise ValueError("a text cannot hold the character U+0000")
    if not value.isascii():
        value.encode()  # a lone surrogate is no text: UnicodeEncodeError is a ValueError
    return value


def _date(value: object) -> float:
    if value is None:
        return _NAN
    if type(value) is str:
        if len(value) != 10 or value[4] != "-" or value[7] != "-":
            raise ValueError(f"found {value!r}")
        value = date.fromisoformat(value)
    if type(value) is not date:
        raise TypeError(_found(value))
    return float(value.toordinal() - _EPOCH_DAY)


def _timestamp(value: object) -> float:
    if value is None:
        return _NAN
    if type(value) is str:
        value = datetime.fromisoformat(value)
    if not isinstance(value, datetime):
        raise TypeError(_found(value))
    since = (value if value.tzinfo else value.replace(tzinfo=UTC)) - _EPOCH
    microseconds = (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
    # Rounded to a double before dividing, as numpy does with a whole column.
    return float(microseconds) / 1e6


def _found(value: object) -> str:
    if isinstance(value, (list, dict)):
        # What is nested deeply cannot be shown: showing it recurses.
        return f"found a {type(value).__name__}"
    return f"found {value!r}" if len(repr(value)) <= 80 else f"found a {type(value).__name__}"


_VALUE_ENCODERS: dict[str, Callable[[object], Any]] = {
    "integer": _integer,
    "number": _number,
    "boolean": _boolean,
    "text": _text,
    "date": _date,
    "timestamp": _timestamp,
}

_DESCRIPTIONS = {
    "integer": "a whole number without a decimal point",
    "number": "a finite number",
    "boolean": "true or false",
    "text": "a text",
    "date": "a date such as 2020-01-31",
    "timestamp": "a time such as 2020-01-31T12:00:00Z",
}
