"""Refusals as RFC 9457 problem documents: each kind has its name, its status and its explanation.

It tells a client what was wrong with the request, and nothing of what went wrong inside.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
from starlette.responses import Response

if TYPE_CHECKING:
    from collections.abc import Mapping

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
            title="The body did not arrive in time",
            meaning="Send the whole body within ten seconds.",
        ),
        Kind(
            name="too-large",
            status=413,
            title="The body is too large",
            meaning="A body holds at most one mebibyte.",
        ),
        Kind(
            name="unsupported-media-type",
            status=415,
            title="The body is not declared as JSON",
            meaning="Send the header Content-Type: application/json, and no Content-Encoding.",
        ),
        Kind(
            name="invalid-request",
            status=422,
            title="The request has not the right shape",
            meaning="`field` names the part that is missing, unknown or of the wrong type.",
        ),
        Kind(
            name="invalid-feature",
            status=422,
            title="A feature is missing, unknown or of the wrong type",
            meaning="`field` names it. Every feature must be sent; one that is not known is null.",
        ),
        Kind(
            name="internal-error",
            status=500,
            title="The server failed",
            meaning="This is a fault of the server, and in its log.",
        ),
        Kind(
            name="no-feature-store",
            status=501,
            title="This server has no feature store",
            meaning="It runs from a bundle without a database. Send the features with POST.",
        ),
        Kind(
            name="database-unavailable",
            status=503,
            title="The database does not answer",
            meaning="Try again later, or send the features with POST: that needs no database.",
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
    """The part of the request that was wrong."""


class Refused(Exception):
    """A request that is answered with a problem document."""

    def __init__(
        self,
        kind: str,
        detail: str,
        *,
        field: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.kind = KINDS[kind]
        self.detail = detail
        self.field = field
        self.headers = headers

    def response(self) -> Response:
        """The problem document."""
        problem = Problem(
            type=f"/docs#{self.kind.name}",
            title=self.kind.title,
            status=self.kind.status,
            detail=self.detail,
            field=self.field,
        )
        return Response(
            msgspec.json.encode(problem),
            status_code=self.kind.status,
            headers=self.headers,
            media_type=MEDIA_TYPE,
        )
