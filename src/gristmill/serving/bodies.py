"""What requests carry, read from their bodies; each refusal says where in the body it looks.

It checks shapes and keys. Whether features are of their types is the predictor's to say.
"""

from __future__ import annotations

import hashlib
import re
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
from starlette.requests import ClientDisconnect

from gristmill.errors import InvalidFeatures, InvalidOutcome
from gristmill.predictions.outcomes import COLUMNS, Outcome, contradiction, outcome_of
from gristmill.predictions.prediction import entity_key
from gristmill.serving.problems import Refused

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
    from datetime import datetime

    from starlette.requests import Request
    from starlette.types import Message

    from gristmill.registry.bundle import Entity
    from gristmill.serving.room import Room

LARGEST_BODY = 1 << 20
"""Bytes of the body of a request about one entity."""
LARGEST_BATCH_BODY = 8 << 20
"""Bytes of the body of a request about many."""
MOST_ROWS = 10_000
"""Rows of one request."""

CUT_SHORT = "cut_short"
"""Where a request's scope says why the rest of its body does not come: a `Refused`."""

LONGEST_KEY = 255
"""Characters of an Idempotency-Key."""

_SANE_KEY = re.compile(rf"[!-~]{{1,{LONGEST_KEY}}}")
_decode = msgspec.json.Decoder().decode


class Asked(NamedTuple):
    """One entity and its features, as a request gives them."""

    key: int | str
    features: dict[str, Any]


async def read_body(request: Request) -> bytes:
    """The body of a request about one entity, which says that it is JSON.

    It is `Protocol` that waits no longer for it. Raises Refused, ClientDisconnect.
    """
    declared = _check_headers(request.scope["headers"], LARGEST_BODY)
    message = await request.receive()
    if not message.get("more_body") and message["type"] == "http.request":
        body: bytes = message["body"]
        if len(body) > LARGEST_BODY:
            raise _too_large(LARGEST_BODY)
        return body
    async with _room(request).of(declared or LARGEST_BODY):
        return await _whole(request, message, LARGEST_BODY)


@asynccontextmanager
async def large_body(request: Request) -> AsyncIterator[bytes]:
    """The body of a request about many, as `read_body`: nothing of it is read before there is room.

    The room is kept until it is answered, as what is made of a body takes more than itself.
    """
    declared = _check_headers(request.scope["headers"], LARGEST_BATCH_BODY)
    async with _room(request).of(LARGEST_BATCH_BODY if declared is None else declared):
        yield await _whole(request, await request.receive(), LARGEST_BATCH_BODY)


def _room(request: Request) -> Room:
    room: Room = request.app.state.service.room
    return room


async def _whole(request: Request, message: Message, limit: int) -> bytes:
    """The body of which a message is the first."""
    pieces = [message.get("body", b"")]
    octets = len(pieces[0])
    while message["type"] == "http.request" and message.get("more_body"):
        if octets > limit:
            raise _too_large(limit)
        if (refusal := request.scope.get(CUT_SHORT)) is not None:
            raise refusal
        message = await request.receive()
        pieces.append(message.get("body", b""))
        octets += len(pieces[-1])
    if message["type"] == "http.disconnect":
        raise ClientDisconnect
    if octets > limit:
        raise _too_large(limit)
    return b"".join(pieces)


def _check_headers(headers: Iterable[tuple[bytes, bytes]], limit: int) -> int | None:
    """Refuse what is not declared as plain JSON, or is too large by its own words; how large."""
    kind = b""
    declared = None
    for name, value in headers:
        if name == b"content-type":
            kind = value
        elif name == b"content-length":
            declared = int(value)
            if declared > limit:
                raise _too_large(limit)
        elif name == b"content-encoding":
            raise Refused("unsupported-media-type", "Send plain JSON in UTF-8.")
    if kind == b"application/json":
        return declared
    media_type, _, parameters = kind.partition(b";")
    if media_type.strip().lower() != b"application/json":
        raise Refused("unsupported-media-type", "Send Content-Type: application/json.")
    if parameters.strip().lower().replace(b'"', b"") not in {b"", b"charset=utf-8"}:
        raise Refused("unsupported-media-type", "Send plain JSON in UTF-8.")
    return declared


def idempotency_key(request: Request) -> str | None:
    """What singles out a request that may come again: its key, among those of who asks."""
    for name, value in request.scope["headers"]:
        if name == b"idempotency-key":
            return _scoped(request, value.decode("latin-1"))
    return None


def _scoped(request: Request, given: str) -> str:
    if not _SANE_KEY.fullmatch(given):
        raise Refused(
            "invalid-request",
            f"Idempotency-Key holds 1 to {LONGEST_KEY} visible ASCII characters.",
            field="Idempotency-Key",
        )
    return f"{request.scope.get('api_key') or ''}:{given}"


