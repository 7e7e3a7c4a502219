"""What a server and its worker processes start from.

A worker gets all it needs in one record, so that no secret travels by the environment or the
command line.
"""

from __future__ import annotations

import errno
import socket
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import uvicorn
from uvicorn.supervisors import Multiprocess

from gristmill.errors import PortTaken, ServingError
from gristmill.features.read import LatestFeatures, latest
from gristmill.predictions.predictor import load_predictor
from gristmill.project.features import ColumnReference, Features
from gristmill.registry.bundle import Manifest, read_bundle
from gristmill.serving.api import create_app
from gristmill.settings import read_settings
from gristmill.warehouse.connection import Warehouse

if TYPE_CHECKING:
    from starlette.applications import Starlette

    from gristmill.serving.api import FeatureLookup

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


def serve(deployment: Deployment, *, host: str, port: int, workers: int = 1) -> None:
    """Serve until SIGINT or SIGTERM, then ship what waits.

    Raises PortTaken, BundleError, SpoolError, before anything listens.
    """
    listening = listen(host, port)
    try:
        # Workers that cannot start would be started again for ever: find out here, once.
        load_predictor(read_bundle(deployment.bundle))
        config = uvicorn.Config(
            partial(build, deployment),
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


def build(deployment: Deployment) -> Starlette:
    """The application that one worker process serves."""
    bundle = read_bundle(deployment.bundle)
    warehouse = Warehouse(url=deployment.database_url) if deployment.database_url else None
    return create_app(
        bundle=bundle,
        spool=deployment.spool,
        warehouse=warehouse,
        lookup=_lookup(warehouse, bundle.manifest),
    )


def application() -> Starlette:
    """The application by the environment alone: `uvicorn --factory gristmill.serving.entry:…`."""
    settings = read_settings(Path.cwd())
    if settings.bundle is None:
        raise ServingError("Nothing says which bundle to serve: set GRISTMILL_BUNDLE.")
    home = settings.home or Path(".gristmill")
    url = settings.database_url
    return build(
        Deployment(
            bundle=settings.bundle,
            spool=home / "spool",
            database_url=url.get_secret_value() if url else None,
        )
    )


def _lookup(warehouse: Warehouse | None, manifest: Manifest) -> FeatureLookup | None:
    """How the bundle's features are found in the feature store, where there is one."""
    store = manifest.feature_store
    if warehouse is None or store is None:
        return None
    features = Features(
        table=store,
        entity=ColumnReference(table=store, column=manifest.entity.name),
        features=tuple(
            ColumnReference(table=store, column=feature.name) for feature in manifest.features
        ),
    )

    def find(key: int | str) -> LatestFeatures:
        return latest(features, warehouse, key)

    return find
