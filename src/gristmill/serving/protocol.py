"""How a connection speaks HTTP: uvicorn's own way, with limits that it does not set.

Whoever sends no whole request in time, or no end of headers, is answered and cut off, and who does
not read the answer is cut off, so that idle connections cannot use up the server. Whoever asks for
another protocol is answered in this one.
"""

from __future__ import annotations

import secrets
import time
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, cast

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gristmill.serving.bodies import CUT_SHORT
from gristmill.serving.fast_path import FAST_PATH, Plain
from gristmill.serving.guard import Limited
from gristmill.serving.metrics import OTHER
from gristmill.serving.problems import MEDIA_TYPE, Refused

if TYPE_CHECKING:
    import asyncio

    from starlette.types import Scope
    from uvicorn._types import ASGI3Application
    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

    from gristmill.serving.fast_path import FastPath
    from gristmill.serving.metrics import Counters

TIMEOUT = 10.0
"""Seconds between two looks at a connection: a request that has not arrived meanwhile is ended."""
LARGEST_HEADERS = 32 << 10
"""Bytes that may come of a request's address and headers without their end."""

_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncache-control: no-store\r\n"
_OF_UPGRADE = frozenset({b"connection", b"upgrade", b"http2-settings"})
_NONE = object()
_limited = Limited()


