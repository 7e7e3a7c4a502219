"""Room for the bodies of large requests: so many bytes at a time, whoever comes later waits.

It refuses to let memory grow with the number of senders; who waits too long is sent away.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, NamedTuple

from gristmill.serving.problems import Refused

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ROOM = 64 << 20
"""Bytes of large bodies that one worker holds at a time."""
PATIENCE = 30.0
"""Seconds that a large body waits for room."""


class _Waiting(NamedTuple):
    """Somebody who waits for room."""

    octets: int
    let_in: asyncio.Future[None]


class Room:
    """Bytes that are given and taken back, in the order in which they were asked for.

    Made for one event loop.
    """

    def __init__(self, octets: int = ROOM) -> None:
        self._free = octets
        self._waiting: deque[_Waiting] = deque()

    @asynccontextmanager
    async def of(self, octets: int) -> AsyncIterator[None]:
        """Hold so many bytes, at most all there are; raises Refused where none get free in time."""
        await self._take(octets)
        try:
            yield
        finally:
            self._give_back(octets)

    async def _take(self, octets: int) -> None:
        if not self._waiting and octets <= self._free:
            self._free -= octets
            return
        waiting = _Waiting(octets, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        try:
            async with asyncio.timeout(PATIENCE):
                await waiting.let_in
        except BaseException as error:
            with suppress(ValueError):
                self._waiting.remove(waiting)
            # It may have been let in, in the same moment; if not, others may go before it now.
            self._give_back(octets if _was_let_in(waiting) else 0)
            if isinstance(error, TimeoutError):
                raise Refused(
                    "busy",
                    f"There was no room for the body in {PATIENCE:g} seconds.",
                    headers={"retry-after": "5", "connection": "close"},
                ) from None
            raise

    def _give_back(self, octets: int) -> None:
        self._free += octets
        while self._waiting and self._waiting[0].octets <= self._free:
            waiting = self._waiting.popleft()
            if waiting.let_in.done():
                continue
            self._free -= waiting.octets
            waiting.let_in.set_result(None)


def _was_let_in(waiting: _Waiting) -> bool:
    return waiting.let_in.done() and not waiting.let_in.cancelled()
