"""How a connection speaks HTTP: uvicorn's own way, with limits that it does not set.

Whoever sends no whole request in time, or no end of headers, is answered and cut off, so that idle
connections cannot use up the server. Whoever asks for another protocol is answered in this one.
"""

from __future__ import annotations

import secrets
from http import HTTPStatus
from typing import TYPE_CHECKING

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gristmill.serving.guard import Limited
from gristmill.serving.metrics import OTHER
from gristmill.serving.problems import MEDIA_TYPE, Refused

if TYPE_CHECKING:
    import asyncio

TIMEOUT = 10.0
"""Seconds between two looks at a connection: a request that has not arrived meanwhile is ended."""
LARGEST_HEADERS = 32 << 10
"""Bytes that may come of a request's address and headers without their end."""

_OF_UPGRADE = frozenset({b"connection", b"upgrade", b"http2-settings"})
_limited = Limited()


class Protocol(HttpToolsProtocol):
    """One connection."""

    _timer: asyncio.TimerHandle | None = None
    _header_bytes = 0
    _cycle_before: object = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to watch it: one timer for as long as it lives, none for each request."""
        super().connection_made(transport)
        self._timer = self.loop.call_later(TIMEOUT, self._watch)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop watching."""
        if self._timer:
            self._timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take what came; headers that do not end are refused."""
        self._unset_keepalive_if_required()
        try:
            self._feed(data)
        except httptools.HttpParserError:
            self._refuse(Refused("malformed-http", "Invalid HTTP request received."))
            return
        if self._waits():
            self._header_bytes += len(data)
            if self._header_bytes > LARGEST_HEADERS:
                self._refuse(Refused("headers-too-large", "Their end did not come."))
        else:
            self._header_bytes = 0

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

    def _waits(self) -> bool:
        """Whether the next request's headers are what the connection waits for."""
        return self.cycle is None or self.cycle.response_complete

    def _watch(self) -> None:
        # Between requests uvicorn has a timer of its own.
        headers = self._waits() and self.timeout_keep_alive_task is None
        body = not self._waits() and self.cycle.more_body and not self.cycle.response_started
        if (headers or body) and self.cycle is self._cycle_before:
            part = "body" if body else "headers"
            self._refuse(Refused("timeout", f"The {part} did not arrive in {TIMEOUT:g} seconds."))
            return
        self._cycle_before = self.cycle
        self._timer = self.loop.call_later(TIMEOUT, self._watch)

    def _refuse(self, refusal: Refused) -> None:
        """Answer with a problem document and end the connection."""
        if self.transport.is_closing():
            return
        scope = {"problem": refusal, "client": self.client}
        request_id = secrets.token_hex(8)
        _limited.refused(scope, request_id, OTHER, refusal.kind.status, None, None)
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
        self.transport.close()