class Protocol(HttpToolsProtocol):
    """One connection."""

    _timer: asyncio.TimerHandle | None = None
    _header_bytes = 0
    _cycle_before: object = None
    """The request of which a part was awaited at the last look."""
    _unsent_before = 0
    _deaf = False
    """Whether nothing that comes counts any more."""
    _fast_path: FastPath | None = None
    _admitted: tuple[RequestResponseCycle, bytes, float] | None = None
    """The request that goes the fast path once its body is there: its id, and when it came."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to watch it: one timer for as long as it lives, none for each request."""
        super().connection_made(transport)
        self._fast_path = self.app_state.get(FAST_PATH)
        self._timer = self.loop.call_later(TIMEOUT, self._watch)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop watching."""
        if self._timer:
            self._timer.cancel()
        super().connection_lost(exc)
        self._go_on()

    def data_received(self, data: bytes) -> None:
        """Take what came; headers that do not end are refused."""
        if self._deaf:
            return
        self._unset_keepalive_if_required()
        scope = self.scope
        try:
            self._feed(data)
        except httptools.HttpParserError:
            self._refuse(Refused("malformed-http", "Invalid HTTP request received."))
            return
        if self.scope is not None and "method" in self.scope:
            # The headers have ended: what comes is a body, maybe of a request that is answered.
            self._header_bytes = 0
        elif self.scope is scope or self._is_idle():
            self._header_bytes += len(data)
            if self._header_bytes > LARGEST_HEADERS:
                self._refuse(Refused("headers-too-large", "Their end did not come."))

    def _is_idle(self) -> bool:
        """Whether nothing is left of the requests that came."""
        return self.cycle is None or (self.cycle.response_complete and not self.cycle.more_body)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        """Begin with a request whose headers are there: on the fast path, where it takes it."""
        usual = cycle.keep_alive and not cycle.flow.write_paused
        scope = cast("Scope", cycle.scope)
        request_id = self._fast_path.admit(scope) if self._fast_path and usual else None
        if request_id is None:
            super()._start_asgi_task(cycle, app)
            return
        self._admitted = (cycle, request_id, time.perf_counter())
        if not cycle.more_body:
            self._hand_over()

    def on_message_complete(self) -> None:
        """A request is whole."""
        super().on_message_complete()
        self._hand_over()

    def _hand_over(self) -> None:
        admitted, self._admitted = self._admitted, None
        if not admitted or not self._fast_path:
            return
        cycle, request_id, started = admitted
        request = Plain(
            body=bytes(cycle.body),
            request_id=request_id,
            started=started,
            answer=partial(self._give, cycle),
            go_on=partial(super()._start_asgi_task, cycle, self.app),
        )
        self._fast_path.take(request, self.loop)

    def _go_on(self) -> None:
        """What will never be whole is the application's to count, to log and to refuse."""
        admitted, self._admitted = self._admitted, None
        if admitted:
            super()._start_asgi_task(admitted[0], self.app)

    def _give(self, cycle: RequestResponseCycle, body: bytes, request_id: bytes) -> None:
        """Send a request's answer, and go on with the next one of the connection."""
        if self.transport.is_closing():
            return
        content = [_HEAD]
        for name, value in cycle.default_headers:
            content += (name, b": ", value, b"\r\n")
        if not cycle.keep_alive:
            # The server has begun to stop meanwhile.
            content.append(b"connection: close\r\n")
        content += (b"content-length: %d\r\nx-request-id: " % len(body), request_id)
        content += (b"\r\n\r\n", body)
        self.transport.write(b"".join(content))
        cycle.response_started = cycle.response_complete = True
        if not cycle.keep_alive:
            self.transport.close()
        self.on_response_complete()

    def _feed(self, data: bytes) -> None:
        """Have the parser read, which stops behind headers that ask for another protocol."""
        while data:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as stopped:
                data = self._without_upgrade() + data[stopped.args[0] :]
            else:
                return

    def _without_upgrade(self) -> bytes:
        """The head of the request once more, for a new parser: the old one reads no body now.

        Going on in HTTP/1.1 is what RFC 9110 (7.8) leaves to a server; Java's own client asks for
        HTTP/2 so.
        """
        method = self.scope["method"].encode()
        if method == b"CONNECT":
            raise httptools.HttpParserError
        kept = [header for header in self.headers if header[0] not in _OF_UPGRADE]
        if not self.parser.should_keep_alive():
            kept.append((b"connection", b"close"))
        version = self.scope["http_version"].encode()
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        lines = [b"%b: %b\r\n" % header for header in kept]
        return b"%b %b HTTP/%b\r\n%b\r\n" % (method, self.url, version, b"".join(lines))

    def _should_upgrade(self) -> bool:
        """The parser's notes of a request that it stops at are of no use; see `_feed`."""
        return True

    def _watch(self) -> None:
        """End what has not moved since the last look."""
        unsent = self.transport.get_write_buffer_size()
        if unsent and unsent == self._unsent_before:
            # An answer that nobody reads.
            self.transport.abort()
            return
        self._unsent_before = unsent
        part = self._awaited()
        if part and self.cycle is self._cycle_before:
            self._refuse(Refused("timeout", f"The {part} did not arrive in {TIMEOUT:g} seconds."))
        self._cycle_before = self.cycle if part else _NONE
        self._timer = self.loop.call_later(TIMEOUT, self._watch)

    def _awaited(self) -> str | None:
        """The part of a request that the other side should be sending."""
        cycle = self.cycle
        if cycle is None or cycle.response_complete:
            # Between requests uvicorn has a timer of its own.
            return None if self.timeout_keep_alive_task else "headers"
        if not cycle.more_body or cycle.response_started:
            return None
        # It is we who do not read, or have not said yet that they shall send.
        return None if self.flow.read_paused or cycle.waiting_for_100_continue else "body"

    def _refuse(self, refusal: Refused) -> None:
        """End the connection: with a problem document, unless the last request has its answer."""
        if self.transport.is_closing():
            return
        self._deaf = True
        cycle = self.cycle
        if cycle is None or cycle.response_complete:
            if cycle is None or cycle.scope is not self.scope or not cycle.more_body:
                self._answer(refusal)
            # What could not be read else is the rest of a request that has been answered.
            self.transport.close()
            return
        # The requests under way are answered first, and in their order.
        cycle.keep_alive = False
        if cycle.scope is self.scope and cycle.more_body:
            # Whoever reads its body is told; so it is counted and logged as that request.
            cast("dict[str, object]", cycle.scope)[CUT_SHORT] = refusal
            cycle.message_event.set()
            self._go_on()
        else:
            self._note(refusal, secrets.token_hex(8))

    def _note(self, refusal: Refused, request_id: str) -> None:
        """Log and count what never became a request."""
        scope = {"problem": refusal, "client": self.client}
        _limited.refused(scope, request_id, OTHER, refusal.kind.status, None, None)
        counters: Counters | None = self.app_state.get("counters")
        if counters:
            counters.refuse(refusal.kind.status)

    def _answer(self, refusal: Refused) -> None:
        request_id = secrets.token_hex(8)
        self._note(refusal, request_id)
        content = refusal.document()
        status = HTTPStatus(refusal.kind.status)
        headers = [
            *self.server_state.default_headers,
            (b"content-type", MEDIA_TYPE.encode()),
            (b"content-length", str(len(content)).encode()),
            (b"connection", b"close"),
            (b"x-request-id", request_id.encode()),
        ]
        first = f"HTTP/1.1 {status.value} {status.phrase}".encode()
        head = [first, *(name + b": " + value for name, value in headers)]
        self.transport.write(b"\r\n".join([*head, b"", content]))
