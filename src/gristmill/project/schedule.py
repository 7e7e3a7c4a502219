"""When a workflow starts: cron's five fields or a word for them."""

from __future__ import annotations

import re
from typing import Literal

PRESETS = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
}
_BOUNDS = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))


def is_schedule(text: str) -> bool:
    """Whether it is one of the words, or five fields of cron with values that there are."""
    fields = PRESETS.get(text, text).split()
    return len(fields) == len(_BOUNDS) and all(
        _is_part(part, position)
        for position, field in enumerate(fields)
        for part in field.split(",")
    )


def cadence(text: str) -> Literal["day", "month", "year"] | None:
    """Which periods the time between two starts is: those of a family loaded one by one, or None.

    "0 6 2 * *" starts once a month, so a month lies between two starts.
    """
    minute, hour, day, month, weekday = PRESETS.get(text, text).split()
    if not (minute.isdecimal() and hour.isdecimal()) or weekday != "*":
        return None
    if (day, month) == ("*", "*"):
        return "day"
    if day.isdecimal() and month == "*":
        return "month"
    return "year" if day.isdecimal() and month.isdecimal() else None


def _is_part(part: str, position: int) -> bool:
    match = re.fullmatch(r"(?:\*|([0-9]+)(?:-([0-9]+))?)(?:/([1-9][0-9]*))?", part)
    low, high = _BOUNDS[position]
    return match is not None and all(
        low <= int(value) <= high for value in match.groups()[:2] if value is not None
    )
