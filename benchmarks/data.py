"""Files to measure with: a history of activity that keeps its contract, and one that does not."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as arrow_csv

from gristmill.project.table import Column, Period, Table

PER_CLIENT = 5
UNQUOTED = arrow_csv.WriteOptions(quoting_style="none")

ACTIVITY = Table(
    name="activity",
    path="activity.csv",
    columns=(
        Column(name="idx", type="integer"),
        Column(name="valid_from", type="date"),
        Column(name="valid_to", type="date", nullable=True),
        Column(name="scd_a", type="number"),
        Column(name="scd_b", type="integer"),
    ),
    key=("idx", "valid_from"),
)
HISTORY = Table(**{**ACTIVITY.__dict__, "valid": ("valid_from", "valid_to")})
"""The same with its validity declared, which is then checked too."""

SALES = Table(
    name="sales",
    path="sales/{period:%Y-%m}.csv",
    columns=(
        Column(name="store_idx", type="integer"),
        Column(name="date", type="date"),
        Column(name="value", type="number"),
    ),
    period=Period(every="month", column="date"),
)


def write_activity(path: Path, rows: int, *, dirty: float = 0.0) -> None:
    """Intervals of five per client, the last one open, in random order; some values wrong."""
    random = np.random.default_rng(7)
    clients = rows // PER_CLIENT
    starts = random.integers(12_000, 15_000, clients).repeat(PER_CLIENT) + np.tile(
        np.arange(PER_CLIENT) * 200, clients
    )
    last = np.tile(np.arange(PER_CLIENT) == PER_CLIENT - 1, clients)
    order = random.permutation(clients * PER_CLIENT)
    numbers = random.normal(size=len(order)).round(6)
    values = pa.array(numbers).cast(pa.string())
    if dirty:
        wrong = pa.array(random.random(len(order)) < dirty)
        values = pa.compute.if_else(wrong, pa.scalar("n/a"), values)
    table = pa.table(
        {
            "idx": np.arange(clients).repeat(PER_CLIENT)[order],
            "valid_from": pa.array(starts[order].astype("datetime64[D]")),
            "valid_to": pa.array((starts + 200)[order].astype("datetime64[D]"), mask=last[order]),
            "scd_a": values,
            "scd_b": random.integers(0, 9, len(order)),
        }
    )
    arrow_csv.write_csv(table, path, UNQUOTED)


def write_month(path: Path, month: str, rows: int) -> None:
    """A month of sales."""
    random = np.random.default_rng(abs(hash(month)) % 2**32)
    first = np.datetime64(month, "D")
    days = int(((np.datetime64(month, "M") + 1).astype("datetime64[D]") - first).astype(int))
    table = pa.table(
        {
            "store_idx": random.integers(1, 50, rows),
            "date": pa.array(first + random.integers(0, days, rows)),
            "value": random.gamma(2, 15, rows).round(2),
        }
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    arrow_csv.write_csv(table, path, UNQUOTED)
