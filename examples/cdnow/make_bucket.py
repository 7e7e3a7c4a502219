"""Lays the CDNOW purchases out as a bucket: how the files in data/ were made from source/.

Run it as `python make_bucket.py [FOLDER]`, with nothing but Python.
"""

from __future__ import annotations

import csv
import gzip
import io
import lzma
import sys
from collections import defaultdict
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

HERE = Path(__file__).parent
SOURCE = HERE / "source" / "CDNOW_master.txt.xz"

# Each customer is asked about on a day of their own in this half year. Everybody has bought by
# then, and the days that follow are all in the data, which ends with 30 June 1998.
FIRST_AS_OF = date(1997, 7, 1)
AS_OF_DAYS = 185
WINDOW = timedelta(days=180)
LAST_DAY = date(1998, 6, 30)


class Purchase(NamedTuple):
    """One line of the source: a customer bought some CDs on a day for some money."""

    customer_id: int
    date: date
    cds: int
    money: str
    """Dollars with two decimals, as written in the source: no rounding on the way."""


def purchases() -> Iterator[Purchase]:
    """The lines of the source, in its order: by customer, then by date."""
    with lzma.open(SOURCE, "rt", encoding="ascii") as lines:
        next(lines)  # the header
        for line in lines:
            customer_id, day, cds, money = line.split()
            parsed = datetime.strptime(day, "%Y%m%d").date()
            yield Purchase(int(customer_id), parsed, int(cds), money)


def as_of_day(customer_id: int) -> date:
    """The day a customer is asked about; multiplying by a prime spreads neighbours apart."""
    return FIRST_AS_OF + timedelta(days=customer_id * 7919 % AS_OF_DAYS)


def buys_again(as_of: date, days: Iterable[date]) -> int:
    """1 where somebody buys on the day itself or one of the 179 after it."""
    if as_of + WINDOW - timedelta(days=1) > LAST_DAY:
        raise ValueError(f"The data ends before the window after {as_of} does.")
    return int(any(as_of <= day < as_of + WINDOW for day in days))


def write(file: Path, header: tuple[str, ...], rows: Iterable[tuple[object, ...]]) -> None:
    """Write a compressed CSV without a time stamp inside, so that it is always the same."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(gzip.compress(text.getvalue().encode(), compresslevel=9, mtime=0))


def make_bucket(folder: Path) -> None:
    """Write customers, labels and a file of sales for each month."""
    months: dict[str, list[Purchase]] = defaultdict(list)
    days: dict[int, list[date]] = defaultdict(list)
    for purchase in purchases():
        months[f"{purchase.date:%Y-%m}"].append(purchase)
        days[purchase.customer_id].append(purchase.date)
    for month, bought in sorted(months.items()):
        bought.sort(key=lambda purchase: purchase.date)  # as a shop's till would write them
        write(folder / "sales" / month / "sales.csv.gz", Purchase._fields, bought)
    write(
        folder / "customers.csv.gz",
        ("customer_id", "first_purchase"),
        ((customer_id, min(bought)) for customer_id, bought in sorted(days.items())),
    )
    write(
        folder / "labels.csv.gz",
        ("customer_id", "as_of", "buys_again"),
        (
            (customer_id, as_of, buys_again(as_of, bought))
            for customer_id, bought in sorted(days.items())
            for as_of in [as_of_day(customer_id)]
        ),
    )


if __name__ == "__main__":
    make_bucket(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "data")