def request_digest(request: Request, body: bytes) -> bytes:
    """What requests have in common that are the same."""
    return hashlib.sha256(b"%b\0%b" % (request.scope["path"].encode(), body)).digest()


def read_asked(body: bytes, entity: Entity) -> Asked:
    """What a request about one entity asks."""
    return _asked(_object(body), entity, ())


def read_batch(body: bytes, entity: Entity) -> list[Asked]:
    """What a request about many entities asks, in its order."""
    document = _object(body)
    _names(document, ("rows",), ())
    rows = _many(document["rows"], "rows")
    return [_asked(row, entity, ("rows", place)) for place, row in enumerate(rows)]


def read_outcomes(body: bytes, entity: Entity, *, now: datetime) -> list[Outcome]:
    """The outcomes that a body tells: one by itself, or a list of them under `outcomes`."""
    document = _object(body)
    if "outcomes" not in document:
        return [_outcome(document, entity, (), now)]
    _names(document, ("outcomes",), ())
    given = _many(document["outcomes"], "outcomes")
    outcomes = [_outcome(one, entity, ("outcomes", place), now) for place, one in enumerate(given)]
    place = contradiction(outcomes)
    if place is not None:
        raise Refused(
            "contradiction",
            f"Outcome {place} says otherwise than one before it, of the same entity and time.",
            field="outcome",
            at=("outcomes", place, "outcome"),
            row=place,
        )
    return outcomes


def _object(body: bytes) -> dict[str, Any]:
    try:
        document = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Refused("malformed-json", f"{error}.") from error
    except RecursionError:
        raise Refused("malformed-json", "It is nested too deeply.") from None
    if type(document) is not dict:
        raise Refused("invalid-request", "The body must be a JSON object.", at=())
    return document


def _asked(document: Any, entity: Entity, at: tuple[str | int, ...]) -> Asked:
    name = entity.name
    # The usual request costs two look-ups and three comparisons.
    if (
        type(document) is not dict
        or len(document) != 2
        or not (name in document and "features" in document)
    ):
        _names(document, (name, "features"), at)
    features = document["features"]
    if type(features) is not dict:
        raise _wrong("'features' must be a JSON object.", "features", at)
    with key_refused(at):
        return Asked(entity_key(document[name], entity), features)


def _outcome(document: Any, entity: Entity, at: tuple[str | int, ...], now: datetime) -> Outcome:
    _names(document, (entity.name, *COLUMNS), at)
    with key_refused(at):
        return outcome_of(
            entity_key(document[entity.name], entity),
            document["outcome"],
            document["observed_at"],
            now=now,
        )


def _names(document: Any, names: Sequence[str], at: tuple[str | int, ...]) -> None:
    """Refuse what is not an object of exactly these names."""
    if type(document) is not dict:
        what = "The body" if not at else f"{at[0]} {at[1]}"
        raise Refused("invalid-request", f"{what} must be a JSON object.", at=at, row=_row(at))
    for name in names:
        if name not in document:
            raise _wrong(f"{name!r} is missing.", name, at)
    if len(document) > len(names):
        unknown = next(name for name in document if name not in names)
        listed = " and ".join([", ".join(map(repr, names[:-1])), repr(names[-1])][len(names) < 2 :])
        raise _wrong(f"It holds {listed}, and nothing else.", unknown, at)


def _many(rows: Any, name: str) -> list[Any]:
    if type(rows) is not list:
        raise _wrong(f"{name!r} must be a JSON array.", name, ())
    if not 1 <= len(rows) <= MOST_ROWS:
        raise _wrong(f"{name!r} holds {len(rows)} rows; it takes 1 to {MOST_ROWS}.", name, ())
    return rows


@contextmanager
def key_refused(at: tuple[str | int, ...] | None = None) -> Iterator[None]:
    """A key that is none is a wrong request, not a wrong feature; so is a wrong outcome."""
    try:
        yield
    except (InvalidFeatures, InvalidOutcome) as error:
        way = None if at is None else (*at, error.field)
        raise Refused(
            "invalid-request", str(error), field=error.field, at=way, row=_row(at or ())
        ) from error


def _wrong(detail: str, field: str, at: tuple[str | int, ...]) -> Refused:
    return Refused("invalid-request", detail, field=field, at=(*at, field), row=_row(at))


def _row(at: Sequence[str | int]) -> int | None:
    """The row that a way leads to."""
    return next((step for step in at if isinstance(step, int)), None)


def _too_large(limit: int) -> Refused:
    # What is left of the body is not worth reading: the connection ends with the answer.
    return Refused(
        "too-large", f"The body is larger than {limit} bytes.", headers={"connection": "close"}
    )
