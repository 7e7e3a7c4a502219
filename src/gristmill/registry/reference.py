"""How the features were distributed in the training rows: counts only, no row of the data.

What monitoring compares later answers with. A number is counted in ranges between quantiles, a
text by its commonest values.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np

from gristmill.features.encode import encode_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow as pa
    from numpy.typing import NDArray

    from gristmill.project.features import Feature

RANGES = 20
"""Ranges that a number is counted in, before equal bounds fall together."""

COMMONEST = 100
"""Values that a text is counted by; the rest is counted together."""


def reference_table(table: pa.Table, features: Sequence[Feature]) -> pa.Table:
    """The distribution of every feature, one row per feature and range or value.

    Columns: `feature`, `kind` ("null", "value", "range" or "other"), `value` (of a text), `low`
    and `high` (of a number, as the model sees it; a range includes its low bound and not its high
    one; the last range is the greatest value alone), `rows`. The rows of a feature add
    up to the table's.
    """
    import pyarrow

    counts: list[dict[str, Any]] = []
    for feature in features:
        count = _count_texts if feature.type == "text" else _count_numbers
        empty = {"kind": "", "value": None, "low": None, "high": None, "rows": 0}
        counts += [
            {"feature": feature.name} | empty | row
            for row in count(table.select([feature.name]), feature)
        ]
    columns = [
        ("feature", pyarrow.string()),
        ("kind", pyarrow.string()),
        ("value", pyarrow.string()),
        ("low", pyarrow.float64()),
        ("high", pyarrow.float64()),
        ("rows", pyarrow.int64()),
    ]
    return pyarrow.Table.from_pylist(counts, schema=pyarrow.schema(columns))


def to_parquet(table: pa.Table) -> bytes:
    """A table as the bytes of a Parquet file."""
    from pyarrow import parquet

    buffer = io.BytesIO()
    parquet.write_table(table, buffer)
    return buffer.getvalue()


def from_parquet(content: bytes) -> pa.Table:
    """The table that the bytes of a Parquet file hold."""
    from pyarrow import parquet

    return parquet.read_table(io.BytesIO(content))


def _count_texts(table: pa.Table, feature: Feature) -> list[dict[str, Any]]:
    import pyarrow
    import pyarrow.compute

    texts = table.column(feature.name).cast(pyarrow.string()).drop_null()
    found = pyarrow.compute.value_counts(texts).to_pylist()
    found.sort(key=lambda count: (-count["counts"], count["values"]))
    return [
        {"kind": "null", "rows": table.num_rows - len(texts)},
        *(
            {"kind": "value", "value": count["values"], "rows": count["counts"]}
            for count in found[:COMMONEST]
        ),
        {"kind": "other", "rows": sum(count["counts"] for count in found[COMMONEST:])},
    ]


def _count_numbers(table: pa.Table, feature: Feature) -> list[dict[str, Any]]:
    column: NDArray[np.float64] = encode_table(table, [feature])[feature.name].ravel()
    known = column[~np.isnan(column)]
    nulls = {"kind": "null", "rows": len(column) - len(known)}
    if not len(known):
        return [nulls]
    # Bounds are values that occur, so that a number with few of them is counted value by value.
    bounds = np.unique(np.quantile(known, np.linspace(0, 1, RANGES + 1), method="lower"))
    bounds = np.append(bounds, bounds[-1])
    rows, _ = np.histogram(known, bounds)
    return [
        nulls,
        *(
            {"kind": "range", "low": float(low), "high": float(high), "rows": int(count)}
            for low, high, count in zip(bounds[:-1], bounds[1:], rows, strict=True)
        ),
    ]
