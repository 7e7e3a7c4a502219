"""What every request passes before and after its endpoint: who asks, its id, its count, its log.

An ASGI application around the application. It reads no body, and logs nothing of what one holds.
"""

from __future__ import annotations

import itertools
import logging
import re
import secrets
import time
from typing import TYPE_CHECKING, NamedTuple

from gristmill.errors import GristmillError, StatementFailed
from gristmill.serving.browsers import of_another_site
from gristmill.serving.keys import is_loopback
from gristmill.serving.metrics import OTHER
from gristmill.serving.problems import Refused

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from gristmill.serving.keys import KeyRing
    from gristmill.serving.metrics import Counters

logger = logging.getLogger("gristmill.requests")

OPEN = frozenset({"/", "/docs", "/health", "/ready"})
"""What needs no key: a page that holds nothing of the project, and what a balancer asks."""
MOST_LOGGED = 20
"""Refused requests that are logged in a second: a flood must not fill the disk."""

_SANE_ID = re.compile(rb"[A-Za-z0-9._:/+=-]{1,100}")
_FAULT = 500


class Admission(NamedTuple):
    """What is found at the entrance."""

    request_id: bytes
    """The request's own, or one that is made for it."""
    key: str | None
    """Whose API key it shows."""
    refusal: Refused | None
    """Why it is not let in."""


class Entrance:
    """Where a request says who asks, and gets its id."""

    def __init__(self, keys: KeyRing) -> None:
        self._keys = keys
        self._prefix = secrets.token_hex(6)
        self._numbers = itertools.count(1)

    def admit(self, scope: Scope) -> Admission:
        """Whether a request is let in."""
        request_id, authorization = self._headers(scope)
        key = self._keys.name_of(authorization)
        refusal = self._refusal(scope, authorization) if key is None else None
        return Admission(request_id, key, refusal)

    def _headers(self, scope: Scope) -> tuple[bytes, bytes | None]:
        """The request's id, made where it brings no sane one; and what it shows of a key."""
        request_id = authorization = None
        for name, value in scope["headers"]:
            if name == b"x-request-id":
                request_id = value if _SANE_ID.fullmatch(value) else None
            elif name == b"authorization":
                authorization = value
        if request_id is None:
            request_id = f"{self._prefix}-{next(self._numbers)}".encode()
        return request_id, authorization

    def _refusal(self, scope: Scope, authorization: bytes | None) -> Refused | None:
        """Why a request without a valid key is not let in; None where it needs none."""
        is_open = scope["path"] in OPEN
        if not self._keys.asks and _is_local(scope):
            # No browser reaches a Unix socket: whoever does may send what Host they like.
            on_socket = scope["server"][1] is None
            return None if on_socket else of_another_site(scope["headers"], harmless=is_open)
        if is_open:
            return None
        detail = (
            "Show an API key in the header Authorization."
            if authorization is None
            else "What the header Authorization shows is no valid API key."
        )
        return Refused("unauthorized", detail, headers={"www-authenticate": "Bearer"})


class Guard:
    """An application with what every request passes."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        entrance: Entrance,
        counters: Counters,
        routes: Mapping[Callable[..., object], str],
    ) -> None:
        """`routes` names each endpoint's route, for its count."""
        self._app = app
        self._entrance = entrance
        self._counters = counters
        self._routes = routes
        self._log = Limited()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        request_id, key, refusal = self._entrance.admit(scope)
        status = _FAULT

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"].append((b"x-request-id", request_id))
            await send(message)

        try:
            if refusal:
                scope["problem"] = refusal
                await refusal.response()(scope, receive, answer)
            else:
                scope["api_key"] = key
                await self._app(scope, receive, answer)
        finally:
            seconds = time.perf_counter() - started
            route = self._routes.get(scope.get("endpoint"), OTHER)  # type: ignore[arg-type]
            self._counters.count(route, status, seconds)
            if status >= 400:
                self._log.refused(scope, request_id.decode(), route, status, seconds, key)


def _is_local(scope: Scope) -> bool:
    """Whether a request came by an address that only this machine reaches."""
    host, port = scope.get("server") or ("", 0)
    # A Unix socket is a path without a port; the file's rights say who of this machine may.
    return is_loopback(host) or (port is None and "/" in host)


def _reason(cause: Exception | None) -> str | None:
    """What was wrong on our side; of a statement only its code, as its message may quote values."""
    if isinstance(cause, StatementFailed):
        return f"{type(cause).__name__} {cause.sqlstate}"
    return str(cause) if isinstance(cause, GristmillError) else None


class Limited:
    """Logs what was refused, so many in a second."""

    def __init__(self) -> None:
        self._second = 0
        self._logged = 0

    def refused(
        self,
        scope: Scope,
        request_id: str,
        route: str,
        status: int,
        seconds: float | None,
        key: str | None,
    ) -> None:
        """One line of what was wrong, by its kind: what exactly may quote the request."""
        second = int(time.monotonic())
        if second != self._second:
            if self._logged > MOST_LOGGED:
                logger.warning("%d more requests were refused", self._logged - MOST_LOGGED)
            self._second, self._logged = second, 0
        self._logged += 1
        if self._logged > MOST_LOGGED:
            return
        problem: Refused | None = scope.get("problem")
        client = scope.get("client")
        logger.log(
            logging.ERROR if status >= _FAULT else logging.INFO,
            "refused",
            extra={
                "request_id": request_id,
                "method": scope.get("method"),
                "route": route,
                "status": status,
                "problem": problem.kind.name if problem else None,
                "reason": _reason(scope.get("cause")) if status >= _FAULT else None,
                "milliseconds": None if seconds is None else round(seconds * 1000, 3),
                "key": key,
                "client": client[0] if client else None,
            },
        )
