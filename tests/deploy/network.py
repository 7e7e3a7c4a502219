"""A network namespace of one's own, joined to this machine by a pair of virtual cables."""

import contextlib
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from .tools import need, run


@dataclass(frozen=True, kw_only=True)
class Network:
    """A namespace, and the two ends of its cable."""

    name: str
    """What the namespace is called, and the cable's end here."""
    gateway: str
    """This machine's address, as it is seen from inside."""
    address: str
    """Where it is reached."""


@contextlib.contextmanager
def network(kind: str, subnet: str, inside: str) -> Iterator[Network]:
    """A network of a kind, which nobody else has; gone at the end.

    `subnet` is the first two numbers of its addresses, `inside` what the cable is called there.
    """
    need("ip")
    with contextlib.ExitStack() as undo:
        made = next((one for one in range(1, 255) if _is_made(f"{kind}{one}", inside, undo)), None)
        if made is None:
            pytest.fail("No network namespace is free.", pytrace=False)
        found = Network(
            name=f"{kind}{made}", gateway=f"{subnet}.{made}.1", address=f"{subnet}.{made}.2"
        )
        run("ip", "address", "add", f"{found.gateway}/30", "dev", found.name)
        run("ip", "link", "set", found.name, "up")
        run("ip", "-n", found.name, "link", "set", "lo", "up")
        run("ip", "-n", found.name, "address", "add", f"{found.address}/30", "dev", inside)
        run("ip", "-n", found.name, "link", "set", inside, "up")
        yield found


def _is_made(name: str, inside: str, undo: contextlib.ExitStack) -> bool:
    """Whether a namespace and its cable were free to be made."""
    if subprocess.run(["ip", "netns", "add", name], capture_output=True).returncode:
        return False
    cable = ["ip", "link", "add", name, "type", "veth", "peer", inside, "netns", name]
    # A namespace that was deleted keeps its cable for as long as something of it still runs.
    if subprocess.run(cable, capture_output=True).returncode:
        run("ip", "netns", "delete", name)
        return False
    undo.callback(run, "ip", "netns", "delete", name)
    undo.callback(run, "ip", "link", "delete", name)
    return True
