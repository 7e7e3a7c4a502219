"""What a value of each type looks like in a file, and what it means: the grammar of the types.

What PostgreSQL or a parser would guess (`today`, `0x1F`, `05/01/2020`) is no value of any type.
"""

from __future__ import annotations

import math
import re
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_HOUR, _SIXTIETH = "([01][0-9]|2[0-3])", "[0-5][0-9]"
_TIME = rf"{_HOUR}:{_SIXTIETH}(:{_SIXTIETH}(\.[0-9]{{1,6}})?)?"
_ZONE = rf"(Z|[+-]{_HOUR}(:?{_SIXTIETH})?)"
FORMS: Mapping[str, str] = {
    "integer": r"^[+-]?[0-9]+$",
    "number": r"^[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?$",
    "decimal": r"^[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)$",
    "date": r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$",
    "timestamp": r"^[0-9]{4}-[0-9]{2}-[0-9]{2}([T ]" + _TIME + _ZONE + r"?)?$",
    "boolean": r"^(true|false|1|0)$",
}
"""The form of each type's values, as a regular expression that RE2 and Python read alike."""

_COMPILED = {name: re.compile(form[:-1] + r"\Z") for name, form in FORMS.items()}


def parse_integer(text: str) -> int | None:
    """Digits as a 64-bit integer; None where it is larger."""
    digits = text.lstrip("+-").lstrip("0")
    if len(digits) > 19:
        return None
    value = -int(digits or "0") if text.startswith("-") else int(digits or "0")
    return value if -(2**63) <= value < 2**63 else None


def parse_number(text: str) -> float | None:
    """A number as a double; None where it is not finite."""
    value = float(text)
    return value if math.isfinite(value) else None


def parse_date(text: str) -> date | None:
    """A day; None where the calendar has none such."""
    try:
        return date.fromisoformat(text)
    except ValueError:
        return None


def parse_timestamp(text: str) -> datetime | None:
    """A moment in UTC, which is also its zone where it says none; None where there is none such."""
    try:
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def parse_boolean(text: str) -> bool:
    """True for `true` and `1`."""
    return text in ("true", "1")


_PARSERS: Mapping[str, Callable[[str], object | None]] = {
    "integer": parse_integer,
    "number": parse_number,
    "date": parse_date,
    "timestamp": parse_timestamp,
    "boolean": parse_boolean,
}


def value_of(text: str, type_name: str) -> object | None:
    """A text as a value of a type other than decimal; None where it is none."""
    if type_name == "text":
        return text
    return _PARSERS[type_name](text) if _COMPILED[type_name].match(text) else None
