"""What a worker process starts from: the application, made from a deployment or the environment."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from gristmill.errors import BundleError, WarehouseError
from gristmill.predictions.predictor import load_predictor
from gristmill.registry.bundle import read_bundle
from gristmill.registry.store import Registry
from gristmill.serving.api import create_app
from gristmill.serving.deployed import deployed
from gristmill.serving.follow import in_folder, in_registry
from gristmill.settings import read_settings
from gristmill.warehouse.kept import KeptWarehouse

if TYPE_CHECKING:
    from starlette.applications import Starlette

    from gristmill.registry.bundle import Bundle
    from gristmill.serving.follow import Find
    from gristmill.serving.server import Deployment

logger = logging.getLogger(__name__)


def build(deployment: Deployment) -> Starlette:
    """The application that one worker process serves."""
    warehouse = KeptWarehouse(url=deployment.database_url) if deployment.database_url else None
    find = _find(deployment, warehouse)
    bundle = _current(find) or read_bundle(deployment.bundle)
    return create_app(
        bundle=bundle,
        spool=deployment.spool,
        warehouse=warehouse,
        keys=deployment.keys,
        counters=deployment.counters,
        best_effort=(deployment.log or bundle.manifest.log) == "best_effort",
        find=find,
    )


def application() -> Starlette:
    """The application by the environment alone: `uvicorn --factory gristmill.serving.entry:…`."""
    return build(deployed(read_settings(Path.cwd())))


def _current(find: Find) -> Bundle | None:
    """The bundle that should answer by now, where it can be had: the server may run for long."""
    try:
        found = find()
        if found is None:
            return None
        bundle = read_bundle(found.folder, digest=found.digest)
        load_predictor(bundle)
    except (WarehouseError, BundleError) as error:
        logger.warning("The worker starts by the bundle that the server started with: %s", error)
        return None
    return bundle


def _find(deployment: Deployment, warehouse: KeptWarehouse | None) -> Find:
    """Where a new champion shows: in the database, or in the bundle's place."""
    if warehouse is None or deployment.bundles is None:
        return in_folder(deployment.bundle)
    folder = deployment.bundles
    return in_registry(Registry(warehouse=warehouse, name="", bundles=folder, artifacts=folder))
