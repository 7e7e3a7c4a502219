"""The server process: it binds the port, starts the workers, and stops them in good order.

Light to import, for the command line: the web framework is loaded when something is served. A
worker gets all it needs in one record, so that no secret travels by the environment or the command
line.
"""

from __future__ import annotations

import errno
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gristmill.errors import PortTaken, ServingError
from gristmill.predictions.predictor import load_predictor
from gristmill.registry.bundle import read_bundle

if TYPE_CHECKING:
    from pathlib import Path

GRACE_SECONDS = 10
"""How long a stopping server waits for requests that it has begun."""
KEEP_ALIVE_SECONDS = 65
"""How long a connection stays open: longer than the usual proxy keeps it, so that none is cut."""


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """What a server needs to know."""

    bundle: Path
    """The folder of the bundle that answers."""
    spool: Path
    """The folder that holds predictions until they are in the database."""
    database_url: str | None = field(default=None, repr=False)
    """Where predictions go and features come from; without it the API answers all the same."""


@dataclass(frozen=True, kw_only=True)
class _Application:
    """Makes the application, in whichever process it is called."""

    deployment: Deployment

    def __call__(self) -> Any:
        from uvicorn.importer import import_from_string

        return import_from_string("gristmill.serving.entry:build")(self.deployment)


def serve(deployment: Deployment, *, host: str, port: int, workers: int = 1) -> None:
    """Serve until SIGINT or SIGTERM, then ship what waits.

    Raises PortTaken, BundleError, and ServingError where the extra `serve` is not installed, before
    anything is answered.
    """
    try:
        import uvicorn
        from uvicorn.supervisors import Multiprocess
    except ModuleNotFoundError as error:
        raise ServingError(
            f"Serving needs the package {error.name!r}. Install Gristmill with its extra: "
            "pip install 'gristmill[serve]'."
        ) from error
    listening = listen(host, port)
    try:
        # Workers that cannot start would be started again for ever: find out here, once.
        load_predictor(read_bundle(deployment.bundle))
        config = uvicorn.Config(
            _Application(deployment=deployment),
            factory=True,
            workers=workers,
            loop="uvloop",
            http="httptools",
            ws="none",
            lifespan="on",
            access_log=False,
            log_level="warning",
            server_header=False,
            headers=[("x-content-type-options", "nosniff")],
            timeout_graceful_shutdown=GRACE_SECONDS,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
        )
        if workers == 1:
            uvicorn.Server(config).run(sockets=[listening])
        else:
            Multiprocess(config, sockets=[listening]).run()
    except KeyboardInterrupt:
        # uvicorn raises it again once the server has stopped in good order.
        return
    finally:
        listening.close()


def listen(host: str, port: int) -> socket.socket:
    """A socket bound to an address; port 0 is any free one. Raises PortTaken, ServingError."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except socket.gaierror as error:
        raise ServingError(f"The host {host!r} is not known: {error.strerror}.") from error
    listening = socket.socket(family, kind)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind(address)
        # Listening tells at once: two may bind the same port, but not listen on it.
        listening.listen(2048)
    except OSError as error:
        listening.close()
        if error.errno == errno.EADDRINUSE:
            raise PortTaken(
                f"Port {port} on {host} is in use by another program. Stop that one, or choose "
                "another port with --port."
            ) from error
        raise ServingError(f"Cannot listen on {host}:{port}: {error.strerror}.") from error
    return listening
