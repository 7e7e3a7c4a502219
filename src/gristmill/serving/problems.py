"""Refusals as RFC 9457 problem documents: each kind has its name, its status and its explanation.

It tells a client what was wrong with the request, and nothing of what went wrong inside.
"""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import quote

import msgspec
from starlette.exceptions import HTTPException
from starlette.responses import Response

from gristmill.errors import (
    BuildError,
    EntityNotFound,
    InvalidFeatures,
    KeyInUse,
    KeyReused,
    PredictionError,
    SpoolError,
    WarehouseError,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MEDIA_TYPE = "application/problem+json"


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One kind of problem."""

    name: str
    """Its address in the documentation: `docs#name`."""
    status: int
    title: str
    meaning: str
    """What it means, and what to do."""


KINDS = {
    kind.name: kind
    for kind in (
        Kind(
            name="malformed-json",
            status=400,
            title="The body is not JSON",
            meaning="Send one JSON document in UTF-8. NaN and Infinity are not JSON: send null.",
        ),
        Kind(
            name="malformed-http",
            status=400,
            title="The request is not HTTP",
            meaning="The connection is closed; nothing was understood of it.",
        ),
        Kind(
            name="unauthorized",
            status=401,
            title="An API key is needed",
            meaning="Send the header `Authorization: Bearer KEY` with a key that is not revoked. "
            "Whoever runs the service makes one with `gristmill keys add NAME`.",
        ),
        Kind(
            name="another-site",
            status=403,
            title="A page of another site asks",
            meaning="A service without API keys answers no page but its own: any site could ask it "
            "through a browser of this machine.",
        ),
        Kind(
            name="unknown-entity",
            status=404,
            title="The entity is not known",
            meaning="The feature store holds no features for this key. Send them with POST.",
        ),
        Kind(
            name="not-found",
            status=404,
            title="There is nothing at this address",
            meaning="This page lists every address that there is.",
        ),
        Kind(
            name="method-not-allowed",
            status=405,
            title="This address does not take this method",
            meaning="The header Allow names those that it takes.",
        ),
        Kind(
            name="timeout",
            status=408,
            title="The request did not arrive in time",
            meaning="Send the whole request within ten seconds.",
        ),
        Kind(
            name="key-in-use",
            status=409,
            title="The first request with this key is not answered yet",
            meaning="It came with the same Idempotency-Key. Send it again a little later.",
        ),
        Kind(
            name="contradiction",
            status=409,
            title="What is told contradicts itself",
            meaning="Two outcomes of the same entity and time differ: send the one that is true.",
        ),
        Kind(
            name="too-large",
            status=413,
            title="The body is too large",
            meaning="A body holds at most one mebibyte, or eight where it holds many rows.",
        ),
        Kind(
            name="unsupported-media-type",
            status=415,
            title="The body is not declared as JSON",
            meaning="Send the header Content-Type: application/json, and no Content-Encoding.",
        ),
        Kind(
            name="misdirected",
            status=421,
            title="The request is for another server",
            meaning="A service without API keys answers to 127.0.0.1, [::1] and localhost alone: "
            "any other name may have been made to lead here by another site. With an API key it "
            "answers to every name.",
        ),
        Kind(
            name="invalid-request",
            status=422,
            title="The request has not the right shape",
            meaning="`field` names the part that is missing, unknown or of the wrong type, and "
            "`pointer` says where in the body it is.",
        ),
        Kind(
            name="key-reused",
            status=422,
            title="The key came with another request before",
            meaning="An Idempotency-Key belongs to one request: a new request takes a new one.",
        ),
        Kind(
            name="invalid-feature",
            status=422,
            title="A feature is missing, unknown or of the wrong type",
            meaning="`field` names it. Every feature must be sent; one that is not known is null.",
        ),
        Kind(
            name="headers-too-large",
            status=431,
            title="The headers are too large",
            meaning="The address and the headers end within 32 kibibytes.",
        ),
        Kind(
            name="internal-error",
            status=500,
            title="The server failed",
            meaning="This is a fault of the server, and in its log.",
        ),
        Kind(
            name="busy",
            status=503,
            title="Too many large requests at a time",
            meaning="There was no room for the body in time. Send it again a little later.",
        ),
        Kind(
            name="no-database",
            status=501,
            title="This server has no database",
            meaning="It runs from a bundle alone: send the features with POST, and outcomes to a "
            "server that has a database.",
        ),
        Kind(
            name="database-unavailable",
            status=503,
            title="The database does not answer",
            meaning="Try again later. `POST /predict` needs no database; an outcome may be sent "
            "twice.",
        ),
        Kind(
            name="record-unavailable",
            status=503,
            title="The prediction cannot be put on record",
            meaning="No answer is given without its record. Try again later; see the server's log.",
        ),
    )
}


class Problem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A problem document (RFC 9457)."""

    type: str
    """Which kind of problem, as an address in this service's documentation."""
    title: str
    status: int
    detail: str
    """What was wrong this time."""
    field: str | None = None
    """The part of the request that was wrong, by its name."""
    pointer: str | None = None
    """Where in the body it is: a JSON Pointer (RFC 6901) as a URI fragment."""
    row: int | None = None
    """The row of a batch that was wrong, counted from 0."""


class Refused(Exception):
    """A request that is answered with a problem document."""

    def __init__(
        self,
        kind: str,
        detail: str,
        *,
        field: str | None = None,
        at: Sequence[str | int] | None = None,
        row: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """`at` is the way from the body's root to what was wrong: names and places in lists."""
        super().__init__(detail)
        self.kind = KINDS[kind]
        self.detail = detail
        self.field = field
        self.at = at
        self.row = row
        self.headers = headers

    def document(self) -> bytes:
        """The problem document."""
        return msgspec.json.encode(
            Problem(
                type=f"/docs#{self.kind.name}",
                title=self.kind.title,
                status=self.kind.status,
                detail=self.detail,
                field=self.field,
                pointer=None if self.at is None else _pointer(self.at),
                row=self.row,
            )
        )

    def response(self) -> Response:
        """The problem document, as it is answered."""
        return Response(
            self.document(),
            status_code=self.kind.status,
            headers=self.headers,
            media_type=MEDIA_TYPE,
        )


def _pointer(at: Sequence[str | int]) -> str:
    steps = (str(step).replace("~", "~0").replace("/", "~1") for step in at)
    return "#" + "".join(f"/{quote(step, safe='~')}" for step in steps)


def as_refusal(error: Exception) -> Refused:
    """What a client is told of an error: what to do, and nothing of what is inside."""
    match error:
        case Refused():
            return error
        case EntityNotFound():
            return Refused("unknown-entity", str(error))
        case SpoolError():
            # The path of the spool is the server's affair.
            return Refused("record-unavailable", "The disk does not take it.", headers=_LATER)
        case InvalidFeatures():
            return Refused("invalid-feature", str(error), field=error.field)
        case KeyInUse():
            return Refused("key-in-use", str(error), headers={"retry-after": "1"})
        case KeyReused():
            return Refused("key-reused", str(error), field="Idempotency-Key")
        case PredictionError():
            return Refused("invalid-feature", str(error))
        case WarehouseError() | BuildError():
            return Refused("database-unavailable", "It does not do its part.", headers=_LATER)
        case HTTPException():
            return _no_such(error)
    return Refused("internal-error", "The answer could not be computed.")


def _no_such(error: HTTPException) -> Refused:
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        allowed = (error.headers or {}).get("Allow", "")
        return Refused("method-not-allowed", "See the header Allow.", headers={"allow": allowed})
    return Refused("not-found", "GET /docs shows what there is.")


_LATER = {"retry-after": "5"}
