"""One answer, as it is logged, and the values it may hold: those that JSON and Postgres both can.

It refuses an entity's key that is not of the key's type; it never guesses.
"""

from __future__ import annotations

import math
import os
import time
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING
from uuid import UUID

import numpy as np

from gristmill.errors import InvalidFeatures

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gristmill.registry.bundle import Entity

JSONScalar = str | int | float | bool | None

LARGEST_KEY = 2**63 - 1
"""The largest integer key: Postgres's bigint."""
LONGEST_TEXT_KEY = 600
"""Characters of a text key: as many as Postgres's indexes take, whatever they are."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """One answer on record."""

    prediction_id: UUID
    """Ordered by time, so that the log's index grows at its end."""
    entity: str
    """Who it is about: the key as text."""
    features: Mapping[str, JSONScalar]
    """What the answer was computed from."""
    probability: float
    label: int
    model_version: str
    predicted_at: datetime
    latency_ms: float
    """Milliseconds from the request's arrival until the answer was known, before it was logged."""


def new_prediction_id() -> UUID:
    """A random UUID that starts with the time (version 7 of RFC 9562)."""
    milliseconds = time.time_ns() // 1_000_000
    number = (milliseconds << 80) | int.from_bytes(os.urandom(10))
    number = number & ~(0xF << 76) | (0x7 << 76)
    number = number & ~(0x3 << 62) | (0x2 << 62)
    return UUID(int=number)


def new_prediction_ids(count: int) -> list[str]:
    """So many of them at once, as texts in ascending order."""
    octets = np.frombuffer(os.urandom(16 * count), np.uint8).reshape(count, 16).copy()
    milliseconds = time.time_ns() // 1_000_000
    octets[:, :6] = np.frombuffer(milliseconds.to_bytes(6, "big"), np.uint8)
    octets[:, 6] = octets[:, 6] & 0x0F | 0x70
    octets[:, 8] = octets[:, 8] & 0x3F | 0x80
    digits = octets.tobytes().hex()
    return sorted(digits[place : place + 32] for place in range(0, len(digits), 32))


def json_value(value: object) -> JSONScalar:
    """A value of the database as JSON has it; NaN is null, dates and times are ISO 8601."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float | Decimal):
        number = float(value)
        return None if math.isnan(number) else number
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).isoformat()
    if isinstance(value, date):
        return value.isoformat()
    raise TypeError(f"A feature cannot be a {type(value).__name__}.")


def entity_key(value: object, entity: Entity) -> int | str:
    """The key of an entity as the warehouse holds it, from a request's JSON value.

    An integer key is an integer; any other is its text. Raises InvalidFeatures.
    """
    if entity.type == "integer":
        if type(value) is not int:
            raise _wrong_key(entity, "a whole number without a decimal point")
        if abs(value) > LARGEST_KEY:
            raise _wrong_key(entity, f"a whole number within ±{LARGEST_KEY}")
        return value
    if type(value) is not str or not 1 <= len(value) <= LONGEST_TEXT_KEY:
        raise _wrong_key(entity, f"a text of 1 to {LONGEST_TEXT_KEY} characters")
    if "\x00" in value or not _is_unicode(value):
        raise _wrong_key(entity, "a text without U+0000 or lone surrogates")
    return value


def entity_key_from_text(text: str, entity: Entity) -> int | str:
    """The key of an entity from a URL or a command line, where all is text."""
    if entity.type != "integer":
        return entity_key(text, entity)
    digits = text.removeprefix("-")
    # The longest bigint has 19 digits; more are not worth reading.
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 19):
        raise _wrong_key(entity, f"a whole number within ±{LARGEST_KEY}")
    return entity_key(int(text), entity)


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _wrong_key(entity: Entity, expected: str) -> InvalidFeatures:
    return InvalidFeatures(f"{entity.name} must be {expected}.", field=entity.name)
