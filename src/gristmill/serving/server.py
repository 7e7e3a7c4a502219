"""The server: it binds the port, has workers answer on it, and stops them in good order.

Light to import, for the command line: the web framework is loaded when something is served. A
worker gets all it needs in one record, so that no secret travels by the environment or the command
line.
"""

from __future__ import annotations

import errno
import resource
import socket
import threading
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from gristmill.errors import PortTaken, ServingError
from gristmill.predictions.predictor import load_predictor
from gristmill.predictions.spool import open_spool
from gristmill.registry.bundle import read_bundle
from gristmill.serving.keys import require_key
from gristmill.serving.workers import Workers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from gristmill.project.serving import LogPolicy

GRACE_SECONDS = 10
"""How long a stopping server waits for requests that it has begun."""
MOST_FILES = 1 << 16
"""Open files that a worker may have, where the machine allows it; shells often leave it 1,024."""
KEEP_ALIVE_SECONDS = 65
"""How long a connection stays open: longer than the usual proxy keeps it, so that none is cut."""


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """What a server needs to know."""

    bundle: Path
    """The folder of the bundle that answers, or a link to it that may be moved."""
    spool: Path
    """The folder that holds predictions until they are in the database."""
    database_url: str | None = field(default=None, repr=False)
    """Where predictions go and features come from; without it the API answers all the same."""
    bundles: Path | None = None
    """Where every version's bundle lies: the database's champion is then followed there."""
    log: LogPolicy | None = None
    """Whether answers wait for their record; without it, what the bundle says."""
    keys: Path | None = None
    """The file of the API keys; without it only this machine is answered."""
    counters: Path | None = None
    """The folder where the workers count for `/metrics`; without it each counts for itself."""


def serve(deployment: Deployment, *, host: str, port: int, workers: int = 1) -> None:
    """Serve until SIGINT or SIGTERM, then ship what waits.

    Raises PortTaken, BundleError, SpoolError, and ServingError where the extra `serve` is not
    installed or others could reach it without a key, before anything is answered.
    """
    require_key(deployment.keys, host)
    _serve(deployment, partial(listen, host, port), workers)


def serve_at(deployment: Deployment, path: Path, *, workers: int = 1) -> None:
    """The same on a Unix socket, for a proxy on this machine; who may use it, its file says.

    Raises ServingError also where another program listens there.
    """
    with at_path(path) as listening:
        _serve(deployment, lambda: listening, workers)


def _serve(deployment: Deployment, bind: Callable[[], socket.socket], workers: int) -> None:
    answer = _answering(deployment)
    _allow_connections()
    listening = bind()
    try:
        # Workers that cannot start would be started again for ever: find out here, once.
        load_predictor(read_bundle(deployment.bundle))
        open_spool(deployment.spool).close()
        # Once the workers close theirs too, who comes is sent away, instead of waiting in vain.
        Workers(partial(answer, listening), workers, stopping=listening.close).run()
    finally:
        listening.close()


def _allow_connections() -> None:
    """As many open files as the machine lets this user have: each connection is one."""
    allowed, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_FILES if most == resource.RLIM_INFINITY else min(most, MOST_FILES)
    if allowed != resource.RLIM_INFINITY and allowed < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


def _answering(
    deployment: Deployment,
) -> Callable[[socket.socket, Callable[[], object], threading.Event], None]:
    """What a worker does: all it needs is loaded here, before it is forked."""
    try:
        import uvicorn
        from uvicorn.importer import import_from_string
    except ModuleNotFoundError as error:
        raise ServingError(
            f"Serving needs the package {error.name!r}. Install Gristmill with its extra: "
            "pip install 'gristmill[serve]'."
        ) from error
    build = import_from_string("gristmill.serving.entry:build")
    config = uvicorn.Config(
        lambda: build(deployment),
        factory=True,
        loop="uvloop",
        http=import_from_string("gristmill.serving.protocol:Protocol"),
        ws="none",
        lifespan="on",
        access_log=False,
        log_config=import_from_string("gristmill.serving.logs:LOG_CONFIG"),
        log_level="warning",
        server_header=False,
        headers=[("x-content-type-options", "nosniff")],
        timeout_graceful_shutdown=GRACE_SECONDS,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
    )

    class Server(uvicorn.Server):
        """Says when it answers."""

        def __init__(self, ready: Callable[[], object]) -> None:
            super().__init__(config)
            self._ready = ready

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            self._ready()

    def answer(
        listening: socket.socket, ready: Callable[[], object], orphaned: threading.Event
    ) -> None:
        server = Server(ready)
        threading.Thread(target=_stop_when, args=(orphaned, server), daemon=True).start()
        server.run(sockets=[listening])

    return answer


def _stop_when(orphaned: threading.Event, server: Any) -> None:
    orphaned.wait()
    server.should_exit = True


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


@contextmanager
def at_path(path: Path) -> Iterator[socket.socket]:
    """A Unix socket for its owner and group, in the place of one that nobody listens on any more.

    Its file is removed at the end. Raises ServingError.
    """
    beside = path.with_name(f".{path.name}.new")
    with socket.socket(socket.AF_UNIX) as listening:
        try:
            if _answers(path):
                raise ServingError(f"Another program listens on {path}. Stop that one first.")
            beside.unlink(missing_ok=True)
            listening.bind(str(beside))
            beside.chmod(0o660)
            listening.listen(2048)
            # Whoever finds the file finds it listening.
            own = beside.rename(path).stat().st_ino
        except OSError as error:
            raise ServingError(f"Cannot listen on {path}: {error.strerror or error}.") from error
        try:
            yield listening
        finally:
            with suppress(FileNotFoundError):
                if path.stat().st_ino == own:
                    path.unlink()


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as asking:
        try:
            asking.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            return False
    return True
