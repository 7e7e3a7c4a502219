"""Numbers as people read them: counts, shares, measures, days and moments."""

from __future__ import annotations

import math
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gristmill.project.features import FeatureType

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MONTHS = (1, 2, 3, 6, 12, 24, 60, 120, 240, 600, 1200, 2400, 6000)


def count(value: float) -> str:
    """How many: 12,345."""
    return f"{value:,.0f}"


def short(value: float) -> str:
    """How many, where there is little room: 12k, 1.5M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.4g}{letter}"
    return f"{value:.4g}"


def share(value: float) -> str:
    """A part of a whole: 12.3%; small ones keep a digit that says something."""
    percent = 100 * value
    if 0 < percent < 0.1:
        return f"{percent:.2g}%" if percent >= 0.001 else "<0.001%"
    if 99.9 < percent < 100:
        return ">99.9%"
    return f"{percent:.1f}%" if percent < 99.95 else "100%"


def measure(value: float) -> str:
    """A metric, with three digits after the point."""
    return f"{value:.3f}"


def signed(value: float) -> str:
    """A difference of metrics: minus as it is written, and no minus nought."""
    written = f"{abs(value):.3f}"
    return f"−{written}" if value < 0 and float(written) else written


def interval(low: float, high: float, *, of_shares: bool = False) -> str:
    """A 95% interval: 0.731 to 0.753."""
    written = share if of_shares else measure
    return f"{written(low)} to {written(high)}"


def quantity(value: float) -> str:
    """Any number, with four digits that count."""
    if not math.isfinite(value):
        return str(value)
    if value == 0:
        return "0"
    size = abs(value)
    if size >= 1e15 or size < 1e-4:
        return f"{value:.2g}"
    if size >= 1000:
        return f"{value:,.0f}"
    return f"{value:.{max(0, 3 - math.floor(math.log10(size)))}f}".rstrip("0").rstrip(".") or "0"


def encoded(value: float, kind: FeatureType) -> str:
    """A feature's number as a model sees it (see `features.encode`), as people write it."""
    if kind == "boolean":
        return "true" if value else "false"
    if kind == "integer":
        return f"{value:,.0f}" if abs(value) < 1e15 else f"{value:.3g}"
    if kind in ("date", "timestamp"):
        return _moment(value, days=kind == "date")
    return quantity(value)


def when(value: datetime | date) -> str:
    """A moment to the minute, in UTC; a day."""
    if not isinstance(value, datetime):
        return value.isoformat()
    return f"{value.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def _moment(value: float, *, days: bool) -> str:
    try:
        moment = _EPOCH + (timedelta(days=value) if days else timedelta(seconds=value))
    except OverflowError:
        return quantity(value)
    return moment.date().isoformat() if days else f"{moment:%Y-%m-%d %H:%M}"


def ticks(low: float, high: float, *, most: int = 5) -> list[float]:
    """Round numbers, at most so many, from low to high: steps of 1, 2 or 5 times a power of ten."""
    reach = high - low
    if not reach > 0 or not math.isfinite(reach):
        return [low]
    power = 10.0 ** math.floor(math.log10(reach / most))
    for factor in (1, 2, 5, 10, 20):
        step = power * factor
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if last - first < most:
            break
    return [round(index * step, 12) for index in range(first, last + 1)]


def moment_ticks(low: float, high: float, *, most: int = 4) -> list[tuple[float, str]]:
    """The first days of years, months or days, at most so many, from low to high in days."""
    try:
        first, last = _EPOCH + timedelta(days=low), _EPOCH + timedelta(days=high)
    except OverflowError:
        return []
    months = (last.year - first.year) * 12 + last.month - first.month
    if months < 2:
        return [
            (one, _moment(one, days=True)) for one in ticks(low, high, most=most) if one % 1 == 0
        ]
    step = next(one for one in (*_MONTHS, 12_000, 120_000) if months / one <= most)
    found = []
    start = first.year * 12 // step * step
    for month in range(start, last.year * 12 + 12, step):
        year, of_year = divmod(month, 12)
        day = (datetime(year, of_year + 1, 1, tzinfo=UTC) - _EPOCH).days
        if low <= day <= high:
            found.append((float(day), f"{year}" if step >= 12 else f"{year}-{of_year + 1:02}"))
    return found
