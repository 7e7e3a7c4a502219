"""What a page of another site may not have a browser ask of a service that asks for no key.

Whoever listens on this machine alone is still reached by its browsers. A page whose name was made
to lead here (DNS rebinding) is told by the Host that the browser sends; any other by what browsers
say of where a request comes from. JSON it cannot post: that takes a leave that is never given.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

from gristmill.serving.keys import is_loopback
from gristmill.serving.problems import Refused

if TYPE_CHECKING:
    from collections.abc import Iterable

_HOST = re.compile(rb"(?:\[([0-9A-Fa-f:.]+)\]|([0-9A-Za-z.-]+?)\.?)(?::[0-9]*)?")


def of_another_site(headers: Iterable[tuple[bytes, bytes]], *, harmless: bool) -> Refused | None:
    """Why a request to this machine is not let in; None where no page of another site sent it.

    `harmless` is what such a page may link to and learns nothing by: only the Host counts then.
    """
    for name, value in headers:
        if name == b"host":
            if not _is_here(value):
                return Refused("misdirected", "The header Host names another server.")
        elif name == b"sec-fetch-site":
            if value == b"cross-site" and not harmless:
                return _foreign()
        elif name == b"origin" and not harmless and not _is_here(value.partition(b"//")[2]):
            return _foreign()
    return None


def _foreign() -> Refused:
    return Refused("another-site", "A page of another site sent it.")


@lru_cache(maxsize=64)
def _is_here(place: bytes) -> bool:
    """Whether a host, with or without its port, is this machine."""
    found = _HOST.fullmatch(place)
    return found is not None and is_loopback((found[1] or found[2]).decode().lower())
