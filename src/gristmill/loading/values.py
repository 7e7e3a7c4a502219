"""Texts → typed values by the grammar of the project file, and the rules of one column.

What PostgreSQL or a parser would guess (`today`, `0x1F`, `05/01/2020`) is not accepted.
"""

from __future__ import annotations

import re
from datetime import date
from decimal import Decimal
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gristmill.project.grammar import FORMS, parse_date, parse_timestamp, value_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from gristmill.project.table import Column

    Mask = NDArray[np.bool_]

_MEANT = {
    "integer": "an integer such as 42 (64 bits)",
    "number": "a finite number such as -1.5e3",
    "date": "a date such as 2020-01-31",
    "timestamp": "a time such as 2020-01-31T12:00:00Z",
    "boolean": "true, false, 1 or 0",
    "text": "text",
}
_EPOCH = date(1970, 1, 1)
_FIRST_DAY = (date.min - _EPOCH).days
_DAY_AFTER_LAST = (date.max - _EPOCH).days + 1
"""The days that there are, 0001-01-01 to 9999-12-31, counted from 1970."""
_DAY_MICROSECONDS = 86_400_000_000


def arrow_type(column: Column) -> pa.DataType:
    """The Arrow type that carries a column to the database."""
    if column.type == "decimal":
        wide = column.precision > 38
        return (pa.decimal256 if wide else pa.decimal128)(column.precision, column.scale)
    return {
        "integer": pa.int64(),
        "number": pa.float64(),
        "text": pa.string(),
        "date": pa.date32(),
        "timestamp": pa.timestamp("us", tz="UTC"),
        "boolean": pa.bool_(),
    }[column.type]


def meant(column: Column) -> str:
    """What a value of the column looks like, for a message."""
    if column.type == "decimal":
        return f"a number of at most {column.precision} digits, {column.scale} after the point"
    return _MEANT[column.type]


def typed(texts: pa.Array, column: Column) -> tuple[pa.Array, Mask]:
    """Texts (n) as values (n) of the column's type, and which of them are not of that type (n)."""
    if column.type == "text":
        return texts, np.zeros(len(texts), dtype=bool)
    matching = pc.match_substring_regex(texts, FORMS[column.type])
    candidates = pc.if_else(matching, texts, pa.scalar(None, pa.string()))
    values = _converted(candidates, column)
    return values, as_mask(pc.and_(pc.is_valid(texts), pc.is_null(values)))


def _converted(texts: pa.Array, column: Column) -> pa.Array:
    """Texts of the right form as values; null where the form is right and the value is not."""
    kind = arrow_type(column)
    for first in _FIRST_TRIES.get(column.type, ()):
        try:
            # The grammar lets in a sign that the vectorised conversion does not know.
            values = pc.replace_substring_regex(texts, r"^\+", "").cast(first).cast(kind)
        except pa.ArrowInvalid:
            continue
        if not out_of_range(values, column):
            return values
    return pa.array(
        [None if text is None else _parsed(text, column) for text in texts.to_pylist()], type=kind
    )


_FIRST_TRIES = {
    "integer": (pa.int64(),),
    "number": (pa.float64(),),
    "date": (pa.date32(),),
    # Times that say no zone are in UTC; a column that mixes both is converted one by one.
    "timestamp": (pa.timestamp("us"), pa.timestamp("us", tz="UTC")),
}
"""How a whole column may be converted at once."""


def out_of_range(values: pa.Array, column: Column) -> bool:
    """Whether values hold what the grammar excludes and a fast parser lets in."""
    if column.type == "number":
        return bool(pc.any(pc.invert(pc.is_finite(values))).as_py())
    if column.type in ("date", "timestamp"):
        # As numbers, for Python has no date outside these years either.
        day = 1 if column.type == "date" else _DAY_MICROSECONDS
        numbers = values.cast(pa.int32() if column.type == "date" else pa.int64())
        span = pc.min_max(numbers).as_py()
        return span["min"] is not None and not (
            _FIRST_DAY * day <= span["min"] and span["max"] < _DAY_AFTER_LAST * day
        )
    return False


def _parse_decimal(text: str, column: Column) -> Decimal | None:
    whole, _, fraction = text.lstrip("+-").partition(".")
    whole, fraction = whole.lstrip("0"), fraction.rstrip("0")
    if len(whole) > column.precision - column.scale or len(fraction) > column.scale:
        return None
    return Decimal(f"{'-' if text.startswith('-') else ''}{whole or '0'}.{fraction or '0'}")


def _parsed(text: str, column: Column) -> object | None:
    """One text of the right form as a value; None where it is none."""
    if column.type == "decimal":
        return _parse_decimal(text, column)
    return value_of(text, column.type)


def broken_rules(values: pa.Array, column: Column) -> Iterator[tuple[str, Mask, str]]:
    """The column's rules that some of its values break: rule, which (n), the reason."""
    if not column.nullable and values.null_count:
        yield "null", as_mask(pc.is_null(values)), f"{column.name} is empty"
    for rule, bad, reason in _comparisons(values, column):
        mask = as_mask(bad)
        if mask.any():
            yield rule, mask, reason


def _comparisons(values: pa.Array, column: Column) -> Iterator[tuple[str, pa.Array, str]]:
    if column.allowed:
        allowed = pa.array([constant(value, column) for value in column.allowed], values.type)
        bad = pc.and_(pc.is_valid(values), pc.invert(pc.is_in(values, value_set=allowed)))
        yield "in", bad, f"{column.name} is none of {list(column.allowed)}"
    if column.minimum is not None:
        bad = pc.less(values, pa.scalar(constant(column.minimum, column), values.type))
        yield "min", bad, f"{column.name} is below {column.minimum}"
    if column.maximum is not None:
        bad = pc.greater(values, pa.scalar(constant(column.maximum, column), values.type))
        yield "max", bad, f"{column.name} is above {column.maximum}"
    if column.matches is not None:
        pattern = re.compile(column.matches)
        bad = pa.array(
            [text is not None and pattern.fullmatch(text) is None for text in values.to_pylist()],
            pa.bool_(),
        )
        yield "matches", bad, f"{column.name} does not match {column.matches!r}"


def constant(value: object, column: Column) -> object:
    """A value of a rule, as the project file writes it, in the column's own type."""
    if column.type == "decimal":
        return _parse_decimal(f"{Decimal(str(value)):f}", column)
    if column.type in ("date", "timestamp"):
        return (parse_date if column.type == "date" else parse_timestamp)(str(value))
    return float(str(value)) if column.type == "number" else value


def as_mask(array: pa.Array) -> Mask:
    """A boolean Arrow array (n) as a NumPy mask (n), null as False."""
    filled = array.fill_null(False)
    mask: Mask = np.asarray(filled.to_numpy(zero_copy_only=False), dtype=bool)
    return mask
